"""Lists and counts over memory and history, against a look at every run there is, over random
histories of the core."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from hypothesis import HealthCheck, settings

from core.histories.index_audit import is_wanted
from core.histories.test_histories import LONG, Histories
from history.test_rows import live_rows
from stackshift_jobs.values.durations import rfc3339
from stackshiftd.core.state import run_index
from stackshiftd.core.state.run_index import RunCriteria
from stackshiftd.core.state.state import Run, State, Status
from stackshiftd.history.index import History
from stackshiftd.history.rows import RunRow
from stackshiftd.shell.methods.run_queries import CountRuns, RunQueries
from stackshiftd.shell.views import lookup
from stackshiftd.shell.views.lookup import Lookup, RunFilters
from stackshiftd.shell.work import run_through


@pytest.fixture(autouse=True, scope="module")
def small_parts() -> Iterator[None]:
    """Runs settle early in the index, and the parts of a list are short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_index, "FRESH", 2)
        patch.setattr(lookup, "LOOKS", 2)
        patch.setattr(lookup, "ROWS", 2)
        patch.setattr(lookup, "SPAN", 50)
        yield


class Shelf:
    """A daemon's memory and its history, and every run that there is."""

    def __init__(self, state: State, rows: dict[str, RunRow]) -> None:
        engine = SimpleNamespace(state=state, departures=SimpleNamespace(finishing={}))
        self.history = History(None, "jrn_1", 0)
        self.history.begin(until_seq=0)
        written = msgspec.structs.replace
        ended = {run: written(row, places=array("q", (1,))) for run, row in rows.items()}
        self.history.write(dict(ended), 0)
        self.lookup = Lookup(cast(Any, engine), self.history)
        finished = [row for row in ended.values() if row.id not in state.runs]
        self.runs: list[Run | RunRow] = [*state.runs.values(), *finished]
        self.runs.sort(key=lambda run: -run.created_seq)

    def wanted(self, filters: RunFilters) -> list[Run | RunRow]:
        """The runs that a person means, newest first."""
        criteria = RunCriteria(
            filters.job,
            filters.queue,
            filters.statuses,
            filters.labels,
            filters.parent,
            filters.forked_from,
        )
        return [
            run
            for run in self.runs
            if is_wanted(cast(Any, _shown(run)), criteria)
            and (not filters.dead or (isinstance(run, Run) and run.status is Status.FAILED))
            and filters.since_us <= run.created_us
            and (filters.until_us is None or run.created_us <= filters.until_us)
        ]


def _shown(run: Run | RunRow) -> Any:
    """A run as lists show it, wherever it is."""
    status = Status(run.status) if isinstance(run, RunRow) else run.shown_status
    names = ("job", "queue", "labels", "parent", "forked_from")
    return SimpleNamespace(shown_status=status, **{name: getattr(run, name) for name in names})


class Lookups(Histories):
    """The histories of the core, listed and counted at their end."""

    def check_replay(self) -> None:
        super().check_replay()
        state = self.story.state
        shelf = Shelf(state, live_rows(self.story.entries))
        chance = random.Random(state.seq)
        for filters in _filters(shelf.runs, chance):
            wanted = shelf.wanted(filters)
            before = chance.choice((None, chance.choice(shelf.runs).created_seq))
            listed = [run for run in shelf.lookup.newest_first(filters, before) if run is not None]
            assert [run.id for run in listed] == [
                run.id for run in wanted if before is None or run.created_seq < before
            ]
            for by in ("status", "job", "queue"):
                asked = CountRuns(**msgspec.structs.asdict(filters), by=by)
                name = "shown_status" if by == "status" else by
                counts = Counter(str(getattr(_shown(run), name)) for run in wanted)
                assert _counted(shelf.lookup, asked) == {"count": len(wanted), "counts": counts}
        shelf.history.close()


def _counted(lookup: Lookup, asked: CountRuns) -> Any:
    queries = RunQueries(*cast(Any, (None, lookup, None, None, None)))
    answers: list[Any] = []
    run_through(queries.count(asked), answers.append)
    return answers[0]


def _filters(runs: list[Run | RunRow], chance: random.Random) -> Iterator[RunFilters]:
    """Nothing that is wanted, and several things that some run is, mostly."""
    yield RunFilters()
    times = [run.created_us for run in runs]
    in_order = times == sorted(times, reverse=True)  # A list by time ends at the first before it.
    for _ in range(12 if runs else 0):
        one, other = chance.choice(runs), chance.choice(runs)
        statuses = {_shown(one).shown_status.value, chance.choice(list(Status)).value}
        labels = [*one.labels.items(), *other.labels.items()]
        yield RunFilters(
            job=chance.choice((None, None, one.job)),
            queue=chance.choice((None, None, one.queue)),
            status=chance.choice((None, None, sorted(statuses))),
            labels=dict(chance.sample(labels, min(len(labels), chance.randrange(3)))),
            dead=chance.random() < 0.1,
            parent=chance.choice((None, None, _known(one.parent, runs))),
            forked_from=chance.choice((None, None, _known(one.forked_from, runs))),
            since=chance.choice((None, None, rfc3339(one.created_us))) if in_order else None,
            until=chance.choice((None, None, None, rfc3339(other.created_us))),
        )


def _known(run: str | None, runs: list[Run | RunRow]) -> str | None:
    """One that was removed cannot be asked for."""
    return run if any(each.id == run for each in runs) else None


TestLookups = Lookups.TestCase
TestLookups.settings = settings(
    max_examples=200 if LONG else 30,
    stateful_step_count=60,
    derandomize=not LONG,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
