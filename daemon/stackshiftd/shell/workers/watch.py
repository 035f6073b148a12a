"""Does a worker execute what it was given? Its beats say what it knows; this compares.

Whatever goes wrong on the way (a frame that was never sent, a handler whose end was never told), no
run stays `running` with nobody working on it: an execution that two beats in a row do not name (or
more, if they come faster than every two seconds) is lost. One beat may miss an execution that has
just begun or ended, and a crowded machine may take its time. The worker names an execution
until its last frame has been written, and counts the orders that it has read, so that neither a
slow socket nor a handler that blocks the worker's loop looks like a loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Final

from stackshiftd.worker.frames import BEAT_SECONDS, Beat

SECONDS: Final = 3.0
"""Beats that do not name an execution must span about this time."""


class Watch:
    """What one worker was ordered to execute, and what its last beat did not name."""

    def __init__(self, beat_seconds: float = BEAT_SECONDS) -> None:
        self._beats = max(2, ceil(SECONDS / beat_seconds))
        self._orders = 0
        self._sent: dict[str, tuple[int, int]] = {}
        """Run → token and number of the order to execute it."""
        self._missing: dict[tuple[str, int], int] = {}
        """Run and token → how many beats in a row did not name the execution."""

    def ordered(self, run: str, token: int) -> None:
        """The worker has been sent the order to execute `run`."""
        self._orders += 1
        self._sent[run] = (token, self._orders)

    def lost(
        self, executing: Mapping[str, int], beat: Beat, durable_seq: int
    ) -> list[tuple[str, int]]:
        """Which of `executing` (run → token; what the worker has to execute) are lost, as far as
        this beat shows. What should have been ordered by `durable_seq` and was not, counts too."""
        known = set(beat.executing)
        missing = {
            each: self._missing.get(each, 0) + 1
            for each in executing.items()
            if each not in known and self._should_be_known(*each, beat.orders, durable_seq)
        }
        self._missing = missing
        self._sent = {run: sent for run, sent in self._sent.items() if run in executing}
        return [each for each, beats in missing.items() if beats >= self._beats]

    def _should_be_known(self, run: str, token: int, orders: int, durable_seq: int) -> bool:
        sent = self._sent.get(run)
        if sent is None or sent[0] != token:
            return token <= durable_seq
        return sent[1] <= orders
