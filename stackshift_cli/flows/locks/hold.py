"""Running a command while a lock is held: `state lock KEY -- COMMAND...`.

    acquired ─→ command runs ⟲ renewed after a third of its ttl ─→ command ended ─→ released
                     │ not renewed in time, or another holder has the lock
                     └─→ TERM, after a grace KILL ─→ status 5
    this process is killed ─→ the warden ends the command: TERM, after the grace KILL

Owns the order of these. `verbs.locks` acquires the lock, `lock_child` runs the process of the
command, `lock_renewal` renews and releases the lock, `lock_warden` outlives us if we are killed.

Invariants: while the command runs, the lock is ours as far as can be known, or the command is being
ended. While the command is stopped, the lock is not renewed, and the command continues only after
the lock was checked. The remaining time is counted from when a renewal was sent, never from its
answer. The command's status is returned unless the lock was lost.
"""

from __future__ import annotations

import signal
from time import monotonic
from typing import Any, Final

from stackshift_cli.daemon.session import Session
from stackshift_cli.flows.locks.child import Child
from stackshift_cli.flows.locks.renewal import Renewal
from stackshift_cli.flows.locks.warden import Warden
from stackshift_cli.output import messages
from stackshift_cli.output.safe_text import safe

GRACE_SECONDS: Final = 10.0
"""The time between TERM and KILL for a command whose lock was lost."""


def run_holding(session: Session, held: dict[str, Any], ttl_ms: int, command: list[str]) -> int:
    """Run `command`, and renew `held` (the result of `lock.acquire`) meanwhile. Returns its exit
    status, 128+n for a signal, or 5 if the lock was lost."""
    renewal = Renewal(session, held["key"], int(held["token"]), ttl_ms / 1000)
    try:
        with (
            Warden(GRACE_SECONDS) as warden,
            Child(command, held, warden.variables) as process,
        ):
            _watch(session, renewal, process)
    finally:
        lost_late = renewal.release() if renewal.gone is None else None
    if renewal.gone is not None:
        return renewal.gone.exit_status
    if lost_late is not None:
        return messages.error(lost_late, session.json)
    status = process.status
    return 128 - status if status < 0 else status


def _watch(session: Session, renewal: Renewal, process: Child) -> None:
    """Return when the command has ended. Until then renew the lock, except while the command is
    stopped."""
    kill_at: float | None = None
    while not process.has_ended():
        if renewal.gone is not None:
            process.wait(kill_at, [])
        elif process.is_stopped:
            process.wait(None, [])
        else:
            process.wait(renewal.wake_at, renewal.sockets())
        if process.has_ended():
            return
        if renewal.gone is None and process.stays_stopped():
            continue
        if renewal.gone is None and (gone := renewal.tend()) is not None:
            messages.error(gone, session.json)
            session.say(f"{safe(process.name)} is being ended")
            process.end(signal.SIGTERM)
            kill_at = monotonic() + GRACE_SECONDS
        elif kill_at is not None and monotonic() >= kill_at:
            process.end(signal.SIGKILL)
            kill_at = None
        process.go_on()
