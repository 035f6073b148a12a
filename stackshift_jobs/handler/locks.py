"""A lock that a handler holds: taken, checked, extended, let go, each as a generator of ops.

A lock belongs to the run, not to a pass: a pass that is dropped at a wait lets go of nothing, and
the next one has the lock from the record. Laws: nothing is asked while a pass is being left; a call
that is not on record is not made within the block of a lock that the run has lost; where no lock is
held, none of this costs anything.
"""

from __future__ import annotations

from contextvars import ContextVar
from datetime import datetime
from typing import Any, Final

from stackshift_jobs.errors import LockLost, ReplayError
from stackshift_jobs.handler.ops import Ask, Park, Recorded, RecordedCall, Steps
from stackshift_jobs.handler.outcomes import granted, read, recalled, refusal
from stackshift_jobs.handler.replay import Pass
from stackshift_jobs.values.durations import rfc3339, to_us
from stackshift_jobs.values.strict_json import dumps


class LockBlock:
    """A lock within whose block the handler is. `step` is the call that took it, `due_us` when it
    runs out (0: never), `was_released` that an earlier pass has left the block."""

    __slots__ = ("due_us", "expires_at", "is_open", "key", "step", "token", "was_released")

    def __init__(self, key: str, step: str, known: RecordedCall) -> None:
        self.key = key
        self.step = step
        self.was_released = known.phase == "left"
        self.is_open = True
        self.token = 0
        self.expires_at: datetime | None = None
        self.due_us = 0
        self.update(read(known.body))
        if known.due_us:
            self.due_us = known.due_us  # it may have been extended since

    def update(self, body: dict[str, Any]) -> None:
        """What the daemon says of it now."""
        self.token = body["token"]
        until = body["expires_at"]
        self.expires_at = datetime.fromisoformat(until) if until else None
        self.due_us = to_us(self.expires_at) if self.expires_at else 0


inside: Final[ContextVar[tuple[LockBlock, ...]]] = ContextVar("stackshift_locks", default=())
"""The locks within whose blocks the code runs here. A context variable, so that tasks made within a
block, and the functions of its steps, are held to it, and other branches are not."""


def guard(pass_: Pass, key: str) -> Steps:
    """Before the call `key`, which is not on record: raises `LockLost` if a lock within whose block
    it is made has been lost. Ask only `if inside.get()`."""
    for held in inside.get():
        if not held.is_open:
            continue  # this task was made within the block and has outlived it
        if held.was_released:
            raise ReplayError(
                f"{key or 'a call'} is new within the block of lock {held.key!r}, which an "
                "earlier pass has left: the code has changed",
                hint="stackshift runs retry RUN --from the first step of the block",
            )
        lost = pass_.recorded_calls[held.step].phase == "gone"
        if lost or 0 < held.due_us <= pass_.clock.now_us():
            yield from _check(pass_, key, held)


def _check(pass_: Pass, key: str, held: LockBlock) -> Steps:
    """Ask whether the run still holds it: only the daemon's time says that it ran out."""
    answer: Recorded = yield Ask(key, "lock.check", dumps({"lock": held.step}))
    if answer.error is not None:
        _set_phase(pass_, held.step, "gone")
        raise refusal(key, answer.error)


def acquire(pass_: Pass, step: str, key: str, ttl_ms: int, wait_ms: int | None) -> Steps:
    """Take the lock `key`, and wait for it durably if another has it: `wait_ms`, or as long as it
    takes. Returns `LockBlock`. Raises `LockHeld`."""
    known = recalled(pass_, step)
    if known is None:
        if inside.get():
            yield from guard(pass_, step)
        asked = {"key": key, "ttl_ms": ttl_ms, "wait_ms": wait_ms}
        answer = granted(step, (yield Ask(step, "lock.acquire", dumps(asked))))
        if answer.body is None:
            known = yield Park(step, answer.due_us)
        else:
            # It may have been lost by now, which the daemon has then told.
            known = pass_.recorded_calls.setdefault(
                step, RecordedCall("lock", "completed", answer.body)
            )
    elif known.phase == "waiting":
        known = yield Park(step, known.due_us)
    if known.phase == "failed" or known.kind == "refused":
        raise refusal(step, read(known.body))
    return LockBlock(key, step, known)


def extend(pass_: Pass, step: str, held: LockBlock, ttl_ms: int) -> Steps:
    """Hold it for `ttl_ms` from now on. Raises `LockLost`."""
    known = recalled(pass_, step) if step else None
    if known is not None:
        # Until when it is held now is known from the lock's own record.
        due_us = held.due_us
        held.update(read(known.body))
        held.due_us = due_us
        return
    if inside.get():
        yield from guard(pass_, step)
    asked = {"key": held.key, "ttl_ms": ttl_ms}
    answer: Recorded = yield Ask(step, "lock.extend", dumps(asked))
    held.update(read(granted(step, answer).body))


def release(pass_: Pass, held: LockBlock, *, raised: bool) -> Steps:
    """Let go of it. Raises `LockLost` if the run had lost it by then, unless an exception is on its
    way (`raised`)."""
    held.is_open = False
    phase = pass_.recorded_calls[held.step].phase
    if phase == "completed":
        asked = {"lock": held.step, "raised": raised}
        answer: Recorded = yield Ask("", "lock.release", dumps(asked))
        was_held = read(granted(held.step, answer).body)["held"]
        phase = "left" if was_held and not raised else "gone"
        _set_phase(pass_, held.step, phase)
    if phase == "gone" and not raised:
        raise LockLost(
            f"the lock {held.key!r} ran out"
            + (f" at {rfc3339(held.due_us)}" if held.due_us else "")
            + ", before its block was left",
            hint="give it a longer ttl, or extend it: lock.extend(...)",
            key=held.key,
            step=held.step,
        )


def _set_phase(pass_: Pass, step: str, phase: str) -> None:
    pass_.recorded_calls[step] = pass_.recorded_calls[step]._replace(phase=phase)
