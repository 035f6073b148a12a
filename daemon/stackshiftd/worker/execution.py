"""One execution of a handler in this process, and what all kinds of executions share.

An execution ends with exactly one frame: `CompleteRun`, `ContinueAs`, `FailAttempt`, `Suspend`,
`ConfirmStop` or `HandBack`. Which one is decided here, from how its handler ended and why it was
asked to stop.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Coroutine
from datetime import datetime
from functools import lru_cache
from inspect import CORO_CREATED, getcoroutinestate
from json import loads
from typing import Any, Final, NamedTuple

from msgspec import Raw

from stackshift_jobs.errors import (
    ReplayError,
)
from stackshift_jobs.handler import ops
from stackshift_jobs.handler.cancelling import Cancellation, is_cancelling
from stackshift_jobs.handler.clock import WALL, Clock
from stackshift_jobs.handler.context import Facts
from stackshift_jobs.handler.failures import Failure, class_name, is_a, parts_of
from stackshift_jobs.handler.replay import Continued, Pass, Unwinding
from stackshift_jobs.handler.steps import Limits
from stackshift_jobs.programs.processes import ProcessGroup
from stackshift_jobs.registry import Job
from stackshift_jobs.values.clocks import monotonic
from stackshift_jobs.values.durations import to_datetime
from stackshift_jobs.values.identities import is_lock
from stackshift_jobs.values.payload_types import convert
from stackshiftd.core import commands as c
from stackshiftd.core.records import NULL, Error, Program, RetryTerms
from stackshiftd.worker.frames import (
    CallRecorded,
    Cancel,
    EarlierTries,
    Execute,
    Frame,
    HandBack,
    Outcome,
    Recall,
)
from stackshiftd.worker.isolation import directory
from stackshiftd.worker.isolation.process_copy import ProcessCopy, end_copy
from stackshiftd.worker.lease import Lease
from stackshiftd.worker.output.run_log import RunLog
from stackshiftd.worker.programs import Programs
from stackshiftd.worker.secrets import SecretTerms, read_payload
from stackshiftd.worker.step_tries import StepTry

WAITS: Final = "waits"
DRAINED: Final = "drained"
UNDOES: Final = "undoes"
ENDED: Final = "ended"
"""Reasons to unwind a pass, besides those of `End`."""

KEEP_SECONDS: Final = 0.1


class Pace(NamedTuple):
    """The clock of an execution and its time limits, in seconds."""

    clock: Clock = WALL
    keep_seconds: float = KEEP_SECONDS
    """A wait that may end this soon is kept in memory: to suspend and resume would cost more."""
    look_seconds: float = KEEP_SECONDS
    """How often to check again whether an `async def` handler is doing nothing but waiting."""

    def may_be_soon(self, due_us: int) -> bool:
        """True if a wait due at `due_us` should be kept in memory; 0 means that no time is known,
        which counts as soon."""
        return not due_us or due_us - self.clock.now_us() < self.keep_seconds * 1e6


REAL_TIME: Final = Pace()
_NO_SECRETS: Final = SecretTerms()


class OpenStep(NamedTuple):
    """A step whose function is running; `began` in seconds of `time.monotonic`, infinite if it
    still waits for a thread."""

    op: ops.Perform
    began: float


class Execution:
    """The state of one execution. `waiting` are its durable waits, `open` the steps whose function
    is running, `noted` those of them reported as slow, `programs` those that its steps run."""

    # An object with more than 30 attributes in a dict loses CPython's fast way to all of them.
    __slots__ = (
        "checkpoints",
        "ended_tries",
        "expect",
        "job",
        "lease",
        "log",
        "noted",
        "open",
        "order",
        "pace",
        "pass_",
        "programs",
        "run",
        "secret_terms",
        "send",
        "token",
        "tries",
        "undoes",
        "waiting",
    )

    def __init__(
        self,
        order: Execute,
        job: Job,
        recalled: list[Recall],
        log: RunLog,
        pace: Pace = REAL_TIME,
    ) -> None:
        self.order = order
        self.run = order.run
        self.token = order.token
        self.job = job
        self.pace = pace
        self.pass_ = Pass({each.step: recorded_call(each) for each in recalled}, pace.clock)
        self.log = log
        self.programs: Programs
        self.lease: Lease | None = None
        """What functions may begin under; a worker beside its daemon needs none."""
        self.secret_terms = _NO_SECRETS
        self.waiting: set[str] = set()
        self.open: dict[str, OpenStep] = {}
        self.noted: set[str] = set()
        self.tries: dict[str, StepTry] = {}
        """The tries whose functions are running, by step."""
        self.checkpoints: dict[str, bytes] = {}
        """Step → its last checkpoint, as JSON."""
        self.ended_tries: dict[str, int] = {}
        """Step → how many tries of it have ended without a result."""
        self.send: Callable[[c.Command], None]
        """Sends a command at once, from any thread."""
        self.expect: Callable[[int, StepTry], None]
        """Lets a try have the answer to a command."""
        if order.cancel is not None:
            self.set_cancelling(order.cancel)
        self.undoes = self.pass_.undoes = order.undoes
        self.pass_.unsure = dict(order.unsure)
        if order.undoes and order.cancel is not None and not order.cancel.raised_seq:
            self.pass_.cancellation = None  # It was over before it was told.
        """Is what is on record to be undone? Then `pass_.undoes` until the handler has left."""

    def set_cancelling(self, cancel: Cancel) -> None:
        """Note that the run is to be cancelled gently."""
        if self.pass_.cancellation is None:
            known = cancel.raised_seq, cancel.raised_us, cancel.raised_at
            self.pass_.cancellation = Cancellation(*known)

    def facts(self) -> Facts[Any]:
        """What the handler's context shows, for the context of the handler. Raises
        `PayloadRefused` if the payload does not fit the job's type, and `SecretUnavailable`."""
        order = self.order
        payload = read_payload(bytes(order.payload), self.secret_terms, self.pass_.secrets)
        return Facts(
            payload=convert(payload, self.job.payload_type),
            run_id=order.run,
            job=order.job,
            queue=order.queue,
            attempt=order.attempt,
            labels=order.labels,
            idempotency_key=order.key,
            scheduled_at=_scheduled(order.scheduled_at_us),
            log=_logger(order.job),
        )

    def refuse_unwinding(self, op: ops.Op | None = None) -> None:
        """Raise `Unwinding` while the pass unwinds.

        At a wait (of another branch) or a drain, the result of a function that has already run is
        still recorded; otherwise the function would run again.
        """
        reason = self.pass_.unwinding
        if reason is None:
            return
        ran = isinstance(op, ops.RecordResult | ops.RecordFailure)
        # A function that is running may also continue (an `Ask` without a step), instead of being
        # cut short.
        ran = ran or (isinstance(op, ops.Ask) and not op.step)
        if not (ran and reason in (WAITS, DRAINED)):
            self.pass_.refuse()

    def failing(self, op: ops.Op) -> None:
        """Forget the record of a step that fails again: an earlier try must not answer this one."""
        if isinstance(op, ops.RecordFailure):
            self.pass_.recorded_calls.pop(op.step, None)
            self.ended_tries[op.step] = self.ended_tries.get(op.step, 0) + 1

    def withdrawal(self, step: str) -> c.WithdrawCall:
        """The command that withdraws a call, with the event that it has received unseen."""
        known = self.pass_.recorded_calls.get(step)
        body = known.body if known is not None and known.kind == "event" else None
        return c.WithdrawCall(self.run, self.token, step, NULL if body is None else Raw(body))

    # --- How it ends -----------------------------------------------------------------------

    def returned(self, value: Any) -> Frame | c.Command:
        """The frame for a handler that returned `value`."""
        reason = self.pass_.unwinding
        if reason is not None:
            return self._left(reason, swallowed=True)
        if self.undoes:
            return c.FinishUndo(self.run, self.token)
        if self.pass_.continued is not None:
            return self._swallowed("by which ctx.continue_as ends it (with")
        if (unawaited := self.pass_.unawaited) and (forgotten := _forgotten(unawaited)):
            return self.raised(forgotten)
        if self.pass_.is_told:
            return c.FinishCancel(self.run, self.token)
        try:
            text = self.pass_.encode(value, Limits.value_bytes, "the result of the run")
        except Exception as error:
            return self.raised(error)
        return c.CompleteRun(self.run, self.token, Raw(text))

    def raised(self, error: BaseException) -> Frame | c.Command:
        """The frame for a handler that raised."""
        reason = self.pass_.unwinding
        if reason is not None:
            return self._left(reason, swallowed=False)
        if is_continued(error) and not self.undoes:
            assert self.pass_.continued is not None
            return c.ContinueAs(self.run, self.token, Raw(self.pass_.continued.payload))
        if self.pass_.is_told and is_cancelling(error) and not self.undoes:
            return c.FinishCancel(self.run, self.token)
        failure = Failure.of(error, self.pass_.secrets)
        step, *others = (*failure.steps, *self.timers_in(error)) or (None,)
        return c.FailAttempt(
            self.run,
            self.token,
            Error(**failure.as_json()),
            verdict_of(failure),
            step,
            [other for other in others if other is not None],
        )

    def timers_in(self, _error: BaseException) -> list[str]:
        """The identities of recorded timers that raised `error`; a `def` handler has none."""
        return []

    def last_frame(self, outcome: Callable[[], Any]) -> Frame | c.Command:
        """The frame for what `outcome` returns or raises: whatever a handler raises ends only its
        own attempt. Where even the frame cannot be made, it is a plain failure of the attempt: a
        run whose end is not reported would be running for ever."""
        try:
            try:
                value = outcome()
            except BaseException as error:
                if ProcessCopy.is_this:
                    end_copy(error)
                return self.raised(error)
            if ProcessCopy.is_this:
                end_copy(None)
            return self.returned(value)
        except BaseException as bad:
            return self.unreportable(bad)

    def unreportable(self, bad: BaseException) -> c.Command:
        """The frame for an outcome of which no other frame can be made."""
        message = f"the outcome of the handler could not be reported: {class_name(bad)}"
        return c.FailAttempt(self.run, self.token, Error("InternalError", message))

    def _left(self, reason: str, *, swallowed: bool) -> Frame | c.Command:
        if reason in (WAITS, UNDOES):
            if swallowed or reason == UNDOES:
                return self._swallowed("that suspends it at a wait (with")
            return c.Suspend(self.run, self.token, sorted(self.waiting))
        if reason == DRAINED:
            return HandBack(self.run, self.token)
        return c.ConfirmStop(self.run, self.token)

    def _swallowed(self, which: str) -> c.Command:
        error = ReplayError(
            f"the handler caught the exception {which} a bare `except:` or `except BaseException:`)"
            " and went on",
            hint="catch Exception instead, or raise it again",
        )
        failure = Failure.of(error)
        return c.FailAttempt(self.run, self.token, Error(**failure.as_json()), verdict_of(failure))

    # --- What is slow ----------------------------------------------------------------------

    def note_open(self, step: str, tried: int) -> None:
        """See `step_tries.Owner.note_open`."""
        if step not in self.noted:
            self.noted.add(step)
            self.send(c.OpenStep(self.run, self.token, step, tried))

    def note_slow(self, now: float, after: float, send: Callable[[c.Command], None]) -> None:
        """Send an `OpenStep` for each step that has been executing for `after` seconds, once."""
        for step, opened in list(self.open.items()):
            if step not in self.noted and now - opened.began >= after:
                self.noted.add(step)
                send(c.OpenStep(self.run, self.token, step, opened.op.tried))

    def program_started(self, step: str, group: ProcessGroup) -> c.Command:
        """The command that reports a program of `step`, so that it can be ended from outside."""
        opened = self.open.get(step)
        self.noted.add(step)
        return c.OpenStep(
            self.run,
            self.token,
            step,
            opened.op.tried if opened is not None else 1,
            Program(group.id, group.started),
        )

    def overdue(self, now: float) -> list[OpenStep]:
        """The steps that have exceeded their timeout."""
        return [
            opened
            for opened in list(self.open.values())
            if opened.op.timeout_ms is not None
            and now - opened.began >= opened.op.timeout_ms / 1000
        ]

    def remember_tries(self, earlier: EarlierTries) -> None:
        """Take what is on record of the tries of a step, before the handler begins."""
        self.ended_tries[earlier.step] = earlier.ended
        checkpoint = bytes(earlier.checkpoint)
        if checkpoint != b"null":
            self.checkpoints[earlier.step] = checkpoint

    def begin_try(self, op: ops.Perform) -> StepTry:
        """The try whose function is about to start."""
        begun = self.tries[op.step] = StepTry(self, op)
        return begun

    def encode_checkpoint(self, step: str, value: Any, max_bytes: int) -> bytes:
        """See `step_tries.Owner.encode_checkpoint`."""
        return self.pass_.encode(value, max_bytes, f"the checkpoint of step {step!r}")

    def end_reason(self, _step: str) -> BaseException | None:
        """See `step_tries.Owner.end_reason`. A run that waits, or whose worker is to be replaced,
        lets its functions end by themselves."""
        reason = self.pass_.unwinding
        return None if reason in (None, WAITS, DRAINED, ENDED, UNDOES) else Unwinding(reason)

    def look_at_tries(self, now: float) -> list[StepTry]:
        """Record the checkpoints that were put off, and return the tries whose functions have been
        silent for too long."""
        late = []
        for each in list(self.tries.values()):
            each.look(now)
            if each.lapse(now) is not None:
                late.append(each)
        return late

    def release_tries(self) -> None:
        """Let go of the functions that wait for an answer: the execution is over."""
        for each in list(self.tries.values()):
            each.release()

    def began(self, op: ops.Perform) -> None:
        """Note that the step's function starts now, for `note_slow` and `overdue`. Does not return
        if it must not start any more."""
        if self.lease is not None:
            self.lease.require()
        self.open[op.step] = OpenStep(op, monotonic())
        if op.undo:
            self.noted.add(op.step)  # It is on record: see `ops.RecordBegin`.

    def must_finish(self, op: ops.Op | None) -> bool:
        """Is it a step that can be undone, and that has begun, or had when an earlier execution was
        lost? What it has done by then is best known once it has come to its end; so it goes on, or
        is tried again, even where nothing new begins."""
        if not (isinstance(op, ops.RecordBegin) or (isinstance(op, ops.Perform) and op.undo)):
            return False
        if op.step in self.pass_.begun:
            return True
        known = self.pass_.recorded_calls.get(op.step)
        return known is not None and known.undo and known.phase == "running"

    def awaits_thread(self, op: ops.Perform) -> None:
        """Note that the step's function will start when a thread is free."""
        self.open[op.step] = OpenStep(op, math.inf)

    def is_alive(self) -> bool:
        """Is there still something that executes it?"""
        return True

    def ended(self, op: ops.Perform, *, failed: bool) -> None:
        """Note that the step's function has returned, or raised (`failed`)."""
        if directory.Home.left:
            directory.back_on_loop()
        self.log.catch_up()  # What was written until now is this step's.
        self.open.pop(op.step, None)
        if (begun := self.tries.pop(op.step, None)) is not None:
            begun.end(failed=failed)
        if self.noted:
            self.noted.discard(op.step)


