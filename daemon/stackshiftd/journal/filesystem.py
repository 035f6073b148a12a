"""The few file operations that the journal stands on, as a contract, and the real ones.

Owns every call into the operating system that touches the data directory. Must never hold a
decision of the journal: no retries, no names, no recovery. All else in this package goes through
a `FileSystem`, so that a test can fail, shorten or cut off any single call.

Descriptors are plain integers. Errors are `OSError`, as the operating system gave them.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys
from collections.abc import Iterable
from contextlib import suppress
from errno import EDQUOT, EINVAL, EIO, ENOSPC, ENOTSUP, ENOTTY
from pathlib import Path
from typing import Final, Literal, NamedTuple, Protocol

from stackshiftd.journal.mounts import mount_type

How = Literal["read", "write", "create", "lock"]
"""`read` and `write`: it must exist. `create`: it must not. `lock`: made if absent. No symbolic
link is followed in the last place of the path."""

Buffer = bytes | bytearray | memoryview
NO_SPACE: Final = frozenset((ENOSPC, EDQUOT))
CHUNK: Final = 1 << 20
"""Bytes read at a time where a file is read from end to end."""


Kind = Literal["file", "directory", "link", "other"]


class FileInfo(NamedTuple):
    """What `lstat` tells: `mode` holds the permission bits only."""

    kind: Kind
    size: int
    mode: int
    uid: int


class FileSystem(Protocol):
    """File operations; each is one call of the operating system, and may fail."""

    def open(self, path: Path, how: How) -> int: ...
    def close(self, fd: int) -> None: ...
    def pread(self, fd: int, size: int, offset: int) -> bytes: ...

    def pwrite(self, fd: int, data: Buffer, offset: int) -> int:
        """Write at `offset`; may write less than asked and returns how much."""
        ...

    def sync_data(self, fd: int) -> None:
        """Contents and size reach the disk itself, not only its cache."""
        ...

    def truncate(self, fd: int, size: int) -> None: ...
    def size(self, fd: int) -> int: ...

    def lock(self, fd: int) -> bool:
        """Take the exclusive lock of the file without waiting; false if another has it."""
        ...

    def lstat(self, path: Path) -> FileInfo | None:
        """None where there is nothing at `path`."""
        ...

    def listdir(self, path: Path) -> list[str]: ...
    def mkdir(self, path: Path) -> None: ...
    def rmdir(self, path: Path) -> None: ...
    def rename(self, old: Path, new: Path) -> None: ...
    def unlink(self, path: Path) -> None: ...

    def sync_dir(self, path: Path) -> None:
        """Names made, changed and removed in the directory reach the disk."""
        ...

    def free_bytes(self, path: Path) -> int:
        """Bytes that an unprivileged writer may still use there."""
        ...

    def mount_type(self, path: Path) -> str:
        """Type of the file system that holds `path`, such as `ext4`; empty if not known."""
        ...


_FLAGS: Final[dict[How, int]] = {
    "read": os.O_RDONLY,
    "write": os.O_RDWR,
    "create": os.O_RDWR | os.O_CREAT | os.O_EXCL,
    "lock": os.O_RDWR | os.O_CREAT,
}
_KINDS: Final[dict[int, Kind]] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
}


class RealFileSystem:
    """The operating system's files. Files are made 0600, directories 0700, whatever the umask."""

    def open(self, path: Path, how: How) -> int:
        fd = os.open(path, _FLAGS[how] | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        if how == "create":
            os.fchmod(fd, 0o600)  # A umask can only take bits away, and may have taken ours.
        return fd

    def close(self, fd: int) -> None:
        os.close(fd)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        return os.pread(fd, size, offset)

    def pwrite(self, fd: int, data: Buffer, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def sync_data(self, fd: int) -> None:
        if sys.platform == "darwin":
            # fsync on macOS hands the data to the drive, which may keep it in its cache.
            try:
                fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            except OSError as failed:
                if failed.errno not in (ENOTSUP, EINVAL, ENOTTY):
                    raise
                os.fsync(fd)
        else:
            os.fdatasync(fd)

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def lock(self, fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def lstat(self, path: Path) -> FileInfo | None:
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return None
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "other")
        return FileInfo(kind, found.st_size, stat.S_IMODE(found.st_mode), found.st_uid)

    def listdir(self, path: Path) -> list[str]:
        return sorted(entry.name for entry in path.iterdir())

    def mkdir(self, path: Path) -> None:
        path.mkdir(mode=0o700)

    def rmdir(self, path: Path) -> None:
        path.rmdir()

    def rename(self, old: Path, new: Path) -> None:
        old.replace(new)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def sync_dir(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def free_bytes(self, path: Path) -> int:
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def mount_type(self, path: Path) -> str:
        return mount_type(path)


def write_all(fs: FileSystem, fd: int, data: Buffer, offset: int) -> None:
    """Write all of `data` at `offset`: short writes are carried on."""
    rest = memoryview(data)
    while rest:
        wrote = fs.pwrite(fd, rest, offset)
        if wrote <= 0:
            raise OSError(EIO, "the file system took no bytes and gave no reason")
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
    """All of a file, as long as it was when it was opened."""
    fd = fs.open(path, "read")
    try:
        return read_range(fs, fd, 0, fs.size(fd))
    finally:
        fs.close(fd)


def temporary(path: Path) -> Path:
    """Where a file is written before it gets its name. Left over by a crash, it is nobody's."""
    return path.with_name(path.name + ".tmp")


def put_file(fs: FileSystem, path: Path, parts: Iterable[Buffer]) -> None:
    """Make `path` hold `parts`, all or nothing, durable when it returns.

    Written beside, synced, renamed over what was there, directory synced. What is left of a
    failure is the temporary file at most, and that is removed where possible.
    """
    beside = temporary(path)
    if fs.lstat(beside) is not None:  # Of an earlier failure; there is one writer at a time.
        fs.unlink(beside)
    try:
        fd = fs.open(beside, "create")
        try:
            offset = 0
            for part in parts:
                write_all(fs, fd, part, offset)
                offset += memoryview(part).nbytes
            fs.sync_data(fd)
        finally:
            fs.close(fd)
        fs.rename(beside, path)
    except OSError:
        with suppress(OSError):
            fs.unlink(beside)
        raise
    fs.sync_dir(path.parent)
