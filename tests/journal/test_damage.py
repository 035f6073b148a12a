"""Whatever happened to the bytes: no record known to have been durable is lost silently
(guarantee: reported damage).

One journal of 300 records is damaged in every way there is. Each time there are two allowed
outcomes: everything known to be durable is there, or `JournalDamaged` with the place. What is known
to be durable is computed here independently, from the lines as they were before the damage.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from random import Random
from typing import NamedTuple

import pytest
from msgspec import Raw

from journal.builders import FIRST, ROOT, add, claimed, entries, opened, queued, run, step, stories
from journal.disk import Disk
from stackshift_jobs.errors import JournalDamaged, StackshiftError
from stackshiftd.core.records import AnyRecord, StepCompleted
from stackshiftd.journal.line_format import (
    CHECKED_FROM,
    PREFIX,
    encode_group,
    head,
    is_intact,
    sealed,
)
from stackshiftd.journal.scan import Scan, scan

LONG = os.environ.get("STACKSHIFT_LONG") == "1"


class Line(NamedTuple):
    """A line of the sample: its record, its bytes in the file, and its watermark."""

    seq: int
    start: int
    end: int
    watermark: int
    group_end: int
    """Last record of the append that the line is part of."""


class Sample(NamedTuple):
    """The undamaged journal: its bytes, header length, lines, and entries as `story` values."""

    data: bytes
    header: int
    lines: list[Line]
    stories: list[tuple[int, int, str]]

    def scan(self, data: bytes) -> Scan:
        """Scan `data`, a damaged copy of the sample."""
        return scan(data, self.header, 0)

    def expected(self, damaged: Iterator[bool] | list[bool]) -> tuple[int, int]:
        """The last record that must be kept, and the highest known to be durable, if the
        marked lines are no longer intact."""
        whole, known, kept, broken = 0, 0, 0, False
        for line, bad in zip(self.lines, damaged, strict=True):
            if bad:
                broken = True
            else:
                known = max(known, line.watermark)
            if not broken:
                whole = line.seq
            kept = line.seq if whole == line.seq == line.group_end else kept
        return kept, known


@pytest.fixture(scope="module")
def sample() -> Sample:
    """300 records: single ones, pairs, a group of nine, and several groups in one append."""

    async def work() -> Sample:
        disk = Disk()
        journal = opened(disk)
        claim = await claimed(journal)
        shapes = [[1], [2], [1, 1, 3], [9], [1], [2, 1]]
        number = 0
        while journal.last_seq < 300:
            groups: list[list[AnyRecord]] = []
            for size in shapes[number % len(shapes)]:
                size = min(size, 300 - journal.last_seq - sum(len(group) for group in groups))
                if size:
                    groups.append([queued(f"run_{number}")] * (size - 1) + [step("s", b"[1,2]")])
            await add(journal, claim, *groups)
            number += 1
        told = stories(journal)
        journal.close()
        data = bytes(disk.find(FIRST).data)
        header = data.index(b"\n") + 1
        lines: list[Line] = []
        at = header
        while at < len(data):
            end = data.index(b"\n", at) + 1
            found = head(data, at, end - 1)
            assert found is not None
            last = found.seq - found.part + found.parts
            lines.append(Line(found.seq, at, end, found.watermark, last))
            at = end
        return Sample(data, header, lines, told)

    made = run(work())
    assert len(made.lines) == 300
    return made


def reopened(data: bytes) -> tuple[Disk, list[tuple[int, int, str]]]:
    """Open a journal whose file contains `data`; return disk and entries. Raises as `open` does."""
    disk = Disk()
    disk.mkdir(ROOT)
    disk.mkdir(ROOT / "journal")
    disk.put(FIRST, data)
    journal = opened(disk)
    try:
        assert journal.last_seq == journal.durable_seq == journal.recovery.kept_seq
        return disk, stories(journal)
    finally:
        journal.close()


def check(sample: Sample, data: bytes, damaged: list[bool], *, whole: bool) -> None:
    """Assert that `data` is judged by the lines that are still intact; with `whole`, by really
    opening it too."""
    kept, known = sample.expected(damaged)
    found = sample.scan(data)
    assert found.seq == kept
    assert found.watermark >= known
    if not whole:
        return
    if found.seq < known:
        with pytest.raises(JournalDamaged) as caught:
            reopened(data)
        where = caught.value.fields
        assert where["seq"] == kept + 1
        assert where["file"].endswith("00000000000000000001.jsonl")
        assert data[where["offset"] :] != sample.data[where["offset"] :]
        assert "journal repair" in caught.value.hint
    else:
        disk, told = reopened(data)
        assert told == sample.stories[:kept]
        cut = data[found.end :]
        aside = [f"data/quarantine/{name}" for name in disk.names("data/quarantine")]
        held = [bytes(disk.find(path).data) for path in aside]
        assert held == ([cut] if cut else [])


def test_journal_cut_at_every_byte_keeps_every_whole_append(sample: Sample) -> None:
    """A file cut anywhere is recovered to its last whole append, and the rest is set aside. The
    short form leaves out the lines long before the cut, except for cuts near a line's end."""
    before = begin = sample.header
    kept = after = 0
    for line in sample.lines:
        for size in range(max(begin, line.start), line.end):
            found = scan(sample.data[before:size], 0, after)
            assert (found.seq, before + found.end) == (kept, begin)
            assert (found.fault is None) == (size == begin)
        if line.seq == line.group_end:
            before, begin, after, kept = begin, line.end, kept, line.seq
    ends = {line.end + more for line in sample.lines for more in (-1, 0, 1)}
    for size in range(sample.header, len(sample.data) + 1):
        if not LONG and size % 41 and size not in ends:
            continue
        damaged = [line.end > size for line in sample.lines]
        near_an_end = any(abs(line.end - size) <= 1 for line in sample.lines[::29])
        check(sample, sample.data[:size], damaged, whole=LONG or near_an_end or size % 997 == 0)


