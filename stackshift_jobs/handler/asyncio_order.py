"""Functions of asyncio that would differ from pass to pass, or by the version of Python.

- `asyncio.as_completed` makes tasks of coroutines in the order of a set of addresses. In a handler
  they are created in the order in which they were given.
- `asyncio.wait_for` runs a coroutine in a task of its own before Python 3.12, and so in a branch of
  its own. In a handler it runs where it is awaited, on every version.
- `asyncio.TaskGroup` cancels the task that waits for it when one of its own fails. Before Python
  3.13 it does not always take that back, and an `asyncio.timeout` around it then raises
  `CancelledError`, which would end the handler. In a handler it does, on every version.
- `asyncio.Lock` and its like belong to the loop on which they were first waited for, and so to one
  pass. One that a module makes works until two runs want it at once, or until the next pass, and
  then fails with an error that speaks of loops, or is waited for by a run that nobody wakes. In a
  handler only those can be used that its pass has made; others are refused at their first use.

Outside of handlers they are what they were.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from asyncio import locks, mixins
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from stackshift_jobs.errors import InsideHandler

_MADE_ON: Final = "_stackshift_made_on"
_TAKEN_BY: Final[dict[type[Any], tuple[str, ...]]] = {
    locks._ContextManagerMixin: ("__aenter__",),
    asyncio.Lock: ("acquire",),
    asyncio.Semaphore: ("acquire",),
    asyncio.Event: ("wait",),
    asyncio.Condition: ("wait",),
    asyncio.Barrier: ("wait",),
    asyncio.Queue: ("get", "get_nowait", "put", "put_nowait"),
}
"""Methods by which something is taken from a lock and its like, or waited for."""


def install() -> None:
    """Put these functions in the place of asyncio's, for all modules imported from now on."""
    if not hasattr(asyncio.as_completed, "__wrapped__"):
        _replace("as_completed", _as_completed(asyncio.as_completed))
    if sys.version_info < (3, 12) and not hasattr(asyncio.wait_for, "__wrapped__"):
        _replace("wait_for", _wait_for(asyncio.wait_for))
    leave = asyncio.TaskGroup.__aexit__
    if sys.version_info < (3, 13) and not hasattr(leave, "__wrapped__"):
        asyncio.TaskGroup.__aexit__ = _leave_group(leave)  # type: ignore[method-assign]
    bound: Any = mixins._LoopBoundMixin
    if "__new__" not in vars(bound):
        bound.__new__ = _made_for_pass
        for kind, names in _TAKEN_BY.items():
            for name in names:
                setattr(kind, name, _of_pass(getattr(kind, name)))


def _replace(name: str, function: Callable[..., Any]) -> None:
    setattr(asyncio, name, function)
    setattr(asyncio.tasks, name, function)


def _in_handler() -> bool:
    return getattr(asyncio._get_running_loop(), "is_of_handler", False)


def _as_completed(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def as_completed(fs: Iterable[Awaitable[Any]], *, timeout: float | None = None) -> Any:
        if _in_handler() and not asyncio.isfuture(fs) and not asyncio.iscoroutine(fs):
            fs = [asyncio.ensure_future(each) for each in dict.fromkeys(fs)]
        return original(fs, timeout=timeout)

    return as_completed


def _wait_for(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def wait_for(fut: Awaitable[Any], timeout: float | None) -> Any:
        if not _in_handler():
            return await original(fut, timeout)
        if timeout is not None and timeout <= 0:
            return await _now_or_never(fut)
        async with asyncio.timeout(timeout):
            return await fut

    return wait_for


def _leave_group(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def __aexit__(self: Any, *raised: Any) -> Any:
        if not _in_handler():
            return await original(self, *raised)
        took_back = self._parent_cancel_requested  # then it does so itself
        parent = self._parent_task
        try:
            return await original(self, *raised)
        except BaseExceptionGroup:
            if self._parent_cancel_requested and not took_back:
                parent.uncancel()
            if parent.cancelling():
                # Somebody else has cancelled it too, which the group has swallowed.
                parent.uncancel()
                parent.cancel()
            raise

    return __aexit__


def _made_for_pass(cls: type[Any], *_args: Any, **_options: Any) -> Any:
    """`__new__` of `asyncio.Lock` and its like, which notes the loop of the pass that makes one."""
    made = object.__new__(cls)
    if _in_handler():
        setattr(made, _MADE_ON, asyncio._get_running_loop())
    return made


def _of_pass(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def method(self: Any, *args: Any, **options: Any) -> Any:
        if _in_handler() and vars(self).get(_MADE_ON) is not asyncio._get_running_loop():
            raise _shared(self)
        return original(self, *args, **options)

    return method


def _shared(thing: Any) -> InsideHandler:
    return InsideHandler(
        f"an asyncio.{type(thing).__name__} that was made outside of the handler is shared with "
        "other runs, or with an earlier pass of this one: who waits for it, and in which order, is "
        "on no record",
        hint="make it in the handler; to limit what runs do at once, use the concurrency of a "
        "queue, ctx.state.lock(key), or do it in a step",
    )


async def _now_or_never(fut: Awaitable[Any]) -> Any:
    """The result of `fut` if it is done; otherwise cancel it and raise `TimeoutError`."""
    future = asyncio.ensure_future(fut)
    if future.done():
        return future.result()
    future.cancel()
    await asyncio.wait({future})
    try:
        return future.result()
    except asyncio.CancelledError as cancelled:
        raise TimeoutError from cancelled
