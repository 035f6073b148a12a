"""Many lines at once are read as each of them is by itself, and nothing else is accepted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

import pytest

from journal import every_kind
from journal.builders import entries, queued, step
from stackshift_jobs.errors import StackshiftError
from stackshiftd.core.records import BY_KIND, Entry, JournalRecovered, entry_json, kind_of
from stackshiftd.journal import line_blocks, line_format
from stackshiftd.journal.scan import scan


@pytest.fixture(scope="module")
def every() -> list[bytes]:
    """Lines of every kind of record, in appends of one to three records."""
    return list(in_appends(every_kind.story().entries))


def in_appends(told: Sequence[Entry]) -> Iterator[bytes]:
    """The lines of these entries, without their newlines."""
    at, sizes = 0, (1, 2, 1, 3)
    while at < len(told):
        group = told[at : at + sizes[at % len(sizes)]]
        for line in line_format.encode_group(group, max(0, group[0].seq - 1)):
            yield line.removesuffix(b"\n")
        at += len(group)


def test_lines_of_every_kind_are_read_as_by_themselves(every: list[bytes]) -> None:
    """The same entries, and the same heads, whatever the kind of record."""
    found = line_blocks.decode(every)
    assert found is not None
    assert {kind_of(entry.record) for entry in found} == set(BY_KIND)
    alone = [line_format.decode(line) for line in every]
    assert [entry_json(each) for each in found] == [entry_json(each) for each in alone]
    assert [each.at_us for each in found] == [each.at_us for each in alone]
    heads = line_blocks.heads(every)
    assert heads is not None
    expected = [line_format.head(line, 0, len(line)) for line in every]
    assert [(h.seq, h.wm, *h.part, h.kind) for h in heads] == [
        (h.seq, h.watermark, h.part, h.parts, h.kind) for h in expected if h is not None
    ]


@pytest.mark.parametrize("bit", range(8))
def test_no_flipped_bit_is_read(bit: int) -> None:
    """A block with any single bit of one line flipped is not believed."""
    lines = list(in_appends(entries(3, [queued(), step("a", b'{"crc":"00000000"}'), queued()])))
    assert line_blocks.decode(lines) is not None
    for at in range(len(lines[1])):
        changed = bytearray(lines[1])
        changed[at] ^= 1 << bit
        block = [lines[0], bytes(changed), lines[2]]
        assert line_blocks.decode(block) is None, changed
        assert line_blocks.heads(block) is None, changed


def sealed(head: str, record: str = '"kind":"run.queued","run":"run_1","reason":"due"') -> bytes:
    """An intact line with this head and record."""
    return line_format.sealed(f"{head},{record}}}".encode()).removesuffix(b"\n")


AT = '"at":"2026-11-22T06:57:11.123456Z"'


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        sealed(f'"seq":9,{AT},"wm":8,"v":2'),
        sealed(f'"seq":9,{AT},"wm":8,"zone":"eu"'),
        sealed(f'"seq":9,{AT},"wm":8,"zone":{{"a":1,"kind":"run.queued"}}'),
        sealed(f'"seq":9,{AT}'),
        sealed(f'"seq":"9",{AT},"wm":8'),
        sealed('"seq":9,"at":"2026-11-22T06:57:11.123456789Z","wm":8'),
        sealed('"seq":9,"at":"2026-11-22T06:57:11.12345Z","wm":8'),
        sealed('"seq":9,"at":"2026-11-22T06:57:11.123456+01:00","wm":8'),
        sealed('"seq":9,"at":"2026-11-22T06:57:11. 12345Z","wm":8'),
        sealed('"seq":9,"at":"2026-02-31T06:57:11.123456Z","wm":8'),
        sealed(f'"seq":9,{AT},"wm":8', '"kind":"run.teleported","run":"run_1"'),
        sealed(f'"seq":9,{AT},"wm":8', '"kind":"run.queued","run":"run_1"'),
        sealed(f'"seq":9,{AT},"wm":8', '"kind":"run.queued","run":"r","reason":"due","new":1'),
        sealed(f'"seq":9,{AT},"wm":8', '"kind":"run.queued","run":"r","reason":"due"}{"a":1'),
        sealed('"format":1,"journal":"jrn_test","first_seq":9,"prev_seq":8'),
        sealed(f'"seq":9,{AT},"wm":8').replace(b'{"crc":', b'{ "crc":'),
    ],
)
def test_intact_line_that_is_refused_by_itself_is_refused_in_a_block(line: bytes) -> None:
    """Whatever a line lacks, or has too much of: a newer stackshift may have written it."""
    with pytest.raises(StackshiftError):
        line_format.decode(line)
    around = list(in_appends(entries(1, [queued(), queued()])))
    for block in ([line], [around[0], line, around[1]]):
        assert line_blocks.decode(block) is None


def test_scan_in_blocks_finds_what_a_scan_line_by_line_finds(
    every: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage of any kind, anywhere: the same prefix is good, and the same is known."""
    random = Random(20261130)
    reports = JournalRecovered(1, 7, "quarantine/a.tail, quarantine/b.tail")
    more = entries(len(every) + 1, [queued(), reports, *[step(str(n)) for n in range(600)]])
    good = b"".join(line + b"\n" for line in [*every, *in_appends(more)])
    cases = [good, good[:-1], b"", *(damaged(good, random) for _ in range(60))]
    in_blocks = [scan(data, 0, 0) for data in cases]
    monkeypatch.setattr(line_blocks, "heads", lambda _lines: None)
    assert in_blocks == [scan(data, 0, 0) for data in cases]
    assert in_blocks[0].seq == len(every) + len(more)
    assert {"quarantine/a.tail", "quarantine/b.tail"} <= set(in_blocks[0].reported)
    assert any(found.fault for found in in_blocks)


def damaged(data: bytes, random: Random) -> bytes:
    """`data` with a piece changed, cut out, doubled or cut off."""
    at = random.randrange(len(data))
    piece = random.choice((1, 40, 300, 70_000))
    return random.choice(
        (
            data[:at],
            data[:at] + data[at + piece :],
            data[:at] + data[at : at + piece] + data[at:],
            data[:at] + bytes(min(piece, len(data) - at)) + data[at + piece :],
            whole_lines_dropped(data, at),
        )
    )


def whole_lines_dropped(data: bytes, at: int) -> bytes:
    """`data` without the line at `at`: all others are intact, but do not follow one another."""
    begin = data.rfind(b"\n", 0, at) + 1
    return data[:begin] + data[data.find(b"\n", at) + 1 :]


def test_line_longer_than_a_part_is_scanned() -> None:
    """A line may be as long as a payload may be large."""
    long = step("long", b'"%s"' % (b"x" * 600_000))
    lines = in_appends(entries(1, [queued(), long, queued()]))
    data = b"".join(line + b"\n" for line in lines)
    found = scan(data, 0, 0)
    assert (found.seq, found.end, found.fault) == (3, len(data), None)
