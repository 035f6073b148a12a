"""Read what a running command prints, with a deadline."""

from __future__ import annotations

import os
import select
import subprocess
import time


def read_lines(process: subprocess.Popen[bytes], count: int) -> list[str]:
    """The next `count` lines that `process` prints, within a minute."""
    assert process.stdout is not None
    deadline = time.monotonic() + 60
    said = b""
    while said.count(b"\n") < count:
        left = deadline - time.monotonic()
        assert left > 0 and select.select([process.stdout], [], [], left)[0], said
        # A byte at a time: what follows the last line asked for is left for the next call.
        said += os.read(process.stdout.fileno(), 1)
    return said.decode().splitlines()
