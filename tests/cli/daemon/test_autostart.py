"""The log of a daemon that a command starts, where it cannot be opened."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stackshift_cli.daemon import autostart, boot
from stackshift_jobs.errors import BadConfiguration, DaemonUnavailable, DiskFull
from stackshift_jobs.project.locate import Project


def refusing(code: int, wanted: str) -> Callable[..., int]:
    """`os.open`, which fails for files of this name."""
    opened = os.open

    def call(path: str | Path, flags: int, mode: int = 0o777) -> int:
        if Path(path).name == wanted:
            raise OSError(code, os.strerror(code), str(path))
        return opened(path, flags, mode)

    return call


def test_log_is_private_and_appended_to(tmp_path: Path) -> None:
    """With the data directory, if there is none yet."""
    log = tmp_path / "data/daemon.log"
    for text in (b"one\n", b"two\n"):
        fd = autostart.open_log(log)
        os.write(fd, text)
        os.close(fd)
    assert log.read_bytes() == b"one\ntwo\n"
    assert (log.stat().st_mode & 0o777, log.parent.stat().st_mode & 0o777) == (0o600, 0o700)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS], ids=os.strerror)
def test_disk_that_cannot_be_written_takes_no_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """The daemon is started all the same: it can serve reads."""
    monkeypatch.setattr(os, "open", refusing(code, "daemon.log"))
    fd = autostart.open_log(tmp_path / "daemon.log")
    assert os.write(fd, b"lost\n") == 5
    os.close(fd)
    assert list(tmp_path.iterdir()) == []


def test_disk_that_takes_no_directory_is_75(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to serve yet, and the error says where room is needed."""

    def full(path: Path, **_options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(DiskFull, match=f"no room to create {tmp_path}/data: No space") as refused:
        autostart.open_log(tmp_path / "data/daemon.log")
    assert refused.value.exit_status == 75


def test_other_errors_are_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log of somebody else's, for example."""
    monkeypatch.setattr(os, "open", refusing(errno.EACCES, "daemon.log"))
    message = f"cannot write {tmp_path}/daemon.log: Permission denied"
    with pytest.raises(BadConfiguration, match=message):
        autostart.open_log(tmp_path / "daemon.log")


def test_root_is_told_once_that_the_data_directory_is_now_roots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the start that makes it. (A daemon that ends at once stands for the real one.)"""
    monkeypatch.setattr(autostart, "daemon_command", lambda *_: [sys.executable, "-c", ""])
    monkeypatch.setattr(boot, "started_as_service", lambda _project: False)
    monkeypatch.setattr(autostart, "note_of_root", lambda root, data_dir: f"{root} {data_dir}")
    notes: list[str] = []
    project = Project(tmp_path, tmp_path / "data")
    for _ in range(2):
        with pytest.raises(DaemonUnavailable):
            autostart.start(project, notes.append)
    assert notes == [f"{tmp_path} {tmp_path}/data"]
