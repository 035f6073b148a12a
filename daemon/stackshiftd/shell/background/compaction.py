"""Compaction, in a process of its own with low priority: folds the previous snapshot and the
records after it, loads the new snapshot again and compares, then stores it. So every compaction
also tests replay; a snapshot that does not load to the same state is not stored.

`python -m stackshiftd compact --data-dir DATA --upto-seq N` prints `{seq, state_hash, bytes}`, or
`{error}`. It ends when its standard input is closed: with its daemon, whose journal may be in other
hands a moment later.
"""

from __future__ import annotations

import json
import os
import select
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from stackshift_jobs.errors import JournalDamaged, StackshiftError
from stackshiftd.core.fold.fold import fold
from stackshiftd.core.records import Entry
from stackshiftd.core.snapshot import Loaded, dump, load, state_hash
from stackshiftd.core.state.state import State
from stackshiftd.journal import reader, snapshots
from stackshiftd.journal.filesystem import FileSystem, RealFileSystem, read_file
from stackshiftd.journal.layout import Layout
from stackshiftd.journal.segment import NAME, REPAIR_HINT, read_header


def compact(data_dir: Path, upto_seq: int) -> dict[str, object]:
    """Write the snapshot at `upto_seq`, which must be durable; return `{seq, state_hash, bytes}`.

    Raises `JournalDamaged` if the snapshot does not load to the same state; it is not stored then.
    """
    fs = RealFileSystem()
    layout = Layout(data_dir)
    spans, end, journal_id = _spans(fs, layout)
    found, _ = snapshots.newest(fs, layout.snapshots, journal_id)
    before = Loaded(State(), [])
    if found is not None:
        read = snapshots.read(fs, found.path, journal_id)
        if isinstance(read, str):
            raise JournalDamaged(f"snapshots/{found.path.name}: {read}", file=str(found.path))
        before = load(read[1])
    kept = _Kept(before)
    entries = reader.read(fs, spans, before.state.seq + 1, end)
    # Must not read one entry further than needed: the daemon may be writing there.
    for place, entry in islice(entries, max(0, upto_seq - before.state.seq)):
        kept.take(place, entry)
    state = kept.state
    if state.seq != upto_seq:
        raise JournalDamaged(
            f"the journal ends after record {state.seq}, although records up to {upto_seq} were on "
            "disk",
            hint=REPAIR_HINT,
            seq=state.seq + 1,
        )
    lines = list(dump(state, kept.entries()))
    digest = state_hash(state)
    if state_hash(load(lines).state) != digest:
        raise JournalDamaged(
            f"the snapshot at {upto_seq} does not load to the state it was made from; it was not "
            "stored",
            hint="please report this, with a `stackshift journal backup`",
            seq=upto_seq,
        )
    snapshot = snapshots.put(fs, layout.snapshots, journal_id, upto_seq, lines, digest)
    return {"seq": upto_seq, "state_hash": digest, "bytes": snapshot.size}


class _Kept:
    """The state, and the entries of the runs in it."""

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
        """Places and entries of all runs in the state, in order of sequence number."""
        pairs = [pair for entries in self._entries.values() for pair in entries]
        pairs.sort(key=lambda pair: pair[1].seq)
        return iter(pairs)


def _spans(fs: FileSystem, layout: Layout) -> tuple[list[reader.SegmentSpan], int, str]:
    """The segments, the place where the last one currently ends, and the journal's id."""
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
    """Run with the lowest priority; print one line of JSON and return the exit status."""
    os.nice(19)
    if _daemon_is_gone():  # A small snapshot would be written before the thread has looked.
        return 0
    threading.Thread(target=_end_with_daemon, daemon=True).start()
    try:
        print(json.dumps(compact(data_dir, upto_seq)))
    except (StackshiftError, OSError) as failed:
        error = (
            failed
            if isinstance(failed, StackshiftError)
            else StackshiftError(f"the snapshot cannot be written: {failed}")
        )
        print(json.dumps({"error": error.as_json()}))
        return error.exit_status
    return 0


def _daemon_is_gone() -> bool:
    look = select.poll()
    look.register(0, 0)
    return any(event & select.POLLHUP for _, event in look.poll(0))


def _end_with_daemon() -> None:
    while os.read(0, 1):
        pass
    os._exit(0)  # At any point: a snapshot has its name only when it is complete.