def is_continued(error: BaseException) -> bool:
    """Is it how `ctx.continue_as` ends a handler? A task group brings that as a group."""
    return all(is_a(part, Continued) for part in parts_of(error))


def recorded_call(frame: Recall | Outcome) -> ops.RecordedCall:
    """The SDK's form of a recorded call."""
    error = frame.error
    return ops.RecordedCall(
        kind=frame.kind,
        phase=frame.phase,
        body=bytes(frame.body),
        error=None
        if error is None
        else {
            "type": error.type,
            "message": error.message,
            "traceback": error.traceback,
            "retryable": error.retryable,
            "cancels": error.cancels,
            "exit_code": error.exit_code,
            "stdout": error.stdout,
        },
        tried=frame.tried,
        due_us=frame.due_us,
        child=frame.child,
        child_status=frame.child_status,
        input=getattr(frame, "input", ""),
        seq=frame.seq,
        at_us=frame.at_us,
        released_seq=frame.released_seq,
        job=frame.job,
        undo=getattr(frame, "undo", False),
        undone=getattr(frame, "undone", False),
    )


def verdict_of(failure: Failure) -> c.Verdict:
    """What an error says of another try, as the daemon needs it."""
    return c.Verdict(
        failure.retryable,
        failure.retry_after_ms,
        failure.retry_at_us,
        failure.counts,
        failure.cancels,
        list(map(list, failure.kinds)),
    )


