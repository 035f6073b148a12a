"""Calls the functions of the steps of `async def` handlers, outside of the handlers' own loops.

An `async def` function runs in a task on the worker's loop, a `def` one on a thread. The threads
are for this alone: a user's `asyncio.to_thread` cannot starve them. A timeout counts from when the
function begins, not from when it waits for a thread.
"""

from __future__ import annotations

import asyncio
import dis
from asyncio import current_task, get_running_loop, timeout
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from functools import lru_cache, partial, wraps
from inspect import CO_COROUTINE, isawaitable
from types import CodeType
from typing import Any, Final, Protocol
from weakref import WeakSet

from stackshift_jobs.callables import is_async
from stackshift_jobs.errors import cut_off
from stackshift_jobs.handler import ops
from stackshift_jobs.handler.current_step import current_try
from stackshift_jobs.handler.failures import Escaped, is_a
from stackshift_jobs.handler.replay import Unwinding
from stackshift_jobs.handler.scope import current_step
from stackshift_jobs.programs.supervisor import current_supervisor
from stackshift_jobs.values.clocks import monotonic
from stackshift_jobs.values.durations import short_ms
from stackshiftd.worker.frames import Stuck
from stackshiftd.worker.isolation.breakdown import OnError, is_own
from stackshiftd.worker.isolation.directory import StepThreads
from stackshiftd.worker.isolation.process_copy import ProcessCopy, end_copy
from stackshiftd.worker.loop.eager_tasks import started
from stackshiftd.worker.pipe import Pipe
from stackshiftd.worker.programs import Programs
from stackshiftd.worker.step_tries import StepTry

_strays: Final[ContextVar[set[asyncio.Task[Any]] | None]] = ContextVar(
    "stackshift_strays", default=None
)
"""The tasks that the functions of an execution's steps have created themselves."""


Ended = tuple[Any, BaseException | None]
"""What a function has returned, or what it has raised."""


class Caller(Protocol):
    """A call of a handler that runs a step; its function runs in a copy of its context."""

    context: Context


class Owner(Protocol):
    """An execution, whose steps have functions."""

    functions: dict[str, Running]
    """Those that have been asked for and have not ended, by step."""
    strays: set[asyncio.Task[Any]]
    """Tasks that these have created themselves."""
    programs: Programs
    """The programs that these run."""
    tries: dict[str, StepTry]
    """The tries whose functions are running, by step."""

    @property
    def run(self) -> str:
        """The run's id."""

    @property
    def is_over(self) -> bool:
        """Has the handler left memory?"""

    def began(self, op: ops.Perform) -> None:
        """The function begins."""

    def awaits_thread(self, op: ops.Perform) -> None:
        """The function is asked for, and begins when a thread is free."""

    def begin_try(self, op: ops.Perform) -> StepTry:
        """The try whose function is asked for."""

    def ended(self, op: ops.Perform, *, failed: bool) -> None:
        """The function has returned, or raised (`failed`)."""

    def performed(self, call: Any, value: Any, error: BaseException | None) -> None:
        """What the function returned or raised."""


class Running:
    """A function that has been asked for. `cancel` ends it, as far as that is possible."""

    __slots__ = ("call", "cancel", "execution", "late", "op", "task", "timer")

    def __init__(self, execution: Owner, call: Caller, op: ops.Perform) -> None:
        self.execution = execution
        self.call = call
        self.op = op
        self.cancel: Callable[[], object]
        self.task: asyncio.Task[Any] | None = None
        """The task in which it is awaited, if it is."""
        self.timer: asyncio.TimerHandle | None = None
        self.late: BaseException | None = None
        """Why it was cancelled, if it was silent for too long."""

    def end(self, value: Any, error: BaseException | None) -> None:
        """Report how the function ended; only the first report counts."""
        running = self.execution.functions
        if running.get(self.op.step) is not self:
            return
        del running[self.op.step]
        if self.timer is not None:
            self.timer.cancel()
        if error is not None and is_a(error, Escaped) and self.late is not None:
            error = self.late
        self.execution.ended(self.op, failed=error is not None)
        self.execution.performed(self.call, value, error)

    def is_done(self, task: asyncio.Task[Any]) -> Ended:
        """Note that the function has ended already, in `task`."""
        del self.execution.functions[self.op.step]
        ended = _ended(task)
        self.execution.ended(self.op, failed=ended[1] is not None)
        return ended


