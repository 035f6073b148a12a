"""`journal repair`: turns a damaged journal into one that opens, losing as little as possible.

Owns the plan; only a person starts it. Nothing is deleted: what cannot be kept goes to quarantine,
and the report names every record that is lost. In order of preference:

1. What does not belong to the journal is taken out: files of other journals, header lines between
   records, bytes after the end of a sealed segment. Nothing is lost.
2. Only a header line is damaged: it is rebuilt from its neighbours. Nothing is lost.
3. A good snapshot covers the damage, and everything after the snapshot is sound: the records before
   it are set aside (history of finished runs); the state loses nothing. If the snapshot ends in the
   middle of a segment, that segment is replaced by a new one that begins after the snapshot. If
   there are no segments, an empty one is made.
4. Otherwise the journal is cut back to the last whole append before the damage; without segments
   and good snapshots, a new journal may begin.

It is planned as a whole before anything is changed, so that a journal which cannot be repaired
stays as it is. Last of all, the witness is made to say what is left. If killed at any point, it
leaves a journal that is still damaged, and can be run again; the second time it does nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from stackshift_jobs.errors import JournalDamaged, NewerFormat
from stackshiftd.journal import witness
from stackshiftd.journal.filesystem import FileSystem, RealFileSystem
from stackshiftd.journal.layout import HeldLock, Layout, prepare
from stackshiftd.journal.line_format import PREFIX, decode, head
from stackshiftd.journal.offline import inspect
from stackshiftd.journal.offline.inspect import Look, Problem
from stackshiftd.journal.offline.workbench import LostRange, Repair, Workbench
from stackshiftd.journal.recovery import remove_leftovers
from stackshiftd.journal.scan import STRAY_HEADER, scan
from stackshiftd.journal.segment import FORMAT, Header, first_header, segment_name

BEYOND_ALL_PLACES: Final = 1 << 50
"""The base of a segment whose predecessors are all gone: no line can have been that far."""
_ID: Final = re.compile(rb'"journal":"(jrn_[0-9a-z]+)"')


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
        plan = _Repairing(fs, layout, dry_run=True).run()
        if dry_run or not plan.done:
            return plan
        remove_leftovers(fs, layout)
        _forget_index(fs, layout)
        return _Repairing(fs, layout, dry_run=False).run()
    finally:
        lock.release()


def _forget_index(fs: FileSystem, layout: Layout) -> None:
    """Remove what was derived from the journal as it was; the daemon derives it again."""
    for name in fs.listdir(layout.root):
        if name.startswith("history.db"):
            fs.unlink(layout.root / name)


class _Repairing:
    """One repair, under the lock."""

    def __init__(self, fs: FileSystem, layout: Layout, dry_run: bool) -> None:
        self._fs = fs
        self._layout = layout
        self._dry_run = dry_run
        self._report = Repair()
        self._bench = Workbench(fs, layout, self._report, dry_run=dry_run)
        self._survey = inspect.survey(fs, layout)
        self._looks = self._survey.segments
        self._snapshots = self._survey.snapshots

    @property
    def _covered(self) -> int:
        return self._snapshots[-1].seq if self._snapshots else 0

    def run(self) -> Repair:
        found, problems = self._survey, self._report.problems
        problems += [*found.strays(), *found.flaws().values(), *found.losses()]
        problems += found.bad_snapshots
        for stray in found.foreign:
            self._bench.move_aside(stray.path)
        for bad in found.bad_snapshots:
            self._bench.move_aside(self._layout.root / bad.file)
        if not self._looks and self._snapshots:
            self._begin_after_snapshot()
        if not self._looks:
            self._name_lost(0, [])
            return self._settled()
        self._mend_segments()
        if self._looks[0].first_seq > self._covered + 1:
            raise self._hopeless("its oldest records are missing, and no good snapshot covers them")
        flaws = self._flaws()
        if flaws:
            first, last = min(flaws), max(flaws)
            if not self._keep_after_snapshot(last):
                self._cut(first)
        if not self._report.lost and self._end < found.durable:
            self._name_lost(self._end, self._looks[-1:])
        return self._settled()

    @property
    def _end(self) -> int:
        """The last record of the last segment."""
        found = self._looks[-1].found
        return found.seq if found else 0

    def _flaws(self) -> dict[int, Problem]:
        # Not by the witness: what it knows beyond the end is gone, and is named as lost.
        found = ((n, inspect.flaw(self._looks, n, self._covered)) for n in range(len(self._looks)))
        return {number: problem for number, problem in found if problem is not None}

    # --- 1. What does not belong there -----------------------------------------------------

    def _mend_segments(self) -> None:
        """Take out of each segment what does not belong there, and rebuild headers."""
        number = 0
        while number < len(self._looks):  # A segment may turn out to be two.
            self._cut_surplus(number)
            while self._take_out_header(number):
                pass
            self._remake_header(number)
            number += 1

    def _cut_surplus(self, number: int) -> None:
        """Cut off a sealed segment what comes after the bytes that the next header names."""
        one = self._looks[number]
        after = self._looks[number + 1].segment if number + 1 < len(self._looks) else None
        if one.segment is None or after is None:
            return
        size = after.header.base - one.segment.header.base
        if not 0 < size < one.size:
            return
        data = self._bench.read(one.path)
        if hashlib.sha256(data[:size]).hexdigest() == after.header.prev_hash:
            self._bench.do(f"cut {one.name} at byte {size}, where {after.path.name} continues")
            self._bench.aside(one.path, size, data[size:])
            self._looks[number] = self._bench.write(one.path, data[:size])

    def _take_out_header(self, number: int) -> bool:
        """If a header line ends the good part of a segment, take it out, or, if it is the next
        segment's, begin that segment with it. False if there is none, or it does not help."""
        one = self._looks[number]
        if one.found is None or one.found.fault is None or one.found.fault.why != STRAY_HEADER:
            return False
        data, at = self._bench.read(one.path), one.found.fault.offset
        stop = data.index(b"\n", at) + 1
        without = inspect.look(one.path, data[:at] + data[stop:])
        assert one.segment is not None and without.found is not None
        if without.found.seq <= one.found.seq:
            return False
        header = one.segment.header
        following = Header(
            FORMAT,
            header.journal,
            one.found.seq + 1,
            one.found.seq,
            hashlib.sha256(data[:at]).hexdigest(),
            header.base + at,
        )
        if data[at:stop] == following.line():
            path = self._layout.journal / segment_name(following.first_seq)
            self._bench.do(f"move the segment {path.name} out of {one.name}")
            self._looks.insert(number + 1, self._bench.write(path, data[at:]))
            self._looks[number] = self._bench.write(one.path, data[:at])
        else:
            self._bench.do(f"take the header line at byte {at} out of {one.name}")
            self._bench.aside(one.path, at, data[at:stop])
            self._looks[number] = self._bench.write(one.path, data[:at] + data[stop:])
        return True

    # --- 2. The header alone ---------------------------------------------------------------

    def _remake_header(self, number: int) -> None:
        one = self._looks[number]
        if one.segment is not None:
            return
        data = self._bench.read(one.path)
        at = _line_of(data, one.first_seq)
        length = len(data) if at is None else at
        header = self._expected_header(number, data, length)
        if header is None or len(header.line()) != length:
            return  # The first record is not where it should be: more than the header is wrong.
        self._bench.do(f"rebuild the header line of {one.name}")
        self._bench.aside(one.path, 0, data[:length])
        self._looks[number] = self._bench.write(one.path, header.line() + data[length:])

    def _expected_header(self, number: int, data: bytes, length: int) -> Header | None:
        """The header, of `length` bytes, that a segment must have had; None if that is unknown."""
        journal = self._survey.journal
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

    # --- 3. A snapshot covers it -----------------------------------------------------------

    def _begin_after_snapshot(self) -> None:
        """Begin an empty segment after the newest good snapshot: all others are gone."""
        covered = self._covered
        header = Header(FORMAT, self._survey.journal, covered + 1, covered, "", BEYOND_ALL_PLACES)
        path = self._layout.journal / segment_name(covered + 1)
        self._bench.do(f"begin journal/{path.name} after the snapshot")
        self._report.history_lost = (1, covered)
        self._looks = [self._bench.write(path, header.line())]

    def _keep_after_snapshot(self, last_flawed: int) -> bool:
        """Keep what follows the newest good snapshot; false unless the flaws are all before it."""
        looks, covered = self._looks, self._covered
        after = last_flawed + 1
        if after < len(looks) and looks[after].first_seq <= covered + 1:
            self._set_older_aside(after)
            return True
        data = self._bench.read(looks[last_flawed].path)
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
        if inspect.look(path, header.line() + rest).flaw:
            return False
        self._bench.do(f"write journal/{path.name} with the records after the snapshot")
        if path == looks[last_flawed].path:
            self._bench.aside(path, 0, data)
            looks[last_flawed] = self._bench.write(path, header.line() + rest)
            self._set_older_aside(last_flawed)
        else:
            looks.insert(after, self._bench.write(path, header.line() + rest))
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
        journal, covered = self._survey.journal, self._covered
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
        if gone:
            self._report.history_lost = (gone[0].first_seq, self._looks[0].first_seq - 1)
        for one in gone:
            self._bench.move_aside(one.path)

    # --- 4. Cut back -----------------------------------------------------------------------

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
        self._name_lost(kept_to, looks[number:])
        for later in reversed(looks[number + 1 :] if within else looks[number:]):
            self._bench.move_aside(later.path)
        for snapshot in self._snapshots:
            if snapshot.seq > kept_to:
                self._bench.move_aside(snapshot.path)
        self._looks = looks[: number + 1] if within else looks[:number]
        if within and found is not None and found.end < one.size:
            data = self._bench.read(one.path)
            self._bench.do(f"cut {one.name} at byte {found.end}")
            self._bench.aside(one.path, found.end, data[found.end :])
            self._looks[number] = self._bench.write(one.path, data[: found.end])
        self._snapshots = usable

    def _follows(self, number: int) -> bool:
        before = self._looks[number - 1].segment if number else None
        this = self._looks[number].segment
        return this is not None and (before is None or before.end == this.header.base)

    def _name_lost(self, kept_to: int, pieces: Iterable[Look]) -> None:
        """Report which records are lost: all after `kept_to` up to the highest known to exist."""
        readable: dict[int, LostRange] = {}
        highest = max([kept_to, self._survey.durable, *(s.seq for s in self._snapshots)])
        for piece in pieces:
            highest = max(highest, piece.found.watermark if piece.found else 0)
            for lost in _readable(self._bench.read(piece.path)):
                if lost.seq > kept_to:
                    readable[lost.seq] = lost
        highest = max([highest, *readable])
        self._report.lost = [
            readable.get(seq) or LostRange(seq) for seq in range(kept_to + 1, highest + 1)
        ]

    # --- The end ---------------------------------------------------------------------------

    def _settled(self) -> Repair:
        """The report, after the witness was made to agree with it."""
        report, known = self._report, self._survey.known
        journal = ""
        if self._looks:
            first = self._looks[0]
            assert first.segment is not None
            journal = first.segment.header.journal
            report.kept_from, report.kept_to = first.first_seq, self._end
        if known is None or (known.journal == journal and known.seq <= report.kept_to):
            return report
        if journal and known.journal != journal:
            self._bench.do(f"accept that the journal {known.journal} is lost")
        elif known.seq:
            self._bench.do(f"accept that records {report.kept_to + 1} to {known.seq} are lost")
        if not self._dry_run and journal:
            witness.put(self._fs, self._layout, witness.Known(journal, report.kept_to))
        elif not self._dry_run:
            witness.remove(self._fs, self._layout)
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
