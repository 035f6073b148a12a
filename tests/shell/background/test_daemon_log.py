"""The daemon's log is emptied when it is full, without losing its last lines."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from stackshiftd.shell.background.daemon_log import DaemonLog, trim

LINE = b"a line of the log\n"


@pytest.fixture
def log(tmp_path: Path) -> int:
    """The descriptor of a log with 100 lines, as the command line opens it."""
    fd = os.open(tmp_path / "daemon.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(fd, LINE * 100)
    return fd


def test_full_log_is_emptied_and_its_last_lines_are_kept(log: int, tmp_path: Path) -> None:
    """Whoever has it open goes on appending to it."""
    os.write(log, b"the last line\n")
    assert trim(tmp_path, log, max_bytes=500)
    os.write(log, b"later\n")
    assert (tmp_path / "daemon.log").read_bytes() == b"later\n"
    kept = (tmp_path / "daemon.log.1").read_bytes()
    assert kept.startswith(LINE) and kept.endswith(LINE + b"the last line\n")
    assert len(kept) <= 500
    assert (tmp_path / "daemon.log.1").stat().st_mode & 0o777 == 0o600
    assert not trim(tmp_path, log, max_bytes=500)


def test_other_files_are_left_alone(log: int, tmp_path: Path) -> None:
    """Only the project's own log is emptied, and only if it is full and all append to it."""
    before = LINE * 100
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    writing = os.open(tmp_path / "daemon.log", os.O_WRONLY)
    assert not trim(elsewhere, log, max_bytes=500)
    assert not trim(tmp_path, log, max_bytes=len(before))
    assert not trim(tmp_path, writing, max_bytes=500)
    assert (tmp_path / "daemon.log").read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["daemon.log", "elsewhere"]


def test_log_that_is_being_emptied_is_left_to_whoever_does_it(log: int, tmp_path: Path) -> None:
    """Of two daemons that start, the second would keep nothing of what the first has cut off."""
    with (tmp_path / "daemon.log").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            trim(tmp_path, log, max_bytes=500)
    assert (tmp_path / "daemon.log").read_bytes() == LINE * 100
    assert trim(tmp_path, log, max_bytes=500)


def test_full_disk_keeps_no_log_from_being_emptied(
    log: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older log makes room for the end of this one; else that is given up too."""
    (tmp_path / "daemon.log.1").write_bytes(b"older\n")
    refused: list[Path] = []
    replace = Path.replace

    def full(path: Path, target: Path) -> Path:
        if (tmp_path / "daemon.log.1").exists() or refused[1:]:
            refused.append(path)
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", full)
    assert trim(tmp_path, log, max_bytes=500)
    assert (tmp_path / "daemon.log.1").read_bytes().endswith(LINE)
    os.write(log, LINE * 100)
    refused.append(tmp_path)
    assert trim(tmp_path, log, max_bytes=500)
    assert [each.name for each in tmp_path.iterdir()] == ["daemon.log"]
    assert (tmp_path / "daemon.log").stat().st_size == 0


@pytest.mark.parametrize("put", [False, True], ids=["moved away", "another in its place"])
def test_log_that_was_moved_away_is_begun_anew(log: int, tmp_path: Path, put: bool) -> None:
    """As logrotate does it: what was written before is in the old one, what comes is in the new."""
    ours, path = DaemonLog(tmp_path, log), tmp_path / "daemon.log"
    ours.look()
    path.rename(tmp_path / "daemon.log.old")
    if put:
        path.touch(mode=0o600)
    os.write(log, b"between\n")
    for line in (b"later\n", b"last\n"):
        ours.look()
        os.write(log, line)
    assert path.read_bytes() == b"later\nlast\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "daemon.log.old").read_bytes() == LINE * 100 + b"between\n"


def test_another_standard_error_is_not_replaced_by_a_log(log: int, tmp_path: Path) -> None:
    """A terminal's or a service manager's, though there is a log from before; nor is a data
    directory made again that was moved away."""
    other = os.open(tmp_path / "other", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    DaemonLog(tmp_path, other).look()
    os.write(other, b"to the service manager\n")
    assert (tmp_path / "daemon.log").read_bytes() == LINE * 100
    ours = DaemonLog(tmp_path, log)
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    with pytest.raises(FileNotFoundError):
        ours.look()
    assert not tmp_path.exists()
    moved.rename(tmp_path)
