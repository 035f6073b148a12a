"""Compaction, in a process of its own and of low priority: folds the previous snapshot and what
followed it, writes the next one, loads that again and compares. So every compaction is also a test
of replay; one that does not agree with itself is not kept.

`python -m stackshiftd compact --data-dir DATA --upto-seq N`; prints `{seq, state_hash, bytes}`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from stackshift_jobs.errors import JournalDamaged
from stackshiftd.core.fold.fold import fold
from stackshiftd.core.records import Entry
from stackshiftd.core.snapshot import Loaded, dump, load, state_hash
from stackshiftd.core.state.state import State
from stackshiftd.journal import reader, snapshots
from stackshiftd.journal.filesystem import FileSystem, RealFileSystem, read_file
from stackshiftd.journal.layout import Layout
from stackshiftd.journal.segment import NAME, read_header


def compact(data_dir: Path, upto_seq: int) -> dict[str, object]:
    """Write the snapshot at `upto_seq`, which must be durable. Raises `JournalDamaged` where replay
    does not give the same state twice, and keeps nothing then."""
    fs = RealFileSystem()
    layout = Layout(data_dir)
    spans, end, journal_id = _spans(fs, layout)
    found, _ = snapshots.newest(fs, layout.snapshots, journal_id)
    before = Loaded(State(), [])
    if found is not None:
        read = snapshots.read(fs, found.path, journal_id)
        assert not isinstance(read, str), read
        before = load(read[1])
    kept = _Kept(before)
    entries = reader.read(fs, spans, before.state.seq + 1, end)
    # Not one look further than needed: the daemon may be writing there.
    for place, entry in islice(entries, max(0, upto_seq - before.state.seq)):
        kept.take(place, entry)
    state = kept.state
    assert state.seq == upto_seq, f"the journal ends at {state.seq}, before {upto_seq}"
    lines = list(dump(state, kept.entries()))
    digest = state_hash(state)
    if state_hash(load(lines).state) != digest:
        raise JournalDamaged(
            f"the snapshot at {upto_seq} does not load to the state it was made from; not kept",
            hint="please report this with `stackshift journal backup`",
            seq=upto_seq,
        )
    snapshot = snapshots.put(fs, layout.snapshots, journal_id, upto_seq, lines, digest)
    return {"seq": upto_seq, "state_hash": digest, "bytes": snapshot.size}


class _Kept:
    """The state, and the entries of the runs that it holds."""

    def __init__(self, before: Loaded) -> None:
        self.state = before.state
        self._entries: dict[str, list[tuple[int, Entry]]] = {}
        for place, entry in before.entries:
            self._note(place, entry)

    def take(self, place: int, entry: Entry) -> None:
        fold(self.state, entry)
        self._note(place, entry)

    def _note(self, place: int, entry: Entry) -> None:
        run = getattr(entry.record, "run", None)
        if run is None:
            return
        if run in self.state.runs:
            self._entries.setdefault(run, []).append((place, entry))
        else:
            self._entries.pop(run, None)

    def entries(self) -> Iterator[tuple[int, Entry]]:
        """In order of sequence number."""
        found = [pair for entries in self._entries.values() for pair in entries]
        found.sort(key=lambda pair: pair[1].seq)
        return iter(found)


def _spans(fs: FileSystem, layout: Layout) -> tuple[list[reader.SegmentSpan], int, str]:
    """The segments, the place where the last one ends just now, and the journal's id."""
    spans: list[reader.SegmentSpan] = []
    journal_id, end = "", 0
    for name in sorted(fs.listdir(layout.journal)):
        if NAME.fullmatch(name):
            path = layout.journal / name
            data = read_file(fs, path)
            header, size = read_header(data, path)
            end = header.base + len(data)
            spans.append(reader.SegmentSpan(path, header.first_seq, header.base, size))
            journal_id = header.journal
    return spans, end, journal_id


def main(data_dir: Path, upto_seq: int) -> int:
    """The process: lowest priority, one line of JSON on stdout."""
    os.nice(19)
    print(json.dumps(compact(data_dir, upto_seq)))
    return 0