def command_of(op: ops.Tell, run: str, token: int, call: int) -> c.Command:
    """The command that sends the call `op` to the daemon."""
    match op:
        case ops.RecordBegin():
            return c.OpenStep(run, token, op.step, op.tried, undo=True, call=call)
        case ops.RecordResult():
            return c.CompleteStep(
                run,
                token,
                call,
                op.step,
                Raw(op.result),
                op.duration_ms,
                op.tried,
                op.input,
                op.undo,
            )
        case ops.RecordFailure():
            terms = RetryTerms(**op.retry) if op.retry is not None else None
            return c.FailStep(
                run,
                token,
                call,
                op.step,
                Error(**op.failure.as_json()),
                op.duration_ms,
                op.tried,
                verdict_of(op.failure),
                terms,
                op.input,
                op.undo,
            )
        case ops.RecordValue():
            return c.RecordValue(run, token, call, op.step, Raw(op.value))
        case ops.Sleep():
            return c.BeginSleep(run, token, call, op.step, op.delay_ms, op.until_us)
        case ops.AwaitRun():
            return c.AwaitRun(
                run,
                token,
                call,
                op.step,
                op.run,
                timeout_ms=op.timeout_ms,
                on_timeout=op.on_timeout,
            )
        case ops.StartChild():
            return c.CallJob(
                run,
                token,
                call,
                op.step,
                op.job,
                Raw(op.payload),
                op.wait,
                op.cancel_with_parent,
                Raw(op.options),
                op.ends_with_parent,
                op.timeout_ms,
                op.on_timeout,
            )
        case ops.RaiseCancel():
            return c.RaiseCancel(run, token, call, op.step)
        case ops.Ask():
            return c.Ask(run, token, call, op.step, op.method, Raw(op.params))


