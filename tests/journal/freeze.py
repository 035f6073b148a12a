"""Freezes what this version writes: `python tests/journal/freeze.py` (or `make frozen`).

    frozen/kinds.json          every version of every kind of record, with its fields
    frozen/0.1.0/journal/…     a journal of that version, in several segments
    frozen/0.1.0/snapshots/…   two snapshots of it
    frozen/0.1.0/expected.json what every later version must read there

A version of a kind, once frozen, is never described again, and the journal of a version that was
released is never written again: later versions must read both as they are. Until this version is
released, `--again` writes its journal and its kinds again. `--hashes` writes only the state hashes
again, of all frozen journals: they change when a class of the state gets a field. Everything else
that is expected must be as it was.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

import msgspec

from stackshift_jobs.version import __version__
from stackshiftd.core import records as r
from stackshiftd.core import snapshot as s
from stackshiftd.core.fold.fold import fold
from stackshiftd.core.state.locks import Holding, Waiting
from stackshiftd.core.state.state import State
from stackshiftd.history.rows import RowBuilder
from stackshiftd.journal import snapshots
from stackshiftd.journal.file_journal import FileJournal
from stackshiftd.journal.interface import Owner
from stackshiftd.journal.segment import Header
from stackshiftd.shell.background.compaction import compact
from stackshiftd.shell.departures import replay

FROZEN: Final = Path(__file__).parent / "frozen"
KINDS: Final = FROZEN / "kinds.json"
PARTS: Final = (
    r.Error,
    r.RetryTerms,
    r.RunLimits,
    r.FollowUp,
    r.NotifyTerms,
    r.QueueTerms,
    r.Program,
)
SEGMENT: Final = 9000
"""Bytes; the journal has a few segments."""

Kinds = dict[str, dict[str, Any]]


# --- The kinds ---------------------------------------------------------------------------------


def described(cls: type[msgspec.Struct]) -> dict[str, str]:
    """The fields of a struct: their types as in the source, and their defaults."""
    fields: dict[str, str] = {}
    for field in msgspec.structs.fields(cls):
        text = str(cls.__annotations__[field.name])
        if field.default is not msgspec.NODEFAULT:
            default = field.default
            text += (
                f" = {bytes(default)!r}" if isinstance(default, msgspec.Raw) else f" = {default!r}"
            )
        elif field.default_factory is not msgspec.NODEFAULT:
            text += f" = {field.default_factory()!r}"
        fields[field.encode_name] = text
    return fields


def kinds() -> Kinds:
    """What this code writes: version → fields, by kind; and the lines of snapshots and headers,
    whose versions are those of their files."""
    parts = {part.__name__: described(part) for part in PARTS}
    found: Kinds = {}
    for kind, cls in r.BY_KIND.items():
        fields: dict[str, Any] = dict(described(cls))
        used = {
            name: parts[name] for name in parts if any(name in text for text in fields.values())
        }
        found[kind] = {str(r.VERSIONS[kind]): fields | ({"parts": used} if used else {})}
    lines = {str(cls.__struct_config__.tag): described(cls) for cls in get_args(s.AnyLine)}
    lines |= {cls.__name__: described(cls) for cls in (Holding, Waiting)}
    found["a snapshot"] = {str(snapshots.FORMAT): lines}
    found["a segment's header"] = {str(1): described(Header)}
    return found


def changed(frozen: Kinds) -> list[str]:
    """The kinds that are not as they were frozen in the same version."""
    return [
        f"{kind} version {version}"
        for kind, versions in kinds().items()
        for version, fields in versions.items()
        if version in frozen.get(kind, {}) and frozen[kind][version] != fields
    ]


def unfrozen(frozen: Kinds) -> list[str]:
    """The kinds whose version is not frozen yet."""
    return [
        f"{kind} version {version}"
        for kind, versions in kinds().items()
        for version in versions
        if version not in frozen.get(kind, {})
    ]


# --- The journals ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """What a journal contains, read in the two ways there are."""

    state_hash: str
    """Of the state that all records lead to. The snapshot and what follows it must agree."""
    facts: dict[str, Any]
    """What users see of it."""


def read(data_dir: Path) -> Reading:
    """Read a journal; asserts that snapshot and records agree."""
    journal = FileJournal.open(data_dir)
    try:
        whole = State()
        rows: dict[str, str] = {}
        builder = RowBuilder()
        count: dict[str, int] = {}
        for place, entry in journal.read(1):
            fold(whole, entry)
            row = builder.add(place, entry)
            if row is not None:
                rows[row.id] = row.status
            elif isinstance(entry.record, r.RunRemoved):
                del rows[entry.record.run]
            kind = r.kind_of(entry.record)
            count[kind] = count.get(kind, 0) + 1
        found = asyncio.run(journal.get_snapshot())
        assert found is not None
        resumed = replay(journal, found, found[0]).state
        digest = s.state_hash(whole)
        assert s.state_hash(resumed) == digest, "the snapshot leads to another state"
        return Reading(digest, _facts(whole, rows, count))
    finally:
        journal.close()


def _facts(state: State, rows: dict[str, str], count: dict[str, int]) -> dict[str, Any]:
    remembered = state.values.remembered(state.now_us)
    return {
        "seq": state.seq,
        "records": count,
        "finished": rows,
        "in_memory": {run.id: run.status.value for run in state.runs.values()},
        "calls": {
            run.id: {name: call.phase.value for name, call in run.calls.items()}
            for run in state.runs.values()
        },
        "entries": {key: [v.body.decode(), v.version, v.expires_us] for key, v in remembered},
        "locks": {
            key: [lock.holding.run or lock.holding.asker if lock.holding else "", *lock.line]
            for key, lock in state.locks.items()
        },
        "kept_events": {event.id: event.name for event in state.events.kept.values()},
        "event_keys": {key: sent.event for key, sent in state.events.keys.items()},
        "keys": {key: entry.run for key, entry in state.keys.items()},
        "schedules": {job: each.next_us for job, each in state.schedules.items()},
        "queues": {
            name: {by: msgspec.to_builtins(terms) for by, terms in queue.said.items()}
            for name, queue in state.queues.items()
        },
    }


def expected(version: Path) -> Reading:
    """What `freeze` wrote down."""
    return Reading(**json.loads((version / "expected.json").read_text(encoding="utf-8")))


def unpacked(version: Path, into: Path) -> Path:
    """A copy of a frozen journal with the modes of a data directory, which git does not keep."""
    data_dir = into / ".stackshift"
    shutil.copytree(version, data_dir, ignore=shutil.ignore_patterns("expected.json"))
    for path in (data_dir, *data_dir.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return data_dir


async def _write(data_dir: Path) -> None:
    from journal.every_kind import story

    told = story()
    [first, *rest] = told.entries
    journal = FileJournal.open(
        data_dir, segment_size=SEGMENT, journal_id_source=lambda: "jrn_f0f0f0f0f0f0f0f0f0f0"
    )
    claim = await journal.claim(Owner(1, "0.1.0"), 0, first.at_us)
    assert claim.entry == first, "the story begins with the claim"
    for end in told.ends[1:]:
        group = [entry for entry in rest if journal.last_seq < entry.seq <= end]
        await journal.append(claim.epoch, journal.last_seq, [group])
        if end in (told.ends[len(told.ends) // 3], told.ends[-12]):
            compact(data_dir, end)
    journal.close()


def freeze_journal(version: Path) -> None:
    """Write the journal of this version."""
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder, ".stackshift")
        asyncio.run(_write(data_dir))
        shutil.rmtree(version, ignore_errors=True)
        for name in ("journal", "snapshots"):
            shutil.copytree(data_dir / name, version / name)
        for path in version.rglob("*.jsonl"):
            path.chmod(0o644)
        _write_expected(version, read(data_dir))


def _write_expected(version: Path, reading: Reading) -> None:
    body = {"state_hash": reading.state_hash, "facts": reading.facts}
    text = json.dumps(body, indent=1, sort_keys=True) + "\n"
    (version / "expected.json").write_text(text, encoding="utf-8")


def renew_hashes() -> None:
    """Write the state hashes again; asserts that nothing else has changed."""
    for version in versions():
        with tempfile.TemporaryDirectory() as folder:
            reading = read(unpacked(version, Path(folder)))
        assert reading.facts == expected(version).facts, f"{version.name} is read differently"
        _write_expected(version, reading)


def versions() -> list[Path]:
    """The frozen journals."""
    return sorted(path for path in FROZEN.iterdir() if path.is_dir())


def main() -> int:
    """Freeze what is not frozen yet; 1 if something that is frozen has changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", action="store_true", help="this version is not released")
    parser.add_argument("--hashes", action="store_true", help="only the state hashes")
    arguments = parser.parse_args()
    if arguments.hashes:
        renew_hashes()
        return 0
    frozen: Kinds = json.loads(KINDS.read_text(encoding="utf-8")) if KINDS.exists() else {}
    if not arguments.again and (wrong := changed(frozen)):
        print(f"raise the version in VERSIONS: {', '.join(wrong)}", file=sys.stderr)
        return 1
    for kind, fields in kinds().items():
        frozen.setdefault(kind, {}).update(fields)
    if arguments.again:
        frozen = {kind: found for kind, found in frozen.items() if kind in kinds()}
    KINDS.parent.mkdir(exist_ok=True)
    KINDS.write_text(json.dumps(frozen, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    version = FROZEN / __version__
    if arguments.again or not version.exists():
        freeze_journal(version)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    sys.exit(main())
