"""`journal repair`: turns a damaged journal into one that opens, losing as little as possible.

Owns the plan; only a person starts it. Nothing is deleted: what cannot be kept goes to quarantine,
and the report names every record that is lost. In order of preference:

1. Only a header line is damaged: it is rebuilt from its neighbours. Nothing is lost.
2. A good snapshot covers the damage, and everything after the snapshot is sound: the records before
   it are set aside (history of finished runs); the state loses nothing. If the snapshot ends in the
   middle of a segment, that segment is replaced by a new one that begins after the snapshot.
3. Otherwise the journal is cut back to the last whole append before the damage.

If killed at any point, it leaves a journal that is still damaged, and can be run again.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from stackshift_jobs.errors import JournalDamaged, NewerFormat
from stackshiftd.journal.filesystem import FileSystem, RealFileSystem, put_file, read_file
from stackshiftd.journal.layout import HeldLock, Layout, prepare
from stackshiftd.journal.line_format import PREFIX, decode, head
from stackshiftd.journal.offline import inspect
from stackshiftd.journal.offline.inspect import Look, Problem
from stackshiftd.journal.recovery import remove_leftovers, set_aside
from stackshiftd.journal.scan import scan
from stackshiftd.journal.segment import FORMAT, Header, first_header, segment_name

_ID: Final = re.compile(rb'"journal":"(jrn_[0-9a-z]+)"')


class LostRange(NamedTuple):
    """A record that the journal no longer has. If its line is intact in quarantine, `kind` is set,
    and `run` if it belonged to one; otherwise only the sequence number is known."""

    seq: int
    kind: str | None = None
    run: str | None = None


@dataclass(slots=True)
class Repair:
    """What was wrong, what was done (in a dry run: would be done), and what was lost."""

    problems: list[Problem] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    quarantined: list[str] = field(default_factory=list)
    kept_from: int = 0
    kept_to: int = 0
    lost: list[LostRange] = field(default_factory=list)
    """Records whose effect on the state is gone."""
    history_lost: tuple[int, int] | None = None
    """First and last record that only the snapshot's state still reflects."""


def repair(data_dir: Path, *, dry_run: bool = False, fs: FileSystem | None = None) -> Repair:
    """Repair the journal in `data_dir` so that it opens again; a sound journal is unchanged.

    With `dry_run`, only reports what would be done. Raises `DaemonRunning`, `NewerFormat`, and
    `JournalDamaged` if no part of the journal can be kept.
    """
    fs = fs or RealFileSystem()
    layout = Layout(data_dir)
    prepare(fs, layout)
    lock = HeldLock.take(fs, layout, os.getpid())
    try:
        if not dry_run:
            remove_leftovers(fs, layout)
        return _Repairing(fs, layout, dry_run).run()
    finally:
        lock.release()


