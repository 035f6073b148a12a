"""One try of a step's function: how long it has been silent, and how far it has come.

Checkpoints are recorded as they come while there is credit for them, and are put off after that:
the newest one is recorded as soon as there is credit again, and before the outcome of a try that
fails. So what a journal can grow by is bounded, however often a function calls, and one that is
acknowledged is never taken back. All of it may be called on any thread.
"""

from __future__ import annotations

import itertools
import os
from asyncio import get_running_loop
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from json import loads
from threading import Lock
from typing import Any, Final, Protocol

from msgspec import Raw

from stackshift_jobs.errors import HeartbeatTimeout, Usage, from_json
from stackshift_jobs.handler import ops
from stackshift_jobs.handler.current_step import Checkpoint
from stackshift_jobs.handler.steps import Limits
from stackshift_jobs.values.clocks import monotonic
from stackshift_jobs.values.durations import format_ms
from stackshiftd.core import commands as c
from stackshiftd.worker.frames import CallRecorded, StepBeat

BURST_SECONDS: Final = 10.0
"""The most credit that there can be: it is the first ten checkpoints, or those after a pause."""
CHECKPOINT_SECONDS: Final = 1.0
"""What one costs, so that one a second is recorded in the long run."""
BYTES_PER_SECOND: Final = 256 * 1024
"""What a large one costs: it counts as one for each so many bytes."""

numbers: Final = itertools.count(-1, -1)
"""Of checkpoints that are waited for; calls of handlers have the positive numbers."""


class Owner(Protocol):
    """The execution that a step belongs to."""

    run: str
    token: int
    checkpoints: dict[str, bytes]
    """Step → its last checkpoint, as JSON."""
    ended_tries: dict[str, int]
    """Step → how many tries of it have ended without a result."""

    def encode_checkpoint(self, step: str, value: Any, max_bytes: int) -> bytes:
        """The value as JSON. Raises `PayloadRefused`."""

    def end_reason(self, step: str) -> BaseException | None:
        """What the function is to be ended with, if it is to end."""

    def note_open(self, step: str, tried: int) -> None:
        """Record that the step has started, unless that is on record."""

    @property
    def send(self) -> Callable[[c.Command], None]:
        """Sends a command at once, from any thread: before whatever is sent after it."""

    @property
    def expect(self) -> Callable[[int, StepTry], None]:
        """Lets a try have the answer to a command."""


class _Checkpoints:
    """The checkpoints of a try that has made one."""

    __slots__ = ("answers", "credit", "guard", "pending", "since")

    def __init__(self, now: float) -> None:
        self.guard = Lock()
        self.answers: dict[int, Future[None]] = {}
        self.pending: bytes | None = None
        self.credit = BURST_SECONDS
        self.since = now

    def spend(self, text: bytes, now: float, *, flush: bool = False) -> bool:
        """Take the cost of a checkpoint from the credit, if there is enough."""
        credit = min(BURST_SECONDS, self.credit + now - self.since)
        cost = min(BURST_SECONDS, max(CHECKPOINT_SECONDS, len(text) / BYTES_PER_SECOND))
        spends = flush or credit >= cost
        self.credit, self.since = (max(0.0, credit - cost) if spends else credit), now
        return spends


