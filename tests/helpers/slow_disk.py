"""A disk for which the daemon's loop never waits: every append is committed in the thread."""

from __future__ import annotations

from stackshiftd.journal.disk_speed import DiskSpeed


class SlowDisk(DiskSpeed):
    """A disk that is never quick."""

    def is_quick(self, _now: float) -> bool:
        """False."""
        return False
