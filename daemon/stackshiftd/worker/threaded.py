"""`def` handlers: one thread each, which blocks while the daemon records a call.

The loop's thread delivers answers and outcomes. A thread waits for its answer on a lock of its own,
which costs less than a condition variable. While an execution is unwinding, every `ctx` call raises
`Unwinding` again.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable
from inspect import iscoroutine
from queue import SimpleQueue
from threading import Event, Lock, Thread, current_thread
from typing import Any, Final

from stackshift_jobs.errors import ReplayError, Usage
from stackshift_jobs.handler import ops
from stackshift_jobs.handler.cancelling import Cancelling
from stackshift_jobs.handler.context import JobContext
from stackshift_jobs.handler.current_step import current_try
from stackshift_jobs.handler.failures import Escaped, Failure
from stackshift_jobs.handler.ports import drive, racing
from stackshift_jobs.handler.replay import Unwinding
from stackshift_jobs.handler.scope import current_pass, current_step, in_handler
from stackshift_jobs.handler.undo import undo_steps
from stackshift_jobs.programs.supervisor import current_supervisor
from stackshift_jobs.values.secrets import current_secrets
from stackshiftd.core import commands as c
from stackshiftd.worker.execution import (
    DRAINED,
    UNDOES,
    WAITS,
    Execution,
    answer_of,
    command_of,
)
from stackshiftd.worker.frames import CallRecorded, Cancel
from stackshiftd.worker.isolation import contexts, directory
from stackshiftd.worker.isolation.breakdown import OnError
from stackshiftd.worker.isolation.process_copy import ProcessCopy, end_copy
from stackshiftd.worker.output.run_log import current_log
from stackshiftd.worker.pipe import Pipe

_calls: Final = itertools.count(1, 2)
"""Odd numbers; calls of handlers on the loop have the even ones."""


class Waiter:
    """One thread waiting for one answer. Without an `answer`, its release means: unwind."""

    __slots__ = ("answer", "lock")

    def __init__(self) -> None:
        self.lock = Lock()
        self.lock.acquire()
        self.answer: CallRecorded | None = None


class ThreadedExecution(Execution):
    """An execution on a thread. `waiters` are its unanswered calls, `parked` its durable waits, and
    `overdue_calls` the timeouts recorded for steps whose function is still running."""

    __slots__ = (
        "guard",
        "is_abandoned",
        "over",
        "overdue_calls",
        "parked",
        "thread",
        "waiters",
    )

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.waiters: dict[int, Waiter] = {}
        self.parked: dict[str, Event] = {}
        self.overdue_calls: dict[str, Waiter] = {}
        self.guard = Lock()
        self.is_abandoned = False
        self.thread: Thread | None = None
        self.over = False
        """Has the handler ended? Threads that it has left behind can call nothing any more."""

    def is_alive(self) -> bool:
        """Does its thread live? One that has not begun yet is not alive."""
        return self.thread is not None and self.thread.is_alive()

    def leave(self, reason: str) -> None:
        """Make every call on `ctx` raise `Unwinding`, including those waiting now.

        With the reason `DRAINED`, calls that wait for an answer still receive it.
        """
        with self.guard:
            if self.pass_.unwinding in (None, WAITS, DRAINED, UNDOES):
                self.pass_.unwinding = reason
            if reason != DRAINED:
                self.release_tries()
            waiters = list(self.waiters.values()) if reason != DRAINED else []
            events = list(self.parked.values())
        for waiter in waiters:
            if waiter.lock.locked():
                waiter.lock.release()
        for event in events:
            event.set()

    def cancel(self, cancel: Cancel) -> None:
        """The run is to be cancelled gently: its handler is told at the wait that it is in, or at
        its next call."""
        with self.guard:
            self.set_cancelling(cancel)
            events = list(self.parked.values())
        for event in events:
            event.set()

    def end(self) -> None:
        """Refuse every later call on `ctx`, and those waiting now: no answer will come."""
        self.release_tries()
        with self.guard:
            self.over = True
            waiters, events = list(self.waiters.values()), list(self.parked.values())
        for waiter in waiters:
            if waiter.lock.locked():
                waiter.lock.release()
        for event in events:
            event.set()

    def refuse_unwinding(self, op: ops.Op | None = None) -> None:
        """Raise `Unwinding` while the pass unwinds, and `ReplayError` after a handler that ended by
        itself."""
        if self.over:
            if self.pass_.unwinding is not None:
                raise Unwinding(self.pass_.unwinding)
            raise ReplayError(
                "a thread used ctx after its handler had ended",
                hint="wait for the thread (join) before the handler returns",
            )
        super().refuse_unwinding(op)

    def answered(self, call: int, answer: CallRecorded) -> None:
        """Pass the daemon's answer to the thread that made the call, if it still waits."""
        waiter = self.waiters.pop(call, None)
        if waiter is not None:
            waiter.answer = answer
            if waiter.lock.locked():
                waiter.lock.release()

    def has_ended(self, park: ops.Park) -> bool:
        """Is the outcome of this wait known?"""
        known = self.pass_.recorded_calls.get(park.step)
        return known is not None and known.phase not in ("waiting", "retrying")

    def resolved(self, step: str, known: ops.RecordedCall) -> None:
        """Record that the wait `step` has ended with `known`, and wake its thread."""
        with self.guard:
            self.pass_.recorded_calls[step] = known
            event = self.parked.get(step)
        if event is not None:
            event.set()


