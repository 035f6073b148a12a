"""`async def` handlers: tasks on the worker's one loop.

An execution is suspended when none of its steps is executing, no call is unanswered, and every one
of its tasks waits for a durable wait or for another of its tasks: then its tasks are cancelled, and
nothing of it stays in memory. A task that waits for anything else (a socket read outside a step,
say) keeps the handler in memory; that costs a slot, but is always correct.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import Callable, Coroutine, Iterator
from contextvars import ContextVar, copy_context
from types import CoroutineType, GeneratorType
from typing import Any, Final

from stackshift_jobs.handler import ops
from stackshift_jobs.handler.async_context import AsyncJobContext
from stackshift_jobs.handler.failures import Escaped
from stackshift_jobs.handler.replay import Unwinding
from stackshift_jobs.handler.scope import current_step, in_handler
from stackshiftd.core import commands as c
from stackshiftd.worker.execution import (
    DRAINED,
    WAITS,
    Execution,
    answer_of,
    command_of,
)
from stackshiftd.worker.frames import CallRecorded, Frame, Stuck
from stackshiftd.worker.output import current_log
from stackshiftd.worker.pipe import Pipe

_calls: Final = itertools.count(2, 2)
ABANDONED_SECONDS: Final = 0.02
"""How often to check whether a thread whose result is no longer wanted has finished."""
current_execution: ContextVar[LoopedExecution | None] = ContextVar(
    "stackshift_execution", default=None
)


class LoopedExecution(Execution):
    """An execution on the loop. `tasks` are all of its tasks, `told` its unanswered calls, `parked`
    its durable waits."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.pass_.loop = asyncio.get_running_loop()
        self.tasks: set[asyncio.Task[Any]] = set()
        self.told: dict[int, asyncio.Future[ops.Recorded]] = {}
        self.parked: dict[str, asyncio.Future[ops.RecordedCall]] = {}
        self.ending: asyncio.Task[None] | None = None
        """The task that ends the tasks which the handler left behind."""
        self.soonest_us = 0
        self.checking = False
        self.doubtful: frozenset[int] = frozenset()
        """Ids of the gathers that had a failed child at the last check."""

    def leave(self, reason: str) -> None:
        """Cancel all tasks; with the reason `DRAINED`, only once no step is executing and no call
        is unanswered."""
        if reason == DRAINED and (self.open or self.told):
            self.pass_.unwinding = self.pass_.unwinding or DRAINED
            return
        if self.pass_.unwinding in (None, WAITS, DRAINED):
            self.pass_.unwinding = reason
        for task in list(self.tasks):
            task.cancel()

    def answered(self, call: int, answer: CallRecorded) -> None:
        """Pass the daemon's answer to the task that made the call, if it still waits."""
        future = self.told.pop(call, None)
        if future is not None and not future.done():
            future.set_result(answer_of(answer))
        if self.pass_.unwinding == DRAINED and not self.open and not self.told:
            self.leave(DRAINED)

    def resolved(self, step: str, known: ops.RecordedCall) -> None:
        """Record that the wait `step` has ended with `known`, and wake its task."""
        self.pass_.recorded_calls[step] = known
        future = self.parked.get(step)
        if future is not None and not future.done():
            future.set_result(known)

    # --- Suspension ------------------------------------------------------------------------

    def consider(self, loop: asyncio.AbstractEventLoop) -> None:
        """Schedule a check, a moment from now, whether the whole execution is waiting."""
        if not self.checking:
            self.checking = True
            soon = self.pace.keep_seconds if self._may_end_soon() else 0.001
            loop.call_later(soon, self._check, loop)

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        self.checking = False
        if self.pass_.unwinding is not None or not self.parked:
            return
        if self.open or self.told or not all(map(self._is_parked, self.tasks)):
            # It may start to wait without another call of `consider`: check again later.
            self.checking = True
            self.doubtful = frozenset(self._gathers())
            loop.call_later(self.pace.look_seconds, self._check, loop)
        else:
            self.leave(WAITS)

    def _may_end_soon(self) -> bool:
        pace, recorded_calls = self.pace, self.pass_.recorded_calls
        return pace.may_be_soon(self.soonest_us) and any(
            (known := recorded_calls.get(step)) is None or pace.may_be_soon(known.due_us)
            for step in self.parked
        )

    def _is_parked(self, task: asyncio.Task[Any]) -> bool:
        """True if the task waits only for durable waits and tasks of this execution.

        False for a task that is done but still in `tasks`, since whatever waits for it is about to
        run; and for one whose wait is over, which is about to run itself.
        """
        waits_for = getattr(task, "_fut_waiter", None)
        if waits_for is None or waits_for.done():
            return False
        return self._is_waited_for(waits_for) or _waits_for_tasks(task)

    def _is_waited_for(self, future: asyncio.Future[Any]) -> bool:
        """True for a durable wait, a task of this execution, or a gather of these."""
        if future in self.tasks or any(future is parked for parked in self.parked.values()):
            return True
        children: list[asyncio.Future[Any]] | None = getattr(future, "_children", None)
        if children is None:
            return False
        left = [child for child in children if not child.done()]
        if not left or not all(map(self._is_waited_for, left)):
            return False
        # A failed child ends the gather in a moment; or never, with `return_exceptions`.
        return not any(map(_has_failed, children)) or id(future) in self.doubtful

    def _gathers(self) -> Iterator[int]:
        """Ids of the gathers that a task waits for and that have a failed child."""
        for task in self.tasks:
            waits_for = getattr(task, "_fut_waiter", None)
            if any(map(_has_failed, getattr(waits_for, "_children", ()))):
                yield id(waits_for)


