"""`daemon.activity`: what is going on now, for a screen that asks every second.

A hundred thousand unfinished runs are looked through in many parts, so they hold nothing up; a row
has no payload, and only the rows of the answer are described.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Any, Final

from msgspec import Raw

from stackshift_jobs.values.durations import rfc3339
from stackshiftd.core.decide.dead_letter import is_dead
from stackshiftd.core.records import Entry
from stackshiftd.core.state.entries import PAGE_BYTES, encode
from stackshiftd.core.state.state import Phase, Run, Status
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.params import Params, Reads, within
from stackshiftd.shell.tally import Tally
from stackshiftd.shell.views.lookup import Lookup
from stackshiftd.shell.views.run import View
from stackshiftd.shell.views.steps import error_object
from stackshiftd.shell.work import Work

MAX_RUNS: Final = 500
LOOKS: Final = 2000
"""Runs that are looked at in one part of the work: about a millisecond."""
ROWS: Final = 50
"""Rows that are made in one part of it."""
SLOW_STEPS: Final = 10
_ORDER: Final = {
    Status.RUNNING: 0,
    Status.RETRYING: 1,
    Status.WAITING: 2,
    Status.QUEUED: 3,
    Status.SCHEDULED: 4,
}
"""The statuses of unfinished runs, in the order of the list."""


class ListActivity(Params):
    """At most `limit` runs whose job, queue, status or id contains `filter`; `dead`: of the dead
    letter instead of the unfinished ones."""

    filter: str = ""
    limit: int = 100
    dead: bool = False


class Activity:
    """Answers what is going on; `published` must be called with all durable entries."""

    def __init__(self, engine: Engine, lookup: Lookup, view: View) -> None:
        self._engine = engine
        self._lookup = lookup
        self._view = view
        self.tally = Tally(self._job_of)
        self.reads: Reads = {"daemon.activity": (ListActivity, self.activity)}

    def published(self, entries: Iterable[Entry]) -> None:
        """Count `entries`, which are durable now."""
        self.tally.add(entries)

    def activity(self, params: ListActivity) -> Work:
        """The work that leads to `{at, counts, matches, runs[], rates, slow_steps[]}`; the list of
        runs ends once it exceeds `PAGE_BYTES`. Raises `Usage`."""
        within(params.limit, 1, MAX_RUNS, "limit")
        return self._activity(params)

    def _activity(self, params: ListActivity) -> Work:
        counts = {status.value: 0 for status in _ORDER}
        best: list[tuple[int, int, int, str]] = []
        matches = 0
        state = self._engine.state
        runs = list(state.runs.values())
        for at in range(0, len(runs), LOOKS):
            found = []
            for run in runs[at : at + LOOKS]:
                status = run.shown_status
                if not run.finished:
                    counts[status.value] += 1
                if _is_listed(run, status, params) and (not params.dead or is_dead(state, run)):
                    found.append(_place(run, status, params.dead))
            matches += len(found)
            best = heapq.nsmallest(params.limit, (*best, *found))
            yield None
        page: list[Raw] = []
        size = 0
        for *_, run_id in best:
            # Since they were looked at, some may have ended or been removed.
            known = state.runs.get(run_id)
            if known is None or known.finished is not params.dead:
                continue
            if size > PAGE_BYTES:
                break
            page.append(Raw(encode(self._row(known))))
            size += memoryview(page[-1]).nbytes
            if len(page) % ROWS == 0:
                yield None
        now_us = self._engine.now_us()
        return {
            "at": rfc3339(now_us),
            "counts": counts,
            "matches": matches,
            "runs": page,
            "rates": self.tally.rates(now_us),
            "slow_steps": self.tally.slow_steps(now_us, SLOW_STEPS),
        }

    def _job_of(self, run_id: str) -> str | None:
        live = self._lookup.live(run_id)
        if live is not None:
            return live.job
        row = self._lookup.row(run_id)
        return row.job if row is not None else None

    def _row(self, run: Run) -> dict[str, Any]:
        """A run as one line shows it."""
        reason = self._view.why(run)
        step = next((name for name, c in run.calls.items() if c.phase is Phase.OPEN), None)
        since_us = run.finished_us or run.since_us or run.created_us
        return {
            "id": run.id,
            "job": run.job,
            "queue": run.queue,
            "status": run.shown_status.value,
            "attempt": run.attempt,
            "max_attempts": run.retry.max_attempts,
            "created_at": rfc3339(run.created_us),
            "since": rfc3339(since_us),
            "step": step,
            "worker": run.worker if run.status is Status.RUNNING else None,
            "why": reason.text,
            "error": error_object(run.error) if run.status is Status.FAILED else None,
            "parent": run.parent,
            "labels": run.labels,
        }


def _is_listed(run: Run, status: Status, params: ListActivity) -> bool:
    if run.finished is not params.dead:
        return False
    text = params.filter
    return not text or (
        text in run.job or text in run.queue or text in status.value or text in run.id
    )


def _place(run: Run, status: Status, dead: bool) -> tuple[int, int, int, str]:
    """The place of a run in the list: by status, the longest there first; of the dead letter, the
    newest first."""
    if dead:
        return (0, -run.finished_us, -run.created_seq, run.id)
    return (_ORDER[status], run.since_us or run.created_us, run.created_seq, run.id)
