"""`def` handlers: one thread each, blocked while the daemon records.

The loop's thread delivers answers and outcomes; a thread that waits for one holds a lock of its
own, which costs less than any condition. While an execution is being left, every `ctx` call raises
`Unwinding` again.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from contextvars import Context
from queue import SimpleQueue
from typing import Any, Final

from stackshift_jobs.handler import ops
from stackshift_jobs.handler.context import JobContext
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
from stackshiftd.worker.frames import CallRecorded
from stackshiftd.worker.output import current_log
from stackshiftd.worker.pipe import Pipe

_calls: Final = itertools.count(1, 2)
"""Odd numbers; the loop's calls have the even ones."""


class Waiter:
    """One thread that waits for one answer."""

    __slots__ = ("answer", "lock")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lock.acquire()
        self.answer: CallRecorded | None = None


class ThreadedExecution(Execution):
    """An execution on a thread. `waiters` are its unanswered calls, `parked` its durable waits."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.waiters: dict[int, Waiter] = {}
        self.parked: dict[str, threading.Event] = {}
        self.overdue_calls: dict[str, Waiter] = {}
        self.guard = threading.Lock()

    def leave(self, reason: str) -> None:
        """Make every call on `ctx`, also those that wait now, unwind."""
        with self.guard:
            if self.pass_.unwinding in (None, WAITS, DRAINED):
                self.pass_.unwinding = reason
            waiters = list(self.waiters.values()) if reason != DRAINED else []
            events = list(self.parked.values())
        for waiter in waiters:
            if waiter.lock.locked():
                waiter.lock.release()
        for event in events:
            event.set()

    def answered(self, call: int, answer: CallRecorded) -> None:
        """The daemon's answer to a call."""
        waiter = self.waiters.pop(call, None)
        if waiter is not None:
            waiter.answer = answer
            if waiter.lock.locked():
                waiter.lock.release()

    def resolved(self, step: str, known: ops.RecordedCall) -> None:
        """A wait has ended."""
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
        execution = self._execution
        overdue = execution.overdue_calls.pop(op.step, None)
        if overdue is not None:
            # The timeout was recorded on this step's behalf while its function still ran.
            return self._wait(overdue)
        execution.failing(op)
        call = next(_calls)
        waiter = self.register(call, op)
        command = command_of(op, execution.run, execution.token, call)
        if self._threads.active > 1:
            self._pipe.hand_over(command)
        else:
            self._pipe.send(command)  # nobody to share a write with: the shorter way
        return self._wait(waiter)

    def fail_overdue(self, op: ops.Perform, error: dict[str, Any], duration_ms: int) -> None:
        """Record that the step ran out of time while its function still runs; called on another
        thread. When the function comes back, its call gets this answer."""
        execution = self._execution
        call = next(_calls)
        failure = ops.RecordFailure(
            op.step, error, duration_ms, op.tried, True, op.retry, None, op.input
        )
        waiter = Waiter()
        with execution.guard:
            # One of the two: either the function came back first, and its result counts, or it is
            # past its time, and `perform` sees so.
            if op.step not in execution.open:
                return
            execution.refuse_unwinding(failure)
            execution.failing(failure)
            execution.waiters[call] = waiter
            execution.overdue_calls[op.step] = waiter
        self._calls[call] = execution
        self._pipe.send(command_of(failure, execution.run, execution.token, call))

    def register(self, call: int, op: ops.Tell) -> Waiter:
        """A waiter for the answer to `call`."""
        waiter = Waiter()
        with self._execution.guard:
            self._execution.refuse_unwinding(op)
            self._execution.waiters[call] = waiter
        self._calls[call] = self._execution
        return waiter

    def _wait(self, waiter: Waiter) -> ops.Recorded:
        waiter.lock.acquire()
        answer = waiter.answer
        if answer is None:
            raise Unwinding(self._execution.pass_.unwinding)
        return answer_of(answer)

    def park(self, op: ops.Park) -> ops.RecordedCall:
        execution = self._execution
        event = threading.Event()
        with execution.guard:
            self._execution.refuse_unwinding()
            execution.waiting.add(op.step)
            execution.parked[op.step] = event
            known = execution.pass_.recorded_calls.get(op.step)
            if known is not None and known.phase not in ("waiting", "retrying"):
                event.set()
        pace = execution.pace
        event.wait(pace.keep_seconds * 1.5 if pace.may_be_soon(op.due_us) else 0)
        with execution.guard:
            del execution.parked[op.step]
            self._execution.refuse_unwinding()
            known = execution.pass_.recorded_calls.get(op.step)
            if known is not None and known.phase not in ("waiting", "retrying"):
                execution.waiting.discard(op.step)
                return known
            execution.pass_.unwinding = WAITS
        raise Unwinding(WAITS)

    def perform(self, op: ops.Perform) -> Any:
        execution = self._execution
        self._execution.refuse_unwinding()
        execution.began(op)
        inside = current_step.set(op.step)
        try:
            value = op.fn(*op.args, **op.kwargs)
        finally:
            with execution.guard:
                execution.ended(op)
            current_step.reset(inside)
        if op.step in execution.overdue_calls:
            raise TimeoutError(f"step {op.step!r} ran longer than {op.timeout_ms} ms")
        if hasattr(value, "__await__"):
            raise TypeError(
                f"step {op.step!r} has an async function; give it to an `async def` handler"
            )
        return value

    def progress(self, done: float, total: float | None, message: str) -> None:
        execution = self._execution
        self._execution.refuse_unwinding()
        self._pipe.send(
            c.ReportProgress(execution.run, execution.token, float(done), total, message)
        )


class Threads:
    """The threads that `def` handlers run on: started as needed, kept for the next. The daemon
    hands out no more executions than there are slots, which bounds them."""

    def __init__(self, on_end: Callable[[Execution], None]) -> None:
        self._on_end = on_end
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._idle = 0
        self._started = 0
        self.active = 0
        """Handlers that are under way."""
        self._lock = threading.Lock()

    def submit(self, execution: ThreadedExecution, port: ThreadPort, pipe: Pipe) -> None:
        """Call the handler on a thread; its last frame is sent when it has left."""
        with self._lock:
            self.active += 1
            if self._idle > 0:
                self._idle -= 1
            else:
                self._started += 1
                # Daemon threads: the process ends when the daemon says so, whatever a handler does.
                threading.Thread(
                    target=self._serve, name=f"handler-{self._started}", daemon=True
                ).start()
        self._work.put(lambda: self._call(execution, port, pipe))

    def close(self) -> None:
        """Have the threads end that serve nothing any more; nothing is submitted after this."""
        for _ in range(self._started):
            self._work.put(None)

    def _serve(self) -> None:
        while True:
            work = self._work.get()
            if work is None:
                return
            # A context of its own: nothing a handler sets is seen by the next one.
            Context().run(work)
            with self._lock:
                self.active -= 1
                self._idle += 1

    def _call(self, execution: ThreadedExecution, port: ThreadPort, pipe: Pipe) -> None:
        current_log.set(execution.log)
        in_handler.set("ctx")
        try:
            context: JobContext[Any] = JobContext(execution.facts(), execution.pass_, port)
            value = execution.job.handler(context)
        except BaseException as error:  # whatever a handler raises ends its attempt, nothing else
            last = execution.raised(error)
        else:
            last = execution.returned(value)
        execution.log.close()
        self._on_end(execution)
        if self.active > 1:
            pipe.hand_over(last)
        else:
            pipe.send(last)
