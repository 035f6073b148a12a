"""The socket in a worker's private folder, to which the programs that it runs connect.

What is said over it is in `script` and `step_program`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

SOCKET: Final = "calls"


@contextmanager
def socket_address(folder: str) -> Iterator[str]:
    """The path of the socket in `folder`, to bind or to connect to. On Linux it leads through a
    descriptor of the folder, because no longer path than 107 bytes would do. Raises `OSError`."""
    if sys.platform != "linux":
        yield f"{folder}/{SOCKET}"
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET}"
    finally:
        os.close(descriptor)
