"""One pass of a handler over a record, in which nothing happens: what would it ask for next?

It is the pass that a worker would make, with the same executions; only their ports differ. They
note what they are asked for and never answer, so no function of a step is called and nothing is
sent or written, except by the handler's own code outside of steps.

Laws:

- A rehearsal ends: its handler has a thread of its own, and `seconds` of real time. After that
  every call on `ctx` unwinds it, and the thread is left behind; it keeps no process alive.
- Each thread of a `def` handler is unwound where it waits or asks, and not the whole pass, as the
  items of a map may ask side by side.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from json import loads
from threading import Event, Thread, current_thread
from typing import Any, Final, NamedTuple

from stackshift_jobs.handler import ops
from stackshift_jobs.handler.cancelling import Cancelling
from stackshift_jobs.handler.clock import Clock
from stackshift_jobs.handler.context import JobContext
from stackshift_jobs.handler.replay import Unwinding
from stackshift_jobs.handler.scope import current_pass, in_handler
from stackshift_jobs.registry import Job
from stackshift_jobs.values.secrets import current_secrets
from stackshiftd.core import commands as c
from stackshiftd.core.records import Error
from stackshiftd.worker.execution import WAITS, Execution, Pace
from stackshiftd.worker.frames import Execute, Frame, Recall
from stackshiftd.worker.isolation import contexts
from stackshiftd.worker.loop.async_calls import Call
from stackshiftd.worker.loop_port import LoopPort
from stackshiftd.worker.looped import LoopedExecution
from stackshiftd.worker.output.run_log import RunLog, current_log
from stackshiftd.worker.programs import Programs
from stackshiftd.worker.secrets import SecretTerms
from stackshiftd.worker.step_functions import Ended, StepFunctions
from stackshiftd.worker.threaded import ThreadedExecution, ThreadPort

REHEARSAL_SECONDS: Final = 5.0
"""Real time for one rehearsal."""
REHEARSED: Final = "rehearsed"
"""The reason to unwind a pass that has shown what it asks for, or has to be stopped."""

RELEASE: Final = "release"
"""The kind of an ask to release the lock that the call has acquired."""
CHECK: Final = "check"
"""The kind of an ask that comes before the call itself: is a lock still held?"""
_METHODS: Final = {
    "event.wait": "event",
    "lock.acquire": "lock",
    "lock.check": CHECK,
    "lock.release": RELEASE,
}


class Asked(NamedTuple):
    """A call that the handler asked for, under its identity, and that is not on record (or is, as
    under way or to be repeated). `kind` is that of `ops.RecordedCall`, or one of the above; `input`
    is the digest of the item, for an item of a map."""

    step: str
    kind: str
    input: str = ""


class Rehearsal(NamedTuple):
    """What a pass did. If it did not end by itself, it either was `stopped`, or all of its branches
    wait: for what it `asked` for, or for calls on record if it asked for nothing."""

    asked: list[Asked]
    """In order; those of threads, and of items of a map in a `def` handler, in any order."""
    unasked: list[str]
    """Calls on record that the handler did not make."""
    timers: list[str]
    """Timers of asyncio's that are not on record: recorded if they go off before what was asked for
    has an outcome."""
    given_up: list[str]
    """New calls that it began, and gave up before it could ask for anything."""
    result: bytes | None = None
    """What the handler returned, as JSON."""
    error: Error | None = None
    """What it raised."""
    stopped: bool = False
    """It had to be stopped: it blocked, or ran on and on."""

    @property
    def waits(self) -> bool:
        """Did the pass end because every branch waits for a call on record?"""
        return not (self.asked or self.stopped or self.error or self.result is not None)


def rehearse(
    job: Job,
    execute: Execute,
    recalls: list[Recall],
    *,
    seconds: float = REHEARSAL_SECONDS,
    secret_terms: SecretTerms | None = None,
) -> Rehearsal:
    """Let the handler of `job` make one pass, as the execution that `execute` and `recalls` would
    start, without any effect through `ctx`. Returns after `seconds` of real time at the latest.

    Whatever the handler raises is part of the rehearsal; nothing is raised for it.
    """
    made = (_Looped if job.is_async else _Threaded)(job, execute, recalls)
    made.secret_terms = secret_terms
    thread = Thread(target=contexts.fresh().run, args=(made.play,), name="rehearsal", daemon=True)
    thread.start()
    in_time = made.ended.wait(seconds)
    if not in_time:
        made.abandon()
    return made.rehearsal(stopped=not in_time)


class _Then(Clock):
    """The clock of a rehearsal stands still at the last thing on record."""

    def __init__(self, us: int) -> None:
        self.us = us

    def now_us(self) -> int:
        return self.us


class _Record(dict[str, ops.RecordedCall]):
    """The recorded calls, and which of them were looked up: a pass does that for each call that it
    identifies."""

    def __init__(self, calls: dict[str, ops.RecordedCall]) -> None:
        super().__init__(calls)
        self.unasked = dict.fromkeys(calls)

    def get(self, key: str, default: Any = None, /) -> Any:
        self.unasked.pop(key, None)
        return super().get(key, default)


class _NoStore:
    """Keeps nothing of what a handler prints: the `LogStore` of a rehearsal."""

    is_full = True

    def printed(self) -> dict[int, int]:
        return {}

    def append(self, _line: dict[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass

    def forked(self) -> None:
        pass


class _Rehearsed(ABC):
    """What both kinds of rehearsals share: the notes of the ports and how the pass ended."""

    def __init__(self, job: Job, order: Execute, recalls: list[Recall]) -> None:
        self.job = job
        self.order = order
        self.recalls = recalls
        now_us = max([order.attempt_us, *(each.at_us for each in recalls)])
        # Every wait suspends at once, however soon it may end.
        self.pace = Pace(_Then(now_us), keep_seconds=0.0)
        self.asked: list[Asked] = []
        self.timers: list[str] = []
        self.given_up: list[str] = []
        self.record = _Record({})
        self.last: Frame | c.Command | None = None
        self.ended = Event()
        self.execution: Execution | None = None
        self.secret_terms: SecretTerms | None = None

    def prepare(self, execution: Execution) -> None:
        """Let the execution look its calls up in a record that notes it, and keep no log."""
        self.record = _Record(execution.pass_.recorded_calls)
        execution.pass_.recorded_calls = self.record
        execution.log = RunLog(_NoStore(), self.order.attempt, execution.token, execution.pass_)
        execution.programs = Programs(execution.run, execution.log, lambda *_: None)
        execution.undoes = execution.pass_.undoes = False  # The handler's doing alone.
        cancellation = execution.pass_.cancellation
        if cancellation is not None and not cancellation.raised_seq:
            execution.pass_.cancellation = None  # What is not on record is not rehearsed.
        if self.secret_terms is not None:
            execution.secret_terms = self.secret_terms
        self.execution = execution

    def note(self, op: ops.Tell | ops.Perform) -> None:
        """Note what is asked for."""
        match op:
            case ops.Perform() | ops.RecordBegin():
                asked = Asked(op.step, "run", op.input)
            case ops.RecordValue():
                asked = Asked(op.step, "value")
            case ops.Sleep():
                asked = Asked(op.step, "sleep")
            case ops.StartChild():
                asked = Asked(op.step, "child" if op.wait else "start")
            case ops.AwaitRun():
                asked = Asked(op.step, "child")
            case ops.Ask():
                kind = _METHODS.get(op.method, "value")
                asked = Asked(op.step or loads(op.params)["lock"], kind)
            case ops.RecordResult() | ops.RecordFailure():
                raise AssertionError(f"{op.step}: no function runs in a rehearsal")
        self.asked.append(asked)

    @abstractmethod
    def play(self) -> None:
        """Make the pass, on this thread."""

    def abandon(self) -> None:
        """Give up the thread of the pass: every call on `ctx` unwinds it."""
        if self.execution is not None:
            self.execution.pass_.unwinding = REHEARSED

    def rehearsal(self, *, stopped: bool) -> Rehearsal:
        """What the pass did until now."""
        last = None if stopped else self.last
        return Rehearsal(
            list(self.asked),
            list(self.record.unasked),
            self.timers,
            self.given_up,
            _result(last),
            last.error if isinstance(last, c.FailAttempt) else None,
            stopped,
        )


def _result(last: Frame | c.Command | None) -> bytes | None:
    """What the handler returned, as JSON; of one that continues as another run, nothing."""
    if isinstance(last, c.ContinueAs):
        return b"null"
    return bytes(last.result) if isinstance(last, c.CompleteRun) else None


# --- async def -----------------------------------------------------------------------------


class _Looped(_Rehearsed):
    def play(self) -> None:
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(self._play())
        finally:
            loop.close()
            self.ended.set()

    async def _play(self) -> None:
        execution = LoopedExecution(self.order, self.job, self.recalls, None, self.pace)
        self.prepare(execution)
        port = _NotingLoopPort(execution, self)
        execution.begin(port, self._on_end)
        while self.last is None and execution.loop.ready:
            await asyncio.sleep(0)  # The handler takes turns with others of its worker.
        self.given_up = [call.key for call in port.begun if call.is_given_up()]
        if self.last is None:
            self.timers = execution.timers.unrecorded_keys()
            execution.leave(REHEARSED)

    def _on_end(self, last: Frame | c.Command) -> None:
        self.last = last


class _NoFunctions(StepFunctions):
    """None is ever called."""

    def __init__(self) -> None:
        pass

    def cancel(self, *_whose: Any) -> None:
        pass


class _NotingLoopPort(LoopPort):
    """Notes what is asked for; it stays unanswered. `begun` are the calls that are not on
    record."""

    def __init__(self, execution: LoopedExecution, rehearsed: _Looped) -> None:
        self.begun: list[Call] = []
        self.functions = _NoFunctions()
        self._execution = execution
        self._rehearsed = rehearsed

    def call(self, key: str, made: ops.Steps, *, releases: bool = False) -> Call:
        call = super().call(key, made, releases=releases)
        if key not in self._rehearsed.record:
            self.begun.append(call)
        return call

    def tell(self, call: Call, op: ops.Tell) -> None:
        self._note(call, op)

    def perform(self, call: Call, op: ops.Perform) -> Ended | None:
        self._note(call, op)
        return None

    def _note(self, call: Call, op: ops.Tell | ops.Perform) -> None:
        self._rehearsed.note(op)
        told = self._execution.calls.told
        told[len(told)] = call

    def withdraw(self, call: Call) -> None:
        pass

    def progress(self, *_figures: Any) -> None:
        pass


# --- def -----------------------------------------------------------------------------------


class _Threaded(_Rehearsed):
    def play(self) -> None:
        try:
            execution = ThreadedExecution(self.order, self.job, self.recalls, None, self.pace)
            self.prepare(execution)
            current_log.set(execution.log)
            current_secrets.set(execution.pass_.secrets)
            in_handler.set("ctx")
            current_pass.set(execution.pass_)
            port = _NotingThreadPort(execution, self)
            self.last = execution.last_frame(lambda: self._handle(execution, port))
        finally:
            self.ended.set()

    def _handle(self, execution: ThreadedExecution, port: _NotingThreadPort) -> Any:
        try:
            return self.job.handler(JobContext(execution.facts(), execution.pass_, port))
        except Unwinding:
            execution.pass_.unwinding = execution.pass_.unwinding or WAITS
            raise
        finally:
            if port.main_is_unwound:
                execution.pass_.unwinding = execution.pass_.unwinding or WAITS


class _NotingThreadPort(ThreadPort):
    """Notes what is asked for, and unwinds the thread that asks or waits. `main_is_unwound`: so the
    handler's own thread was; whatever it goes on to ask for does not count."""

    def __init__(self, execution: ThreadedExecution, rehearsed: _Threaded) -> None:
        self._execution = execution
        self._rehearsed = rehearsed
        self._main = current_thread()
        self.main_is_unwound = False

    def tell(self, op: ops.Tell) -> ops.Recorded:
        if op.step:
            self.raise_cancel(op.step)
        raise self._unwound(lambda: self._rehearsed.note(op))

    def raise_cancel(self, _step: str) -> None:
        """Raise `Cancelling` once, if an earlier pass was told: at the first call that is not on
        record, as that was."""
        cancellation = self._execution.pass_.cancellation
        if cancellation is None or cancellation.is_told:
            return
        cancellation.is_told = current_thread() is self._main
        raise Cancelling

    def perform(self, op: ops.Perform) -> Any:
        self.raise_cancel(op.step)
        raise self._unwound(lambda: self._rehearsed.note(op))

    def park_any(self, parks: list[ops.Park]) -> None:
        if not any(map(self._execution.has_ended, parks)):
            self.raise_cancel(parks[0].step)
            raise self._unwound(lambda: self._execution.waiting.update(op.step for op in parks))

    def withdraw(self, step: str) -> None:
        pass

    def progress(self, *_figures: Any) -> None:
        self._execution.refuse_unwinding()

    def _unwound(self, note: Callable[[], None]) -> Unwinding:
        self._execution.refuse_unwinding()
        on_main = current_thread() is self._main
        if not (on_main and self.main_is_unwound):
            note()
        self.main_is_unwound = self.main_is_unwound or on_main
        return Unwinding(REHEARSED)