class StepFunctions:
    """The functions of all executions of a worker. All methods are for its loop's thread."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, pipe: Pipe, threads: int, on_error: OnError
    ) -> None:
        self._loop = loop
        self._pipe = pipe
        self._on_error = on_error
        self._pool = StepThreads(threads)

    def close(self) -> None:
        """End the threads as they become idle."""
        self._pool.shutdown(wait=False)

    def all_alive(self) -> bool:
        """Is there still each thread that was started?"""
        return self._pool.all_alive()

    def perform(self, execution: Owner, call: Caller, op: ops.Perform) -> Ended | None:
        """Call the function. Returns how it has ended, if it did so at once; otherwise
        `execution.performed` gets its result or error."""
        context = call.context.copy()
        begun = execution.begin_try(op)
        code = getattr(op.fn, "__code__", None)
        if code is not None and _awaits_nothing(code):
            execution.began(op)
            at_once: Ended = (None, None)
            try:
                at_once = context.run(_at_once, op, begun)
            finally:
                execution.ended(op, failed=at_once[1] is not None)
            return at_once
        context.run(_set_step, op, begun)
        running = execution.functions[op.step] = Running(execution, call, op)
        if not is_async(op.fn):
            execution.awaits_thread(op)
            self._submit(running, context, begun)
            return None
        execution.began(op)
        return self._await(running, context, None, _seconds(op))

    def cancel(self, execution: Owner, step: str | None = None) -> None:
        """Cancel the function of a step, or all of an execution (None). One that runs on a thread
        cannot be interrupted."""
        for running in list(execution.functions.values()):
            if step is None or running.op.step == step:
                running.cancel()
        if step is None:
            for task in list(execution.strays):
                task.cancel()

    def lapse(self, execution: Owner, late: StepTry) -> None:
        """End a function that has been silent for too long. The process is replaced if it is one on
        a thread that does not return."""
        running = execution.functions.get(late.op.step)
        if running is None:
            return
        error = late.lateness()
        if running.task is None:
            self._leave_behind(running, error)
        else:
            running.late = error
            running.task.cancel()

    # --- On the loop -----------------------------------------------------------------------

    def _await(
        self,
        running: Running,
        context: Context,
        value: Awaitable[Any] | None,
        seconds: float | None,
    ) -> Ended | None:
        """Await `value`, or call the function first (None). Returns how that ended, if it did so at
        once."""
        task = started(_limited(value, running.op, seconds), self._loop, context)
        if task.done():
            return running.is_done(task)
        running.task, running.cancel = task, task.cancel
        task.add_done_callback(lambda task: running.end(*_ended(task)))
        return None

    # --- On a thread -----------------------------------------------------------------------

    def _submit(self, running: Running, context: Context, begun: StepTry) -> None:
        op, loop = running.op, self._loop
        began: list[float] = []

        def work() -> None:
            running.execution.began(op)
            begun.begin()
            began.append(monotonic())
            if op.timeout_ms is not None:
                loop.call_soon_threadsafe(self._limit, running)
            value, error = None, None
            try:
                value = context.run(op.fn, *op.args, **op.kwargs)
            except BaseException as raised:
                error = _carried(raised)
            if ProcessCopy.is_this:
                context.run(end_copy, error)
            loop.call_soon_threadsafe(ended, value, error)

        def ended(value: Any, error: BaseException | None) -> None:
            if error is None and isawaitable(value):
                seconds = _seconds(op)
                if seconds is not None:
                    seconds = max(0.0, seconds - (monotonic() - began[0]))
                at_once = self._await(running, context, value, seconds)
                if at_once is not None:
                    running.execution.performed(running.call, *at_once)
            else:
                running.end(value, error)

        future = self._pool.submit(self._on_thread, work)

        def cancel() -> None:
            if future.cancel():
                # Not here: whoever cancels is in the middle of something.
                loop.call_soon(running.end, None, Escaped(asyncio.CancelledError()))

        running.cancel = cancel

    def _on_thread(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as bad:  # Not of the function: what it raises is caught there.
            self._on_error(bad)

    def _limit(self, running: Running) -> None:
        """Start the clock of a function that has begun on a thread."""
        seconds = _seconds(running.op)
        assert seconds is not None
        running.timer = self._loop.call_later(seconds, self._overdue, running)

    def _overdue(self, running: Running) -> None:
        """Go on without the function; the process is replaced if it does not return."""
        execution, op = running.execution, running.op
        if execution.functions.get(op.step) is running and not execution.is_over:
            self._leave_behind(running, too_long(op))

    def _leave_behind(self, running: Running, error: TimeoutError) -> None:
        execution, op = running.execution, running.op
        if (begun := execution.tries.get(op.step)) is not None:
            begun.end_with = error  # It may beat once more.
        self._pipe.post(Stuck(execution.run, op.step))
        running.end(None, error)


def enter(execution: Owner) -> None:
    """Let the functions of an execution's steps, which run in copies of the context here, know
    whose they are."""
    current_supervisor.set(execution.programs)
    _strays.set(execution.strays)


def _ended(task: asyncio.Task[Any]) -> Ended:
    if task.cancelled():
        return None, Escaped(asyncio.CancelledError())
    error = task.exception()
    return (None, _carried(error)) if error is not None else (task.result(), None)


@lru_cache(4096)
def _awaits_nothing(code: CodeType) -> bool:
    """Is it the code of an `async def` function that awaits nothing, and so needs no task?"""
    is_coroutine = bool(code.co_flags & CO_COROUTINE)
    return is_coroutine and all(each.opname != "SEND" for each in dis.get_instructions(code))


def _set_step(op: ops.Perform, begun: StepTry) -> None:
    """Let the context be that of the step's function."""
    current_step.set(op.step)
    current_try.set(begun)