class _Repairing:
    """One repair, under the lock."""

    def __init__(self, fs: FileSystem, layout: Layout, dry_run: bool) -> None:
        self._fs = fs
        self._layout = layout
        self._dry_run = dry_run
        self._report = Repair()
        self._looks = inspect.look_at_all(fs, layout)
        self._snapshots, self._bad = inspect.good_snapshots(
            fs, layout, inspect.journal_id(self._looks)
        )

    @property
    def _covered(self) -> int:
        return self._snapshots[-1].seq if self._snapshots else 0

    def run(self) -> Repair:
        if not self._looks:
            if self._snapshots:
                raise self._hopeless("there are snapshots, but no segments")
            return self._report
        for number in range(len(self._looks)):
            self._remake_header(number)
        flaws = self._flaws()
        self._report.problems += [*flaws.values(), *self._bad]
        for bad in self._bad:
            self._move_aside(self._layout.root / bad.file)
        if self._looks[0].first_seq > self._covered + 1:
            raise self._hopeless("its oldest records are missing, and no good snapshot covers them")
        if flaws:
            first, last = min(flaws), max(flaws)
            if not self._keep_after_snapshot(last):
                self._cut(first)
        return self._judged()

    def _flaws(self) -> dict[int, Problem]:
        found = ((n, inspect.flaw(self._looks, n, self._covered)) for n in range(len(self._looks)))
        return {number: problem for number, problem in found if problem is not None}

    # --- 1. The header alone ---------------------------------------------------------------

    def _remake_header(self, number: int) -> None:
        one = self._looks[number]
        if one.segment is not None:
            return
        data = read_file(self._fs, one.path)
        at = _line_of(data, one.first_seq)
        header = self._expected_header(number, data, len(data) if at is None else at)
        if header is None:
            return
        line = header.line()
        if len(line) != (len(data) if at is None else at):
            return  # The first record is not where it should be: more than the header is wrong.
        whole = line + data[len(line) :]
        again = inspect.look(one.path, whole)
        self._report.problems.append(Problem(one.name, 0, one.first_seq, one.flaw))
        self._do(f"rebuild the header line of {one.name}")
        if not self._dry_run:
            self._aside(one.path, 0, data[: len(line)])
            put_file(self._fs, one.path, [whole])
        self._looks[number] = again

    def _expected_header(self, number: int, data: bytes, length: int) -> Header | None:
        """The header, of `length` bytes, that a segment must have had; None if that is unknown."""
        journal = inspect.journal_id(self._looks)
        if not journal and self._snapshots:
            journal = self._snapshots[-1].journal
        one = self._looks[number]
        if number == 0 and one.first_seq > 1:
            return None  # Its base and previous hash were recorded nowhere else.
        if number == 0:
            return first_header(journal or _lone_id(data, length))
        before = self._looks[number - 1]
        if before.segment is None or before.found is None:
            return None
        if before.found.fault is not None or before.found.seq + 1 != one.first_seq:
            return None
        return Header(
            FORMAT, journal, one.first_seq, one.first_seq - 1, before.digest, before.segment.end
        )

    # --- 2. A snapshot covers it -----------------------------------------------------------

    def _keep_after_snapshot(self, last_flawed: int) -> bool:
        """Keep what follows the newest good snapshot; false unless the flaws are all before it."""
        looks, covered = self._looks, self._covered
        after = last_flawed + 1
        if after < len(looks) and looks[after].first_seq <= covered + 1:
            self._set_older_aside(after)
            return True
        data = read_file(self._fs, looks[last_flawed].path)
        at = _line_of(data, covered + 1)
        base = self._base_of(last_flawed)
        if not covered or at is None or base is None:
            return False
        rest = data[at:]
        found = scan(rest, 0, covered)
        if after < len(looks):
            sound = found.fault is None and found.seq == looks[after].first_seq - 1
        else:
            sound = found.seq >= found.watermark  # Recovery deals with a torn tail beyond it.
        header = self._stand_in_header(last_flawed, base + at)
        if not sound or header is None:
            return False
        path = self._layout.journal / segment_name(covered + 1)
        self._do(f"write journal/{path.name} with the records after the snapshot")
        whole = header.line() + rest
        if not self._dry_run:
            put_file(self._fs, path, [whole])
        looks.insert(after, inspect.look(path, whole))
        self._set_older_aside(after)
        return True

    def _base_of(self, number: int) -> int | None:
        segment = self._looks[number].segment
        if segment is not None:
            return segment.header.base
        after = self._looks[number + 1].segment if number + 1 < len(self._looks) else None
        return after.header.base - self._looks[number].size if after else None

    def _stand_in_header(self, number: int, place: int) -> Header | None:
        """The header of a segment that begins after the snapshot and whose lines begin at `place`,
        so that every line keeps its place. None if no header has the right length for that."""
        after = self._looks[number + 1].segment if number + 1 < len(self._looks) else None
        stands_for = after.header.prev_hash if after else ""
        base = place
        journal, covered = self._snapshots[-1].journal, self._covered
        for _ in range(4):  # The base is part of the header, and so affects its length.
            header = Header(
                FORMAT, journal, covered + 1, covered, "", max(0, base), stands_for=stands_for
            )
            if header.base + len(header.line()) == place:
                return header
            base = place - len(header.line())
        return None

    def _set_older_aside(self, keep_from: int) -> None:
        gone, self._looks = self._looks[:keep_from], self._looks[keep_from:]
        self._report.history_lost = (gone[0].first_seq, self._looks[0].first_seq - 1)
        for one in gone:
            self._move_aside(one.path)

    # --- 3. Cut back -----------------------------------------------------------------------

    def _cut(self, number: int) -> None:
        """Keep the whole appends before the first flaw."""
        looks = self._looks
        one = looks[number]
        found = one.found
        # If the chain is broken, the place of none of its lines is certain.
        within = found is not None and self._follows(number)
        if number == 0 and not within:
            raise self._hopeless(str(self._report.problems[-1]))
        kept_to = found.seq if found and within else one.first_seq - 1
        usable = [s for s in self._snapshots if s.seq <= kept_to]
        if looks[0].first_seq > (usable[-1].seq if usable else 0) + 1:
            raise self._hopeless("what could be kept does not reach back to a good snapshot")
        self._note_lost(kept_to, looks[number:])
        for later in reversed(looks[number + 1 :] if within else looks[number:]):
            self._move_aside(later.path)
        for snapshot in self._snapshots:
            if snapshot.seq > kept_to:
                self._move_aside(snapshot.path)
        self._looks = looks[: number + 1] if within else looks[:number]
        if within and found is not None and found.end < one.size:
            self._do(f"cut {one.name} at byte {found.end}")
            if not self._dry_run:
                data = read_file(self._fs, one.path)
                self._aside(one.path, found.end, data[found.end :])
                put_file(self._fs, one.path, [data[: found.end]])
                self._looks[number] = inspect.look(one.path, data[: found.end])
        self._snapshots = usable

    def _follows(self, number: int) -> bool:
        before = self._looks[number - 1].segment if number else None
        this = self._looks[number].segment
        return this is not None and (before is None or before.end == this.header.base)

    def _note_lost(self, kept_to: int, pieces: Iterable[Look]) -> None:
        """Record which records are lost: all after `kept_to` up to the highest known to exist."""
        readable: dict[int, LostRange] = {}
        highest = max([kept_to, *(s.seq for s in self._snapshots)])
        for piece in pieces:
            highest = max(highest, piece.found.watermark if piece.found else 0)
            for lost in _readable(read_file(self._fs, piece.path)):
                if lost.seq > kept_to:
                    readable[lost.seq] = lost
        highest = max([highest, *readable])
        self._report.lost = [
            readable.get(seq) or LostRange(seq) for seq in range(kept_to + 1, highest + 1)
        ]

    # --- Doing it --------------------------------------------------------------------------

    def _do(self, what: str) -> None:
        self._report.done.append(what)

    def _aside(self, path: Path, offset: int, data: bytes) -> None:
        kept = set_aside(self._fs, self._layout, path, offset, data, "cut")
        self._report.quarantined.append(f"quarantine/{kept.name}")

    def _move_aside(self, path: Path) -> None:
        data = read_file(self._fs, path)
        digest = hashlib.sha256(data).hexdigest()[:12]
        name = f"{path.stem}-{digest}.{path.parent.name}"
        self._do(f"move {path.parent.name}/{path.name} to quarantine/{name}")
        self._report.quarantined.append(f"quarantine/{name}")
        if not self._dry_run:
            # Copied, then removed: half of a rename between two directories may reach the disk.
            put_file(self._fs, self._layout.quarantine / name, [data])
            self._fs.unlink(path)
            self._fs.sync_dir(path.parent)

    def _judged(self) -> Repair:
        report = self._report
        report.kept_from = self._looks[0].first_seq
        found = self._looks[-1].found
        report.kept_to = found.seq if found else 0
        return report

    def _hopeless(self, why: str) -> JournalDamaged:
        return JournalDamaged(
            f"the journal in {self._layout.root} cannot be repaired: {why}",
            hint="stackshift journal restore, from a backup",
            file=str(self._layout.journal),
            offset=0,
            seq=1,
        )


