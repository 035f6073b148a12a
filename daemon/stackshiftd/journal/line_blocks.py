r"""Many lines of the journal at once: what `line_format` says of each, at a third of the time.

    {"crc":"a8f20a16","seq":17,"at":"2026-11-22T06:57:11.123456Z","wm":15⏐,"kind":"step.completed",…}
                                                                     head⏐body

Owns no rule of its own. A block is cut into heads and bodies, and each of these is decoded by one
call for all of its lines; so is every line checked against its crc. If anything at all about a
block is not as the writer writes it, nothing of it is believed, and the answer is None: then each
line is read by itself, and `line_format` says what is wrong with which. A test holds the two to the
same answers. A line with a `v` is always read by itself.
"""

from __future__ import annotations

import re
import struct
from binascii import crc32
from collections.abc import Sequence
from typing import Final

import msgspec

from stackshift_jobs.errors import JournalDamaged
from stackshiftd.core.records import VERSIONS, AnyRecord, Entry
from stackshiftd.journal.line_format import CHECKED_FROM, second_us

BLOCK: Final = 256
"""The most lines of a block: a `Raw` of one of their records keeps the bodies of all alive."""
_AT_LEAST: Final = 60
"""No head is shorter."""
_SECOND: Final = len("2026-11-22T06:57:11")
_TIMES: Final = re.compile(r"(?:[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z)+")
_KINDS: Final = frozenset(VERSIONS)


class LineHead(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """What `line_format.Head` has, as it stands in a line. `kind` is empty if it was not asked
    for."""

    crc: str
    seq: int
    at: str
    wm: int
    part: tuple[int, int] = (1, 1)
    kind: str = ""


_decode_heads: Final = msgspec.json.Decoder(LineHead).decode_lines
_decode_records: Final = msgspec.json.Decoder(AnyRecord).decode_lines


def heads(lines: Sequence[bytes]) -> list[LineHead] | None:
    """The heads of `lines` (each without its newline) with their kinds; None unless all are intact
    and of kinds that are known."""
    ends = [line.find(b'"', line.find(b'"kind":"', _AT_LEAST) + 8) for line in lines]
    found = _heads([line[: end + 1] for line, end in zip(lines, ends, strict=True)], lines)
    if found is None or not _KINDS.issuperset([head.kind for head in found]):
        return None
    return found


def decode(lines: Sequence[bytes]) -> list[Entry] | None:
    """The entries in `lines` (each without its newline), as `line_format.decode` gives them; None
    if that would refuse one."""
    cuts = [line.find(b',"kind":"', _AT_LEAST) for line in lines]
    found = _heads([line[:cut] for line, cut in zip(lines, cuts, strict=True)], lines)
    if found is None:
        return None
    bodies = b"\n{".join([line[cut + 1 :] for line, cut in zip(lines, cuts, strict=True)])
    try:
        records: list[AnyRecord] = _decode_records(b"{" + bodies)
    except msgspec.DecodeError:
        return None
    if len(records) != len(found):
        return None
    entries: list[Entry] = []
    second, since_us = "", 0
    for head, record in zip(found, records, strict=True):
        at = head.at
        if at[:_SECOND] != second:
            second = at[:_SECOND]
            try:
                since_us = second_us(second.encode("ascii"))
            except JournalDamaged:  # The 31st of February.
                return None
        entries.append(Entry(head.seq, since_us + int(at[_SECOND + 1 : -1]), record))
    return entries


def _heads(texts: Sequence[bytes], lines: Sequence[bytes]) -> list[LineHead] | None:
    """The heads in `texts`, which lack their closing brace; None unless all `lines` are intact."""
    try:
        found: list[LineHead] = _decode_heads(b"}\n".join(texts) + b"}")
    except msgspec.DecodeError:
        return None
    if len(found) != len(lines):
        return None
    crcs = struct.pack(f">{len(lines)}I", *[crc32(line[CHECKED_FROM:]) for line in lines])
    if crcs.hex() != "".join([head.crc for head in found]):
        return None
    return found if _TIMES.fullmatch("".join([head.at for head in found])) else None
