"""The threads in which workers and their programs are ended.

They are not waited for when the daemon ends, since an ending may take as long as the grace.
"""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Final

BLOCKED: Final = (signal.SIGTERM, signal.SIGINT)
"""No signal to stop arrives at one of these threads: while the process replaces itself it would be
taken there, and be lost with it."""


def enders(most: int) -> ThreadPoolExecutor:
    """At most so many threads. They must start no programs, which would inherit what is blocked."""
    return ThreadPoolExecutor(most, "ending", _block)


def _block() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
