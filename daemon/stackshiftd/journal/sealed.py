"""The end of a journal on a disk that cannot be written: read-only, or full when it was opened.

Stands where `writer.Appender` does. Everything intact is read, nothing is repaired, moved or
created, and every append is refused as on a full disk. When there is room, the journal has to be
opened again, with recovery.

What is only in the cache is not read: a power cut could still undo it. So it is synced first. A
file system that has met an error may refuse even that (ext4 does). Then the journal is read only if
all of it is known to be on the disk, as it is after a stop or a quiet moment. Rejected: to read
what is known, since that may lack what was acknowledged just before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from errno import EROFS
from pathlib import Path

from stackshiftd.journal.filesystem import FileSystem
from stackshiftd.journal.interface import Full, Group, Place, displaced
from stackshiftd.journal.reader import SegmentSpan
from stackshiftd.journal.recovery import Examined, last_time
from stackshiftd.journal.writer import Mark


class SealedEnd:
    """The end of the intact part of the journal that was `examined`. Raises `Full` if it cannot be
    relied on."""

    def __init__(self, fs: FileSystem, examined: Examined) -> None:
        segments = examined.segments
        last = segments[-1]
        self._fs, self._last = fs, last.path
        self._inode = self._inode_now()
        found = examined.found
        self.is_synced = _is_synced(fs, last.path)
        if not self.is_synced and found.seq > examined.durable:
            raise Full(
                f"it is not known whether the records after {examined.durable} in {last.path} are "
                "on the disk: it has met an error, and nothing can be synced",
                hint="unmount it, check it and mount it again",
            )
        self.spans = tuple(
            SegmentSpan(s.path, s.header.first_seq, s.header.base, s.header_size) for s in segments
        )
        self.journal_id = last.header.journal
        self.written = self.durable = Mark(found.seq, last.header.base + found.end)
        at_us = found.at_us
        self.last_at_us = at_us if at_us is not None else last_time(fs, segments[:-1])
        self.in_flight = False
        self.failure: BaseException | None = None
        self.advanced: Callable[[], None] = lambda: None

    async def append(self, _groups: Sequence[Group]) -> Sequence[Place]:
        """Raise `Full`."""
        raise Full("the journal was opened on a disk that cannot be written")

    def check(self) -> None:
        """Raise nothing: no write has failed."""

    @property
    def is_in_place(self) -> bool:
        """Is the last segment where it was opened?"""
        return self._inode is not None and self._inode_now() == self._inode

    def _inode_now(self) -> int | None:
        found = self._fs.lstat(self._last)
        return None if found is None else found.inode

    def check_place(self) -> None:
        """Raise `Displaced` if it is not."""
        if not self.is_in_place:
            raise displaced(self._last.parent.parent)

    def drop_oldest(self) -> None:
        """Never called: nothing is dropped."""
        raise AssertionError("a sealed journal drops nothing")

    def close(self) -> None:
        """Do nothing."""


def _is_synced(fs: FileSystem, path: Path) -> bool:
    """Sync the file at `path`; false if it is on a disk that cannot be written even so far."""
    fd = fs.open(path, "read")
    try:
        fs.sync_data(fd)
    except OSError as refused:
        if refused.errno != EROFS:
            raise
        return False
    finally:
        fs.close(fd)
    return True
