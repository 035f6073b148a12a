"""The rows of a timeline as lines: those of one branch below a header, nested ones indented.

    ✓ index#2
    ✓   fetch
    ✓   index

Pure. Laws: every row is drawn in one line, or counted in one that stands for many; the order is
that of the first moments, and of branches that begin together, that of their numbers. A branch that
has made one thing only has no header: its name stands before that thing, `index#2/fetch`. Where
there are more than `MOST` branches of one name, those that have failed or are under way are drawn
first, and one line stands for the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from stackshift_cli.timeline.describe import call
from stackshift_cli.timeline.model import NO_STEP, Row, Timeline, Try
from stackshift_jobs.values.identities import branch_of, own_part

MOST: Final = 12
"""Lines for branches of one name below one header, including the line that stands for others."""
ALL: Final = 1 << 30
_TOGETHER_US: Final = 20_000
"""Branches that begin within this time begin together. Which of them was first is no news: steps
give their durations in whole milliseconds, and the beginning is computed from that."""
_URGENCY: Final = ("running", "retrying", "waiting", "failed")
"""A branch has the first of these statuses that one of its rows has; otherwise that of the call
that was made last."""
_FIRST: Final = ("failed", "running", "retrying", "waiting", "cancelled")
"""The statuses of branches that are drawn before others, if there are too many."""


@dataclass(frozen=True)
class Line:
    """A line: a row as it is drawn, `depth` branches deep. `rows` are those that it shows: one, or
    none in a header, or those of several branches in a line that stands for these. Of its failed
    tries the last `most_tries` are shown."""

    row: Row
    label: str
    depth: int
    rows: tuple[Row, ...]
    most_tries: int = ALL

    @property
    def tries(self) -> Sequence[Try]:
        """The failed tries that are shown below the row."""
        tries = self.row.tries
        return tries[max(0, len(tries) - self.most_tries) :]


@dataclass(eq=False)
class _Branch:
    """A branch: what it has made, in the order of the first moments, and all rows below it."""

    name: str
    parts: list[_Branch | Row] = field(default_factory=list)
    inner: dict[str, _Branch] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    @property
    def family(self) -> str:
        """The name that it shares with the other branches of its function."""
        return self.name.partition("#")[0]

    @property
    def number(self) -> int:
        """Which of these branches it is, from 1."""
        return int(self.name.partition("#")[2] or 1)

    @property
    def status(self) -> str:
        """See `_URGENCY`."""
        return _status(self.rows)


def lines(rows: Iterable[Row]) -> list[Line]:
    """The lines of `rows`, which are in the order of their first moments."""
    main = _Branch("")
    for row in rows:
        branch = main
        for name in () if row.key.startswith(NO_STEP) else branch_of(row.key):
            if name not in branch.inner:
                branch.inner[name] = _Branch(name)
                branch.parts.append(branch.inner[name])
            branch = branch.inner[name]
            branch.rows.append(row)
        branch.parts.append(row)
    return list(_lines(main, 0))


def tree(timeline: Timeline) -> list[Line]:
    """The lines of `timeline`, with those of each child that is known below the row that started or
    awaits it, one deeper."""
    found: list[Line] = []
    for line in lines(timeline.rows):
        found.append(line)
        if line.row.child is not None and (nested := line.row.child.timeline) is not None:
            found += (replace(each, depth=each.depth + line.depth + 1) for each in tree(nested))
    return found


def _lines(branch: _Branch, depth: int) -> Iterator[Line]:
    families: dict[str, list[_Branch]] = {}
    for inner in branch.inner.values():
        families.setdefault(inner.family, []).append(inner)
    for family in families.values():
        family.sort(key=lambda each: each.number)
    left_out = {part for family in families.values() for part in _left_out(family)}
    parts = _in_order(branch.parts)
    last = {part.family: part for part in parts if isinstance(part, _Branch)}
    for part in parts:
        if isinstance(part, Row):
            yield Line(part, call(own_part(part.key)) if depth else part.name, depth, (part,))
            continue
        if part not in left_out:
            yield from _of_branch(part, depth)
        if part is last[part.family]:
            others = [each for each in families[part.family] if each in left_out]
            if others:
                yield _others(others, depth)


def _in_order(parts: list[_Branch | Row]) -> list[_Branch | Row]:
    """`parts`, where branches that begin together are in the order of their numbers, each name
    where its first one is."""
    ordered: list[_Branch | Row] = []
    together: list[_Branch] = []
    for part in parts:
        if together and not (isinstance(part, _Branch) and _goes_with(together, part)):
            ordered += _by_number(together)
            together = []
        if isinstance(part, _Branch):
            together.append(part)
        else:
            ordered.append(part)
    return ordered + _by_number(together)


def _goes_with(together: list[_Branch], part: _Branch) -> bool:
    soon = _begun_us(part.rows[0]) - _begun_us(together[0].rows[0]) <= _TOGETHER_US
    return soon or all(each.family == part.family for each in together)


def _by_number(together: list[_Branch]) -> list[_Branch]:
    families = list(dict.fromkeys(each.family for each in together))
    return sorted(together, key=lambda each: (families.index(each.family), each.number))


def _of_branch(branch: _Branch, depth: int) -> Iterator[Line]:
    label = branch.name
    while len(branch.parts) == 1:
        (part,) = branch.parts
        if isinstance(part, Row):
            yield Line(part, f"{label}/{call(own_part(part.key))}", depth, (part,))
            return
        branch, label = part, f"{label}/{part.name}"
    yield Line(summary(label, branch.rows), label, depth, ())
    yield from _lines(branch, depth + 1)


def _left_out(family: list[_Branch]) -> list[_Branch]:
    """Those of the branches of one name that have no lines of their own."""
    if len(family) <= MOST:
        return []
    return sorted(family, key=_rank)[MOST - 1 :]  # stable: among equals, the first come first


def _rank(branch: _Branch) -> int:
    return _FIRST.index(branch.status) if branch.status in _FIRST else len(_FIRST)


def _status(rows: list[Row]) -> str:
    statuses = {row.status for row in rows}
    for status in _URGENCY:
        if status in statuses:
            return status
    return max(rows, key=_begun_us).status


def _begun_us(row: Row) -> int:
    return min((span.start_us for span in row.spans), default=0)


def summary(key: str, rows: list[Row], note: str = "") -> Row:
    """A row that stands for `rows`."""
    spans = sorted((span for row in rows for span in row.spans), key=lambda span: span.start_us)
    return Row(key, _status(rows), spans, note=note)


def _others(branches: list[_Branch], depth: int) -> Line:
    counts = Counter(branch.status for branch in branches)
    by_status = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    rows = [row for branch in branches for row in branch.rows]
    label = f"{len(branches)} more {branches[0].family}"
    return Line(summary(label, rows, by_status), label, depth, tuple(rows))
