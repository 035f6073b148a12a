"""Ending processes: TERM to all of them, KILL to what is left after the grace.

Invariants: each process is sent TERM once, since many take a second one for impatience; what is
started in the meantime is ended too; nothing counts as gone that still runs.
"""

from __future__ import annotations

import contextlib
import os
import signal
from time import sleep
from typing import Final, NamedTuple

from stackshift_jobs.programs.processes import Mark, marked, members
from stackshift_jobs.values.clocks import monotonic

FIRST_LOOK_SECONDS: Final = 0.01
"""When to look again at what is being ended; each further look is later by a half, because it looks
at all processes there are."""
MOST_LOOK_SECONDS: Final = 0.2
KILLED_SECONDS: Final = 5.0
"""How long to wait for killed processes. Only one that hangs in a call to the system takes so
long."""


class Remains(NamedTuple):
    """Where to look for the processes that something has started: in process groups, and by a
    mark, but not those with the mark `spared`."""

    groups: tuple[int, ...] = ()
    mark: Mark | None = None
    spared: Mark | None = None

    def find(self) -> set[int]:
        """What still runs, as `kill` takes it: a group as its negative id."""
        inside = {group: members(group) for group in self.groups}
        found = {-group for group, pids in inside.items() if pids}
        if self.mark is not None:
            found |= marked(self.mark, self.spared).difference(*inside.values())
        return found


class Ending:
    """Ends what `remains` finds, one `push` after another. `kill_at` is in seconds of
    `time.monotonic`."""

    def __init__(self, remains: Remains, kill_at: float) -> None:
        self.remains = remains
        self.kill_at = kill_at
        self._asked: set[int] = set()
        self._pause_seconds = FIRST_LOOK_SECONDS

    def push(self, now: float) -> set[int]:
        """Signal what is left, and return it."""
        left = self.remains.find()
        if now >= self.kill_at:
            _signal(left, signal.SIGKILL)
        else:
            _signal(left - self._asked, signal.SIGTERM)
            # One that is stopped could not act on it.
            _signal(left - self._asked, signal.SIGCONT)
            self._asked |= left
        return left

    def pause(self, now: float) -> float:
        """How many seconds to wait until the next `push`."""
        pause = self._pause_seconds
        self._pause_seconds = min(pause * 1.5, MOST_LOOK_SECONDS)
        return min(pause, self.kill_at - now) if now < self.kill_at else FIRST_LOOK_SECONDS


def end(remains: Remains, grace_seconds: float) -> set[int]:
    """End all that `remains` finds; blocks until it is gone. Returns what is left, as `kill` takes
    it, if something still runs `KILLED_SECONDS` after it was killed."""
    ending = Ending(remains, monotonic() + grace_seconds)
    while left := ending.push(monotonic()):
        if monotonic() > ending.kill_at + KILLED_SECONDS:
            return left
        sleep(ending.pause(monotonic()))
    return set()


def _signal(targets: set[int], number: int) -> None:
    for target in targets:
        # It may have ended since; the id is not used again within so short a time.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(target, number)
