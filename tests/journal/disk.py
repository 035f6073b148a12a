"""A disk in memory that distinguishes what was written from what is on the platter.

The model: a write or a change of names is pending until the file, or the directory, is synced. A
power cut keeps what was synced and, of the rest, whatever the test chooses: nothing, everything, or
random sectors. A failed sync drops pending writes but keeps them readable, as operating systems do.
Any single call can be made to fail, or the power be cut in it.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Literal

from stackshiftd.journal.filesystem import Buffer, FileInfo, How

SECTOR = 64
"""Bytes; few, so that small journals have many sectors."""

Keep = Literal["synced", "all", "random"]


class PowerCut(BaseException):
    """The machine lost power; every later call on this disk raises it too."""


_numbers = itertools.count(1)


@dataclass(eq=False)
class File:
    """A file: what processes read, and what is on the platter."""

    data: bytearray = field(default_factory=bytearray)
    platter: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    """Writes (offset, bytes) and truncations (size, None), in order."""
    inode: int = field(default_factory=_numbers.__next__)


@dataclass(eq=False)
class Folder:
    """A directory: the names that processes see, and those on the platter."""

    names: dict[str, File | Folder] = field(default_factory=dict)
    platter: dict[str, File | Folder] = field(default_factory=dict)
    pending: list[tuple[str, File | Folder | None]] = field(default_factory=list)
    inode: int = field(default_factory=_numbers.__next__)


def apply(target: bytearray, offset: int, data: bytes | None) -> None:
    """Write `data` at `offset`, or truncate to `offset` if it is None."""
    if data is None:
        del target[offset:]
        return
    if len(target) < offset:
        target.extend(bytes(offset - len(target)))
    target[offset : offset + len(data)] = data


class Disk:
    """A `FileSystem`. Only the root directory exists at first."""

    def __init__(self, root: Folder | None = None) -> None:
        self.top = root or Folder()
        self.calls: list[str] = []
        self.fault: Callable[[int, str], int | None] = lambda _number, _name: None
        """From a call's number and name: an errno to fail with, -1 to cut the power, or None."""
        self.room: int | None = None
        """Bytes that may still be written; None means no limit."""
        self.longest_write: int | None = None
        self.mount = "ext4"
        self._open: dict[int, tuple[Path, File]] = {}
        self._folders: dict[int, Folder] = {}
        self._locks: dict[int, File | Folder] = {}
        self._next_fd = 100
        self._dead = False

    # --- For tests -------------------------------------------------------------------------

    def after_power_cut(self, keep: Keep = "synced", seed: int = 0) -> Disk:
        """The disk as the next start finds it after a power cut."""
        random = Random(seed)
        return Disk(_settled(self.top, keep, random))

    def after_kill(self) -> Disk:
        """The disk after the process was killed: nothing in the cache is lost, and nothing more
        has reached the platter."""
        return Disk(self.top)

    def find(self, path: str) -> File:
        """The existing file at `path`."""
        found = self._at(Path("/") / path)
        assert isinstance(found, File), path
        return found

    def put(self, path: str, data: bytes) -> None:
        """Put a file with `data` at `path`, on the platter, replacing what was there."""
        parent = self._folder(Path("/") / Path(path).parent)
        made = File(bytearray(data), bytearray(data))
        parent.names[Path(path).name] = parent.platter[Path(path).name] = made

    def names(self, path: str) -> list[str]:
        """The names in the directory, sorted."""
        return sorted(self._folder(Path("/") / path).names)

    def fail_once(self, number: int, code: int) -> None:
        """Make call `number`, counted from now, fail with the errno `code`; -1 cuts the power."""
        first = len(self.calls)
        self.fault = lambda n, _name: code if n == first + number else None

    # --- The contract ----------------------------------------------------------------------

    def open(self, path: Path, how: How) -> int:
        """Open a file; the name of a created one is pending."""
        self._call("open")
        parent, found = self._folder(path.parent), self._at(path)
        if how == "directory":
            self._next_fd += 1
            self._folders[self._next_fd] = self._folder(path)
            return self._next_fd
        if how == "create" and found is not None:
            raise _error(errno.EEXIST, path)
        if found is None:
            if how in ("read", "write"):
                raise _error(errno.ENOENT, path)
            found = File()
            parent.names[path.name] = found
            parent.pending.append((path.name, found))
        assert isinstance(found, File)
        self._next_fd += 1
        self._open[self._next_fd] = (path, found)
        return self._next_fd

    def close(self, fd: int) -> None:
        """Close the descriptor, even if the call is made to fail."""
        self._locks.pop(fd, None)
        if self._folders.pop(fd, None) is None:
            del self._open[fd]
        self._call("close")

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """Read what processes see."""
        self._call("pread")
        return bytes(self._open[fd][1].data[offset : offset + size])

    def pwrite(self, fd: int, data: Buffer, offset: int) -> int:
        """Write as much as `longest_write` and `room` allow; half of it if made to fail."""
        wanted = bytes(data)
        try:
            self._call("pwrite")
        except (OSError, PowerCut):
            self._write(fd, wanted[: len(wanted) // 2], offset)
            raise
        if self.longest_write is not None:
            wanted = wanted[: self.longest_write]
        path, file = self._open[fd]
        grows = offset + len(wanted) - len(file.data)  # Overwriting takes no room.
        if self.room is not None and grows > 0:
            if self.room == 0:
                raise _error(errno.ENOSPC, path)
            wanted = wanted[: len(wanted) - max(0, grows - self.room)]
            self.room -= min(grows, self.room)
        self._write(fd, wanted, offset)
        return len(wanted)

    def _write(self, fd: int, data: bytes, offset: int) -> None:
        file = self._open[fd][1]
        apply(file.data, offset, data)
        file.pending.append((offset, data))

    def sync_data(self, fd: int) -> None:
        """Apply pending writes to the platter; if made to fail, drop them."""
        file = self._open[fd][1]
        try:
            self._call("sync_data")
        except OSError:
            file.pending.clear()  # The pages are marked clean, but were never written.
            raise
        for offset, data in file.pending:
            apply(file.platter, offset, data)
        file.pending.clear()

    def truncate(self, fd: int, size: int) -> None:
        """Truncate the file, which frees room; pending until the next sync."""
        self._call("truncate")
        file = self._open[fd][1]
        if self.room is not None:
            self.room += max(0, len(file.data) - size)
        apply(file.data, size, None)
        file.pending.append((size, None))

    def size(self, fd: int) -> int:
        """The size that processes see."""
        self._call("size")
        return len(self._open[fd][1].data)

    def lock(self, fd: int) -> bool:
        """Acquire the file's lock; false if another descriptor holds it."""
        self._call("lock")
        locked = self._folders.get(fd) or self._open[fd][1]
        if locked in self._locks.values():
            return False
        self._locks[fd] = locked
        return True

    def lstat(self, path: Path) -> FileInfo | None:
        """What processes see at `path`: private files and directories of this user."""
        self._call("lstat")
        found = self._at(path)
        if found is None:
            return None
        if isinstance(found, Folder):
            return FileInfo("directory", 0, 0o700, os.geteuid(), found.inode)
        return FileInfo("file", len(found.data), 0o600, os.geteuid(), found.inode)

    def listdir(self, path: Path) -> list[str]:
        """The names that processes see, sorted."""
        self._call("listdir")
        return sorted(self._folder(path).names)

    def mkdir(self, path: Path) -> None:
        """Create a directory; its name is pending."""
        self._call("mkdir")
        self._set(path, Folder())

    def rmdir(self, path: Path) -> None:
        """Remove an empty directory; the removal is pending."""
        self._call("rmdir")
        if self._folder(path).names:
            raise _error(errno.ENOTEMPTY, path)
        self._set(path, None)

    def rename(self, old: Path, new: Path) -> None:
        """Rename a file or directory; the new name and the removal are pending separately."""
        self._call("rename")
        found = self._at(old)
        if found is None:
            raise _error(errno.ENOENT, old)
        self._set(new, found)
        self._set(old, None)

    def unlink(self, path: Path) -> None:
        """Remove a file's name; the removal is pending."""
        self._call("unlink")
        if not isinstance(self._at(path), File):
            raise _error(errno.ENOENT, path)
        self._set(path, None)

    def sync_dir(self, path: Path) -> None:
        """Make all names in the directory durable."""
        self._call("sync_dir")
        folder = self._folder(path)
        folder.platter = dict(folder.names)
        folder.pending.clear()

    def is_read_only(self, _path: Path) -> bool:
        """It never is."""
        return False

    def free_bytes(self, _path: Path) -> int:
        """The `room`, or very much if there is no limit."""
        self._call("free_bytes")
        return 1 << 40 if self.room is None else self.room

    def mount_type(self, _path: Path) -> str:
        """The `mount` that the test has set."""
        self._call("mount_type")
        return self.mount

    # --- Inside ----------------------------------------------------------------------------

    def _call(self, name: str) -> None:
        if self._dead:
            raise PowerCut
        number = len(self.calls)
        self.calls.append(name)
        code = self.fault(number, name)
        if code == -1:
            self._dead = True
            raise PowerCut
        if code is not None:
            raise OSError(code, os.strerror(code), name)

    def _at(self, path: Path) -> File | Folder | None:
        found: File | Folder | None = self.top
        for part in path.parts[1:]:
            if not isinstance(found, Folder):
                return None
            found = found.names.get(part)
        return found

    def _folder(self, path: Path) -> Folder:
        found = self._at(path)
        if not isinstance(found, Folder):
            raise _error(errno.ENOENT, path)
        return found

    def _set(self, path: Path, what: File | Folder | None) -> None:
        parent = self._folder(path.parent)
        if what is None:
            del parent.names[path.name]
        else:
            parent.names[path.name] = what
        parent.pending.append((path.name, what))


def _error(code: int, path: Path) -> OSError:
    return OSError(code, os.strerror(code), str(path))


def _settled(folder: Folder, keep: Keep, random: Random) -> Folder:
    """What of a folder, and of all in it, a power cut leaves."""
    names = dict(folder.platter)
    # Changes of names reach the disk in order, so some number of the first ones has.
    total = len(folder.pending)
    count = {"synced": 0, "all": total}.get(keep, random.randint(0, total))
    for name, what in folder.pending[:count]:
        if what is None:
            names.pop(name, None)
        else:
            names[name] = what
    kept: dict[str, File | Folder] = {}
    for name, what in names.items():
        if isinstance(what, Folder):
            kept[name] = _settled(what, keep, random)
        else:
            data = _settled_data(what, keep, random)
            kept[name] = File(bytearray(data), bytearray(data))
    return Folder(kept, dict(kept))


def _settled_data(file: File, keep: Keep, random: Random) -> bytearray:
    data = bytearray(file.platter)
    if keep == "all":
        return bytearray(file.data)
    if keep == "random":
        for offset, written in file.pending:
            if written is None:
                if random.random() < 0.5:
                    apply(data, offset, None)
                continue
            for at in range(0, len(written), SECTOR):
                if random.random() < 0.5:
                    apply(data, offset + at, written[at : at + SECTOR])
    return data
