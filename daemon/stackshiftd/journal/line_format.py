r"""One line of the journal: its layout, written and read.

    {"crc":"a8f20a16","seq":17,"at":"2026-11-22T06:57:11.123456Z","wm":15,"part":[1,2],"kind":…}\n

Owns the layout of a line; knows no files. The order of the keys is fixed, so that a line can be
found, checked and placed without parsing its JSON. It is valid JSON all the same, for `jq` and for
people.

- `crc` is crc32, eight lower-case hex digits, over the bytes after `{"crc":"xxxxxxxx",` up to the
  newline: a line is checked before anything in it is trusted.
- `wm`, the watermark, is the highest sequence number known to be on disk when the line was written.
- `part` is present in appends of several records: number and count, from 1.
- `v` is present for kinds whose version is greater than 1.
- Then follows the record's own JSON, `kind` first. All of it is ASCII and contains no newline.
"""

from __future__ import annotations

import codecs
import re
from binascii import crc32
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

import msgspec

from stackshift_jobs.errors import JournalDamaged, NewerFormat
from stackshift_jobs.values.durations import rfc3339, to_us
from stackshiftd.core.records import (
    NEWER_HINT,
    VERSIONS,
    Entry,
    check_version,
    decode_record,
    version_mark,
)

PREFIX: Final = b'{"crc":"'
CHECKED_FROM: Final = len(PREFIX) + len('xxxxxxxx",')
"""Offset in a line of the first byte that its crc covers."""

_HEADER: Final = b'"format":'
_LAYOUT: Final = re.compile(
    rb'"seq":([1-9][0-9]{0,18}),'
    rb'"at":"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})\.([0-9]{6})Z",'
    rb'"wm":(0|[1-9][0-9]{0,18}),'
    rb'(?:"part":\[([1-9][0-9]{0,8}),([1-9][0-9]{0,8})\],)?'
    rb'(?:"v":([1-9][0-9]{0,8}),)?'
    rb'(?="kind":"([^"\\]{1,64})")'
)
_LINE: Final = re.compile(rb'\{"crc":"([0-9a-f]{8})",' + _LAYOUT.pattern)
_KINDS: Final = frozenset(kind.encode("ascii") for kind in VERSIONS)
_encode_record: Final = msgspec.json.Encoder().encode


class Head(NamedTuple):
    """Everything in a line but its record. `body` is the offset in the buffer where the record's
    JSON begins, after its opening brace."""

    seq: int
    second: bytes
    micros: int
    watermark: int
    part: int
    parts: int
    kind: str
    body: int

    @property
    def at_us(self) -> int:
        """The record's time in microseconds since 1970."""
        return second_us(self.second) + self.micros


def sealed(checked: bytes) -> bytes:
    """The whole line, with its newline, whose bytes after the crc are `checked`."""
    return b'{"crc":"%08x",%b\n' % (crc32(checked), checked)


def is_intact(buffer: bytes, start: int, stop: int) -> bool:
    """True if the line from `start` up to `stop`, without its newline, matches its crc."""
    inside = start + CHECKED_FROM
    return (
        stop > inside
        and buffer.startswith(PREFIX, start)
        and buffer[inside - 2 : inside] == b'",'
        and b"%08x" % crc32(memoryview(buffer)[inside:stop]) == buffer[start + 8 : inside - 2]
    )


def is_header(buffer: bytes, start: int, stop: int) -> bool:
    """True if the line is intact, and is the header of a segment: not a record, whatever wrote
    it."""
    return buffer.startswith(_HEADER, start + CHECKED_FROM) and is_intact(buffer, start, stop)


def head(buffer: bytes, start: int, stop: int) -> Head | None:
    """The head of the line at `start`, or None if there is no intact record.

    Raises `NewerFormat` if the line is intact but has an unknown layout, kind or version.
    """
    if not is_intact(buffer, start, stop):
        return None
    found = _LAYOUT.match(buffer, start + CHECKED_FROM, stop)
    if found is None:
        if buffer.startswith(_HEADER, start + CHECKED_FROM):
            return None
        raise _newer()
    seq, second, micros, watermark, part, parts, version, kind = found.groups()
    name = kind.decode("ascii", "replace")
    if version is not None or name not in VERSIONS:
        check_version(name, int(version or 1), int(seq))
    append = int(part or 1), int(parts or 1)
    return Head(int(seq), second, int(micros), int(watermark), *append, name, found.end())


def _newer() -> NewerFormat:
    return NewerFormat("the journal was written by a newer stackshift", hint=NEWER_HINT)