class ThreadPort:
    """Drives the calls of one threaded execution; see `stackshift_jobs.handler.ports.Port`."""

    def __init__(
        self,
        execution: ThreadedExecution,
        pipe: Pipe,
        calls: dict[int, Execution],
        threads: Threads,
    ) -> None:
        self._execution = execution
        self._pipe = pipe
        self._calls = calls
        self._threads = threads

    def tell(self, op: ops.Tell) -> ops.Recorded:
        """Send the call and block until its records are durable; raises `Unwinding`, and
        `Cancelling`."""
        execution = self._execution
        self._only_replays(op.step)
        if execution.pass_.holds and _is_new(op) and not execution.must_finish(op):
            self.raise_cancel(op.step)
        overdue = execution.overdue_calls.pop(op.step, None)
        if overdue is not None:
            # The step's timeout was recorded while its function was still running.
            return self._wait(overdue)
        execution.failing(op)
        call = next(_calls)
        waiter = self.register(call, op)
        command = command_of(op, execution.run, execution.token, call)
        if self._threads.active > 1:
            self._pipe.hand_over(command)
        else:
            self._pipe.send(command)  # No other thread to share a write with: the shorter way.
        return self._wait(waiter)

    def fail_overdue(self, op: ops.Perform, error: TimeoutError, duration_ms: int) -> None:
        """Record that the step timed out with `error` while its function is still running.

        Called on another thread. When the function returns, its call gets this answer; at its next
        beat, it is ended.
        """
        execution = self._execution
        call = next(_calls)
        failure = ops.RecordFailure(
            op.step, Failure.of(error), duration_ms, op.tried, op.retry, op.input, op.undo
        )
        waiter = Waiter()
        with execution.guard:
            # Under the guard it is one or the other: the function returned first, and its result
            # counts; or it is overdue, and `perform` will see that.
            if op.step not in execution.open:
                return
            execution.refuse_unwinding(failure)
            execution.failing(failure)
            execution.waiters[call] = waiter
            execution.overdue_calls[op.step] = waiter
            begun = execution.tries[op.step]
            begun.end_with = error
            begun.end(failed=True)
        self._calls[call] = execution
        self._pipe.send(command_of(failure, execution.run, execution.token, call))

    def register(self, call: int, op: ops.Tell) -> Waiter:
        """Create the waiter for the answer to `call`; raises `Unwinding`."""
        waiter = Waiter()
        with self._execution.guard:
            self._execution.refuse_unwinding(op)
            self._execution.waiters[call] = waiter
        self._calls[call] = self._execution
        return waiter

    def _only_replays(self, *steps: str) -> None:
        """Raise `Unwinding` in a pass that only goes over what is on record, to undo it; or
        `Cancelling` where the handler was told of that, for what it did then is on record too."""
        pass_ = self._execution.pass_
        if pass_.undoes:
            told = pass_.cancellation
            if told is not None and told.raised_at in steps and not told.is_told:
                self.raise_cancel(told.raised_at)
            with self._execution.guard:
                pass_.unwinding = pass_.unwinding or UNDOES
            raise Unwinding(pass_.unwinding)

    def raise_cancel(self, step: str) -> None:
        """Raise `Cancelling` at the call `step` if the run is to be cancelled and its handler was
        not told. Raises `Unwinding` if other runs have to end first.

        Of the threads of a handler only its own is told; the others get it each time until then.
        """
        execution = self._execution
        cancellation = execution.pass_.cancellation
        if cancellation is None or cancellation.is_told:
            return
        if current_thread() is not execution.thread:
            raise Cancelling
        if not cancellation.raised_seq and self.tell(ops.RaiseCancel(step)).body is not None:
            with execution.guard:
                execution.pass_.unwinding = execution.pass_.unwinding or WAITS
            raise Unwinding(execution.pass_.unwinding)
        cancellation.is_told = True
        raise Cancelling

    def _wait(self, waiter: Waiter) -> ops.Recorded:
        waiter.lock.acquire()
        answer = waiter.answer
        if answer is None:
            self._execution.refuse_unwinding()
            raise Unwinding(self._execution.pass_.unwinding)
        return answer_of(answer)

    def park(self, op: ops.Park) -> ops.RecordedCall:
        """Wait for the outcome of a durable wait, if it may come soon; otherwise raise `Unwinding`
        to suspend the run."""
        self.park_any([op])
        return self._execution.pass_.recorded_calls[op.step]

    def park_any(self, parks: list[ops.Park]) -> None:
        """Wait until one of these durable waits has ended, if that may be soon; otherwise raise
        `Unwinding` to suspend the run."""
        execution, pace = self._execution, self._execution.pace
        if not any(map(execution.has_ended, parks)):
            self._only_replays(*(op.step for op in parks))
        self._raise_at(parks)
        event = Event()
        with execution.guard:
            self._execution.refuse_unwinding()
            for op in parks:
                execution.waiting.add(op.step)
                execution.parked[op.step] = event
            if any(map(execution.has_ended, parks)):
                event.set()
        soon = any(pace.may_be_soon(op.due_us) for op in parks)
        event.wait(pace.keep_seconds * 1.5 if soon else 0)
        with execution.guard:
            for op in parks:
                del execution.parked[op.step]
            self._execution.refuse_unwinding()
            ended = list(filter(execution.has_ended, parks))
            if ended:
                execution.waiting.difference_update(op.step for op in parks)
                return
            is_cancelled = execution.pass_.holds
            if not is_cancelled:
                execution.pass_.unwinding = WAITS
        if is_cancelled:
            self._raise_at(parks)
        raise Unwinding(WAITS)

    def _raise_at(self, parks: list[ops.Park]) -> None:
        """Raise `Cancelling` at a wait, as `raise_cancel` does, and withdraw what it waits for."""
        try:
            if self._execution.pass_.holds and not any(map(self._execution.has_ended, parks)):
                self.raise_cancel(parks[0].step)
        except Cancelling:
            for op in parks:
                self._execution.waiting.discard(op.step)
                self.withdraw(op.step)
            raise
        except Unwinding:
            self._execution.waiting.update(op.step for op in parks)
            raise

    def withdraw(self, step: str) -> None:
        """Tell the daemon that nobody waits for the call `step` any more."""
        self._pipe.send(self._execution.withdrawal(step))

    def perform(self, op: ops.Perform) -> Any:
        """Call the step's function on this thread and return its value.

        Raises `TimeoutError` if its timeout was recorded meanwhile, and `Usage` if the value is
        awaitable.
        """
        execution = self._execution
        self._execution.refuse_unwinding()
        self._only_replays(op.step)
        is_told_here = racing.get() is None and not execution.must_finish(op)
        if execution.pass_.holds and is_told_here:
            self.raise_cancel(op.step)
        begun = execution.begin_try(op)
        execution.began(op)
        inside = current_step.set(op.step)
        trying = current_try.set(begun)
        began_in = directory.here()
        supervised = current_supervisor.set(execution.programs)
        failed = True
        try:
            value = op.fn(*op.args, **op.kwargs)
            failed = False
        except (Exception, Unwinding):
            raise
        except BaseException as error:  # SystemExit and its like are the step's failure.
            raise Escaped(error) from error
        finally:
            if ProcessCopy.is_this:
                end_copy(sys.exception() if failed else None)
            with execution.guard:
                execution.ended(op, failed=failed)
            current_supervisor.reset(supervised)
            current_try.reset(trying)
            current_step.reset(inside)
            directory.back(began_in)
        if op.step in execution.overdue_calls:
            assert begun.end_with is not None
            raise begun.end_with
        if hasattr(value, "__await__"):
            if iscoroutine(value):
                value.close()  # Never to be awaited, which Python would report.
            raise Usage(
                f"step {op.step!r} was given an async function, which only an `async def` handler "
                "can run"
            )
        return value

    def progress(self, done: float, total: float | None, message: str) -> None:
        """Report progress, without waiting for an answer."""
        execution = self._execution
        self._execution.refuse_unwinding()
        self._pipe.send(
            c.ReportProgress(execution.run, execution.token, float(done), total, message)
        )