def _has_failed(future: asyncio.Future[Any]) -> bool:
    return future.done() and (future.cancelled() or getattr(future, "_exception", None) is not None)


def _waits_for_tasks(task: asyncio.Task[Any]) -> bool:
    """True if the innermost thing the task awaits is the end of a TaskGroup or `asyncio.wait`. Both
    wait for tasks, which are checked themselves."""
    inner: Any = task.get_coro()
    frame = None
    while inner is not None:
        frame = getattr(inner, "cr_frame", None) or getattr(inner, "gi_frame", None)
        below = getattr(inner, "cr_await", None) or getattr(inner, "gi_yieldfrom", None)
        if not isinstance(below, CoroutineType | GeneratorType):  # A future's iterator: no frame.
            break
        inner = below
    if frame is None:
        return False
    code = frame.f_code
    return bool(
        code.co_filename.endswith("asyncio/taskgroups.py")
        or (code.co_filename.endswith("asyncio/tasks.py") and code.co_name == "_wait")
    )


class LoopPort:
    """Drives the calls of one execution on the loop; see
    `stackshift_jobs.handler.ports.AsyncPort`."""

    def __init__(
        self,
        execution: LoopedExecution,
        pipe: Pipe,
        calls: dict[int, Execution],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._execution = execution
        self._pipe = pipe
        self._calls = calls
        self._loop = loop

    def tell(self, op: ops.Tell) -> asyncio.Future[ops.Recorded]:
        """Send the call; the future ends when its records are durable. Raises `Unwinding`."""
        execution = self._execution
        execution.refuse_unwinding(op)
        execution.failing(op)
        call = next(_calls)
        future: asyncio.Future[ops.Recorded] = self._loop.create_future()
        execution.told[call] = future
        self._calls[call] = execution
        self._pipe.post(command_of(op, execution.run, execution.token, call))
        return future

    async def park(self, op: ops.Park) -> ops.RecordedCall:
        """Wait for the outcome of a durable wait; the task is cancelled if the run is suspended."""
        execution = self._execution
        execution.refuse_unwinding()
        known = execution.pass_.recorded_calls.get(op.step)
        if known is not None and known.phase not in ("waiting", "retrying"):
            return known
        future: asyncio.Future[ops.RecordedCall] = self._loop.create_future()
        execution.parked[op.step] = future
        execution.waiting.add(op.step)
        execution.soonest_us = op.due_us
        execution.consider(self._loop)
        # Not removed if this task is cancelled: `waiting` then says what the run waits for.
        known = await future
        execution.waiting.discard(op.step)
        del execution.parked[op.step]
        return known

    async def perform(self, op: ops.Perform) -> Any:
        """Call the step's function, a `def` one on a thread, and return its value.

        Raises `TimeoutError` if it exceeds the step's timeout.
        """
        execution = self._execution
        execution.refuse_unwinding()
        execution.began(op)
        inside = current_step.set(op.step)
        try:
            if op.timeout_ms is None:
                return await (op.fn(*op.args, **op.kwargs) if _is_async(op) else self._thread(op))
            try:
                async with asyncio.timeout(op.timeout_ms / 1000) as limit:
                    return await (
                        op.fn(*op.args, **op.kwargs) if _is_async(op) else self._thread(op)
                    )
            except TimeoutError as late:
                if not limit.expired():
                    raise  # The function raised it itself.
                raise TimeoutError(f"step {op.step!r} ran longer than {op.timeout_ms} ms") from late
        except (Exception, Unwinding, GeneratorExit):
            raise
        except BaseException as error:  # SystemExit and its like are the step's failure.
            if self._is_cancelled(error):
                raise
            raise Escaped(error) from error
        finally:
            execution.ended(op)
            current_step.reset(inside)

    def _is_cancelled(self, error: BaseException) -> bool:
        """Was the task cancelled, or did the function itself raise `CancelledError`?"""
        if not isinstance(error, asyncio.CancelledError):
            return False
        task = asyncio.current_task()
        return self._execution.pass_.unwinding is not None or (
            task is not None and task.cancelling() > 0
        )

    async def _thread(self, op: ops.Perform) -> Any:
        """Call the function on a thread: on this loop it would block every other handler."""
        context = copy_context()
        running: list[bool] = []

        def work() -> Any:
            running.append(True)
            try:
                return context.run(op.fn, *op.args, **op.kwargs)
            except StopIteration as error:  # Which a future refuses, and then never ends.
                raise Escaped(error) from error
            except asyncio.CancelledError as error:  # Which would cancel the future.
                raise Escaped(error) from error
            finally:
                running.clear()

        try:
            value = await self._loop.run_in_executor(None, work)
        except asyncio.CancelledError:
            # The function cannot be interrupted. A pass that unwinds waits for it (the daemon
            # waits no longer than the grace period). A step that timed out continues without it,
            # and the process is replaced if the function does not return.
            if running and self._execution.pass_.unwinding is None:
                self._pipe.post(Stuck(self._execution.run, op.step))
            while running and self._execution.pass_.unwinding is not None:
                await asyncio.sleep(ABANDONED_SECONDS)
            raise
        return await value if inspect.isawaitable(value) else value

    def progress(self, done: float, total: float | None, message: str) -> None:
        """Report progress, without waiting for an answer."""
        execution = self._execution
        execution.refuse_unwinding()
        self._pipe.post(
            c.ReportProgress(execution.run, execution.token, float(done), total, message)
        )


def _is_async(op: ops.Perform) -> bool:
    code = getattr(op.fn, "__code__", None)
    return code is not None and bool(code.co_flags & inspect.CO_COROUTINE)


def task_factory(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
) -> asyncio.Task[Any]:
    """Create a task that is registered with the execution it was created in, if any."""
    execution = current_execution.get()
    if execution is not None:
        coroutine = _contained(coroutine)
    task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
    if execution is not None:
        execution.tasks.add(task)
        task.add_done_callback(execution.tasks.discard)
        if execution.pass_.unwinding is not None:
            task.cancel()
    return task


def call_handler(
    execution: LoopedExecution,
    port: LoopPort,
    pipe: Pipe,
    on_end: Callable[[Execution], None],
    loop: asyncio.AbstractEventLoop,
) -> None:
    """Call the handler in a task; its final frame is sent when this task and all tasks created in
    it have ended."""

    def left(handler: asyncio.Task[Any]) -> None:
        execution.tasks.discard(handler)
        last = execution.last_frame(handler.result)
        execution.pass_.unwinding = execution.pass_.unwinding or "ended"
        if execution.tasks:
            execution.ending = loop.create_task(_end_tasks(execution))
            execution.ending.add_done_callback(lambda _: ended(last))
        else:
            ended(last)

    def ended(last: Frame | c.Command) -> None:
        execution.log.close()
        on_end(execution)
        pipe.post(last)

    task = loop.create_task(_handle(execution, port))
    execution.tasks.add(task)
    task.add_done_callback(left)


async def _handle(execution: LoopedExecution, port: LoopPort) -> Any:
    current_execution.set(execution)
    current_log.set(execution.log)
    in_handler.set("ctx")
    context: AsyncJobContext[Any] = AsyncJobContext(execution.facts(), execution.pass_, port)
    return await _contained(execution.job.handler(context))


async def _contained(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Await code of a handler. What asyncio would let through the loop, and so through the worker
    and everybody else's work, is carried out as an ordinary exception."""
    try:
        return await coroutine
    except (SystemExit, KeyboardInterrupt) as error:
        raise Escaped(error) from error


async def _end_tasks(execution: LoopedExecution) -> None:
    """Cancel the tasks that the handler left behind, until they have ended or none ends within a
    second."""
    while tasks := list(execution.tasks):
        for task in tasks:
            task.cancel()
        done, _ = await asyncio.wait(tasks, timeout=1.0)
        for task in done:
            if not task.cancelled():
                task.exception()  # Retrieved, so that the loop does not report it.
        if not done:
            break
