"""Finding the daemon, without ever going through a directory of somebody else."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.journal_lock import locked
from stackshift_jobs.errors import BadConfiguration
from stackshift_jobs.project import discovery
from stackshift_jobs.project.discovery import (
    DaemonInfo,
    announcements,
    forget_elsewhere,
    holder,
    is_held,
    places_elsewhere,
    read_daemon,
    read_daemon_elsewhere,
    remove_daemon,
    socket_in,
    socket_path,
    write_daemon,
)

INFO = DaemonInfo(4711, "/run/x/daemon.sock", "0.1.0", 1, "2026-11-22T06:57:11.000000Z")


@pytest.fixture
def short_parent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with a short path that takes the place of `/tmp`."""
    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as made:
        monkeypatch.setattr(discovery, "_SHORT_PARENT", made)
        yield Path(made)


@pytest.fixture
def far(tmp_path: Path) -> Path:
    """A data directory whose path is too long for a socket."""
    directory = tmp_path / ("d" * 100) / ".stackshift"
    directory.mkdir(parents=True)
    return directory


def as_written(data_dir: Path) -> dict[str, Any]:
    """What the file holds."""
    body: dict[str, Any] = json.loads((data_dir / "daemon.json").read_text())
    return body


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    """The file is complete and private, and no other file is left beside it."""
    write_daemon(tmp_path, INFO)
    assert read_daemon(tmp_path) == INFO
    assert as_written(tmp_path) == INFO.as_json() | {"directory": tmp_path.stat().st_ino}
    assert (tmp_path / "daemon.json").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["daemon.json"]


def test_writing_again_replaces_and_survives_an_interrupted_write(tmp_path: Path) -> None:
    """A temporary file left behind by an earlier process does no harm."""
    (tmp_path / f"daemon.json.{os.getpid()}.tmp").write_text("half")
    write_daemon(tmp_path, INFO)
    another = DaemonInfo(1, INFO.socket, "0.2.0", 2, INFO.started_at)
    write_daemon(tmp_path, another)
    assert read_daemon(tmp_path) == another != INFO
    assert [path.name for path in tmp_path.iterdir()] == ["daemon.json"]


@pytest.mark.parametrize(
    "change",
    [{"pid": 1}, {"socket": "/x"}, {"version": "9"}, {"protocol": 2}, {"started_at": "now"}],
    ids=lambda change: next(iter(change)),
)
def test_daemon_that_differs_in_anything_is_another(change: dict[str, Any]) -> None:
    """A restarted daemon is not mistaken for the one before."""
    assert DaemonInfo(**INFO.as_json()) == INFO
    assert hash(DaemonInfo(**INFO.as_json())) == hash(INFO)
    assert DaemonInfo(**{**INFO.as_json(), **change}) != INFO


def test_removed_daemon_is_none_and_removing_twice_is_no_error(tmp_path: Path) -> None:
    """The file may be gone already when a daemon stops."""
    write_daemon(tmp_path, INFO)
    remove_daemon(tmp_path)
    remove_daemon(tmp_path)
    assert read_daemon(tmp_path) is None


