"""Waiting until a state entry exists (`state get KEY --wait D`), across restarts of the daemon."""

from __future__ import annotations

from typing import Any

from stackshift_cli.daemon.feed import PASSING, Deadline, until_back
from stackshift_cli.daemon.session import Session
from stackshift_jobs.errors import DaemonUnavailable, Usage


def wait_for_entry(session: Session, key: str, wait_ms: int) -> dict[str, Any] | None:
    """The entry under `key`, as soon as there is one; None if there is none after `wait_ms`. Raises
    `Usage` in the script of a shell job, whose attempt such a wait would keep executing."""
    if session.is_scripts:
        raise Usage(
            "state get --wait is not a call of a shell job's script, which is recorded",
            hint="stackshift wait-event waits durably; or wait in a step: "
            "stackshift step NAME -- stackshift state get KEY --wait 1m",
        )
    deadline = Deadline(wait_ms)
    session.connection()  # If no daemon can be reached at first, do not wait for one.
    while True:
        left = deadline.left() or 0.0
        try:
            params = {"key": key, "wait_ms": int(left * 1000)}
            entry: dict[str, Any] | None = session.call("state.wait", params, left)
            return entry
        except DaemonUnavailable as bad:
            if bad.fields.get("reason") not in PASSING:
                raise
            for _ in until_back(session, bad):
                if deadline.left() == 0:
                    return None
