"""Whether a daemon is there: one that runs, one that will listen soon, or none.

Imports next to nothing, since most commands pay for each module.
"""

from __future__ import annotations

import select
from time import monotonic

from stackshift_cli.daemon.connection import Connection
from stackshift_jobs.errors import DaemonUnavailable
from stackshift_jobs.wire.unavailable import NOT_LISTENING, NOT_RUNNING, STALE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from stackshift_jobs.project.locate import Project

SOON_SECONDS: Final = 3.0
"""How long a command that must not start a daemon waits for one that does not listen. One whose
socket was removed listens again within a second."""
_PAUSE_SECONDS: Final = 0.02


def absent(bad: DaemonUnavailable) -> bool:
    """Does `bad` say that no daemon is running, rather than that one cannot be used?"""
    return bad.fields.get("reason") in (NOT_RUNNING, STALE)


def open_soon(project: Project, seconds: float = SOON_SECONDS) -> Connection:
    """A connection to the daemon. If a process holds the project and does not listen, this waits
    for `seconds` until it does. Raises `DaemonUnavailable`."""
    deadline = monotonic() + seconds
    while True:
        try:
            return Connection.open(project.data_dir_text)
        except DaemonUnavailable as bad:
            if bad.fields.get("reason") != NOT_LISTENING or monotonic() > deadline:
                raise
        select.select([], [], [], _PAUSE_SECONDS)
