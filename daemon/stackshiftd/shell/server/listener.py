"""Where clients find the daemon: its socket, and `daemon.json`, which says that it listens.

Both are files that anybody who cleans up can remove, the socket of a long path even from `/tmp`.
Once a second the daemon looks whether they are still its own, and makes them again if not: nothing
else could reach it any more, and nobody could stop it. Connections that are open are not affected.

Only for the daemon that holds the project's lock: what is in the way at these paths is nobody's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from stackshift_jobs.errors import StackshiftError
from stackshift_jobs.project.discovery import (
    DaemonInfo,
    read_daemon,
    remove_daemon,
    socket_path,
    write_daemon,
)
from stackshift_jobs.version import PROTOCOL, __version__
from stackshiftd.shell.server.connection import Connection

log = logging.getLogger("stackshiftd.listener")

_BACKLOG: Final = 512


class Listener:
    """Listens for the daemon of `data_dir`; `connect` makes the daemon's end of a connection."""

    def __init__(self, data_dir: Path, connect: Callable[[], Connection], started_at: str) -> None:
        self._data_dir = data_dir
        self._connect = connect
        self._started_at = started_at
        self._server: asyncio.Server | None = None
        self._socket: tuple[Path, int] | None = None
        self._announced: DaemonInfo | None = None
        self._closed = False
        self._problem = ""

    async def open(self) -> None:
        """Listen, and then say so. Raises `BadConfiguration` or `OSError`."""
        await self._listen()
        self._announce()

    async def look(self) -> None:
        """Listen again, and say so again, if something has removed or replaced what clients need.
        What goes wrong is logged once, and tried again at the next look."""
        try:
            if self._socket is None or _inode(self._socket[0]) != self._socket[1]:
                await self._listen()
                log.warning("the socket was removed: listening again")
            if read_daemon(self._data_dir) != self._announced and not self._closed:
                self._announce()
            self._problem = ""
        except (OSError, StackshiftError) as bad:
            if str(bad) != self._problem:
                self._problem = str(bad)
                log.error("clients cannot connect: %s", bad)

    def close(self) -> None:
        """Take no more connections; idempotent."""
        self._closed = True
        if self._server is not None:
            self._server.close()

    def remove(self) -> None:
        """Remove both files, if they are still ours. Call it before the lock is released."""
        with contextlib.suppress(StackshiftError):
            if read_daemon(self._data_dir) == self._announced:
                remove_daemon(self._data_dir)
        if self._socket is not None and _inode(self._socket[0]) == self._socket[1]:
            with contextlib.suppress(OSError):
                self._socket[0].unlink()

    async def _listen(self) -> None:
        path = socket_path(self._data_dir)
        path.unlink(missing_ok=True)
        listening = _bound(path)
        before, self._socket = self._server, (path, path.lstat().st_ino)
        self._server = await asyncio.get_running_loop().create_unix_server(
            self._connect, sock=listening, backlog=_BACKLOG
        )
        if before is not None:
            before.close()
        if self._closed:  # Meanwhile.
            self._server.close()

    def _announce(self) -> None:
        self._announced = DaemonInfo(
            pid=os.getpid(),
            socket=str(socket_path(self._data_dir)),
            version=__version__,
            protocol=PROTOCOL,
            started_at=self._started_at,
        )
        write_daemon(self._data_dir, self._announced)


def _bound(path: Path) -> socket.socket:
    """A socket at `path` that only this user can connect to."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        made.bind(str(path))
    except BaseException:
        made.close()
        raise
    finally:
        os.umask(before)
    return made


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except OSError:
        return None