def _lone_id(data: bytes, length: int) -> str:
    """A journal id for a lone first segment whose header, of `length` bytes, is damaged: the id in
    it if readable, else a new one of the same length. An id only means "the same journal"."""
    room = length - len(first_header("").line())
    readable = _ID.search(data, 0, length)
    if readable and len(readable[1]) == room:
        return readable[1].decode("ascii")
    return f"jrn_{os.urandom(32).hex()}"[: max(0, room)]


def _line_of(data: bytes, seq: int) -> int | None:
    """The offset of the intact line of record `seq`; None if there is none."""
    mark = b'","seq":%d,' % seq
    at = data.find(mark)
    while at >= 0:
        start = at - len(PREFIX) - 8
        stop = data.find(b"\n", at)
        if start >= 0 and head(data, start, stop if stop >= 0 else len(data)) is not None:
            return start
        at = data.find(mark, at + 1)
    return None


def _readable(data: bytes) -> Iterable[LostRange]:
    """The records of the intact lines in `data`."""
    for line in data.split(b"\n"):
        try:
            entry = decode(line)
        except (JournalDamaged, NewerFormat):
            continue  # Garbage or a header; records of a newer version were refused before this.
        kind = str(type(entry.record).__struct_config__.tag)
        yield LostRange(entry.seq, kind, getattr(entry.record, "run", None))
