"""A lock that a handler holds: acquired, checked, extended and released, each as a generator of
ops.

A lock belongs to the run, not to a pass: a pass that is dropped at a wait releases nothing, and the
next pass has the lock from the record. Invariants: nothing is asked while a pass is being unwound;
a call that is not recorded yet is not made within the block of a lock that the run has lost; a
handler that holds no lock pays nothing for this.
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
    """A lock whose block the handler is in. `step` is the call that acquired it, `due_us` is when
    it expires (0: never), and `was_released` says that an earlier pass has left the block."""

    __slots__ = ("due_us", "expires_at", "is_open", "key", "step", "token", "was_released")

    def __init__(self, key: str, step: str, known: RecordedCall) -> None:
        self.key = key
        self.step = step
        self.was_released = known.phase == "released"
        self.is_open = True
        self.token = 0
        self.expires_at: datetime | None = None
        self.due_us = 0
        self.update(read(known.body))
        if known.due_us:
            self.due_us = known.due_us  # later, if it was extended

    def update(self, body: dict[str, Any]) -> None:
        """Take over what the daemon says of the lock now."""
        self.token = body["token"]
        until = body["expires_at"]
        self.expires_at = datetime.fromisoformat(until) if until else None
        self.due_us = to_us(self.expires_at) if self.expires_at else 0


inside: Final[ContextVar[tuple[LockBlock, ...]]] = ContextVar("stackshift_locks", default=())
"""The locks whose blocks the running code is in. A context variable, so that it applies to tasks
created within a block and to the functions of its steps, and not to other branches."""


def guard(pass_: Pass, key: str) -> Steps:
    """Check, before the call `key` that is not recorded yet, that no lock whose block it is in has
    been lost; raises `LockLost`. Only needed `if inside.get()`."""
    for held in inside.get():
        if not held.is_open:
            continue  # this task was created within the block and has outlived it
        if held.was_released:
            # First something that is only asked for once the record is used up: what the handler is
            # about to give up, as it did on the pass that left the block, is no new call.
            yield Ask("", "lock.check", dumps({"lock": held.step}))
            raise ReplayError(
                f"{key or 'a call'} is new in the block of lock {held.key!r}, which an earlier "
                "pass has left: the code has changed",
                hint="stackshift runs retry RUN --from the first step of the block",
            )
        lost = pass_.recorded_calls[held.step].phase == "gone"
        if lost or 0 < held.due_us <= pass_.clock.now_us():
            yield from _check(pass_, key, held)


def _check(pass_: Pass, key: str, held: LockBlock) -> Steps:
    """Ask whether the run still holds the lock: only the daemon's clock decides that it expired."""
    answer: Recorded = yield Ask(key, "lock.check", dumps({"lock": held.step}))
    if answer.error is not None:
        _set_phase(pass_, held.step, "gone")
        raise refusal(key, answer.error)


def acquire(
    pass_: Pass,
    step: str,
    key: str,
    ttl_ms: int,
    wait_ms: int | None,
    among: dict[str, int] | None = None,
) -> Steps:
    """Acquire the lock `key`, with others as `calls.locks.among` says; if it is held, wait for it
    durably, for `wait_ms` or (None) as long as it takes. Returns a `LockBlock`. Raises
    `LockHeld`."""
    known = recalled(pass_, step)
    if known is None:
        if inside.get():
            yield from guard(pass_, step)
        asked = {"key": key, "ttl_ms": ttl_ms, "wait_ms": wait_ms, **(among or {})}
        answer = granted(step, (yield Ask(step, "lock.acquire", pass_.encode(asked))))
        if answer.body is None:
            known = yield Park(step, answer.due_us)
        else:
            # The lock may have been lost by now; if so, the daemon has said it in the meantime.
            known = pass_.recorded_calls.setdefault(
                step, RecordedCall("lock", "completed", answer.body)
            )
    elif known.phase == "waiting":
        known = yield Park(step, known.due_us)
    if known.phase == "failed" or known.kind == "refused":
        raise refusal(step, read(known.body))
    return LockBlock(key, step, known)


def extend(pass_: Pass, step: str, held: LockBlock, ttl_ms: int) -> Steps:
    """Hold the lock for `ttl_ms` from now on. Raises `LockLost`."""
    known = recalled(pass_, step) if step else None
    if known is not None:
        # The lock's own record says until when it is held now.
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
    """Release the lock. Raises `LockLost` if the run had lost it by then, unless the block was left
    by an exception (`raised`)."""
    held.is_open = False
    phase = pass_.recorded_calls[held.step].phase
    if phase == "completed":
        asked = {"lock": held.step, "raised": raised}
        answer: Recorded = yield Ask("", "lock.release", dumps(asked))
        was_held = read(granted(held.step, answer).body)["held"]
        phase = "released" if was_held and not raised else "gone"
        _set_phase(pass_, held.step, phase)
    if phase == "gone" and not raised:
        raise LockLost(
            f"the lock {held.key!r} expired"
            + (f" at {rfc3339(held.due_us)}" if held.due_us else "")
            + ", before the end of its block",
            hint="give it a longer ttl, or extend it: lock.extend(...)",
            key=held.key,
            step=held.step,
        )


def _set_phase(pass_: Pass, step: str, phase: str) -> None:
    pass_.recorded_calls[step] = pass_.recorded_calls[step]._replace(phase=phase)
