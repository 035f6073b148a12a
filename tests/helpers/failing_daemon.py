"""`python failing_daemon.py FLAG ARGUMENTS…`: stackshiftd whose next sync fails once FLAG exists.

For tests of what a daemon does about a failed disk, in a process of its own.
"""

from __future__ import annotations

import sys
from errno import EIO
from pathlib import Path

from stackshiftd import app
from stackshiftd.journal.filesystem import RealFileSystem


def main(flag: Path, arguments: list[str]) -> int:
    """Run the daemon on a disk that fails when told."""
    sync = RealFileSystem.sync_data

    def sync_data(self: RealFileSystem, fd: int) -> None:
        if flag.exists():
            raise OSError(EIO, "the sync was made to fail")
        sync(self, fd)

    RealFileSystem.sync_data = sync_data  # type: ignore[method-assign]  # that is the point
    return app.main(arguments)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
