"""`python full_daemon.py FLAG ARGUMENTS…`: stackshiftd on a disk that is full while FLAG exists.

For tests of a daemon that starts there, in a process of its own. What is full is the data
directory: the journal, the index, the warden's lock, `daemon.json` and the socket.
"""

from __future__ import annotations

import os
import sys
from errno import ENOSPC
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stackshift_jobs.project import discovery
from stackshiftd import app
from stackshiftd.history import index
from stackshiftd.history.table import Refused, Table
from stackshiftd.journal.filesystem import RealFileSystem
from stackshiftd.shell.server import listener

if TYPE_CHECKING:  # What is run as a program does not find it.
    from helpers.project import Project


def program(project: Project, flag: Path) -> list[str]:
    """The command that starts the daemon of `project` on a disk that is full while `flag`
    exists."""
    return [sys.executable, __file__, str(flag), *project.command()[4:]]


def main(flag: Path, arguments: list[str]) -> int:
    """Run the daemon on such a disk."""

    def refuse() -> None:
        if flag.exists():
            raise OSError(ENOSPC, os.strerror(ENOSPC))

    def refusing(function: Any) -> Any:
        def call(*args: Any) -> Any:
            refuse()
            return function(*args)

        return call

    disk: Any = RealFileSystem
    disk.pwrite = refusing(disk.pwrite)
    disk.truncate = refusing(disk.truncate)
    free_bytes = disk.free_bytes
    disk.free_bytes = lambda self, path: 0 if flag.exists() else free_bytes(self, path)
    write_daemon = discovery.write_daemon

    def write(data_dir: Path, info: discovery.DaemonInfo, place: Path | None = None) -> None:
        if place is None:
            refuse()
        write_daemon(data_dir, info, place)

    class File(Table):
        """An index whose file cannot be opened."""

        def __init__(self, path: Path | None, journal_id: str) -> None:
            if path is not None and flag.exists():
                raise Refused("database or disk is full")
            super().__init__(path, journal_id)

    patched: Any = listener
    patched.write_daemon = write
    patched = index
    patched.Table = File
    return app.main(arguments)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
