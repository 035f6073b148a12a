"""What earlier versions wrote is read as it was meant; what later ones wrote is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from journal import freeze
from journal.builders import FIRST, ROOT, opened, run
from journal.disk import Disk
from journal.journals import filled
from stackshift_jobs.errors import NewerFormat
from stackshiftd.core import records as r
from stackshiftd.core.snapshot import load
from stackshiftd.journal.line_format import CHECKED_FROM, decode, encode_single, sealed
from stackshiftd.journal.offline import tools
from stackshiftd.journal.snapshots import put

KINDS: freeze.Kinds = json.loads(freeze.KINDS.read_text(encoding="utf-8"))


def test_no_kind_has_changed_without_a_new_version() -> None:
    """The fields of every kind of record, of its parts, of snapshots and headers are those that
    were frozen under its version; a new version is frozen too."""
    assert freeze.changed(KINDS) == [], "raise the version in VERSIONS"
    assert freeze.unfrozen(KINDS) == [], "make frozen"


@pytest.mark.parametrize("what", ["field", "default", "part"])
def test_forgotten_version_is_noticed(what: str) -> None:
    """A field more, another default, another part of a record: each is named."""
    frozen = copy.deepcopy(KINDS)
    fields = frozen["run.created"]["1"]
    if what == "field":
        del fields["forgotten"]
    elif what == "default":
        fields["priority"] = "int = 5"
    else:
        del fields["parts"]["RetryTerms"]["jitter"]
    assert freeze.changed(frozen) == ["run.created version 1"]


@pytest.mark.parametrize("version", freeze.versions(), ids=lambda path: path.name)
def test_frozen_journal_is_read_as_it_was(version: Path, tmp_path: Path) -> None:
    """All records of it, and the snapshot with those after it, lead to the state of that time, by
    its hash and by what users see of it; every byte is accepted."""
    data_dir = freeze.unpacked(version, tmp_path)
    assert tools.verify(data_dir).problems == []
    reading = freeze.read(data_dir)
    expected = freeze.expected(version)
    assert json.loads(json.dumps(reading.facts)) == expected.facts
    assert reading.state_hash == expected.state_hash, "only a field of the state? --hashes"


def test_newest_frozen_journal_has_every_kind() -> None:
    """So that none of them is without a witness."""
    records = freeze.expected(freeze.versions()[-1]).facts["records"]
    assert set(records) == set(r.VERSIONS)


def test_frozen_journal_can_be_written_again(tmp_path: Path) -> None:
    """The story from which it was made still leads to the same records: `make frozen` works."""
    version = tmp_path / "again"
    freeze.freeze_journal(version)
    frozen = freeze.versions()[-1]
    for path in sorted(frozen.rglob("*.json*")):
        written = (version / path.relative_to(frozen)).read_bytes()
        assert written == path.read_bytes(), path.name


# --- Written by a newer version ----------------------------------------------------------------

NEW = b',"from_the_future":1}'


def _future(line: bytes) -> bytes:
    """A line with a field more, and the right crc."""
    return sealed(line.rstrip(b"\n")[CHECKED_FROM:-1] + NEW)


def _record(disk: Disk) -> None:
    data = bytes(disk.find(FIRST).data)
    *lines, last = data.splitlines(keepends=True)
    disk.put(FIRST, b"".join([*lines, _future(last)]))


def _header(disk: Disk) -> None:
    first, rest = bytes(disk.find(FIRST).data).split(b"\n", 1)
    disk.put(FIRST, _future(first) + rest)


def _snapshot(disk: Disk) -> None:
    line = b'{"line":"totals","seq":31,"now_us":1,"epoch":1,"finished":0' + NEW
    put(disk, ROOT / "snapshots", "jrn_test", 31, [line], "")


@pytest.mark.parametrize("harm", [_record, _header, _snapshot])
def test_field_that_is_not_known_is_refused(harm: Callable[[Disk], None]) -> None:
    """It may change the meaning of all others, so it is not left out in silence: the error says
    that a newer version wrote it, and is not called damage."""
    disk = Disk()
    filled(disk, segment_size=1 << 20)
    harm(disk)
    with pytest.raises(NewerFormat, match="newer stackshift"):
        journal = opened(disk)
        try:
            for _ in journal.read(1):
                pass
            found = run(journal.get_snapshot())
            assert found is not None
            load(found[1])
        finally:
            journal.close()


def test_part_of_a_record_with_a_field_that_is_not_known_is_refused() -> None:
    """Also within a record, and in the records that a retry brings along; what users put into a
    payload is theirs."""
    failed = r.RunFailed("run_1", 1, r.Error("E", "m"), "attempts")
    line = encode_single(r.Entry(7, 1_764_000_000_000_000, failed), 0)
    inner = line.replace(b'"message":"m"', b'"message":"m","severity":3')
    with pytest.raises(NewerFormat, match="severity"):
        decode(sealed(inner.rstrip(b"\n")[CHECKED_FROM:]))
    restored = r.entry_json(r.Entry(7, 0, failed)).replace(b'"attempt":1', b'"attempt":1,"new":2')
    with pytest.raises(NewerFormat, match="new"):
        r.entry_from_json(restored)
    payload = msgspec.Raw(b'{"from_the_future":1,"seq":2}')
    made = r.RunCreated("run_1", "job", "q", payload)
    again = decode(encode_single(r.Entry(7, 1_764_000_000_000_000, made), 0)).record
    assert isinstance(again, r.RunCreated)
    assert bytes(again.payload) == bytes(payload)


def test_records_carried_along_keep_their_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record in a snapshot or a retry tells its version, and one that is too new is refused."""
    entry = r.Entry(7, 0, r.RunHeld("run_1"))
    monkeypatch.setitem(r.VERSIONS, "run.held", 2)
    monkeypatch.setitem(r._VERSION_MARKS, "run.held", b'"v":2,')
    line = r.entry_json(entry)
    assert b'"v":2,"kind":"run.held"' in line
    assert r.entry_from_json(line) == entry
    monkeypatch.setitem(r.VERSIONS, "run.held", 1)
    with pytest.raises(NewerFormat, match=r"run\.held version 2"):
        r.entry_from_json(line)
