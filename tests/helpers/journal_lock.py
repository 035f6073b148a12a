"""The lock that a daemon has on its journal, for tests without a daemon."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """While a process works on the journal in `data_dir`."""
    (data_dir / "journal").mkdir(mode=0o700, exist_ok=True)
    fd = os.open(data_dir / "journal", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(fd)