def _at_once(op: ops.Perform, begun: StepTry) -> Ended:
    """Call an `async def` function that awaits nothing."""
    current_step.set(op.step)
    current_try.set(begun)
    try:
        op.fn(*op.args, **op.kwargs).send(None)
    except StopIteration as done:
        if ProcessCopy.is_this:
            end_copy(None)
        return done.value, None
    except BaseException as error:
        if ProcessCopy.is_this:
            end_copy(error)
        return None, _carried(error)
    raise AssertionError("the function was said to await nothing")


async def _limited(value: Awaitable[Any] | None, op: ops.Perform, seconds: float | None) -> Any:
    """Await what a function has returned, or call it first (None), for `seconds`. Raises what it
    raises, as an exception that a task may end with, and `TimeoutError`."""
    try:
        if value is None:
            value = op.fn(*op.args, **op.kwargs)
        if seconds is None:
            return await value
        try:
            async with timeout(seconds) as limit:
                return await value
        except TimeoutError as late:
            if not limit.expired():
                raise  # the function raised it itself
            raise too_long(op) from late
    except asyncio.CancelledError as error:
        task = current_task()
        if task is not None and task.cancelling() > 0:
            raise
        raise Escaped(error) from error  # the function raised it itself
    except GeneratorExit:
        raise  # the worker ends, or the function raised it: see `_ended`
    except BaseException as error:
        carried = _carried(error)
        if carried is error:
            raise
        raise carried from error


def _carried(error: BaseException) -> BaseException:
    """The error as one that futures, tasks and generators pass on like any other."""
    if is_a(error, Exception, Unwinding) and not is_a(error, StopIteration):
        return error
    return Escaped(error)


def too_long(op: ops.Perform) -> TimeoutError:
    """The error of a function that has run for as long as its step may."""
    assert op.timeout_ms is not None
    return cut_off(TimeoutError(f"step {op.step!r} ran longer than {short_ms(op.timeout_ms)}"))


def _seconds(op: ops.Perform) -> float | None:
    return None if op.timeout_ms is None else op.timeout_ms / 1000


def install(loop: asyncio.AbstractEventLoop, on_error: OnError) -> None:
    """Prepare the loop of a worker for the functions of steps. A function has it to itself, as far
    as it can tell: what it leaves behind ends with the execution, and it sees no other tasks.
    `on_error` gets what a callback of the worker's own raises."""
    loop.set_task_factory(_task_factory)  # type: ignore[arg-type]
    loop.set_exception_handler(partial(_report, on_error))
    _loops.add(loop)
    if not hasattr(asyncio.all_tasks, "__wrapped__"):
        asyncio.all_tasks = asyncio.tasks.all_tasks = _own_tasks(asyncio.all_tasks)


_loops: Final[WeakSet[asyncio.AbstractEventLoop]] = WeakSet()
"""The loops of workers; a process has one, a test several."""


def _own_tasks(all_tasks: Callable[..., set[asyncio.Task[Any]]]) -> Callable[..., Any]:
    """`asyncio.all_tasks`, which a program calls to cancel all tasks of its own. In the function of
    a step those of other runs are none of them."""

    @wraps(all_tasks)
    def own_tasks(loop: asyncio.AbstractEventLoop | None = None) -> set[asyncio.Task[Any]]:
        found = all_tasks(loop)
        strays = _strays.get()
        if strays is None or (loop or get_running_loop()) not in _loops:
            return found
        return found & {*strays, current_task(loop)}

    return own_tasks


class Task(asyncio.Task[Any]):
    """A task that the function of a step has created; messages of asyncio's call it by the name of
    its class. (Before Python 3.12 they do not say what the context of a task is.)"""

    __slots__ = ("context",)

    context: Context


def _report(on_error: OnError, loop: asyncio.AbstractEventLoop, told: dict[str, Any]) -> None:
    """Report an error that nobody has asked a task for, in the log of the step that created it. It
    is noticed when the task is freed, which may be in the middle of anything else."""
    error = told.get("exception")
    if "handle" in told and error is not None and is_own(error):
        on_error(error)
    task = told.get("task") or told.get("future")
    if isinstance(task, Task):
        task.context.copy().run(loop.default_exception_handler, told)
    else:
        loop.default_exception_handler(told)


def _task_factory(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
) -> asyncio.Task[Any]:
    """Create a task on the worker's loop. One that a step's function creates ends at the latest
    with the execution, and cannot end the worker."""
    strays = _strays.get()
    if strays is None:
        return asyncio.Task(coroutine, loop=loop, **options)
    context = options.pop("context", None) or copy_context()
    task = Task(_contained(coroutine), loop=loop, context=context, **options)
    task.context = context
    strays.add(task)

    def ended(task: asyncio.Task[Any]) -> None:
        strays.discard(task)
        coroutine.close()  # Of a task that was cancelled before its first turn, it has not begun.

    task.add_done_callback(ended)
    return task


async def _contained(coroutine: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await coroutine
    except (SystemExit, KeyboardInterrupt) as error:
        raise Escaped(error) from error
