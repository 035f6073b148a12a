"""A command that runs while a lock is held: `state lock KEY -- COMMAND...`.

    acquired ─→ command runs ⟲ renewed at a third of its ttl ─→ command ended ─→ released
                     │ not renewed in time, or another holds it
                     └─→ TERM, after a grace KILL ─→ 5

Owns the order of these. It takes no lock, which `verbs.locks` does; the command's process is
`child`'s, the lock's renewal `renewal`'s.

Invariants: while the command runs, the lock is ours as far as can be known, or the command is being
ended; while it is stopped, the lock is not renewed, and it goes on only after that was looked at;
what time is left is counted from when a renewal was asked for, never from its answer; the command's
status is passed on unless the lock was lost.
"""

from __future__ import annotations

import signal
from time import monotonic
from typing import Any, Final

from stackshift_cli.daemon.session import Session
from stackshift_cli.flows.lock_child import Child
from stackshift_cli.flows.lock_renewal import Renewal
from stackshift_cli.output import messages
from stackshift_cli.output.safe_text import safe

GRACE_SECONDS: Final = 10.0
"""Between the TERM and the KILL of a command whose lock was lost."""


def run_holding(session: Session, held: dict[str, Any], ttl_ms: int, command: list[str]) -> int:
    """Run `command` while `held` (the answer to `lock.acquire`) is renewed; its exit status, 128+n
    for a signal, or 5 if the lock was lost."""
    renewal = Renewal(session, held["key"], int(held["token"]), ttl_ms / 1000)
    try:
        with Child(command, held) as process:
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
    """Return when the command has ended; renew the lock until then, but not while it is stopped."""
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
