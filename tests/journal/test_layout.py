"""One daemon per data directory, and only in a place that can be trusted
(guarantee: one daemon)."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from journal.builders import ROOT, opened, written
from journal.disk import Disk
from stackshift_jobs.errors import BadConfiguration
from stackshiftd.journal.file_journal import FileJournal
from stackshiftd.journal.layout import DaemonRunning
from stackshiftd.journal.mounts import is_network, type_in_mountinfo
from stackshiftd.journal.offline import tools

HOLD = """
import sys
from pathlib import Path
from stackshiftd.journal.file_journal import FileJournal
journal = FileJournal.open(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_second_opener_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    """The error names the holding process; when that is killed, the directory is free at once."""
    data = tmp_path / "data"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(data)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(DaemonRunning, match=f"process {holder.pid}") as caught:
            FileJournal.open(data)
        assert caught.value.code == "daemon_running"
        assert caught.value.exit_status == 3
        assert caught.value.fields["pid"] == holder.pid
        holder.kill()
        holder.wait()
        FileJournal.open(data).close()


def test_second_opener_in_the_same_process_is_refused() -> None:
    """The lock belongs to one opening of the journal, not to the process."""
    disk = Disk()
    first = opened(disk)
    with pytest.raises(DaemonRunning, match=str(os.getpid())):
        opened(disk)
    first.close()
    opened(disk).close()


def test_lock_is_held_although_its_file_was_removed(tmp_path: Path) -> None:
    """It is on the directory of the segments itself: whoever makes the file again gets nothing, and
    what the first one writes is safe. (guarantee: one daemon)"""
    data = tmp_path / "data"
    first = FileJournal.open(data)
    (data / "lock").unlink()
    for _ in range(2):
        with pytest.raises(DaemonRunning, match="another process"):
            FileJournal.open(data)
        with pytest.raises(DaemonRunning):
            tools.repair(data)
    first.close()
    FileJournal.open(data).close()


def test_look_whether_the_lock_is_held_keeps_nobody_from_it(tmp_path: Path) -> None:
    """A command that looks has it for a moment, and a daemon that starts waits as long."""
    data = tmp_path / "data"
    FileJournal.open(data).close()
    fd = os.open(data / "journal", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    timer = threading.Timer(0.3, os.close, [fd])
    timer.start()
    FileJournal.open(data).close()
    timer.join()


def test_failed_recovery_gives_the_lock_back() -> None:
    """A damaged journal does not stay locked by the process that found it damaged."""
    disk = Disk()
    written(disk, [])
    good = bytes(disk.find("data/journal/00000000000000000001.jsonl").data)
    disk.put("data/journal/00000000000000000001.jsonl", b"rubbish\n")
    with pytest.raises(Exception, match="damaged"):
        opened(disk)
    disk.put("data/journal/00000000000000000001.jsonl", good)
    opened(disk).close()


@pytest.mark.parametrize("path", ["", "journal", "lock", "journal/00000000000000000001.jsonl"])
def test_what_others_may_touch_is_refused(tmp_path: Path, path: str) -> None:
    """A mode that lets in group or others is refused, with the command that corrects it."""
    data = tmp_path / "data"
    FileJournal.open(data).close()
    target = data / path
    was = target.stat().st_mode & 0o777
    target.chmod(was | 0o040)
    with pytest.raises(BadConfiguration, match="accessible to other users") as caught:
        FileJournal.open(data)
    assert caught.value.hint == f"chmod {was:o} {target}"
    target.chmod(was)
    FileJournal.open(data).close()


@pytest.mark.parametrize("path", ["", "journal", "lock", "journal/00000000000000000001.jsonl"])
def test_symbolic_link_is_refused(tmp_path: Path, path: str) -> None:
    """No part of the journal may be reached through a link that another user could redirect."""
    data = tmp_path / "data"
    FileJournal.open(data).close()
    target, elsewhere = data / path, tmp_path / "elsewhere"
    target.rename(elsewhere)
    target.symlink_to(elsewhere)
    with pytest.raises(BadConfiguration, match="symbolic link"):
        FileJournal.open(data)


def test_directory_of_another_user_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files owned by another user are refused: that user could change them."""
    disk = Disk()
    written(disk, [])
    mine = os.geteuid()
    monkeypatch.setattr("stackshiftd.journal.layout.os", _Somebody(mine + 1))
    with pytest.raises(
        BadConfiguration, match=f"belongs to user {mine}, but .* as user {mine + 1}"
    ):
        opened(disk)


class _Somebody:
    """Replaces `os`, of which only the user's id is used."""

    def __init__(self, uid: int) -> None:
        self._uid = uid

    def geteuid(self) -> int:
        return self._uid


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.sshfs"])
def test_network_file_system_is_refused_with_the_reason(kind: str) -> None:
    """Locks and syncs are unreliable there; the error says so, and what to configure."""
    disk = Disk()
    disk.mount = kind
    with pytest.raises(BadConfiguration, match=f"network file system \\({kind}\\)") as caught:
        opened(disk)
    assert "data_dir" in caught.value.hint


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "apfs", "tmpfs", "overlay", ""])
def test_local_file_systems_are_not_refused(kind: str) -> None:
    """A file system not known to be a network one is taken for local."""
    assert not is_network(kind)


MOUNTS = r"""22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw
30 22 0:26 / /home rw shared:2 - btrfs /dev/sda rw
31 30 0:50 / /home/ann/far\040away rw - nfs4 server:/x rw
32 30 0:51 / /home/ann rw master:1 propagate_from:2 - tmpfs tmpfs rw
33 32 0:52 / /home/ann rw - fuse.sshfs ann@host: rw"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/homework", "ext4"),
        ("/home/bob/p", "btrfs"),
        ("/home/ann/p", "fuse.sshfs"),
        ("/home/ann/far away", "nfs4"),
        ("/home/ann/far away/p/.stackshift", "nfs4"),
    ],
)
def test_file_system_is_that_of_the_nearest_mount(path: str, kind: str) -> None:
    """The longest mount point wins, and the later of two on one point; escapes are decoded."""
    assert type_in_mountinfo(MOUNTS, path) == kind


def test_interrupted_restore_is_no_journal() -> None:
    """A directory with an unfinished restore is not opened."""
    disk = Disk()
    written(disk, [])
    disk.mkdir(ROOT / "restore.tmp")
    with pytest.raises(BadConfiguration, match="restore"):
        opened(disk)
