"""The index of runs in memory: what leads a list to the runs that are wanted, without a search.

Runs with the same job, queue and status are a group, and each group has the numbers of its runs in
order. A list by any of the three merges the groups that match, and a count adds their lengths. For
each label, and for the run that started or was forked into another, the same is kept a second time,
within the groups; so a list by a label and a status is as short as its answer.

Most runs end soon after they were created, and most changes of a run are followed by the next one
at once. So runs that were created or changed lately are *fresh*: they are in no group, and a list
looks at each of them. Once there are `FRESH` later ones, a fresh run is *settled*: put into its
groups, unless it has left. A run that comes and goes costs two entries in a dict; one that stays
costs about 2 µs for each of its groups when it settles, and again when it changes.

Laws:

- Every run in memory is either fresh or settled, by what it is: `change` makes it fresh before it
  becomes something else.
- While a settled run is WAITING, its shown status stays the same.

Memory: 8 bytes for each run that stays, and for each of its labels; 0.2 KB more for a label that no
other run of its group has.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from stackshiftd.core.state.order import Order
from stackshiftd.core.state.sorted_list import SortedList

FRESH: Final = 1024
"""So many runs that were created or changed last are fresh. More than are in flight on a busy
machine, so that those never settle."""

_PARENT: Final = "\0parent"
_FORKED_FROM: Final = "\0forked_from"
"""Stand for names of labels, which contain no such character."""


Group = tuple[str, str, str]
"""What the runs of a group have in common: job, queue and status, as it is shown."""


class _Indexed(Protocol):
    """What the index reads of a run (`state.state.Run`)."""

    @property
    def id(self) -> str: ...
    @property
    def job(self) -> str: ...
    @property
    def queue(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def shown_status(self) -> str: ...
    @property
    def labels(self) -> dict[str, str]: ...
    @property
    def parent(self) -> str | None: ...
    @property
    def forked_from(self) -> str | None: ...
    @property
    def created_seq(self) -> int: ...


R = TypeVar("R", bound=_Indexed)


class RunCriteria(NamedTuple):
    """Which runs are wanted: those with all of this; None is for any."""

    job: str | None = None
    queue: str | None = None
    statuses: frozenset[str] | None = None
    labels: Mapping[str, str] | None = None
    parent: str | None = None
    forked_from: str | None = None

    def fit(self, run: _Indexed) -> bool:
        """Is `run` wanted?"""
        return (
            self.job in (None, run.job)
            and self.queue in (None, run.queue)
            and (self.statuses is None or run.shown_status in self.statuses)
            and self.parent in (None, run.parent)
            and self.forked_from in (None, run.forked_from)
            and all(run.labels.get(k) == v for k, v in (self.labels or {}).items())
        )

    def fit_group(self, group: Group) -> bool:
        """May runs of `group` be wanted?"""
        return (
            self.job in (None, group[0])
            and self.queue in (None, group[1])
            and (self.statuses is None or group[2] in self.statuses)
        )

    @property
    def terms(self) -> list[tuple[str, str]]:
        """What is wanted beside the group: labels, and what stands for one."""
        terms = [*(self.labels or {}).items()]
        if self.parent is not None:
            terms.append((_PARENT, self.parent))
        if self.forked_from is not None:
            terms.append((_FORKED_FROM, self.forked_from))
        return terms


EVERY: Final = RunCriteria()

_Posting = SortedList[int] | int
"""Numbers of runs; a single one, as of most labels, is kept as itself."""


class RunIndex(Generic[R]):
    """Leads to runs in memory. Anyone may read it; only the fold changes it."""

    __slots__ = ("_groups", "_labelled", "_line", "_order", "_runs", "fresh")

    def __init__(self, runs: Mapping[str, R], order: Order) -> None:
        self._runs = runs
        self._order = order
        self.fresh: dict[str, R] = {}
        """By id."""
        self._line: deque[str] = deque()
        """The fresh runs in the order in which they became it; and some that have left."""
        self._groups: dict[Group, SortedList[int]] = {}
        self._labelled: dict[tuple[Group, str, str], _Posting] = {}

    # --- Changes, by fold alone ------------------------------------------------------------

    def enter(self, run: R) -> None:
        """Note a run that was created or is back in memory."""
        line = self._line
        if len(line) >= FRESH:
            # First, since it may be an earlier entry of the same run, which is not to settle yet.
            settled = self.fresh.pop(line.popleft(), None)
            if settled is not None:
                self._settle(settled)
        self.fresh[run.id] = run
        line.append(run.id)

    def change(self, run: R) -> None:
        """Note that the status, the queue or the labels of `run` are about to change. (Whoever
        does so for every run looks first whether it is among `fresh`, which it nearly always is.)
        """
        if run.id not in self.fresh:
            self._take_out(run)
            self.enter(run)

    def leave(self, run: R) -> None:
        """Note that `run` has left memory."""
        if self.fresh.pop(run.id, None) is None:
            self._take_out(run)

    def _settle(self, run: R) -> None:
        seq = run.created_seq
        group = (run.job, run.queue, run.shown_status)
        of_group = self._groups.get(group)
        if of_group is None:
            of_group = self._groups[group] = SortedList()
        of_group.add(seq)
        if not (run.labels or run.parent or run.forked_from):
            return
        for name, text in _terms(run):
            key = (group, name, text)
            found = self._labelled.get(key)
            if found is None:
                self._labelled[key] = seq
            elif isinstance(found, SortedList):
                found.add(seq)
            elif found != seq:
                both = self._labelled[key] = SortedList[int]()
                both.add(found)
                both.add(seq)

    def _take_out(self, run: R) -> None:
        seq = run.created_seq
        for status in _statuses(run):
            group = (run.job, run.queue, status)
            of_group = self._groups.get(group)
            if of_group is None or not of_group.discard(seq):
                continue
            if not of_group:
                del self._groups[group]
            for name, text in _terms(run):
                key = (group, name, text)
                found = self._labelled[key]
                if isinstance(found, SortedList):
                    found.discard(seq)
                if found == seq or not found:
                    del self._labelled[key]

    # --- Reading ---------------------------------------------------------------------------

    def newest(self, wanted: RunCriteria, before: int | None, count: int) -> list[R]:
        """Runs in memory, newest (by creation) first, at most `count`, created before the record
        `before` (None: whenever). All that are `wanted` and not older than the last of them are
        among them; with several labels also some that are not. None is older than the last of an
        empty list."""
        if wanted == EVERY:
            return self._every(before, count)
        fresh = [
            run
            for run in self.fresh.values()
            if (before is None or run.created_seq < before) and wanted.fit(run)
        ]
        seqs = islice(self._settled(wanted, before), count)
        settled = [self._runs[self._order.run(seq)] for seq in seqs]
        if not fresh:
            return settled
        return sorted((*fresh, *settled), key=_newest_first)[:count]

    def _every(self, before: int | None, count: int) -> list[R]:
        while found := self._order.before(before, count):
            runs = [self._runs[run] for _, run in found if run in self._runs]
            if runs:
                return runs
            before = found[-1][0]
        return []

    def _settled(self, wanted: RunCriteria, before: int | None) -> Iterator[int]:
        found: list[Iterator[int]] = []
        for posting in self._postings(wanted):
            if isinstance(posting, SortedList):
                found.append(posting.descending(before))
            elif before is None or posting < before:
                found.append(iter((posting,)))
        return found[0] if len(found) == 1 else heapq.merge(*found, reverse=True)

    def _postings(self, wanted: RunCriteria) -> list[_Posting]:
        """Those whose runs are wanted; with several labels, those of the one that fewest have."""
        groups = [group for group in self._groups if wanted.fit_group(group)]
        by_term: list[list[_Posting]] = [
            [
                found
                for group in groups
                if (found := self._labelled.get((group, name, text))) is not None
            ]
            for name, text in wanted.terms
        ]
        if not by_term:
            return [self._groups[group] for group in groups]
        return min(by_term, key=lambda postings: sum(map(_length, postings)))

    def numbers(self, wanted: RunCriteria) -> list[int]:
        """The numbers of the runs that are `wanted`, by any of their groups; in no order."""
        found = [run.created_seq for run in self.fresh.values() if wanted.fit(run)]
        for group, of_group in self._groups.items():
            if wanted.fit_group(group):
                found += of_group.descending()
        return found

    def counts(self, wanted: RunCriteria) -> Counter[Group] | None:
        """How many runs of each group are wanted; None if only a look at each of them can tell."""
        terms = wanted.terms
        if len(terms) > 1:
            return None
        counts: Counter[Group] = Counter()
        for run in self.fresh.values():
            if wanted.fit(run):
                counts[run.job, run.queue, run.shown_status] += 1
        for group, of_group in self._groups.items():
            if wanted.fit_group(group):
                posting = self._labelled.get((group, *terms[0])) if terms else of_group
                counts[group] += _length(posting) if posting is not None else 0
        return counts


def _terms(run: _Indexed) -> Iterator[tuple[str, str]]:
    if run.labels:
        yield from run.labels.items()
    if run.parent is not None:
        yield _PARENT, run.parent
    if run.forked_from is not None:
        yield _FORKED_FROM, run.forked_from


def _statuses(run: _Indexed) -> tuple[str, ...]:
    """As what a settled run may have been shown: of one that waits, a call may have changed just
    before it does."""
    return ("waiting", "retrying") if run.status == "waiting" else (run.status,)


def _length(posting: _Posting) -> int:
    return len(posting) if isinstance(posting, SortedList) else 1


def _newest_first(run: _Indexed) -> int:
    return -run.created_seq