def test_journal_cut_within_its_header_is_damaged(sample: Sample) -> None:
    """A header is durable before its file has a name; a shorter file is never taken for empty."""
    for size in range(sample.header):
        with pytest.raises(JournalDamaged) as caught:
            reopened(sample.data[:size])
        assert caught.value.fields["offset"] == 0


def test_one_flipped_bit_is_never_overlooked(sample: Sample) -> None:
    """A flipped bit anywhere stops the start, or costs only what was never known to be durable."""
    random = Random(1)
    bits = range(8) if LONG else [None]
    for at in range(sample.header, len(sample.data), 1 if LONG else 41):
        for bit in bits:
            data = bytearray(sample.data)
            data[at] ^= 1 << (random.randrange(8) if bit is None else bit)
            damaged = [line.start <= at < line.end for line in sample.lines]
            if sample.data[at] == 10:
                # The newline is gone: its line has no end, and the next one is found behind it.
                damaged = [line.end == at + 1 for line in sample.lines]
            whole = at % 1009 == 0 or at > len(sample.data) - 40
            check(sample, bytes(data), damaged, whole=whole)


def test_flipped_bit_in_the_header_is_never_overlooked(sample: Sample) -> None:
    """The header line is covered by a crc as well."""
    for at in range(sample.header):
        data = bytearray(sample.data)
        data[at] ^= 1 << (at % 8)
        with pytest.raises(StackshiftError) as caught:
            reopened(bytes(data))
        assert caught.value.code == "journal_damaged"


