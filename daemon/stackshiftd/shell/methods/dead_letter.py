"""What a person does with the dead letter: `dead.count retry discard`.

A request acts on the runs that it names, or, page by page, on all dead runs that match. A page is
answered when its records are durable, and it is bounded, so that no request blocks others. A client
that stops between two pages leaves the remaining runs unchanged.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final

from stackshift_jobs.errors import StackshiftError, Usage
from stackshift_jobs.values.durations import parse_time, rfc3339
from stackshiftd.core import commands as c
from stackshiftd.core.decide.dead_letter import is_dead, not_dead
from stackshiftd.core.state.run_index import RunCriteria
from stackshiftd.core.state.state import Run, Status
from stackshiftd.history.index import Rebuilding
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.params import Answer, Params, Reads, Table, sequence_number
from stackshiftd.shell.views.lookup import Lookup
from stackshiftd.shell.views.run import View
from stackshiftd.shell.work import Work

MAX_PAGE: Final = 1000
ACTS: Final = 8
"""Runs that are looked up, retried or discarded in one part of the work."""
_FAILED: Final = frozenset((Status.FAILED.value,))


class CountDead(Params):
    """Which dead runs to count; None matches all."""

    queue: str | None = None
    job: str | None = None


class ActOnDead(Params):
    """Either `runs`, by id, suffix or `@` name, or `all` that match the other params. `until`: only
    runs that had failed by then. `cursor` comes from the previous page."""

    runs: list[str] | None = None
    all: bool = False
    queue: str | None = None
    job: str | None = None
    until: str | None = None
    limit: int = 500
    cursor: str | None = None


class DeadLetter:
    """Retries or discards failed runs."""

    def __init__(self, engine: Engine, lookup: Lookup, view: View) -> None:
        self._engine = engine
        self._lookup = lookup
        self._view = view
        self.reads: Reads = {"dead.count": (CountDead, self.count)}
        self.table: Table = {
            "dead.retry": (ActOnDead, self.retry),
            "dead.discard": (ActOnDead, self.discard),
        }

    def count(self, params: CountDead) -> Work:
        """The work that leads to `{count, at}`: the number of dead runs, and the time of
        counting."""
        count = 0
        at_us = self._engine.now_us()
        for run in self._lookup.in_memory(RunCriteria(params.job, params.queue, _FAILED)):
            if run is None:
                yield None
            else:
                count += is_dead(self._engine.state, run)
        return {"count": count, "at": rfc3339(at_us)}

    def retry(self, params: ActOnDead, answer: Answer) -> Work:
        """Retry the runs; answer `{results[], cursor}`, per run `{id}` or `{run, error}`."""
        return self._act(c.RetryRun, params, answer)

    def discard(self, params: ActOnDead, answer: Answer) -> Work:
        """Discard the runs; answer `{results[], cursor}`, per run `{id}` or `{run, error}`."""
        return self._act(c.DiscardRun, params, answer)

    def _act(
        self, command: type[c.RetryRun] | type[c.DiscardRun], params: ActOnDead, answer: Answer
    ) -> Work:
        chosen, cursor = yield from self._chosen(params)
        results: list[Any] = [None] * len(chosen)
        dead: list[tuple[int, str]] = []
        for index, name in enumerate(chosen):
            try:
                dead.append((index, self._dead(name)))
            except Rebuilding:
                raise  # All of it is asked again; nothing is submitted yet.
            except StackshiftError as refused:
                results[index] = {"run": name, "error": refused.as_json()}
            if index % ACTS == ACTS - 1:
                yield None
        for number, (index, run) in enumerate(dead, 1):
            self._engine.submit(command(run), _collector(results, index, run))
            if number % ACTS == 0:
                yield None
        self._engine.when_durable(answer, {"results": results, "cursor": cursor})

    def _chosen(self, params: ActOnDead) -> Generator[None, None, tuple[list[str], str | None]]:
        """The runs of this page, and the cursor of the next one; None on the last page."""
        if not 1 <= params.limit <= MAX_PAGE:
            raise Usage(f"limit is {params.limit}", hint=f"1 to {MAX_PAGE}")
        filters = (params.queue, params.job, params.until, params.cursor)
        if params.runs is not None:
            if params.all or filters != (None,) * len(filters):
                raise Usage("runs cannot be combined with all or with filters")
            if len(params.runs) > MAX_PAGE:
                raise Usage(f"{len(params.runs)} runs in one request; the limit is {MAX_PAGE}")
            return params.runs, None
        if not params.all:
            raise Usage("no runs are given", hint="name them in runs, or set all")
        page = yield from self._page(params)
        more = len(page) == params.limit
        return [run.id for run in page], str(page[-1].created_seq) if more else None

    def _page(self, params: ActOnDead) -> Generator[None, None, list[Run]]:
        """The runs of the page, newest first. Each run comes once: a run that fails again meanwhile
        keeps its place, which is before the cursor."""
        before = sequence_number(params.cursor) if params.cursor is not None else None
        until_us = parse_time(params.until) if params.until is not None else None
        state = self._engine.state
        runs: list[Run] = []
        wanted = RunCriteria(params.job, params.queue, _FAILED)
        for run in self._lookup.in_memory(wanted, before):
            if run is None:
                yield None
            elif is_dead(state, run) and (until_us is None or run.finished_us <= until_us):
                runs.append(run)
                if len(runs) == params.limit:
                    break
        return runs

    def _dead(self, name: str) -> str:
        """The id of the dead run called `name`. Raises `NotFound`, `Usage` or `Conflict`."""
        run_id = self._lookup.resolve(name)
        run = self._engine.state.runs.get(run_id)
        if run is None or not is_dead(self._engine.state, run):
            raise not_dead(run_id, self._view.status(run_id) or "no longer kept")
        return run_id


def _collector(results: list[Any], index: int, run: str) -> Answer:
    def collect(reply: Any) -> None:
        if isinstance(reply, StackshiftError):
            results[index] = {"run": run, "error": reply.as_json()}
        else:
            results[index] = {"id": run}

    return collect
