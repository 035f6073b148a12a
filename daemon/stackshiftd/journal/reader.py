"""Reads entries by sequence number or by place, while the writer appends.

Owns the way from a place to an entry. Never reads beyond the given end, so that no reader sees what
is not durable, and keeps no file open between calls. A segment that was trimmed meanwhile is not an
error: its entries are no longer kept.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import accumulate, chain, dropwhile
from pathlib import Path
from typing import Final, NamedTuple

from stackshift_jobs.errors import JournalDamaged
from stackshiftd.core.records import Entry
from stackshiftd.journal import line_blocks
from stackshiftd.journal.filesystem import CHUNK, FileSystem
from stackshiftd.journal.interface import Place
from stackshiftd.journal.line_format import decode

_SEQ: Final = re.compile(rb'\{"crc":"[0-9a-f]{8}","seq":([0-9]{1,19}),')
_GUESS: Final = 4096
"""Bytes read first for a single line; most lines are shorter."""
_NEAR: Final = 1 << 16
"""The binary search ends when no more than this many bytes are left to scan."""
_FIRST_BLOCK: Final = 8
"""Lines of the first block; each later one has twice as many, up to `line_blocks.BLOCK`."""

Placed = Iterator[tuple[Place, Entry]]
"""Entries of a block, with their places."""


class SegmentSpan(NamedTuple):
    """A segment as readers need it. Its lines begin at the place `base` + `header_size`."""

    path: Path
    first_seq: int
    base: Place
    header_size: int


def read(
    fs: FileSystem, spans: Sequence[SegmentSpan], from_seq: int, end: Place
) -> Iterator[tuple[Place, Entry]]:
    """The entries from `from_seq` on whose lines are before the place `end`."""
    found = chain.from_iterable(_blocks_from(fs, spans, from_seq, end))
    return dropwhile(lambda placed: placed[1].seq < from_seq, found)


def _blocks_from(
    fs: FileSystem, spans: Sequence[SegmentSpan], from_seq: int, end: Place
) -> Iterator[Placed]:
    at = max(0, bisect_right(spans, from_seq, key=lambda span: span.first_seq) - 1)
    for number in range(at, len(spans)):
        span = spans[number]
        stop = min(end, spans[number + 1].base) if number + 1 < len(spans) else end
        yield from _read_span(fs, span, from_seq, stop)


def read_from(
    fs: FileSystem, spans: Sequence[SegmentSpan], start: Place, end: Place
) -> Iterator[tuple[Place, Entry]]:
    """The entries whose lines are between the places `start` (a line's or segment's) and `end`."""
    at = max(0, bisect_right(spans, start, key=lambda span: span.base) - 1)
    for number in range(at, len(spans)):
        span = spans[number]
        stop = min(end, spans[number + 1].base) if number + 1 < len(spans) else end
        first = max(start - span.base, span.header_size)
        with suppress(FileNotFoundError):
            fd = fs.open(span.path, "read")
            try:
                yield from chain.from_iterable(_blocks(fs, fd, span, first, stop - span.base))
            finally:
                fs.close(fd)


def _read_span(fs: FileSystem, span: SegmentSpan, from_seq: int, stop: Place) -> Iterator[Placed]:
    try:
        fd = fs.open(span.path, "read")
    except FileNotFoundError:
        return
    try:
        size = stop - span.base
        start = _near(fs, fd, span, from_seq, size) if from_seq > span.first_seq else 0
        yield from _blocks(fs, fd, span, max(start, span.header_size), size)
    finally:
        fs.close(fd)


def _blocks(fs: FileSystem, fd: int, span: SegmentSpan, start: int, stop: int) -> Iterator[Placed]:
    """The entries between two offsets of one file, a block of lines at a time. The first blocks are
    small, for whoever wants the first entries only."""
    at = start
    rest = b""
    most = _FIRST_BLOCK
    while start < stop:
        chunk = fs.pread(fd, min(CHUNK, stop - start), start)
        if not chunk:
            raise _damaged(span, at, None)
        start += len(chunk)
        *lines, rest = (rest + chunk).split(b"\n") if rest else chunk.split(b"\n")
        first = 0
        while first < len(lines):
            block = lines[first : first + most]
            places = list(accumulate([len(line) + 1 for line in block], initial=span.base + at))
            entries = line_blocks.decode(block)
            if entries is None:
                yield _one_by_one(span, block, places)
            else:
                yield zip(places, entries, strict=False)
            first += most
            at = places[-1] - span.base
            most = min(most * 2, line_blocks.BLOCK)
    if rest:
        raise _damaged(span, at, None)


def _one_by_one(span: SegmentSpan, lines: Sequence[bytes], places: Sequence[Place]) -> Placed:
    """The entries in `lines` up to the first that is not good."""
    for line, place in zip(lines, places, strict=False):
        try:
            entry = decode(line)
        except JournalDamaged as bad:
            raise _damaged(span, place - span.base, bad) from bad
        yield place, entry


def search(
    fs: FileSystem, spans: Sequence[SegmentSpan], words: Sequence[bytes], end: Place
) -> Iterator[tuple[Place, Entry] | None]:
    """The entries before the place `end` whose lines contain all `words`, newest first. None is
    yielded after each chunk of a file that was searched."""
    for number in range(len(spans) - 1, -1, -1):
        span = spans[number]
        stop = min(end, spans[number + 1].base) if number + 1 < len(spans) else end
        fd = _open_if_kept(fs, span.path)
        if fd is None:
            continue
        try:
            yield from _search_span(fs, fd, span, words, stop - span.base)
        finally:
            fs.close(fd)


def _search_span(
    fs: FileSystem, fd: int, span: SegmentSpan, words: Sequence[bytes], stop: int
) -> Iterator[tuple[Place, Entry] | None]:
    """Search backwards, a chunk at a time. When a chunk begins inside a line, that line is searched
    with the chunk before it."""
    rest = b""
    while stop > span.header_size:
        start = max(span.header_size, stop - CHUNK)
        part = _all_of(fs, fd, span, start, stop) + rest
        first = part.find(b"\n") + 1 if start > span.header_size else 0
        if start > span.header_size and not first:
            stop, rest = start, part
            continue
        rest = part[:first]
        for line, offset in _lines_with(part, words[-1], first):
            if all(word in line for word in words):
                try:
                    yield span.base + start + offset, decode(line)
                except JournalDamaged as bad:
                    raise _damaged(span, start + offset, bad) from bad
        stop = start
        yield None


def _all_of(fs: FileSystem, fd: int, span: SegmentSpan, start: int, stop: int) -> bytes:
    parts: list[bytes] = []
    while start < stop:
        parts.append(fs.pread(fd, stop - start, start))
        if not parts[-1]:
            raise _damaged(span, start, None)
        start += len(parts[-1])
    return b"".join(parts)


def _lines_with(part: bytes, word: bytes, first: int) -> Iterator[tuple[bytes, int]]:
    """The lines of `part` from `first` on that contain `word`, the last one first, with their
    offsets."""
    before = len(part)
    while (found := part.rfind(word, first, before)) >= 0:
        begin = max(part.rfind(b"\n", first, found) + 1, first)
        finish = part.find(b"\n", found)
        yield part[begin : finish if finish >= 0 else len(part)], begin
        before = begin


def _near(fs: FileSystem, fd: int, span: SegmentSpan, target: int, stop: int) -> int:
    """The offset of the line of record `target`, or of a line not far before it.

    A binary search over bytes: lines are in order of their sequence numbers, and each begins after
    a newline, which never occurs inside a line.
    """
    low, high = span.header_size, stop
    while high - low > _NEAR:
        middle = (low + high) // 2
        line = _next_line(fs, fd, middle, high)
        if line is None:
            high = middle
            continue
        found = _SEQ.match(fs.pread(fd, 64, line))
        if found is None:
            raise _damaged(span, line, None)
        if int(found[1]) <= target:
            low = line
        else:
            high = middle
    return low


def _next_line(fs: FileSystem, fd: int, offset: int, stop: int) -> int | None:
    """The offset of the first line that begins after `offset`, if that is before `stop`."""
    while offset < stop:
        chunk = fs.pread(fd, min(_NEAR, stop - offset), offset)
        if not chunk:
            return None
        newline = chunk.find(b"\n")
        if newline >= 0:
            line = offset + newline + 1
            return line if line < stop else None
        offset += len(chunk)
    return None


def fetch(
    fs: FileSystem, spans: Sequence[SegmentSpan], places: Sequence[Place], end: Place
) -> list[Entry]:
    """The entries at `places` (all before `end`) that are still kept, in the order of `places`."""
    entries: list[Entry] = []
    opened: dict[Path, int | None] = {}
    try:
        for place in places:
            at = bisect_right(spans, place, key=lambda span: span.base) - 1
            if at < 0:
                continue
            span = spans[at]
            if span.path not in opened:
                opened[span.path] = _open_if_kept(fs, span.path)
            fd = opened[span.path]
            if fd is not None:
                stop = min(end, spans[at + 1].base) if at + 1 < len(spans) else end
                entries.append(_entry_at(fs, fd, span, place - span.base, stop - span.base))
    finally:
        for fd in opened.values():
            if fd is not None:
                fs.close(fd)
    return entries


def _open_if_kept(fs: FileSystem, path: Path) -> int | None:
    try:
        return fs.open(path, "read")
    except FileNotFoundError:
        return None


def _entry_at(fs: FileSystem, fd: int, span: SegmentSpan, offset: int, stop: int) -> Entry:
    line, want = b"", _GUESS
    while (newline := line.find(b"\n")) < 0:
        more = fs.pread(fd, min(want, stop - offset - len(line)), offset + len(line))
        if not more:
            raise _damaged(span, offset, None)
        line, want = line + more, want * 4
    try:
        return decode(line[:newline])
    except JournalDamaged as bad:
        raise _damaged(span, offset, bad) from bad


def _damaged(span: SegmentSpan, offset: int, cause: JournalDamaged | None) -> JournalDamaged:
    why = cause.message if cause else "there is no complete line"
    return JournalDamaged(
        f"{span.path.name} at byte {offset}: {why}",
        hint="stackshift journal verify",
        file=str(span.path),
        offset=offset,
        seq=cause.fields.get("seq", 0) if cause else 0,
    )
