"""How long a worker on another host may begin steps: for as long as its daemon has not given it up.

A keeper renews the lease each time that it hears the daemon. It ends a little before the daemon
hands out again what the worker executes. A host that has stood still meanwhile (suspended, frozen)
goes on where it was when it wakes; its worker finds the lease over and ends before it begins
anything that another worker has begun. Its own clock could not tell it: a worker that stood still
and one that a long call has kept from its heartbeat look alike to themselves.

The end of the lease is in memory that the keeper and its worker share, in seconds of a clock that
goes on while the machine sleeps.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from functools import partial
from typing import Final

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux stops the monotonic clock while it sleeps, and macOS does not."""
_seconds: Final = partial(time.clock_gettime, _CLOCK)
_END: Final = struct.Struct("d")


class Lease:
    """A lease, over until it is renewed; with the descriptor `fd`, that of another process."""

    def __init__(self, fd: int | None = None) -> None:
        self.fd = _shared_memory(_END.size) if fd is None else fd
        self._memory = mmap.mmap(self.fd, _END.size)

    def renew(self, seconds: float) -> None:
        """Let it last for `seconds` from now."""
        _END.pack_into(self._memory, 0, _seconds() + seconds)

    @property
    def is_over(self) -> bool:
        """May nothing be begun any more?"""
        [end] = _END.unpack_from(self._memory)
        return _seconds() > float(end)

    def require(self) -> None:
        """End the process at once if it is over."""
        if self.is_over:
            os._exit(0)


def _shared_memory(size: int) -> int:
    """A descriptor of `size` bytes that no disk is behind, where the system has such a thing."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("stackshift-lease")
    else:
        import tempfile

        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.truncate(fd, size)
    return fd
