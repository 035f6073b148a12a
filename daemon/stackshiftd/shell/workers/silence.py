"""How long a worker has been silent, and whether that means that it is dead.

A worker beats from a thread of its own, which needs the interpreter for a moment. A call that keeps
it (a long regular expression, a library that does not release it) silences a worker that is alive
and works. So a worker that has been silent for the heartbeat is asked for its CPU time: if it has
used some, it is busy, and is asked again after another heartbeat. A stopped or deadlocked one has
used none, and is lost. Nothing may be busy for ever: after `LIMIT` heartbeats it is lost in any
case. The timeout of an attempt holds meanwhile: the daemon itself sees to it.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final

BUSY_SHARE: Final = 0.05
"""Of one CPU, over a heartbeat. Threads that wait for the interpreter use a tenth of that; a worker
on a crowded machine gets more."""
LIMIT: Final = 240
"""Heartbeats: an hour, with the default of 15 s."""


class Verdict(Enum):
    """What a worker's silence means so far."""

    HEARD = "heard"
    BUSY = "busy"
    DEAD = "dead"


class Silence:
    """The silence of one worker. `tick` is called once a second while it lasts: seconds are
    counted, not measured, so that a daemon that was itself stopped does not blame its workers."""

    def __init__(self, heartbeat_ticks: float, cpu_seconds: Callable[[], float]) -> None:
        """`cpu_seconds` gives the CPU time of the process; it is asked for seldom."""
        self._heartbeat = heartbeat_ticks
        self._cpu_seconds = cpu_seconds
        # Not at once: a worker that beats is never silent for so long.
        self._first = max(1, min(3, int(heartbeat_ticks / 2)))
        self._due = heartbeat_ticks
        self._from_ticks = 0
        self._from_seconds = 0.0
        self.ticks = 0

    def broken(self) -> None:
        """The worker has been heard."""
        self.ticks = 0

    @property
    def is_long(self) -> bool:
        """Has it lasted longer than a heartbeat?"""
        return self.ticks > self._heartbeat

    def tick(self) -> Verdict:
        """Count a second of silence."""
        self.ticks += 1
        if self.ticks == self._first:
            self._measure(self._cpu_seconds())
        if self.ticks <= self._due:
            return Verdict.BUSY if self.is_long else Verdict.HEARD
        cpu_seconds = self._cpu_seconds()
        used = (cpu_seconds - self._from_seconds) / (self.ticks - self._from_ticks)
        if used < BUSY_SHARE or self.ticks > LIMIT * self._heartbeat:
            return Verdict.DEAD
        self._measure(cpu_seconds)
        return Verdict.BUSY

    def _measure(self, cpu_seconds: float) -> None:
        self._from_ticks, self._from_seconds = self.ticks, cpu_seconds
        self._due = self.ticks + self._heartbeat if self.is_long else self._heartbeat
