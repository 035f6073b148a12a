"""A look at every segment of a journal as it is, with any damage: the basis of `verify`'s report
and `repair`'s plan.

Owns the judgement whether a segment is sound and fits its neighbours. Changes nothing, needs no
lock, and works while a daemon runs: what a writer is adding meanwhile is a torn tail, not a flaw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stackshift_jobs.errors import JournalDamaged
from stackshiftd.journal import snapshots
from stackshiftd.journal.filesystem import FileSystem, read_file
from stackshiftd.journal.layout import Layout
from stackshiftd.journal.recovery import Segment, breaks_chain
from stackshiftd.journal.scan import Scan, known_durable, scan
from stackshiftd.journal.segment import NAME, read_header


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in a file of the journal: where, at or before which record, and what."""

    file: str
    offset: int
    seq: int
    what: str

    def __str__(self) -> str:
        return f"{self.file} at byte {self.offset} (record {self.seq}): {self.what}"


@dataclass(frozen=True, slots=True)
class Look:
    """One segment file as it is; `size` in bytes, `digest` its sha256. Without a valid header,
    `segment` and `found` are None and `flaw` says why."""

    path: Path
    first_seq: int
    size: int
    digest: str
    segment: Segment | None
    found: Scan | None
    flaw: str = ""

    @property
    def name(self) -> str:
        """The path relative to the data directory."""
        return f"journal/{self.path.name}"


def look(path: Path, data: bytes) -> Look:
    """Examine `data`, the bytes of the segment file `path`. Raises `NewerFormat`."""
    name = NAME.fullmatch(path.name)
    first_seq = int(name[1]) if name else 0
    digest = hashlib.sha256(data).hexdigest()
    try:
        header, header_size = read_header(data, path)
    except JournalDamaged as bad:
        return Look(path, first_seq, len(data), digest, None, None, bad.message)
    segment = Segment(path, header, header_size, len(data))
    found = scan(data, header_size, header.prev_seq)
    return Look(path, first_seq, len(data), digest, segment, found)


def look_at_all(fs: FileSystem, layout: Layout) -> list[Look]:
    """Examine every segment, oldest first. Segments that are trimmed meanwhile are left out."""
    looks: list[Look] = []
    for name in sorted(fs.listdir(layout.journal)):
        if NAME.fullmatch(name):
            try:
                data = read_file(fs, layout.journal / name)
            except FileNotFoundError:
                looks.clear()  # Trimming starts with the oldest, so those before it are gone too.
                continue
            looks.append(look(layout.journal / name, data))
    return looks


def flaw(looks: Sequence[Look], number: int, covered: int) -> Problem | None:
    """What is wrong with segment `number`, by itself or beside its neighbours; None if nothing.

    `covered` is the last record that a good snapshot covers, 0 if there is none.
    """
    this = looks[number]
    if this.segment is None or this.found is None:
        return Problem(this.name, 0, this.first_seq, this.flaw)
    if (
        number
        and (before := looks[number - 1].segment)
        and (why := breaks_chain(before, this.segment))
    ):
        return Problem(this.name, 0, this.first_seq, why)
    found = this.found
    if number + 1 == len(looks):
        durable = known_durable(found, covered)
    else:
        durable = looks[number + 1].first_seq - 1
        if found.fault is None and found.seq == durable:
            return _unlike_its_hash(this, looks[number + 1])
    if found.seq >= durable and (found.fault is None or number + 1 == len(looks)):
        return None
    why = found.fault.why if found.fault else "the file ends"
    offset = found.fault.offset if found.fault else found.size
    return Problem(this.name, offset, found.seq + 1, f"{why}; records up to {durable} were on disk")


def _unlike_its_hash(this: Look, after: Look) -> Problem | None:
    if this.segment is None or after.segment is None:
        return None
    digest = this.segment.header.stands_for or this.digest
    if digest == after.segment.header.prev_hash:
        return None
    return Problem(
        this.name,
        0,
        this.first_seq,
        f"every line is intact, but the file does not match the hash in {after.path.name}",
    )


def good_snapshots(
    fs: FileSystem, layout: Layout, journal: str
) -> tuple[list[snapshots.Snapshot], list[Problem]]:
    """The good snapshots, oldest first, and what is wrong with the others. An empty `journal`
    accepts snapshots of any journal."""
    good: list[snapshots.Snapshot] = []
    bad: list[Problem] = []
    for seq, path in snapshots.listed(fs, layout.snapshots):
        found = snapshots.read(fs, path, journal)
        if not isinstance(found, str):
            good.append(found[0])
        elif fs.lstat(path) is not None:  # Otherwise a newer one has replaced it meanwhile.
            bad.append(Problem(f"snapshots/{path.name}", 0, seq, found))
    return good, bad


def journal_id(looks: Sequence[Look]) -> str:
    """The journal's id, from the first valid header; empty if there is none."""
    return next((one.segment.header.journal for one in looks if one.segment), "")
