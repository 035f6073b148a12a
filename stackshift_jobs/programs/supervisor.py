"""The seam between a program and the process that it is started in.

In a worker, what a program prints goes to its run's log, and the program ends when its execution
must. In any other process, such as a test that calls a function itself, `PLAIN` is all there is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextvars import ContextVar
from threading import Lock
from typing import Final, Protocol

from stackshift_jobs.programs.processes import Mark, ProcessGroup

GRACE_SECONDS: Final = 10.0
"""That of `[workers] grace`, where no worker says otherwise."""


class Stop:
    """Asks a program to end, from any thread. `reason` is what is then raised instead of an
    outcome; None until somebody has asked."""

    def __init__(self) -> None:
        self.reason: BaseException | None = None
        self._guard = Lock()
        self._is_closed = False
        self._read_fd, self._write_fd = os.pipe()

    def fileno(self) -> int:
        """Readable once the program is asked to end, so that whoever waits for it can select."""
        return self._read_fd

    def request(self, reason: BaseException) -> None:
        """Ask the program to end. Only the first reason counts, and none once it has ended."""
        with self._guard:
            if self.reason is None and not self._is_closed:
                self.reason = reason
                os.write(self._write_fd, b"!")

    def close(self) -> None:
        """Release the descriptors: nothing of the program is left."""
        with self._guard:
            self._is_closed = True
            os.close(self._read_fd)
            os.close(self._write_fd)


class Supervisor(Protocol):
    """What a program needs to know of the process it is started in. All of it is called on the
    thread that waits for the program."""

    @property
    def grace_seconds(self) -> float:
        """How long a program has between TERM and KILL."""

    def admit(self, stop: Stop) -> Mark | None:
        """A program is about to start; `stop` ends it. Returns the mark for its environment.
        Raises the reason if no program may start any more."""

    def variables(self, stop: Stop) -> Mapping[str, str]:
        """What else the environment of the program says, by which it finds its supervisor."""

    def started(self, group: ProcessGroup) -> None:
        """The program runs, as the leader of `group`."""

    def wrote(self, stop: Stop, stream: str, data: bytes) -> None:
        """The program has written `data` to `stdout` or `stderr`."""

    def ended(self, stop: Stop) -> None:
        """Nothing of the program is left, or it was not started."""


class _Plain:
    """Programs of a process that is not a worker: nobody else sees their output or ends them."""

    grace_seconds = GRACE_SECONDS

    def admit(self, _stop: Stop) -> None:
        return None

    def variables(self, _stop: Stop) -> Mapping[str, str]:
        return {}

    def started(self, _group: ProcessGroup) -> None:
        pass

    def wrote(self, _stop: Stop, _stream: str, _data: bytes) -> None:
        pass

    def ended(self, _stop: Stop) -> None:
        pass


PLAIN: Final[Supervisor] = _Plain()
current_supervisor: Final[ContextVar[Supervisor]] = ContextVar(
    "stackshift_supervisor", default=PLAIN
)
"""The supervisor of the programs that this context starts; the worker sets it for the function of
each step, on whichever thread that runs."""
