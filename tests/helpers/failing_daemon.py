"""`python failing_daemon.py FLAG MOMENT ARGUMENTS…`: stackshiftd whose next sync fails once FLAG
exists. At MOMENT it sends itself SIGTERM: see `MOMENTS`; at `never` it does not.

For tests of what a daemon does about a failed disk, in a process of its own.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from errno import EIO
from pathlib import Path
from typing import Any

from stackshiftd import app
from stackshiftd.daemon import Daemon
from stackshiftd.journal.filesystem import RealFileSystem

MOMENTS: dict[str, tuple[Any, str]] = {
    "as it fails": (Daemon, "_failed"),
    "as it ends": (Daemon, "end"),
    "after its loop": (app, "_start_again"),
    "as it replaces itself": (os, "execv"),
}
"""What is called at the moment: its owner and its name."""


def main(flag: Path, moment: str, arguments: list[str]) -> int:
    """Run the daemon on a disk that fails when told."""
    sync = RealFileSystem.sync_data

    def sync_data(self: RealFileSystem, fd: int) -> None:
        if flag.exists():
            raise OSError(EIO, "the sync was made to fail")
        sync(self, fd)

    RealFileSystem.sync_data = sync_data  # type: ignore[method-assign]  # that is the point
    if moment in MOMENTS:
        owner, name = MOMENTS[moment]
        setattr(owner, name, _after_term(getattr(owner, name), flag))
    return app.main(arguments)


def _after_term(called: Callable[..., Any], flag: Path) -> Callable[..., Any]:
    """`called`, before which this process gets SIGTERM. The disk works again."""

    def call(*arguments: Any) -> Any:
        flag.unlink(missing_ok=True)
        os.kill(os.getpid(), signal.SIGTERM)
        return called(*arguments)

    return call


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
