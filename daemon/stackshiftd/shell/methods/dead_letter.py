"""What a person does with the dead letter: `dead.count retry discard`.

A request acts on runs that it names, or, a page at a time, on all that lie there and fit. A page is
answered when its records are durable, and is bounded, so that no request keeps the daemon from
others; whoever stops asking between two pages leaves some done and the others as they were.
"""

from __future__ import annotations

from typing import Any, Final

from stackshift_jobs.errors import StackshiftError, Usage
from stackshift_jobs.values.durations import parse_time, rfc3339
from stackshiftd.core import commands as c
from stackshiftd.core.decide.dead_letter import is_dead, not_dead
from stackshiftd.core.state.state import Run
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.params import Answer, Params, Table
from stackshiftd.shell.views.lookup import Lookup
from stackshiftd.shell.views.run import View

MAX_PAGE: Final = 1000


class CountDead(Params):
    queue: str | None = None
    job: str | None = None


class ActOnDead(Params):
    """Either `runs`, by any of their names, or `all` that fit the rest. `until`: only those that
    had failed by then. `cursor` is that of the page before."""

    runs: list[str] | None = None
    all: bool = False
    queue: str | None = None
    job: str | None = None
    until: str | None = None
    limit: int = 500
    cursor: str | None = None


class DeadLetter:
    """Sends failed runs on, or discards them."""

    def __init__(self, engine: Engine, lookup: Lookup, view: View) -> None:
        self._engine = engine
        self._lookup = lookup
        self._view = view
        self.table: Table = {
            "dead.count": (CountDead, self.count),
            "dead.retry": (ActOnDead, self.retry),
            "dead.discard": (ActOnDead, self.discard),
        }

    def count(self, params: CountDead, answer: Answer) -> None:
        """How many lie there, and when that was."""
        found = sum(
            _fits(run, params.queue, params.job)
            for run in self._engine.state.runs.values()
            if is_dead(self._engine.state, run)
        )
        told = {"count": found, "at": rfc3339(self._engine.now_us())}
        self._engine.when_durable(answer, told)

    def retry(self, params: ActOnDead, answer: Answer) -> None:
        self._act(c.RetryRun, params, answer)

    def discard(self, params: ActOnDead, answer: Answer) -> None:
        self._act(c.DiscardRun, params, answer)

    def _act(
        self, command: type[c.RetryRun] | type[c.DiscardRun], params: ActOnDead, answer: Answer
    ) -> None:
        chosen, cursor = self._chosen(params)
        results: list[Any] = [None] * len(chosen)
        for index, name in enumerate(chosen):
            try:
                run = self._dead(name)
            except StackshiftError as refused:
                results[index] = {"run": name, "error": refused.as_json()}
            else:
                self._engine.submit(command(run), _collector(results, index, run))
        self._engine.when_durable(answer, {"results": results, "cursor": cursor})

    def _chosen(self, params: ActOnDead) -> tuple[list[str], str | None]:
        """The runs of this page, and the cursor of the next one, if there is one."""
        if not 1 <= params.limit <= MAX_PAGE:
            raise Usage(f"limit is {params.limit}", hint=f"1 to {MAX_PAGE}")
        filters = (params.queue, params.job, params.until, params.cursor)
        if params.runs is not None:
            if params.all or filters != (None,) * len(filters):
                raise Usage("runs are named, or all that fit are meant; not both")
            if len(params.runs) > MAX_PAGE:
                raise Usage(f"{len(params.runs)} runs in one request; the limit is {MAX_PAGE}")
            return params.runs, None
        if not params.all:
            raise Usage("which runs?", hint="name them in runs, or say all")
        page = self._page(params)
        more = len(page) == params.limit
        return [run.id for run in page], str(page[-1].created_seq) if more else None

    def _page(self, params: ActOnDead) -> list[Run]:
        """Newest first, each once: one that fails again meanwhile keeps its place before the
        cursor."""
        before = _sequence_number(params.cursor) if params.cursor is not None else None
        until_us = parse_time(params.until) if params.until is not None else None
        state = self._engine.state
        found: list[Run] = []
        for run in self._lookup.newest_first():
            if (
                is_dead(state, run)
                and (before is None or run.created_seq < before)
                and (until_us is None or run.finished_us <= until_us)
                and _fits(run, params.queue, params.job)
            ):
                found.append(run)
                if len(found) == params.limit:
                    break
        return found

    def _dead(self, name: str) -> str:
        """The id of the run in the dead letter that `name` stands for. Raises `NotFound`, `Usage`
        or `Conflict`."""
        run_id = self._lookup.resolve(name)
        run = self._engine.state.runs.get(run_id)
        if run is None or not is_dead(self._engine.state, run):
            raise not_dead(run_id, self._view.status(run_id) or "not kept any more")
        return run_id


def _fits(run: Run, queue: str | None, job: str | None) -> bool:
    return queue in (None, run.queue) and job in (None, run.job)


def _sequence_number(cursor: str) -> int:
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 20):
        raise Usage(f"{cursor!r} is no cursor of a page before")
    return int(cursor)


def _collector(results: list[Any], index: int, run: str) -> Answer:
    def collect(reply: Any) -> None:
        if isinstance(reply, StackshiftError):
            results[index] = {"run": run, "error": reply.as_json()}
        else:
            results[index] = {"id": run}

    return collect
