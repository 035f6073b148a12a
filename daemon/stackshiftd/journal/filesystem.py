"""The few file operations that the journal needs: a contract, and its real implementation.

Owns every operating-system call that touches the data directory. Must never contain a decision of
the journal: no retries, no names, no recovery. The rest of this package goes through a
`FileSystem`, so that a test can make any single call fail, fall short, or be the last before a
crash.

Descriptors are plain integers. Errors are `OSError`, as raised by the operating system.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from errno import EDQUOT, EINVAL, EIO, ENOSPC, ENOTSUP, ENOTTY, EROFS
from pathlib import Path
from typing import Final, Literal, NamedTuple, Protocol

from stackshiftd.journal.mounts import mount_type

How = Literal["read", "write", "create", "lock", "directory"]
"""`read` and `write`: the file must exist. `create`: it must not. `lock`: created if missing.
`directory`: a directory, to lock it. A symbolic link as the last component of the path is not
followed."""

Buffer = bytes | bytearray | memoryview
NO_SPACE: Final = frozenset((ENOSPC, EDQUOT))
UNWRITABLE: Final = NO_SPACE | {EROFS}
"""For a while, or by somebody's decision, nothing can be written: what is there can be read."""
CHUNK: Final = 1 << 20
"""Bytes read at a time when a whole file is read."""
LOCK_SECONDS: Final = 5.0
"""How long to try for a lock while others look whether it is held. Each has it shared, for a
moment; but a loaded machine may stop one in that moment, and there may be many."""
_LOCK_PAUSE_SECONDS: Final = 0.005


Kind = Literal["file", "directory", "link", "other"]


class FileInfo(NamedTuple):
    """The result of `lstat`; `size` in bytes, `mode` holds the permission bits only. `inode` is the
    same for two paths of one file, and differs for two files that exist at the same time."""

    kind: Kind
    size: int
    mode: int
    uid: int
    inode: int


class FileSystem(Protocol):
    """File operations. Each is one call to the operating system and may raise `OSError`."""

    def open(self, path: Path, how: How) -> int:
        """Open `path` and return its descriptor, which no child process inherits."""
        ...

    def close(self, fd: int) -> None:
        """Close the descriptor; a lock taken on it is released."""
        ...

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """Read up to `size` bytes at `offset`; fewer is no error, none means end of file."""
        ...

    def pwrite(self, fd: int, data: Buffer, offset: int) -> int:
        """Write at `offset`, possibly less than all of `data`; return the number of bytes."""
        ...

    def sync_data(self, fd: int) -> None:
        """Bring contents and size to the disk itself, not only to its cache."""
        ...

    def truncate(self, fd: int, size: int) -> None:
        """Cut the file to `size` bytes; not durable until the next `sync_data`."""
        ...

    def size(self, fd: int) -> int:
        """The current size of the open file, in bytes."""
        ...

    def lock(self, fd: int) -> bool:
        """Acquire the exclusive lock of the file or directory; false if another process holds it.
        Those who have it shared only look, and are waited for."""
        ...

    def lstat(self, path: Path) -> FileInfo | None:
        """What is at `path`, not following a symbolic link; None if there is nothing."""
        ...

    def listdir(self, path: Path) -> list[str]:
        """The names in the directory, sorted."""
        ...

    def mkdir(self, path: Path) -> None:
        """Create one directory, private to the user; raises `FileExistsError` if it exists."""
        ...

    def rmdir(self, path: Path) -> None:
        """Remove the empty directory."""
        ...

    def rename(self, old: Path, new: Path) -> None:
        """Rename atomically, replacing a file at `new`; not durable until `sync_dir`."""
        ...

    def unlink(self, path: Path) -> None:
        """Remove the file's name; not durable until `sync_dir`."""
        ...

    def sync_dir(self, path: Path) -> None:
        """Make creations, renames and removals in the directory durable."""
        ...

    def free_bytes(self, path: Path) -> int:
        """Bytes that an unprivileged writer may still use on the file system of `path`."""
        ...

    def is_read_only(self, path: Path) -> bool:
        """Is the file system of `path` mounted so that nobody may write?"""
        ...

    def mount_type(self, path: Path) -> str:
        """Type of the file system that holds `path`, such as `ext4`; empty if unknown."""
        ...


_FLAGS: Final[dict[How, int]] = {
    "read": os.O_RDONLY,
    "write": os.O_RDWR,
    "create": os.O_RDWR | os.O_CREAT | os.O_EXCL,
    "lock": os.O_RDWR | os.O_CREAT,
    "directory": os.O_RDONLY | os.O_DIRECTORY,
}
_KINDS: Final[dict[int, Kind]] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
}


