"""Damage of the journal that is met while the daemon serves.

What was read at the start was checked; older segments may turn out damaged later, when a request, a
compaction or a rebuilt index reads them. The daemon goes on, since the state in memory is sound,
and `daemon status` says what was found first: the next start may refuse the journal.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from stackshift_jobs.errors import JournalDamaged
from stackshift_jobs.values.durations import rfc3339

log = logging.getLogger("stackshiftd")


class Damage:
    """What was found damaged first: `{at, message, file, offset, seq}`; None if nothing was."""

    def __init__(self) -> None:
        self.first: dict[str, Any] | None = None

    def note(self, error: BaseException) -> None:
        """Note `error` if it tells of damage."""
        if not isinstance(error, JournalDamaged) or self.first is not None:
            return
        place = {name: error.fields.get(name) for name in ("file", "offset", "seq")}
        self.first = {"at": rfc3339(time.time_ns() // 1000), "message": error.message} | place
        log.error("the journal is damaged; the next start may refuse it: %s", error)
