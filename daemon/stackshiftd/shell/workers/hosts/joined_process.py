"""What stands in for the process of a worker whose machine has come by itself (`joined`)."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from stackshift_jobs.programs.processes import ProcessGroup


class JoinedProcess:
    """What stands in for the process of such a worker: it ends with the connection. The daemon
    notes here what the keeper reports."""

    archive = None
    stderr = None
    is_mute = True

    def __init__(self) -> None:
        self._over = threading.Event()
        self.pid = 0
        self.is_lost = False
        """Does its machine not answer?"""
        self.used_seconds = 0.0
        self.used_bytes = 0
        self.words: dict[str, bytes] = {}

    def began(self, pid: int) -> None:
        """Note the process that the worker has there."""
        self.pid = pid

    def is_over(self) -> None:
        """Note that the connection has ended."""
        self._over.set()

    def death_fd(self) -> int | None:
        """None: there is nothing to wait for but the connection."""
        return None

    def poll(self) -> int | None:
        """See `Process.poll`."""
        return 0 if self._over.is_set() else None

    def wait(self) -> int:
        """See `Process.wait`."""
        self._over.wait()
        return 0

    def cpu_seconds(self) -> float:
        """As its keeper told last."""
        return self.used_seconds

    def resident_bytes(self) -> int:
        """As its keeper told last."""
        return self.used_bytes

    def kill(self) -> None:
        """Nothing: the caller closes the link, which asks the keeper to end it."""

    def last_words(self) -> dict[str, bytes]:
        """What the worker had written and its keeper has told; once."""
        words, self.words = self.words, {}
        return words

    def hear(self) -> list[str]:
        """Nothing: what its keeper has to say is in the log of its own machine."""
        return []

    def end_programs(self, _programs: Iterable[ProcessGroup], _grace_seconds: float) -> None:
        """Wait until the keeper has ended them."""
        self.wait()
