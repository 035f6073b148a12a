"""The places where a worker must die: at which step, before or after what."""

from __future__ import annotations

import threading
from typing import Final

BEFORE_STEP: Final = "before_step"
BEFORE_RECORD: Final = "before_record"
AFTER_RECORD: Final = "after_record"
PLACES: Final = (BEFORE_STEP, BEFORE_RECORD, AFTER_RECORD)


class Crash:
    """Makes a worker die the next `times` times that it reaches a place, in any job or in `job`."""

    def __init__(self, step: str, when: str, job: str | None, times: int) -> None:
        self.step = step
        self.when = when
        self.job = job
        self.times = times
        self.happened = 0

    def is_at(self, job: str, step: str, when: str) -> bool:
        """Count a visit to this place; true if it is the crash's, and has been left to happen."""
        here = (self.step, self.when) == (step, when) and self.job in (None, job)
        if not here or self.happened >= self.times:
            return False
        self.happened += 1
        return True

    def __str__(self) -> str:
        job = f" of {self.job}" if self.job else ""
        return f"{self.when} of step {self.step!r}{job}"


class Crashes:
    """The crashes that are armed. Used from the worker's threads."""

    def __init__(self) -> None:
        self._armed: list[Crash] = []
        self._lock = threading.Lock()

    def arm(self, crash: Crash) -> None:
        """Let the crash happen from now on."""
        with self._lock:
            self._armed.append(crash)

    def disarm(self, crash: Crash) -> None:
        """Keep the crash from happening again."""
        with self._lock:
            self._armed.remove(crash)

    def strike(self, job: str, step: str, when: str) -> bool:
        """Count a visit to this place; true if the worker must die here."""
        with self._lock:
            return any(crash.is_at(job, step, when) for crash in self._armed)
