"""Where a daemon listens whose data directory cannot be written, and what it leaves behind."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from helpers.journal_lock import locked
from stackshift_jobs.project import discovery
from stackshift_jobs.project.discovery import announcements, places_elsewhere, write_daemon
from stackshift_jobs.wire.unix_socket import connect
from stackshiftd.shell.server import listener
from stackshiftd.shell.server.listener import Listener


class FullDisk:
    """What is full: the data directory if `data`, the first of the other places if `first`."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.places = places_elsewhere(data_dir)
        self.data = self.first = False

    def write_daemon(self, data_dir: Path, info: Any, place: Path | None = None) -> None:
        """Write `daemon.json`, or fail."""
        if self.data if place is None else (self.first and place == self.places[0]):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_daemon(data_dir, info, place)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FullDisk]:
    """The disk of a data directory that is locked, with directories in the place of `/tmp` and
    `/dev/shm` whose paths are short enough for sockets."""
    data_dir = tmp_path / "data"
    data_dir.mkdir(mode=0o700)
    with (
        TemporaryDirectory(prefix="s", dir="/tmp") as short,
        TemporaryDirectory(prefix="s", dir="/tmp") as memory,
    ):
        monkeypatch.setattr(discovery, "_SHORT_PARENT", short)
        monkeypatch.setattr(discovery, "_MEMORY", memory)
        made = FullDisk(data_dir)
        monkeypatch.setattr(listener, "write_daemon", made.write_daemon)
        with locked(data_dir):
            yield made


def reached(disk: FullDisk) -> Path:
    """The directory of the socket that a client connects to."""
    with connect(disk.data_dir) as sock:
        return Path(sock.getpeername()).parent


def listening(disk: FullDisk) -> Listener:
    """What listens for that data directory."""
    return Listener(disk.data_dir, asyncio.Protocol, "now")  # It is silent


@pytest.mark.parametrize("first", [False, True], ids=["the first", "the second"])
def test_daemon_that_cannot_write_listens_elsewhere(disk: FullDisk, first: bool) -> None:
    """In the first place that takes socket and file. At the stop nothing is left anywhere.
    (guarantee: full disk)"""

    async def story() -> None:
        disk.data, disk.first = True, first
        opened = listening(disk)
        await opened.open()
        assert reached(disk) == disk.places[first]
        assert len(announcements(disk.data_dir)) == 1
        assert [path.name for path in disk.data_dir.iterdir()] == ["journal"]
        opened.close()
        opened.remove()
        assert [each.exists() for each in disk.places] == [False, False]

    asyncio.run(story())


def test_place_that_others_can_enter_is_passed_over(disk: FullDisk) -> None:
    """Whoever made it cannot keep the daemon from listening."""

    async def story() -> None:
        disk.data = True
        disk.places[0].mkdir(mode=0o755)
        opened = listening(disk)
        await opened.open()
        assert reached(disk) == disk.places[1]
        opened.close()
        opened.remove()
        assert list(disk.places[0].iterdir()) == []

    asyncio.run(story())


def test_disk_that_takes_nothing_anywhere_is_an_error(disk: FullDisk) -> None:
    """It is that of the data directory."""

    async def story() -> None:
        disk.data = disk.first = True
        disk.places[1].mkdir(mode=0o755)
        opened = listening(disk)
        with pytest.raises(OSError, match="No space left"):
            await opened.open()
        opened.close()
        opened.remove()
        assert [path.name for path in disk.data_dir.iterdir()] == ["journal"]
        assert not disk.places[0].exists()

    asyncio.run(story())


def test_files_that_were_removed_are_made_again_where_there_is_room(disk: FullDisk) -> None:
    """Elsewhere while the disk is full, and in the data directory if it has room by then: clients
    reach the daemon in each case, and there is one announcement only. (guarantee: full disk)"""

    async def story() -> None:
        opened = listening(disk)
        await opened.open()
        assert reached(disk) == disk.data_dir
        disk.data = True
        (disk.data_dir / "daemon.json").unlink()
        await opened.look()
        assert reached(disk) == disk.places[0]
        shutil.rmtree(disk.places[0])
        await opened.look()
        assert reached(disk) == disk.places[0]
        await opened.look()
        disk.data = False
        shutil.rmtree(disk.places[0])
        await opened.look()
        assert reached(disk) == disk.data_dir
        assert len(announcements(disk.data_dir)) == 1
        assert not disk.places[0].exists()
        opened.close()
        opened.remove()
        assert [path.name for path in disk.data_dir.iterdir()] == ["journal"]

    asyncio.run(story())


def test_socket_that_cannot_be_bound_is_named(tmp_path: Path) -> None:
    """bind(2) alone does not say which file it was refused; "cannot start: Permission denied" was
    all that a person read."""
    path = tmp_path / "missing" / "sock"
    with pytest.raises(FileNotFoundError) as refused:
        listener._bound(path)
    assert refused.value.filename == str(path)
