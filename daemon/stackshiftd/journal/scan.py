"""What a segment's bytes contain: how far they are good, and what must have been on disk.

Pure: bytes in, findings out; knows no files and decides nothing. Recovery, `verify` and `repair`
all use the same scan, so that none of them can trust a record that another would drop.

- The good prefix is the longest run of whole appends, in sequence, from the header on.
- The watermark is the highest that any intact line carries, wherever that line is: it may follow a
  hole, or be glued to garbage before it. It is a lower bound of what was on disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from stackshiftd.core.records import JournalClosed, JournalRecovered
from stackshiftd.journal import line_blocks
from stackshiftd.journal.line_blocks import LineHead
from stackshiftd.journal.line_format import PREFIX, Head, decode, is_header, is_intact
from stackshiftd.journal.line_format import head as head_of

RECOVERED: Final = str(JournalRecovered.__struct_config__.tag)
STRAY_HEADER: Final = "the header of a segment is in the middle of it"
_PART: Final = 1 << 18
"""Bytes that are cut into lines at a time."""
CLOSED: Final = str(JournalClosed.__struct_config__.tag)


@dataclass(frozen=True, slots=True)
class Fault:
    """Where the good prefix ends before the bytes do, and why. `seq` is the record expected
    there."""

    offset: int
    seq: int
    why: str


@dataclass(slots=True)
class Scan:
    """Findings about one segment. Offsets are relative to its file."""

    size: int
    """Bytes in the file."""
    end: int
    """End of the good prefix."""
    seq: int
    """Last record of the good prefix; `prev_seq` of the header if it has none."""
    watermark: int
    """Highest record known to be durable. At least `prev_seq`: a segment is created only when all
    records before it are durable."""
    last_at: int = 0
    """Offset of the last line of the good prefix; 0 if there is none."""
    last: Head | None = None
    """Head of that line."""
    fault: Fault | None = None
    beyond: list[int] = field(default_factory=list)
    """Sequence numbers of intact lines beyond the good prefix."""
    reported: list[str] = field(default_factory=list)
    """Quarantine files that `journal.recovered` records of the good prefix name."""

    @property
    def closed(self) -> bool:
        """True if the segment is intact and ends with the record of an orderly stop."""
        return self.fault is None and self.last is not None and self.last.kind == CLOSED

    @property
    def at_us(self) -> int | None:
        """Time of the last record of the good prefix; None if it has none."""
        return None if self.last is None else self.last.at_us


def scan(data: bytes, start: int, prev_seq: int) -> Scan:
    """Findings about a segment `data`, whose lines begin at `start` with record `prev_seq` + 1.

    Raises `NewerFormat` for an intact record of an unknown kind or version, wherever it is.
    """
    found = Scan(size=len(data), end=start, seq=prev_seq, watermark=prev_seq)
    walk = _Walk(found, prev_seq + 1)
    at = _good_blocks(walk, data, start)
    while at < len(data):
        newline = data.find(b"\n", at)
        stop = len(data) if newline < 0 else newline
        line = head_of(data, at, stop)
        if line is None:
            stray = is_header(data, at, stop)
            walk.fail(at, STRAY_HEADER if stray else "a line is damaged or cut short")
            for inner in _glued(data, at, stop):
                found.beyond.append(inner.seq)
                found.watermark = max(found.watermark, inner.watermark)
        else:
            found.watermark = max(found.watermark, line.watermark)
            if newline < 0:
                walk.fail(at, "the last line has no newline")
            if found.fault is not None or not walk.step(line, at, stop + 1, data):
                found.beyond.append(line.seq)
        at = stop + 1
    if found.fault is None and found.end < len(data):
        # All lines are whole, but the last append has more parts than there are lines.
        walk.fail(found.end, "the last append is incomplete")
    return found


def _good_blocks(walk: _Walk, data: bytes, start: int) -> int:
    """Accept blocks of lines as long as nothing is wrong with any line of them; returns where the
    first other block begins, whose lines have to be looked at one by one."""
    at = start
    while at < len(data):
        stop = data.rfind(b"\n", at, at + _PART)
        if stop < 0 and (stop := data.find(b"\n", at)) < 0:
            break
        lines = data[at:stop].split(b"\n")
        for first in range(0, len(lines), line_blocks.BLOCK):
            block = lines[first : first + line_blocks.BLOCK]
            heads = line_blocks.heads(block)
            if heads is None or not walk.step_over(heads, block, at, data):
                return at
            at += sum(map(len, block)) + len(block)
    return at


class _Walk:
    """Follows the sequence and the parts of appends through intact lines."""

    def __init__(self, found: Scan, expected: int) -> None:
        self._found = found
        self._expected = expected
        self._open: tuple[int, int] | None = None
        self._pending: list[str] = []

    def fail(self, offset: int, why: str) -> None:
        """End the good prefix at `offset`; only the first reason counts."""
        if self._found.fault is None:
            self._found.fault = Fault(offset, self._expected, why)

    def step(self, line: Head, at: int, after: int, data: bytes) -> bool:
        """Accept the intact line at `at` if it is the expected next one; false if it is not."""
        if line.seq != self._expected:
            self.fail(at, f"record {line.seq} is where record {self._expected} should be")
            return False
        if (line.part, line.parts) != self._due(line.parts) or line.watermark >= line.seq:
            self.fail(at, f"record {line.seq} does not continue the append before it")
            return False
        self._expected += 1
        if line.kind == RECOVERED:
            self._note_quarantine(data[at:after])
        self._open = (line.part, line.parts) if line.part < line.parts else None
        if self._open is None:
            found = self._found
            found.seq, found.end, found.last_at, found.last = line.seq, after, at, line
            if self._pending:
                found.reported += self._pending
                self._pending = []
        return True

    def step_over(
        self, heads: Sequence[LineHead], lines: Sequence[bytes], start: int, data: bytes
    ) -> bool:
        """Accept the intact `lines`, of which the first is at `start`, if `step` would accept each
        of them; else nothing is changed."""
        expected, open_ = self._expected, self._open
        whole = 0
        reports: list[int] = []
        for number, head in enumerate(heads):
            part, parts = head.part
            continues = part == 1 if open_ is None else (part, parts) == (open_[0] + 1, open_[1])
            if head.seq != expected or head.wm >= expected or not continues or part > parts:
                return False
            expected += 1
            if part < parts:
                open_ = head.part
            else:
                open_, whole = None, number + 1
            if head.kind == RECOVERED:
                reports.append(number)
        self._expected, self._open = expected, open_
        found = self._found
        found.watermark = max(found.watermark, max(head.wm for head in heads))
        for number in reports:
            self._note_quarantine(lines[number])
        if whole:
            end = start + sum(map(len, lines[:whole])) + whole
            begin = end - 1 - len(lines[whole - 1])
            found.seq, found.end, found.last_at = heads[whole - 1].seq, end, begin
            found.last = head_of(data, begin, end - 1)
            found.reported += self._pending
            self._pending = []
        return True

    def _due(self, parts: int) -> tuple[int, int]:
        return (1, parts) if self._open is None else (self._open[0] + 1, self._open[1])

    def _note_quarantine(self, line: bytes) -> None:
        record = decode(line).record
        if isinstance(record, JournalRecovered):
            self._pending += record.quarantine.split(", ")


def _glued(data: bytes, start: int, stop: int) -> Iterator[Head]:
    """The head of a whole line that ends at `stop` but has garbage before it.

    A hole that swallowed a newline leaves the next line glued to it. A payload may itself contain
    what looks like a line, even with a matching crc; but then at least one brace of the record
    around it follows, so that the rest up to `stop` is not valid JSON.
    """
    at = data.find(PREFIX, start + 1, stop)
    while at >= 0:
        if is_intact(data, at, stop) and _is_json(data[at:stop]):
            found = head_of(data, at, stop)
            if found is not None:
                yield found
            return
        at = data.find(PREFIX, at + 1, stop)


def _is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError:
        return False
    return True


def known_durable(found: Scan, elsewhere: int) -> int:
    """The highest record that was certainly on disk: by the scanned lines, or as known from
    `elsewhere` (a snapshot covers it)."""
    return max(found.watermark, elsewhere)
