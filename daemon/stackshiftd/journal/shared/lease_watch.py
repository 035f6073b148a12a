"""Says from looks at a lease whether it may be taken. Pure: each look comes with its time."""

from __future__ import annotations

from stackshiftd.journal.shared.log import RESERVED, Lease


class LeaseWatch:
    """What one daemon, which is `owner` on `host`, knows of the lease of a log.

    Silence is counted from the first look that showed the last beat, by the clock of this machine
    alone, and only over looks that were answered: whoever cannot see the log cannot know whether
    its leader beats.
    """

    def __init__(self, owner: str, host: str) -> None:
        self._free = ("", owner, f"{RESERVED}{host}")
        self._seen: Lease | None = None
        self._since = 0.0
        self.is_led = False
        """Has another daemon beaten between two looks?"""

    def may_take(self, lease: Lease, now: float) -> bool:
        """Note a look, answered at `now` (seconds). Is the lease free or left to this host, of this
        very directory, whose lock is held by whoever asks, or silent for longer than it lasts?"""
        if lease.owner in self._free:
            return True
        seen = self._seen
        if seen is None or (seen.term, seen.beat) != (lease.term, lease.beat):
            self.is_led = seen is not None
            self._seen, self._since = lease, now
            return False
        return now - self._since > lease.lease_ms / 1000

    def refused(self, lease: Lease) -> None:
        """Note that the lease could not be taken: somebody was quicker, or lives after all."""
        self._seen = lease._replace(beat=-1)

    def lost_sight(self) -> None:
        """Note that a look was not answered."""
        self._seen = None
