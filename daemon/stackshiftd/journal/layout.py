"""The data directory: its layout, who may access it, and which process holds it.

Owns the checks made before anything in it is trusted: owner, modes, no symbolic links, no network
file system, one holder. Must never repair what is wrong: it says what to do and stops.
"""

from __future__ import annotations

import os
import shlex
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import ClassVar, Final

from stackshift_jobs.errors import BadConfiguration, StackshiftError
from stackshift_jobs.project.discovery import JOURNAL_FOLDER, LOCK_FILE
from stackshiftd.journal.filesystem import FileInfo, FileSystem, How, Kind, write_all
from stackshiftd.journal.mounts import is_network


class DaemonRunning(StackshiftError):
    """Another process holds the data directory. Field: `pid` (null if unknown)."""

    code: ClassVar[str] = "daemon_running"
    exit_status: ClassVar[int] = 3


class Layout:
    """The paths in the data directory `root`."""

    def __init__(self, root: Path) -> None:
        self.root: Final = root
        self.journal: Final = root / JOURNAL_FOLDER
        self.snapshots: Final = root / "snapshots"
        self.quarantine: Final = root / "quarantine"
        self.lock: Final = root / LOCK_FILE
        self.witness: Final = root / "witness.json"
        self.restoring: Final = root / "restore.tmp"
        """Exists while a restore is in progress: until it is gone, the directory is not yet a
        journal."""

    @property
    def folders(self) -> tuple[Path, Path, Path]:
        """The directories of segments, snapshots and quarantine."""
        return self.journal, self.snapshots, self.quarantine


def prepare(fs: FileSystem, layout: Layout) -> None:
    """Create what is missing in the data directory and check what exists.

    Raises `BadConfiguration`, which names the path and what is wrong with it.
    """
    _ensure(fs, layout.root)
    check_root(fs, layout)
    _check_restored(fs, layout)
    for folder in layout.folders:
        _ensure(fs, folder)
    _check_folders(fs, layout)
    # Always: a process that created them may have died before their names reached the disk.
    fs.sync_dir(layout.root)
    fs.sync_dir(layout.root.parent)


def check(fs: FileSystem, layout: Layout) -> bool:
    """Check all that exists, and change nothing; false if a directory is missing. Raises what
    `prepare` raises."""
    check_root(fs, layout)
    _check_restored(fs, layout)
    if any(fs.lstat(folder) is None for folder in layout.folders):
        return False
    _check_folders(fs, layout)
    return True


def _check_restored(fs: FileSystem, layout: Layout) -> None:
    if fs.lstat(layout.restoring) is not None:
        raise BadConfiguration(
            f"a restore into {layout.root} did not finish",
            hint="run `stackshift journal restore` again",
        )


def _check_folders(fs: FileSystem, layout: Layout) -> None:
    for folder in layout.folders:
        info = fs.lstat(folder)
        if info is not None:
            _check_private(folder, info, "directory")
        for name in fs.listdir(folder):
            inside = fs.lstat(folder / name)
            if inside is not None and not name.startswith("."):
                _check_private(folder / name, inside, "file")


def _ensure(fs: FileSystem, folder: Path) -> None:
    if fs.lstat(folder) is None:
        # Without the lock, another daemon may be quicker. What it created is checked like our own.
        with suppress(FileExistsError):
            fs.mkdir(folder)


def check_root(fs: FileSystem, layout: Layout) -> None:
    """Check the existing data directory itself: ours, private, not a link, not on a network."""
    info = fs.lstat(layout.root)
    if info is None:
        raise BadConfiguration(f"there is no data directory {layout.root}")
    _check_private(layout.root, info, "directory")
    kind = fs.mount_type(layout.root)
    if is_network(kind):
        raise BadConfiguration(
            f"{layout.root} is on a network file system ({kind}), whose locks and syncs are not "
            "reliable enough for a journal",
            hint="set [project] data_dir or STACKSHIFT_DATA_DIR to a directory on a local disk",
        )


def _check_private(path: Path, info: FileInfo, kind: str) -> None:
    if info.kind != kind:
        raise BadConfiguration(
            f"{path} is {_KIND_WORDS[info.kind]}; it must be a {kind}",
            hint="move it away, then start again",
        )
    if info.uid != os.geteuid():
        raise BadConfiguration(
            f"{path} belongs to user {info.uid}, but this process runs as user {os.geteuid()}",
            hint="run it as the owner, or change the owner with chown",
        )
    if info.mode & 0o077:
        mode = "700" if kind == "directory" else "600"
        raise BadConfiguration(
            f"{path} is accessible to other users (mode {info.mode:03o})",
            hint=f"chmod {mode} {shlex.quote(str(path))}",
        )


_KIND_WORDS: Final[dict[Kind, str]] = {
    "file": "a file",
    "directory": "a directory",
    "link": "a symbolic link",
    "other": "neither a file nor a directory",
}


class HeldLock:
    """The lock of a data directory, held until `release` or the end of the process.

    It is on the directory of the segments itself, so whoever holds it is alone with the files in
    it: a lock file can be removed and made again, and then there are two. The file `lock` is held
    as well, because a directory without a journal has no such directory yet, and because it says
    who the holder is.
    """

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._fds: list[int] = []

    @classmethod
    def take(cls, fs: FileSystem, layout: Layout, pid: int) -> HeldLock:
        """Acquire the lock and write `pid` into it; raises `DaemonRunning`, naming the holder."""
        return cls._taken(fs, layout, pid)

    @classmethod
    def take_unwritten(cls, fs: FileSystem, layout: Layout) -> HeldLock:
        """Acquire the lock of a journal on a disk that cannot be written: the pid in it may be an
        older one. Raises `DaemonRunning`."""
        return cls._taken(fs, layout, None)

    @classmethod
    def _taken(cls, fs: FileSystem, layout: Layout, pid: int | None) -> HeldLock:
        lock = cls(fs)
        try:
            lock._take(layout, pid)
        except BaseException:
            with suppress(OSError):
                lock.release()
            raise
        return lock

    def _take(self, layout: Layout, pid: int | None) -> None:
        fs = self._fs
        before = fs.lstat(layout.lock)
        if before is not None:
            _check_private(layout.lock, before, "file")
        if pid is not None:
            self._hold_file(layout, "lock")
        elif before is not None:
            self._hold_file(layout, "read")
        if fs.lstat(layout.journal) is not None:
            folder = fs.open(layout.journal, "directory")
            self._fds.append(folder)
            if not fs.lock(folder):
                raise _held(layout, b"")  # Its own lock file was removed.
        if pid is not None:
            text = b"%d\n" % pid
            # The pid is for people; flock alone decides who holds the lock.
            write_all(fs, self._fds[0], text, 0)
            fs.truncate(self._fds[0], len(text))

    def _hold_file(self, layout: Layout, how: How) -> None:
        fd = self._fs.open(layout.lock, how)
        self._fds.append(fd)
        if not self._fs.lock(fd):
            raise _held(layout, self._fs.pread(fd, 32, 0))

    def release(self) -> None:
        """Release the lock; idempotent."""
        fds, self._fds = self._fds, []
        with ExitStack() as closing:  # One that cannot be closed does not keep the others.
            for fd in fds:
                closing.callback(self._fs.close, fd)


def _held(layout: Layout, text: bytes) -> DaemonRunning:
    pid = int(text) if text.strip().isdigit() else None
    holder = "another process" if pid is None else f"process {pid}"
    return DaemonRunning(
        f"{layout.root} is in use by {holder}",
        hint="stackshift daemon status, or stackshift daemon stop",
        pid=pid,
    )
