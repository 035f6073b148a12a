"""Tasks that begin at once, instead of in the next turn of the loop: most functions of steps that
end without waiting for anything need no turn of their own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Generator
from contextvars import Context
from typing import Any

from stackshift_jobs.handler.failures import is_a

if sys.version_info >= (3, 12):

    def started(
        coroutine: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop, context: Context
    ) -> asyncio.Task[Any]:
        """A task of `loop`, which has run until it first waits or ends. It must be called in a
        callback of the loop, outside of any task."""
        return asyncio.Task(coroutine, loop=loop, context=context, eager_start=True)

else:
    from asyncio.tasks import _enter_task, _leave_task

    def started(
        coroutine: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop, context: Context
    ) -> asyncio.Task[Any]:
        """A task of `loop`, which has run until it first waits or ends. It must be called in a
        callback of the loop, outside of any task."""
        begun = _Begun(coroutine)
        task = _EagerTask(_rest_of(begun), loop=loop, context=context)
        _enter_task(loop, task)
        try:
            context.run(begun.begin)
        finally:
            _leave_task(loop, task)
        task.begun = begun
        return task

    class _Begun:
        """A coroutine that runs until it first waits: then it waits for `waits_for`. Otherwise it
        has ended, with `value` or `error`."""

        def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
            self.coroutine = coroutine
            self.has_ended = False
            self.waits_for: Any = None
            self.value: Any = None
            self.error: BaseException | None = None

        def begin(self) -> None:
            try:
                self.waits_for = self.coroutine.send(None)
            except StopIteration as done:
                self.has_ended, self.value = True, done.value
            except BaseException as error:
                self.has_ended, self.error = True, error

        def __await__(self) -> Generator[Any, Any, Any]:
            if self.has_ended:
                return self.value
            waits_for = self.waits_for
            while True:
                try:
                    sent = yield waits_for
                except BaseException as error:
                    step: Any = (self.coroutine.throw, error)
                else:
                    step = (self.coroutine.send, sent)
                try:
                    waits_for = step[0](step[1])
                except StopIteration as done:
                    return done.value

    async def _rest_of(begun: _Begun) -> Any:
        return await begun

    class _EagerTask(asyncio.Task[Any]):
        """Ended as soon as its coroutine is, although its loop has not looked at it yet."""

        begun: _Begun | None = None

        def done(self) -> bool:
            return super().done() or (self.begun is not None and self.begun.has_ended)

        def cancelled(self) -> bool:
            if super().done() or self.begun is None or not self.begun.has_ended:
                return super().cancelled()
            error = self.begun.error
            return error is not None and is_a(error, asyncio.CancelledError)

        def exception(self) -> BaseException | None:
            if super().done() or self.begun is None or not self.begun.has_ended:
                return super().exception()
            return self.begun.error

        def result(self) -> Any:
            if super().done() or self.begun is None or not self.begun.has_ended:
                return super().result()
            return self.begun.value