@pytest.mark.parametrize(
    "change",
    [
        {"pid": "4711"},
        {"pid": 0},
        {"pid": True},
        {"pid": None},
        {"socket": "daemon.sock"},
        {"socket": 3},
        {"socket": "/a\0b"},
        {"version": None},
        {"protocol": "1"},
        {"started_at": 7},
        {"directory": None},
        {"directory": 7},
    ],
)
def test_file_with_a_field_that_is_wrong_counts_as_none(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    """A file that we did not write says nothing about a daemon."""
    write_daemon(tmp_path, INFO)
    written = as_written(tmp_path)
    (tmp_path / "daemon.json").write_text(json.dumps({**written, **change}))
    assert read_daemon(tmp_path) is None
    (tmp_path / "daemon.json").write_text(json.dumps(written))
    assert read_daemon(tmp_path) == INFO


def test_file_that_was_copied_with_its_directory_counts_as_none(tmp_path: Path) -> None:
    """It is about the daemon of the original; one that was moved with its directory is not."""
    original, copy, moved = (tmp_path / name for name in ("original", "copy", "moved"))
    original.mkdir()
    write_daemon(original, INFO)
    shutil.copytree(original, copy)
    assert read_daemon(copy) is None
    assert read_daemon(original) == INFO
    original.rename(moved)
    assert read_daemon(moved) == INFO


def test_file_that_may_not_be_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not taken for a missing one: then a second daemon would be started."""
    write_daemon(tmp_path, INFO)

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(BadConfiguration, match=f"{tmp_path}/daemon.json: Permission denied"):
        read_daemon(tmp_path)


def test_holder_of_the_journal_is_seen(tmp_path: Path) -> None:
    """By the lock, as long as it is held; its process id is in the lock file, for people."""
    assert not is_held(tmp_path)
    assert holder(tmp_path) is None
    (tmp_path / "journal").mkdir()
    (tmp_path / "lock").write_text("4711\n")
    assert not is_held(tmp_path)
    fd = os.open(tmp_path / "journal", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    assert [is_held(tmp_path) for _ in range(2)] == [True, True]
    assert holder(tmp_path) == 4711
    os.close(fd)
    assert not is_held(tmp_path)
    (tmp_path / "lock").write_text("soon")
    assert holder(tmp_path) is None


def test_holder_is_not_known_where_nobody_could_write_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a read-only disk the process id is an older one, and somebody else's by now."""
    (tmp_path / "lock").write_text("4711\n")
    assert holder(tmp_path) == 4711
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_flag=os.ST_RDONLY))
    assert holder(tmp_path) is None


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 60_000])
def test_file_that_is_not_an_object_counts_as_none(tmp_path: Path, raw: bytes) -> None:
    """It may be empty, cut off, another value, not text, or nested too deeply."""
    (tmp_path / "daemon.json").write_bytes(raw)
    assert read_daemon(tmp_path) is None


def test_socket_is_in_the_data_directory_if_the_path_fits(short_parent: Path) -> None:
    """Up to the last byte that an address holds; then nothing is created elsewhere."""
    room = discovery.MAX_SOCKET_BYTES - len("/daemon.sock")
    fitting = Path("/" + "d" * (room - 1))
    assert socket_path(fitting) == fitting / "daemon.sock"
    assert list(short_parent.iterdir()) == []
    assert socket_path(Path(f"{fitting}d")).parent.parent == short_parent