def _is_new(op: ops.Tell) -> bool:
    """Does the call begin something, for a handler that is to be told that it is cancelled? A race
    looks for itself."""
    ended = isinstance(op, ops.RecordResult | ops.RecordFailure | ops.RaiseCancel)
    return bool(op.step) and not ended and racing.get() is None


def _undo(execution: ThreadedExecution, port: ThreadPort, context: JobContext[Any]) -> None:
    """Let the handler say how what is on record is undone, and do it."""
    pass_ = execution.pass_
    with contextlib.suppress(BaseException):  # It ends where the record does, or as it ended then.
        execution.job.handler(context)
    with execution.guard:
        if pass_.unwinding == UNDOES:
            pass_.unwinding = None
        pass_.undoes, pass_.cancellation = False, None
    execution.refuse_unwinding()
    for _, made in undo_steps(pass_):
        drive(made, port)


class Threads:
    """The threads that `def` handlers run on, started as needed and reused.

    Their number is bounded: the daemon assigns no more executions than the worker has slots.
    """

    def __init__(self, on_end: Callable[[Execution], None], on_error: OnError) -> None:
        self._on_end = on_end
        self._on_error = on_error
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._idle = 0
        self._started: list[Thread] = []
        self.active = 0
        """The number of handlers that are running."""
        self._lock = Lock()

    def submit(self, execution: ThreadedExecution, port: ThreadPort, pipe: Pipe) -> None:
        """Call the handler on a thread; its final frame is sent when it has returned or raised.
        Raises `RuntimeError` if no thread can be started."""
        with self._lock:
            if self._idle > 0:
                self._idle -= 1
            else:
                # Daemon threads: no handler can keep the process alive when the daemon ends it.
                name = f"handler-{len(self._started) + 1}"
                started = Thread(target=self._serve, name=name, daemon=True)
                started.start()
                self._started.append(started)
            self.active += 1
        self._work.put(lambda: self._call(execution, port, pipe))

    def close(self) -> None:
        """End the threads as they become idle; nothing may be submitted afterwards."""
        for _ in self._started:
            self._work.put(None)

    def all_alive(self) -> bool:
        """Is there still each thread that was started?"""
        return all(thread.is_alive() for thread in list(self._started))

    def _serve(self) -> None:
        try:
            directory.own()
            while True:
                work = self._work.get()
                if work is None:
                    return
                # A context of its own: the next handler sees no context variables of this one.
                contexts.fresh().run(work)
                directory.reset()
                with self._lock:
                    self.active -= 1
                    self._idle += 1
        except BaseException as bad:
            self._on_error(bad)

    def _abandon(self, execution: ThreadedExecution, pipe: Pipe) -> None:
        """End the execution of a handler that does not let itself be unwound; the thread that calls
        this stands still from now on."""
        if not execution.is_abandoned:
            execution.is_abandoned = True
            with self._lock:
                self.active -= 1
            execution.programs.close(Unwinding("ended"))
            execution.log.close()
            self._on_end(execution)
            pipe.send(execution.returned(None))
        Event().wait()

    def _call(self, execution: ThreadedExecution, port: ThreadPort, pipe: Pipe) -> None:
        execution.thread = current_thread()
        current_log.set(execution.log)
        current_secrets.set(execution.pass_.secrets)
        current_supervisor.set(execution.programs)  # for the script of a shell job
        in_handler.set("ctx")
        current_pass.set(execution.pass_)

        execution.pass_.abandon = lambda: self._abandon(execution, pipe)

        def handle() -> Any:
            context: JobContext[Any] = JobContext(execution.facts(), execution.pass_, port)
            if execution.undoes:
                return _undo(execution, port, context)
            return execution.job.handler(context)

        last = execution.last_frame(handle)
        execution.end()
        execution.programs.close(Unwinding("ended"))
        with contextlib.suppress(Exception):  # Whatever is wrong with its output, it has ended.
            execution.log.close()
        self._on_end(execution)
        if self.active > 1:
            pipe.hand_over(last)
        else:
            pipe.send(last)