@pytest.mark.parametrize("keep_size", [True, False])
def test_zeros_over_the_tail_are_a_torn_tail(sample: Sample, keep_size: bool) -> None:
    """Blocks never written read as zeros, whether the file has its size or grew beyond it."""
    for line in sample.lines[::7]:
        for start in (line.start, line.start + 1, (line.start + line.end) // 2, line.end - 1):
            size = len(sample.data) - start if keep_size else 4096
            damaged = [other.end > start for other in sample.lines]
            check(sample, sample.data[:start] + bytes(size), damaged, whole=line.seq % 5 == 0)


def test_hole_with_good_lines_behind_it_is_damage_only_if_they_say_so(sample: Sample) -> None:
    """With zeros in the middle, the lines after them are not kept, but their watermark counts."""
    random = Random(2)
    for _ in range(2000 if LONG else 250):
        start = random.randrange(sample.header, len(sample.data))
        stop = min(len(sample.data), start + random.choice((1, 64, 300, 4096)))
        data = sample.data[:start] + bytes(stop - start) + sample.data[stop:]
        damaged = [line.start < stop and start < line.end for line in sample.lines]
        check(sample, data, damaged, whole=True)


def test_hole_in_the_last_append_is_a_torn_tail(sample: Sample) -> None:
    """Of several groups in one append, those before the hole are kept; those after it were never
    acknowledged, even if intact."""
    last = sample.lines[-1].watermark
    pending = [line for line in sample.lines if line.seq > last]
    assert len(pending) >= 2, "the sample must end in an append of several records"
    hole = pending[0]
    data = sample.data[: hole.start] + bytes(hole.end - hole.start) + sample.data[hole.end :]
    disk, told = reopened(data)
    assert told == sample.stories[:last]
    [name] = disk.names("data/quarantine")
    assert bytes(disk.find(f"data/quarantine/{name}").data) == data[hole.start :]


def test_line_glued_to_a_hole_is_evidence(sample: Sample) -> None:
    """Zeros up to the beginning of the last line leave no newline before it; what that line says
    was durable must still be there."""
    last = sample.lines[-1]
    for line in sample.lines[100:280:20]:
        middle = line.start + 5
        data = sample.data[:middle] + bytes(last.start - middle) + sample.data[last.start :]
        with pytest.raises(JournalDamaged) as caught:
            reopened(data)
        assert caught.value.fields["offset"] == line.start


def test_append_whose_parts_do_not_fit_is_not_believed() -> None:
    """An append that starts again before it is complete, or in its middle, is not accepted."""
    made = entries(1, [queued()] * 4)
    whole = encode_group(made[:2], 0)
    cases = [
        [whole[0], *encode_group([made[1]], 0)],
        [whole[0], encode_group(made[1:3], 0)[0]],
        [*whole, encode_group(made[1:4], 0)[1]],
        [*whole, encode_group([made[2], made[2], made[3]], 0)[2]],
    ]
    for number, lines in enumerate(cases):
        found = scan(b"".join(lines), 0, 0)
        assert found.seq == (0 if number < 2 else 2)
        assert found.fault is not None


def test_line_lost_whole_is_a_gap(sample: Sample) -> None:
    """Bytes missing from the middle, including a newline, are detected by the sequence numbers."""
    for line in sample.lines[1:250:10]:
        data = sample.data[: line.start] + sample.data[line.end :]
        with pytest.raises(JournalDamaged) as caught:
            reopened(data)
        assert caught.value.fields["offset"] == line.start or line.group_end != line.seq


def test_payload_that_looks_like_a_line_is_no_evidence() -> None:
    """A user's payload can neither pass for a line of the journal nor raise the watermark."""
    [line] = encode_group(entries(900, [queued()]), 899)
    around = b',"duration_ms":1}'
    forged = sealed(line[CHECKED_FROM:-1] + around)[: -1 - len(around)]
    record = StepCompleted(run="run_1", attempt=1, step="s", result=Raw(forged), duration_ms=1)

    async def work() -> Disk:
        disk = Disk()
        journal = opened(disk)
        claim = await claimed(journal)
        await add(journal, claim, [queued()])
        await add(journal, claim, [record])
        journal.close()
        return disk

    disk = run(work())
    data = bytearray(disk.find(FIRST).data)
    inner = data.rindex(PREFIX)
    assert is_intact(bytes(data), inner, len(data) - 1), "the forgery must be a good one"
    data[data.rindex(PREFIX, 0, inner)] ^= 1
    disk.put(FIRST, bytes(data))
    disk.unlink(ROOT / "witness.json")  # It would say that the record was durable.
    journal = opened(disk)
    assert journal.last_seq == 2
    journal.close()