class RealFileSystem:
    """The operating system's files, created with mode 0600 and directories with 0700."""

    def open(self, path: Path, how: How) -> int:
        """Open with `O_NOFOLLOW | O_CLOEXEC`; a created file has mode 0600 whatever the umask."""
        fd = os.open(path, _FLAGS[how] | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        if how == "create":
            os.fchmod(fd, 0o600)  # The umask may have removed bits that the owner needs.
        return fd

    def close(self, fd: int) -> None:
        """close(2)."""
        os.close(fd)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """pread(2)."""
        return os.pread(fd, size, offset)

    def pwrite(self, fd: int, data: Buffer, offset: int) -> int:
        """pwrite(2)."""
        return os.pwrite(fd, data, offset)

    def sync_data(self, fd: int) -> None:
        """fdatasync(2); on macOS `F_FULLFSYNC`, or fsync(2) on a file system that lacks it."""
        if sys.platform == "darwin":
            # fsync on macOS only hands the data to the drive, which may keep it in its cache.
            try:
                fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            except OSError as failed:
                if failed.errno not in (ENOTSUP, EINVAL, ENOTTY):
                    raise
                os.fsync(fd)
        else:
            os.fdatasync(fd)

    def truncate(self, fd: int, size: int) -> None:
        """ftruncate(2)."""
        os.ftruncate(fd, size)

    def size(self, fd: int) -> int:
        """The size by fstat(2)."""
        return os.fstat(fd).st_size

    def lock(self, fd: int) -> bool:
        """flock(2), so the lock belongs to the descriptor and ends with the process."""
        until = time.monotonic() + LOCK_SECONDS
        while True:
            if _flocked(fd, fcntl.LOCK_EX):
                return True
            if not _flocked(fd, fcntl.LOCK_SH) or time.monotonic() > until:
                return False
            fcntl.flock(fd, fcntl.LOCK_UN)
            time.sleep(_LOCK_PAUSE_SECONDS)

    def lstat(self, path: Path) -> FileInfo | None:
        """lstat(2); sockets, devices and pipes are all `other`."""
        try:
            info = os.lstat(path)
        except FileNotFoundError:
            return None
        kind = _KINDS.get(stat.S_IFMT(info.st_mode), "other")
        mode = stat.S_IMODE(info.st_mode)
        return FileInfo(kind, info.st_size, mode, info.st_uid, info.st_ino)

    def listdir(self, path: Path) -> list[str]:
        """The names in the directory, sorted, `.` and `..` left out."""
        return sorted(entry.name for entry in path.iterdir())

    def mkdir(self, path: Path) -> None:
        """mkdir(2) with mode 0700."""
        path.mkdir(mode=0o700)

    def rmdir(self, path: Path) -> None:
        """rmdir(2)."""
        path.rmdir()

    def rename(self, old: Path, new: Path) -> None:
        """rename(2)."""
        old.replace(new)

    def unlink(self, path: Path) -> None:
        """unlink(2)."""
        path.unlink()

    def sync_dir(self, path: Path) -> None:
        """fsync(2) of the directory itself."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def free_bytes(self, path: Path) -> int:
        """Available blocks by statvfs(2), in bytes."""
        info = os.statvfs(path)
        return info.f_bavail * info.f_frsize

    def is_read_only(self, path: Path) -> bool:
        """`ST_RDONLY` by statvfs(2)."""
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)

    def mount_type(self, path: Path) -> str:
        """See `mounts.mount_type`."""
        return mount_type(path)


def _flocked(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_all(fs: FileSystem, fd: int, data: Buffer, offset: int) -> None:
    """Write all of `data` at `offset`, continuing after short writes."""
    rest = memoryview(data)
    while rest:
        wrote = fs.pwrite(fd, rest, offset)
        if wrote <= 0:
            raise OSError(EIO, "the file system wrote no bytes and reported no error")
        rest, offset = rest[wrote:], offset + wrote


def read_range(fs: FileSystem, fd: int, start: int, stop: int) -> bytes:
    """The bytes from `start` up to `stop`, or up to the end of the file if that comes first."""
    parts = []
    while start < stop:
        part = fs.pread(fd, min(stop - start, CHUNK), start)
        if not part:
            break
        parts.append(part)
        start += len(part)
    return b"".join(parts)


def read_file(fs: FileSystem, path: Path) -> bytes:
    """The contents of a file, up to the size it had when it was opened."""
    fd = fs.open(path, "read")
    try:
        return read_range(fs, fd, 0, fs.size(fd))
    finally:
        fs.close(fd)


def temporary(path: Path) -> Path:
    """The path where a file is written before it gets its name. After a crash it is garbage."""
    return path.with_name(path.name + ".tmp")


def put_file(fs: FileSystem, path: Path, parts: Iterable[Buffer]) -> None:
    """Make `path` hold `parts`, all or nothing, durable when it returns."""
    with putting(fs, path) as add:
        for part in parts:
            add(part)


@contextmanager
def putting(fs: FileSystem, path: Path) -> Iterator[Callable[[Buffer], None]]:
    """Make `path` hold what is added, all or nothing, durable at the end.

    It is written to a temporary file beside it, which is synced and renamed over `path`; then the
    directory is synced. A failure leaves at most the temporary file, which is removed if possible.
    """
    beside = temporary(path)
    if fs.lstat(beside) is not None:  # Left by an earlier failure: there is one writer at a time.
        fs.unlink(beside)
    try:
        fd = fs.open(beside, "create")
        try:
            offset = 0

            def add(part: Buffer) -> None:
                nonlocal offset
                write_all(fs, fd, part, offset)
                offset += memoryview(part).nbytes

            yield add
            fs.sync_data(fd)
        finally:
            fs.close(fd)
        fs.rename(beside, path)
    except Exception:
        with suppress(OSError):
            fs.unlink(beside)
        raise
    fs.sync_dir(path.parent)