def decode(line: bytes) -> Entry:
    """The entry in `line`, which may end with its newline.

    `Raw` fields of the record are views that keep one copy of this line alive, and nothing larger.
    To keep a small `Raw` of a large line for long, take `.copy()` of it.

    Raises `NewerFormat`, and `JournalDamaged` (without a place) for a line that is not intact.
    """
    text = line[:-1] if line.endswith(b"\n") else line
    found = _LINE.match(text)
    if found is None or int(found[1], 16) != crc32(memoryview(text)[CHECKED_FROM:]):
        raise _no_record(text)
    number, second, micros, version, kind = found.group(2, 3, 4, 8, 9)
    seq = int(number)
    if version is not None or kind not in _KINDS:
        check_version(kind.decode("ascii", "replace"), int(version or 1), seq)
    try:
        record = decode_record(b"{" + text[found.end() :], seq)
    except msgspec.DecodeError as bad:
        raise JournalDamaged(
            f"record {seq} matches its crc, but is not a valid {kind.decode()} record: {bad}",
            seq=seq,
        ) from bad
    return Entry(seq, second_us(second) + int(micros), record)


def _no_record(line: bytes) -> JournalDamaged | NewerFormat:
    """Why there is no record in `line`."""
    if not is_intact(line, 0, len(line)) or line.startswith(_HEADER, CHECKED_FROM):
        return JournalDamaged("a line of the journal does not match its crc")
    return _newer()


def encode_group(group: Sequence[Entry], watermark: int) -> list[bytes]:
    """The lines of one atomic append, in order.

    `watermark` is the highest sequence number known to be on disk.
    """
    count = len(group)
    if count == 1:
        return [encode_single(group[0], watermark)]
    return [
        encode_single(entry, watermark, b'"part":[%d,%d],' % (number, count))
        for number, entry in enumerate(group, 1)
    ]


def encode_single(entry: Entry, watermark: int, part: bytes = b"") -> bytes:
    """The line of one record; `part` is its `part` key, empty in an append of one record."""
    body = _encode_record(entry.record)
    if not body.isascii():
        body = body.decode("utf-8").encode("ascii", _ESCAPE)
    if b"\n" in body:
        # In strings a newline is escaped, so this one is white space in a `Raw` from outside.
        body = body.replace(b"\n", b" ")
    seconds, micros = divmod(entry.at_us, 1_000_000)
    checked = b'"seq":%d,"at":"%b.%06dZ","wm":%d,%b%b%b' % (
        entry.seq,
        _second_text(seconds),
        micros,
        watermark,
        part,
        _mark(body),
        body[1:],
    )
    return b'{"crc":"%08x",%b\n' % (crc32(checked), checked)


def _version_mark(body: bytes) -> bytes:
    """The `v` key for the record `{"kind":"…`; empty for version 1."""
    return version_mark(body[9 : body.index(b'"', 9)].decode("ascii"))


def _no_mark(_body: bytes) -> bytes:
    return b""


_mark: Final = _version_mark if set(VERSIONS.values()) != {1} else _no_mark


def text_in_line(text: str) -> bytes:
    """`text` as it is written in a line, with its quotes: what a search for it looks for."""
    return _encode_record(text).decode("utf-8").encode("ascii", _ESCAPE)


def _as_json_escapes(bad: UnicodeError) -> tuple[str, int]:
    r"""Characters beyond ASCII as `\uXXXX`, in surrogate pairs above 16 bits. In JSON they occur
    only inside strings, so the escape means the same."""
    if not isinstance(bad, UnicodeEncodeError):
        raise bad
    units = bad.object[bad.start : bad.end].encode("utf-16-be")
    text = "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
    return text, bad.end


_ESCAPE: Final = "stackshift-json-escape"
codecs.register_error(_ESCAPE, _as_json_escapes)


# Lines are in order of time, so thousands in a row share their second. Each direction caches the
# last one as a pair that is replaced whole, which makes it safe to share between threads.
_last_text: tuple[int, bytes] = (-1, b"")
_last_us: tuple[bytes, int] = (b"", 0)


def _second_text(seconds: int) -> bytes:
    """A whole second since 1970 as `2026-11-22T06:57:11`."""
    global _last_text
    known = _last_text
    if known[0] != seconds:
        known = _last_text = (seconds, rfc3339(seconds * 1_000_000)[:19].encode("ascii"))
    return known[1]


def second_us(text: bytes) -> int:
    """The inverse of `_second_text`, in microseconds."""
    global _last_us
    known = _last_us
    if known[0] != text:
        try:
            when = datetime.fromisoformat(text.decode("ascii")).replace(tzinfo=UTC)
        except ValueError as bad:
            raise JournalDamaged(f"{text!r} in the journal is not a time") from bad
        known = _last_us = (text, to_us(when))
    return known[1]