_RECORDED: Final = ops.Recorded()


def answer_of(frame: CallRecorded) -> ops.Recorded:
    """The SDK's form of an answer."""
    if frame.body is NULL and frame.error is NULL:  # As in most answers.
        plain = not frame.due_us and not frame.child
        return _RECORDED if plain else ops.Recorded(frame.due_us, frame.child)
    body, error = bytes(frame.body), bytes(frame.error)
    return ops.Recorded(
        frame.due_us,
        frame.child,
        None if body == b"null" else body,
        None if error == b"null" else loads(error),
    )


def _forgotten(unawaited: dict[str, Coroutine[Any, Any, Any] | None]) -> ReplayError | None:
    """The error of a handler that ended without awaiting or entering these calls; None if it has
    closed them, or cancelled the tasks that should have made them."""
    calls = [
        name
        for name, coroutine in unawaited.items()
        if coroutine is None or getcoroutinestate(coroutine) == CORO_CREATED
    ]
    if not calls:
        return None
    names = ", ".join(sorted(calls))
    if all(map(is_lock, calls)):
        return ReplayError(f"the handler called {names} without `with`")
    them = "it" if len(calls) == 1 else "them"
    return ReplayError(
        f"the handler called {names} and never awaited {them}",
        hint="write await before the call, or pass it to asyncio.gather",
    )


@lru_cache(1024)
def _logger_of(job: str) -> logging.Logger:
    return logging.getLogger(f"stackshift.{job}")


def _logger(job: str) -> logging.Logger:
    """The logger of a job. `logging.config` disables all that exist already and are not named."""
    logger = _logger_of(job)
    logger.disabled = False
    return logger


def _scheduled(us: int) -> datetime | None:
    return to_datetime(us) if us else None