@pytest.fixture
def elsewhere(short_parent: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that takes the place of `/dev/shm`, beside that for `/tmp`."""
    memory = short_parent / "shm"
    memory.mkdir()
    monkeypatch.setattr(discovery, "_MEMORY", str(memory))
    return memory


def announce(data_dir: Path, place: Path, info: DaemonInfo = INFO) -> Path:
    """Say in `place` what a daemon of `data_dir` says; the path of its socket."""
    socket = socket_in(place)
    write_daemon(data_dir, info, place)
    socket.touch()
    return socket


def test_daemon_elsewhere_is_found_and_forgotten(elsewhere: Path, tmp_path: Path) -> None:
    """In the first private directory that has an announcement; not in one that others can
    enter."""
    first, second = places_elsewhere(tmp_path)
    with locked(tmp_path):
        assert read_daemon_elsewhere(tmp_path) is None
        assert list(elsewhere.iterdir()) == []
        socket = announce(tmp_path, second)
        assert socket == second / "daemon.sock"
        assert read_daemon_elsewhere(tmp_path) == (INFO, str(socket))
        assert read_daemon(tmp_path) is None
        assert announcements(tmp_path) == {INFO}
        second.chmod(0o755)
        assert read_daemon_elsewhere(tmp_path) is None
        second.chmod(0o700)
        other = DaemonInfo(1, "/x", "0.1.0", 1, INFO.started_at)
        socket = announce(tmp_path, first, other)
        assert read_daemon_elsewhere(tmp_path) == (other, str(socket))
        write_daemon(tmp_path, INFO)
        assert announcements(tmp_path) == {INFO, other}
        forget_elsewhere(tmp_path)
        assert (first.exists(), second.exists()) == (False, False)
        assert announcements(tmp_path) == {INFO}
        forget_elsewhere(tmp_path)


def test_daemon_elsewhere_counts_while_the_journal_is_locked(
    elsewhere: Path, tmp_path: Path
) -> None:
    """Of one that was killed, what it has left there says nothing."""
    assert elsewhere.is_dir()
    announce(tmp_path, places_elsewhere(tmp_path)[0])
    assert read_daemon_elsewhere(tmp_path) is None
    with locked(tmp_path):
        assert read_daemon_elsewhere(tmp_path) is not None
    assert announcements(tmp_path) == set()


def test_daemon_elsewhere_is_not_that_of_another_directory_at_its_path(
    elsewhere: Path, tmp_path: Path
) -> None:
    """Its own was moved away, and a copy put in its place, or another disk mounted there.
    (guarantee: one daemon)"""
    assert elsewhere.is_dir()
    data_dir, moved = tmp_path / "data", tmp_path / "moved"
    data_dir.mkdir()
    [place, _] = places_elsewhere(data_dir)
    announce(data_dir, place)
    shutil.copytree(data_dir, moved)
    with locked(data_dir):
        assert read_daemon_elsewhere(data_dir) is not None
        written = (place / "daemon.json").read_text()
        for key in ("directory", "device"):
            (place / "daemon.json").write_text(json.dumps(json.loads(written) | {key: 7}))
            assert read_daemon_elsewhere(data_dir) is None
        (place / "daemon.json").write_text(written)
    original = data_dir.rename(tmp_path / "original")
    moved.rename(data_dir)
    with locked(original), locked(data_dir):
        assert read_daemon_elsewhere(data_dir) is None
        assert announcements(data_dir) == set()


def test_socket_that_a_long_path_needs_is_not_forgotten(elsewhere: Path, far: Path) -> None:
    """It is in one of the other places, but is not left there by anybody."""
    assert elsewhere.is_dir()
    place, second = places_elsewhere(far)
    socket = announce(far, place)
    announce(far, second)
    assert socket == socket_path(far)
    forget_elsewhere(far)
    assert list(place.iterdir()) == [socket]
    assert not second.exists()


def test_announcement_that_finds_no_room_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even a temporary file; the error is raised."""

    def full(_path: Path, _target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_daemon(tmp_path, INFO)
    assert list(tmp_path.iterdir()) == []


def test_length_counts_bytes_not_characters(short_parent: Path) -> None:
    """A path of umlauts is twice as long as it looks like."""
    assert socket_path(Path("/" + "ü" * 60)).parent.parent == short_parent


@pytest.mark.usefixtures("short_parent")
def test_long_path_gets_a_private_directory_of_its_own(far: Path) -> None:
    """It has mode 0700, is short enough, always the same, and different for each data directory."""
    path = socket_path(far)
    assert path == socket_path(far)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert len(os.fsencode(path)) <= discovery.MAX_SOCKET_BYTES
    assert socket_path(far.parent / "other").parent != path.parent


@pytest.mark.usefixtures("short_parent")
def test_directory_that_others_can_enter_is_refused(far: Path) -> None:
    """It is not made private either, because its contents may be somebody else's."""
    directory = socket_path(far).parent
    directory.chmod(0o755)
    with pytest.raises(BadConfiguration, match="mode is 0755"):
        socket_path(far)
    assert directory.stat().st_mode & 0o777 == 0o755


@pytest.mark.usefixtures("short_parent")
def test_directory_of_another_user_is_refused(far: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner could replace the socket."""
    directory = socket_path(far).parent
    uid = os.geteuid()
    monkeypatch.setattr(discovery, "_short_directory", lambda _: directory)
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    with pytest.raises(BadConfiguration, match=f"belongs to user {uid}"):
        socket_path(far)


def test_symbolic_link_is_refused_even_to_a_directory_of_ours(
    short_parent: Path, far: Path
) -> None:
    """A link could be changed between the check and the use."""
    directory = socket_path(far).parent
    directory.rename(short_parent / "moved")
    directory.symlink_to(short_parent / "moved")
    with pytest.raises(BadConfiguration, match="symbolic link"):
        socket_path(far)


@pytest.mark.usefixtures("short_parent")
def test_file_in_its_place_is_refused(far: Path) -> None:
    """The error says what it is, and what to do."""
    directory = socket_path(far).parent
    directory.rmdir()
    directory.touch(mode=0o700)
    with pytest.raises(BadConfiguration, match="not a directory") as refused:
        socket_path(far)
    assert "STACKSHIFT_DATA_DIR" in refused.value.hint
