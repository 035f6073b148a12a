"""The index of runs in memory, against a look at each of them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

from stackshiftd.core.state import run_index
from stackshiftd.core.state.run_index import Group, RunCriteria, RunIndex, _length, _terms
from stackshiftd.core.state.sorted_list import SortedList
from stackshiftd.core.state.state import Run, State, Status

PAGE = 2


def audit_index(state: State) -> None:
    """Every run is either fresh or in its groups. Holds after every record."""
    index = state.index
    runs = state.runs
    assert all(runs.get(id) is run for id, run in index.fresh.items())
    assert index.fresh.keys() <= set(index._line)
    assert len(index._line) <= run_index.FRESH
    groups: dict[Group, set[int]] = {}
    labelled: dict[tuple[Group, str, str], set[int]] = {}
    for run in runs.values():
        if run.id in index.fresh:
            continue
        group = group_of(run)
        groups.setdefault(group, set()).add(run.created_seq)
        for name, text in _terms(run):
            labelled.setdefault((group, name, text), set()).add(run.created_seq)
    assert {group: set(found.descending()) for group, found in index._groups.items()} == groups
    assert {key: _numbers(index, key) for key in index._labelled} == labelled
    assert all(map(_length, index._labelled.values()))


def _numbers(index: RunIndex[Run], key: tuple[Group, str, str]) -> set[int]:
    found = index._labelled[key]
    return set(found.descending()) if isinstance(found, SortedList) else {found}


def group_of(run: Run) -> Group:
    """What lists by group know of a run."""
    return run.job, run.queue, run.shown_status.value


def is_wanted(run: Run, wanted: RunCriteria) -> bool:
    """Is it, as a person would read the criteria?"""
    labels = wanted.labels or {}
    return not (
        (wanted.job is not None and wanted.job != run.job)
        or (wanted.queue is not None and wanted.queue != run.queue)
        or (wanted.statuses is not None and run.shown_status.value not in wanted.statuses)
        or (wanted.parent is not None and wanted.parent != run.parent)
        or (wanted.forked_from is not None and wanted.forked_from != run.forked_from)
        or any(run.labels.get(name) != text for name, text in labels.items())
    )


def criteria(state: State, chance: random.Random) -> Iterator[RunCriteria]:
    """One thing that is wanted, several, and nothing, of what some run in memory is, mostly."""
    runs = list(state.runs.values())
    yield RunCriteria()
    for _ in range(12 if runs else 0):
        one, other = chance.choice(runs), chance.choice(runs)
        statuses = {one.shown_status.value, chance.choice(list(Status)).value}
        labels = [*one.labels.items(), *other.labels.items()]
        yield RunCriteria(
            chance.choice((None, None, one.job, other.job)),
            chance.choice((None, None, one.queue, other.queue)),
            chance.choice((None, None, frozenset(statuses), frozenset(list(statuses)[:1]))),
            dict(chance.sample(labels, min(len(labels), chance.randrange(3)))),
            chance.choice((None, None, None, one.parent)),
            chance.choice((None, None, None, one.forked_from, one.id)),
        )


def audit_lists(state: State, chance: random.Random) -> None:
    """Lists and counts by the index are what a look at every run finds, page by page."""
    newest_first = sorted(state.runs.values(), key=lambda run: -run.created_seq)
    for wanted in criteria(state, chance):
        found = [run for run in newest_first if is_wanted(run, wanted)]
        before: int | None = None
        listed: list[Run] = []
        while page := state.index.newest(wanted, before, PAGE):
            assert len(page) <= PAGE
            assert before is None or page[0].created_seq < before
            before = page[-1].created_seq
            listed += [run for run in page if wanted.fit(run)]
        assert listed == found
        counts = state.index.counts(wanted)
        assert (counts is None) == (len(wanted.terms) > 1)
        if counts is not None:
            assert +counts == Counter(map(group_of, found))
