"""The format of a line: what was written is read back, and nothing else is accepted."""

from __future__ import annotations

import json
from binascii import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from journal.builders import START_US, entries, queued, step
from stackshift_jobs.errors import JournalDamaged, NewerFormat
from stackshift_jobs.values.durations import rfc3339
from stackshiftd.core.records import BY_KIND, Entry, JournalOpened, RunCreated
from stackshiftd.journal import line_format


def one(entry: Entry, watermark: int = 0) -> bytes:
    """The line of an append of one entry."""
    [line] = line_format.encode_group([entry], watermark)
    return line


def test_line_stands_as_documented() -> None:
    """The bytes of a line are exactly those that docs/journal.md shows."""
    at = 1_795_330_631_123_456
    line = one(Entry(1, at, JournalOpened(epoch=1, pid=4711, version="0.1.0")))
    checked = (
        b'"seq":1,"at":"2026-11-22T06:57:11.123456Z","wm":0,'
        b'"kind":"journal.opened","epoch":1,"pid":4711,"version":"0.1.0"}'
    )
    assert line == b'{"crc":"%08x",%b\n' % (crc32(checked), checked)


def test_line_is_json_that_any_program_reads() -> None:
    """A line is one JSON object that has its record's fields beside its own."""
    [first, second] = line_format.encode_group(entries(7, [step("a", b'{"k":[1]}'), queued()]), 5)
    read = json.loads(first)
    assert list(read)[:6] == ["crc", "seq", "at", "wm", "part", "kind"]
    assert (read["seq"], read["wm"], read["part"]) == (7, 5, [1, 2])
    assert read["at"] == rfc3339(START_US + 7 * 1500)
    assert read["result"] == {"k": [1]}
    assert json.loads(second)["part"] == [2, 2]


def test_lone_record_has_no_part() -> None:
    """Only in appends of several records does a line say which part it is."""
    assert "part" not in json.loads(one(entries(1, [queued()])[0]))


@given(
    seq=st.integers(1, 2**60),
    at_us=st.integers(0, 4_000_000_000_000_000),
    text=st.text(),
    labels=st.dictionaries(st.text(), st.text(), max_size=3),
)
def test_what_is_written_is_read_back(
    seq: int, at_us: int, text: str, labels: dict[str, str]
) -> None:
    """Any text, ASCII or not, survives the round trip through a line, which is all ASCII."""
    payload = json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogatepass")
    created = RunCreated(run="run_1", job=text, queue="q", payload=Raw(payload), labels=labels)
    line = one(Entry(seq, at_us, created), watermark=seq - 1)
    assert line.isascii()
    assert line.index(b"\n") == len(line) - 1
    back = line_format.decode(line)
    assert (back.seq, back.at_us) == (seq, at_us)
    assert isinstance(back.record, RunCreated)
    assert (back.record.job, back.record.labels) == (text, labels)
    assert json.loads(bytes(back.record.payload)) == text


def test_newline_between_tokens_of_a_payload_cannot_break_a_line() -> None:
    """JSON formatted over several lines becomes a single line in the journal."""
    line = one(entries(1, [step("a", b'{\n "k": 1\n}')])[0])
    assert line.count(b"\n") == 1
    assert json.loads(line)["result"] == {"k": 1}


@pytest.mark.parametrize("bit", range(8))
def test_no_flipped_bit_is_read(bit: int) -> None:
    """A line with any single bit flipped is refused as a whole."""
    line = one(entries(3, [step("a", b'{"crc":"00000000"}')])[0], watermark=2)
    for at in range(len(line) - 1):
        changed = bytearray(line)
        changed[at] ^= 1 << bit
        with pytest.raises(JournalDamaged):
            line_format.decode(bytes(changed))


def sealed_line(kind: str, extra: str = "") -> bytes:
    """An intact line of this kind, with `extra` keys in front of the record."""
    return line_format.sealed(
        b'"seq":9,"at":"2026-11-22T06:57:11.123456Z","wm":8,%b"kind":"%b","run":"run_1"}'
        % (extra.encode(), kind.encode())
    )


@pytest.mark.parametrize(
    ("kind", "extra"),
    [("run.teleported", ""), ("run.queued", '"v":2,'), ("run.queued", '"zone":"eu",')],
)
def test_line_of_a_newer_stackshift_is_refused_as_such(kind: str, extra: str) -> None:
    """An intact line of an unknown kind, version or layout is not damage, and is never folded."""
    with pytest.raises(NewerFormat, match="written by a newer stackshift"):
        line_format.decode(sealed_line(kind, extra))


def test_intact_line_that_holds_no_record_is_damage() -> None:
    """A matching crc over a record that lacks fields is reported, with its sequence number."""
    with pytest.raises(JournalDamaged) as caught:
        line_format.decode(sealed_line("run.completed"))
    assert caught.value.fields["seq"] == 9


def test_no_record_has_a_field_that_lines_have() -> None:
    """A record's fields are beside the line's own keys, so none may share a name."""
    own = {"crc", "seq", "at", "wm", "part", "v", "kind"}
    for kind, cls in BY_KIND.items():
        assert not own & set(cls.__struct_encode_fields__), kind