class StepTry:
    """A `stackshift_jobs.handler.current_step.StepTry`.

    Each step has one, and nearly all end without a checkpoint: what those need is made when the
    first one comes.
    """

    __slots__ = (
        "_checkpoints",
        "_clock",
        "_is_over",
        "_owner",
        "beaten",
        "end_with",
        "has_beaten",
        "is_lapsed",
        "number",
        "op",
    )

    def __init__(
        self, owner: Owner, op: ops.Perform, clock: Callable[[], float] = monotonic
    ) -> None:
        self._clock = clock
        self._owner = owner
        self.op = op
        self.number = owner.ended_tries.get(op.step, 0) + 1 if owner.ended_tries else 1
        """Which try of the step it is, over all attempts of the run."""
        self.beaten = clock()
        """When the function was last known to be alive."""
        self.has_beaten = False
        """Has it ever said so itself?"""
        self.is_lapsed = False
        self.end_with: BaseException | None = None
        """Raised at the next beat of a function that goes on although its try is over."""
        self._is_over = False
        self._checkpoints: _Checkpoints | None = None

    @property
    def output_beats(self) -> bool:
        """Is what it prints a sign that it is alive?"""
        limit = self.op.heartbeat
        return limit is not None and limit.by_output

    @property
    def last(self) -> Any:
        """See `StepTry.last`."""
        text = self._owner.checkpoints.get(self.op.step)
        return loads(text) if text is not None else None

    # --- For the function ------------------------------------------------------------------

    def beat(self) -> None:
        """See `StepTry.beat`."""
        if os.getpid() != _PROCESS:
            raise Usage(
                "stackshift.step was used in another process than that of the step's function",
                hint="let that process tell the function, and call it there",
            )
        self.note_beat()
        reason = self._end_reason()
        if reason is not None:
            raise reason

    def _end_reason(self) -> BaseException | None:
        if self.end_with is not None:
            return self.end_with
        if self._is_over:
            return Usage(f"the function of step {self.op.step!r} has ended")
        return self._owner.end_reason(self.op.step)

    def begin(self) -> None:
        """The function, which has waited for a thread, begins."""
        self.beaten = self._clock()

    def note_beat(self) -> None:
        """Note that the function, or its program, is alive."""
        self.beaten = self._clock()
        self.has_beaten = True

    def checkpoint(self, value: Any, *, flush: bool = False) -> Checkpoint:
        """See `CurrentStep.checkpoint`. Waits until it is durable where no event loop runs."""
        self.beat()
        text = self._owner.encode_checkpoint(self.op.step, value, Limits.value_bytes)
        answer = self.note(text, flush=flush)
        if answer is not None and not _on_a_loop():
            self.wait(answer)
        return Checkpoint(answer)

    def note(self, text: bytes, *, flush: bool = False) -> Future[None] | None:
        """Record a checkpoint (JSON), or put it off (None); else the answer, which is to come."""
        self.note_beat()
        made = self._of_checkpoints()
        with made.guard:
            self._owner.checkpoints[self.op.step] = text
            if not made.spend(text, self._clock(), flush=flush):
                made.pending = text
                return None
            made.pending = None
            call = next(numbers)
            answer = made.answers[call] = Future()
            self._owner.expect(call, self)
            self._send(text, call)
        if self._end_reason() is not None:
            self.release()  # Whoever asked for the end may not have seen this answer.
        return answer

    def wait(self, answer: Future[None]) -> None:
        """Wait until it is durable. Raises what ends the function, if no answer comes."""
        try:
            answer.result()
        except CancelledError:
            reason = self._end_reason()
            raise reason if reason is not None else CancelledError() from None
        self.beaten = self._clock()  # A full disk, say, is not the function's silence.

    # --- For the worker --------------------------------------------------------------------

    def answered(self, call: int, answer: CallRecorded) -> None:
        """Take the daemon's answer to a checkpoint."""
        waiting = self._answer_to(call)
        if waiting is None or not waiting.set_running_or_notify_cancel():
            return
        error = loads(bytes(answer.error))
        if error is None:
            waiting.set_result(None)
        else:
            waiting.set_exception(from_json(error))

    def calls(self) -> list[int]:
        """The numbers of what is not answered."""
        made = self._checkpoints
        return list(made.answers) if made is not None else []

    def _answer_to(self, call: int) -> Future[None] | None:
        made = self._checkpoints
        return made.answers.pop(call, None) if made is not None else None

    def release(self) -> None:
        """Let go of whoever waits for an answer: the execution is over."""
        for call in self.calls():
            waiting = self._answer_to(call)
            if waiting is not None:
                waiting.cancel()

    def look(self, now: float) -> None:
        """Record what was put off, once there is credit for it."""
        made = self._checkpoints
        if made is None or made.pending is None:
            return
        with made.guard:
            text = made.pending
            if text is not None and made.spend(text, now):
                made.pending = None
                self._send(text, 0)

    def end(self, *, failed: bool) -> None:
        """The try is over. If it has `failed`, record what was put off."""
        self._is_over = True
        made = self._checkpoints
        if made is None:
            return
        with made.guard:
            text, made.pending = made.pending, None
            if text is not None and failed:
                self._send(text, 0)

    def lapse(self, now: float) -> HeartbeatTimeout | None:
        """What the function is to be stopped with, if it has been silent for too long; once."""
        limit = self.op.heartbeat
        if limit is None or self.is_lapsed or self.calls():
            return None
        if now - self.beaten < limit.ms / 1000:
            return None
        self.is_lapsed = True
        return self.lateness()

    def lateness(self) -> HeartbeatTimeout:
        """The error of a function that has been silent for too long."""
        assert self.op.heartbeat is not None
        return HeartbeatTimeout(
            f"step {self.op.step!r} has not beaten for {format_ms(self.op.heartbeat.ms)}, its "
            "heartbeat"
        )

    def report(self, now: float) -> StepBeat | None:
        """How long ago the last beat was, of a function that is to beat or has done so."""
        limit = self.op.heartbeat
        if limit is None and not self.has_beaten:
            return None
        age_ms = max(0, round((now - self.beaten) * 1000))
        owner = self._owner
        return StepBeat(owner.run, owner.token, self.op.step, age_ms, limit.ms if limit else 0)

    def _of_checkpoints(self) -> _Checkpoints:
        """Those of this try; made by whoever needs them first."""
        if self._checkpoints is None:
            with _FIRST:
                self._checkpoints = self._checkpoints or _Checkpoints(self._clock())
        return self._checkpoints

    def _send(self, text: bytes, call: int) -> None:
        owner, op = self._owner, self.op
        owner.note_open(op.step, op.tried)
        owner.send(c.CheckpointStep(owner.run, owner.token, call, op.step, Raw(text), op.tried))


_FIRST: Final = Lock()
"""Held while a try makes room for its first checkpoint."""
_PROCESS: Final = os.getpid()
"""The worker: what it forks shares its pipe to the daemon, and must not write there."""


def _on_a_loop() -> bool:
    """Does an event loop run on this thread, which must not be blocked?"""
    try:
        get_running_loop()
    except RuntimeError:
        return False
    return True
