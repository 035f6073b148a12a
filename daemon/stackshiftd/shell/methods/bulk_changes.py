"""What a person does to all runs that have something in common: `run.cancel_all retry_all
remove_all`.

A request acts on one page of them, newest first, and is answered when its records are durable. Each
run is changed by a command of its own, as if it had been named; one that is refused does not keep
the others. Runs created after `until` are left alone, so that whoever has counted first changes no
more than was counted.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any, Final, NamedTuple

import msgspec

from stackshift_jobs.errors import StackshiftError, Usage
from stackshift_jobs.values.durations import rfc3339
from stackshift_jobs.values.limits import FINISHED
from stackshiftd.core import commands as c
from stackshiftd.core.state.state import Run, Status
from stackshiftd.history.rows import RunRow
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.methods.run_changes import cancel_command
from stackshiftd.shell.params import Answer, Table, sequence_number, within
from stackshiftd.shell.views.lookup import Lookup, RunFilters
from stackshiftd.shell.work import Work

MAX_PAGE: Final = 1000
ACTS: Final = 8
"""Runs that are changed in one part of the work."""
_UNFINISHED: Final = frozenset(status.value for status in Status) - FINISHED


class ManyRuns(RunFilters):
    """The runs that match. `cursor` comes from the previous page. `dry_run`: only count them."""

    limit: int = 500
    cursor: str | None = None
    dry_run: bool = False


class CancelMany(ManyRuns):
    """How to cancel the runs that match; see `commands.CancelRun`."""

    gently: bool = False
    grace_ms: int | None = None
    children: bool = False


class Change(NamedTuple):
    """A change of many runs: the statuses of those that it can be made to, the status that is meant
    if none is given, and the command for a run by the params."""

    verb: str
    statuses: frozenset[str]
    default: str | None
    command: Callable[[str, Any], c.Command]


class BulkChanges:
    """Cancels, retries and removes all runs that match."""

    def __init__(self, engine: Engine, lookup: Lookup) -> None:
        self._engine = engine
        self._lookup = lookup
        failed = frozenset(("failed", "cancelled"))
        cancel = Change("cancelled", _UNFINISHED, None, cancel_command)
        retry = Change("retried", failed, "failed", self._retry)
        remove = Change("removed", FINISHED, None, lambda run, _: c.RemoveRun(run))
        self.table: Table = {
            "run.cancel_all": (CancelMany, self._serving(cancel)),
            "run.retry_all": (ManyRuns, self._serving(retry)),
            "run.remove_all": (ManyRuns, self._serving(remove)),
        }

    def _serving(self, change: Change) -> Callable[[ManyRuns, Answer], Work]:
        """What answers `{results[], cursor}`, per run `{id}` or `{run, error}`; for a dry run
        `{count, at}`."""

        def serve(params: ManyRuns, answer: Answer) -> Work:
            return self._act(change, params, answer)

        return serve

    def _retry(self, run: str, _params: ManyRuns) -> c.RetryRun:
        return c.RetryRun(run, restored=self._lookup.restored(run))

    def _act(self, change: Change, params: ManyRuns, answer: Answer) -> Work:
        within(params.limit, 1, MAX_PAGE, "limit")
        for refused in sorted((params.statuses or frozenset()) - change.statuses):
            raise Usage(f"{refused} runs cannot be {change.verb}")
        if params.dry_run:
            at = rfc3339(self._engine.now_us())
            count = len((yield from self._chosen(change, params, None)))
            self._engine.when_durable(answer, {"count": count, "at": at})
            return
        chosen = yield from self._chosen(change, params, params.limit)
        results: list[Any] = [None] * len(chosen)
        for index, (run, _) in enumerate(chosen):
            try:
                self._engine.submit(change.command(run, params), _collector(results, index, run))
            except StackshiftError as refused:  # Its records are not kept any more.
                results[index] = {"run": run, "error": refused.as_json()}
            if index % ACTS == ACTS - 1:
                yield None
        cursor = str(chosen[-1][1]) if len(chosen) == params.limit else None
        self._engine.when_durable(answer, {"results": results, "cursor": cursor})

    def _chosen(
        self, change: Change, params: ManyRuns, limit: int | None
    ) -> Generator[None, None, list[tuple[str, int]]]:
        """The ids of at most `limit` runs, each with the record that created it."""
        until_us = params.until_us
        if until_us is None:
            until_us = self._engine.now_us()
        before = sequence_number(params.cursor) if params.cursor is not None else None
        chosen: list[tuple[str, int]] = []
        for run in self._candidates(change, params, before):
            if run is None:
                yield None
                continue
            status = run.status if isinstance(run, RunRow) else run.shown_status.value
            if status in change.statuses and run.created_us <= until_us:
                chosen.append((run.id, run.created_seq))
                if len(chosen) == limit:
                    break
        return chosen

    def _candidates(
        self, change: Change, params: ManyRuns, before: int | None
    ) -> Iterator[Run | RunRow | None]:
        wanted = msgspec.structs.replace(params, status=params.status or change.default)
        if change.statuses.isdisjoint(FINISHED):  # None of them is in the history.
            return self._unfinished(self._lookup.named(wanted), before)
        return self._lookup.newest_first(wanted, before)

    def _unfinished(self, wanted: ManyRuns, before: int | None) -> Iterator[Run | None]:
        for run in self._lookup.live_runs(wanted, before):
            if run is None or not run.finished:
                yield run


def _collector(results: list[Any], index: int, run: str) -> Answer:
    def collect(reply: Any) -> None:
        failed = isinstance(reply, StackshiftError)
        results[index] = {"run": run, "error": reply.as_json()} if failed else {"id": run}

    return collect
