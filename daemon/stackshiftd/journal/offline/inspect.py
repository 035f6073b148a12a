"""A look at all files of a journal as they are, with any damage: the basis of `verify`'s report and
`repair`'s plan.

Owns the judgements which journal this is, and whether a segment is sound and fits its neighbours.
Changes nothing, needs no lock, and works while a daemon runs: what a writer is adding meanwhile is
a torn tail, not a flaw.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stackshift_jobs.errors import JournalDamaged
from stackshiftd.journal import snapshots, witness
from stackshiftd.journal.filesystem import FileSystem, read_file
from stackshiftd.journal.layout import Layout
from stackshiftd.journal.line_format import decode
from stackshiftd.journal.recovery import Segment, breaks_chain
from stackshiftd.journal.scan import Fault, Scan, known_durable, scan
from stackshiftd.journal.segment import NAME, read_header
from stackshiftd.journal.witness import Known


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
    `segment` and `found` are None. `flaw` says why, or which line is no valid record; what `found`
    says is good ends before that line."""

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
    fault = _undecodable(data, found, header_size)
    if fault is not None:
        before = scan(data[: fault.offset], header_size, header.prev_seq)
        before.size, before.watermark = found.size, max(found.watermark, before.watermark)
        before.fault, found = fault, before
    return Look(path, first_seq, len(data), digest, segment, found, fault.why if fault else "")


def _undecodable(data: bytes, found: Scan, start: int) -> Fault | None:
    """The first line of the good prefix that matches its crc, but is no valid record: replay would
    stop there. Raises `NewerFormat`."""
    at = start
    while at < found.end:
        stop = data.index(b"\n", at)
        try:
            decode(data[at:stop])
        except JournalDamaged as bad:
            return Fault(at, bad.fields.get("seq", 0), bad.message)
        at = stop + 1
    return None


@dataclass(frozen=True, slots=True)
class Survey:
    """All files of a journal. `segments` are its own and those without a valid header, oldest
    first; `foreign` are those of other journals."""

    journal: str
    """Its id; empty if no file tells it."""
    segments: list[Look]
    foreign: list[Look]
    snapshots: list[snapshots.Snapshot]
    """The good ones, oldest first."""
    bad_snapshots: list[Problem]
    """What is wrong with the others."""
    known: Known | None
    """What the witness says."""

    @property
    def covered(self) -> int:
        """The last record that a good snapshot covers, 0 if there is none."""
        return self.snapshots[-1].seq if self.snapshots else 0

    @property
    def durable(self) -> int:
        """The last record that was certainly on disk, as far as snapshots and witness tell."""
        known = self.known
        ours = known is not None and known.journal == self.journal
        return max(self.covered, known.seq if known is not None and ours else 0)

    def flaws(self) -> dict[int, Problem]:
        """What is wrong with `segments`, by their index."""
        found = ((n, flaw(self.segments, n, self.durable)) for n in range(len(self.segments)))
        return {number: problem for number, problem in found if problem is not None}

    def strays(self) -> list[Problem]:
        """The segments of other journals, as problems."""
        return [
            Problem(
                one.name, 0, one.first_seq, f"it belongs to journal {one.segment.header.journal}"
            )
            for one in self.foreign
            if one.segment is not None
        ]

    def losses(self) -> list[Problem]:
        """What is missing as a whole: the oldest records, or all of them."""
        first, known = self.segments[0] if self.segments else None, self.known
        if known is not None and known.seq and known.journal != (self.journal or known.journal):
            gone = f"records up to {known.seq} of the journal {known.journal} were on disk"
            return [Problem("journal", 0, 1, f"{gone}, and no file of it is left")]
        if first is not None and first.first_seq > self.covered + 1:
            missing = (
                f"records before {first.first_seq} are missing, and no good snapshot covers them"
            )
            return [Problem(first.name, 0, self.covered + 1, missing)]
        if first is None and self.durable:
            gone = f"there are no segments, but records up to {self.durable} were on disk"
            return [Problem("journal", 0, 1, gone)]
        if first is None and self.bad_snapshots:
            return [Problem("journal", 0, 1, "there are snapshots, but no segments")]
        return []


def survey(fs: FileSystem, layout: Layout) -> Survey:
    """Examine all files of the journal in `layout`. Raises `NewerFormat`."""
    # In this order: what a daemon adds meanwhile must not look like a loss.
    known = witness.read(fs, layout)
    good, bad = good_snapshots(fs, layout, "")
    looks = look_at_all(fs, layout) if fs.lstat(layout.journal) is not None else []
    journal = _journal_of(looks, good, known)
    for one in good:
        if one.journal != journal:
            what = f"it belongs to journal {one.journal}"
            bad.append(Problem(f"snapshots/{one.path.name}", 0, one.seq, what))
    ours = [one for one in looks if one.segment is None or one.segment.header.journal == journal]
    return Survey(
        journal,
        ours,
        [one for one in looks if one not in ours],
        [one for one in good if one.journal == journal],
        bad,
        known,
    )


def _journal_of(
    looks: Sequence[Look], good: Sequence[snapshots.Snapshot], known: Known | None
) -> str:
    """The id of the journal that these files are meant to be: the one that the witness names, if
    any file bears it; else the one that most files bear, of segments and good snapshots; of two
    with as many files, the one with a snapshot, then the one that reaches further."""
    segments = [one.segment.header for one in looks if one.segment is not None]
    files = Counter([*(h.journal for h in segments), *(one.journal for one in good)])
    if known is not None and (known.journal in files or not files):
        return known.journal
    snapshotted = {one.journal for one in good}
    reach = {header.journal: header.first_seq for header in segments}
    return max(files, key=lambda id: (files[id], id in snapshotted, reach.get(id, 0)), default="")


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


def flaw(looks: Sequence[Look], number: int, known: int) -> Problem | None:
    """What is wrong with segment `number`, by itself or beside its neighbours; None if nothing.

    `known` is the last record that was on disk as far as is known from elsewhere, 0 for none.
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
    if this.flaw and found.fault is not None:
        return Problem(this.name, found.fault.offset, found.fault.seq, this.flaw)
    if number + 1 == len(looks):
        durable = known_durable(found, known)
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
    if fs.lstat(layout.snapshots) is None:
        return good, bad
    for seq, path in snapshots.listed(fs, layout.snapshots):
        found = snapshots.read(fs, path, journal)
        if not isinstance(found, str):
            good.append(found[0])
        elif fs.lstat(path) is not None:  # Otherwise a newer one has replaced it meanwhile.
            bad.append(Problem(f"snapshots/{path.name}", 0, seq, found))
    return good, bad
