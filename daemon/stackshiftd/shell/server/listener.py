"""Where clients find the daemon: its socket, and `daemon.json`, which says that it listens.

Both are files that anybody who cleans up can remove, the socket of a long path even from `/tmp`.
Once a second the daemon looks whether they are still its own, and makes them again if not: nothing
else could reach it any more, and nobody could stop it. Connections that are open are not affected.
On a disk that cannot be written, both are in a private directory on another one.

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

from stackshift_jobs.errors import BadConfiguration, StackshiftError
from stackshift_jobs.project.discovery import (
    DaemonInfo,
    forget_elsewhere,
    places_elsewhere,
    read_daemon,
    remove_daemon,
    socket_in,
    socket_path,
    write_daemon,
)
from stackshift_jobs.version import PROTOCOL, __version__
from stackshiftd.journal.filesystem import UNWRITABLE

log = logging.getLogger("stackshiftd.listener")

_BACKLOG: Final = 512


class Listener:
    """Listens for the daemon of `data_dir`; `connect` makes the daemon's end of a connection."""

    def __init__(
        self, data_dir: Path, connect: Callable[[], asyncio.Protocol], started_at: str
    ) -> None:
        self._data_dir = data_dir
        self._connect = connect
        self._started_at = started_at
        self._server: asyncio.Server | None = None
        self._socket: tuple[Path, int] | None = None
        self._announced: tuple[Path, DaemonInfo] | None = None
        """What `daemon.json` says, and in which directory."""
        self._closed = False
        self._problem = ""

    async def open(self) -> None:
        """Listen, and then say so; elsewhere if the data directory cannot be written. Does nothing
        that is done already. Raises `BadConfiguration` or `OSError`."""
        try:
            await self._open_in(self._data_dir, socket_path(self._data_dir))
            forget_elsewhere(self._data_dir)
        except OSError as refused:
            if refused.errno not in UNWRITABLE or not await self._open_elsewhere():
                raise

    async def look(self) -> None:
        """Listen again, and say so again, if something has removed or replaced what clients need.
        What goes wrong is logged once, and tried again at the next look."""
        try:
            if not self._is_listening():
                await self.open()
                log.warning("the socket was removed: listening again")
            elif not self._is_announced():
                await self.open()
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
        with contextlib.suppress(OSError, StackshiftError):
            if self._announced is not None and self._is_announced():
                remove_daemon(self._announced[0])
        self._remove_socket()
        forget_elsewhere(self._data_dir)

    @property
    def place(self) -> Path | None:
        """Where clients connect; None before they can."""
        return self._socket[0] if self._socket is not None and not self._closed else None

    def _is_listening(self) -> bool:
        return self._socket is not None and _inode(self._socket[0]) == self._socket[1]

    def _is_announced(self) -> bool:
        """Does `daemon.json` say what we wrote?"""
        if self._announced is None:
            return False
        place, info = self._announced
        return read_daemon(self._data_dir, None if place == self._data_dir else place) == info

    async def _open_elsewhere(self) -> bool:
        """Listen in the first other place that can be used; false if there is none."""
        for place in places_elsewhere(self._data_dir):
            try:
                await self._open_in(place, socket_in(place))
            except (OSError, BadConfiguration) as bad:
                log.warning("clients cannot be served in %s: %s", place, bad)
            else:
                return True
        return False

    async def _open_in(self, place: Path, path: Path) -> None:
        """Listen at `path`, and write `daemon.json` in the directory `place`."""
        if self._socket is None or self._socket[0] != path or not self._is_listening():
            await self._listen(path)
        if self._closed:  # Meanwhile.
            return
        if self._announced is None or self._announced[0] != place or not self._is_announced():
            self._announce(place, path)

    async def _listen(self, path: Path) -> None:
        self._remove_socket()
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

    def _announce(self, place: Path, path: Path) -> None:
        info = DaemonInfo(
            pid=os.getpid(),
            socket=str(path),
            version=__version__,
            protocol=PROTOCOL,
            started_at=self._started_at,
        )
        write_daemon(self._data_dir, info, None if place == self._data_dir else place)
        before, self._announced = self._announced, (place, info)
        if before is not None and before[0] != place:
            with contextlib.suppress(OSError):
                remove_daemon(before[0])

    def _remove_socket(self) -> None:
        if self._socket is not None and self._is_listening():
            with contextlib.suppress(OSError):
                self._socket[0].unlink()


def _bound(path: Path) -> socket.socket:
    """A socket at `path` that only this user can connect to. Raises `OSError`, which names it."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        made.bind(str(path))
    except OSError as bad:
        made.close()
        bad.filename = str(path)  # Unlike other calls, bind(2) leaves it out.
        raise
    finally:
        os.umask(before)
    return made


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except OSError:
        return None
