"""The methods that only read runs and jobs: `run.get list count why wait` and `job.*`.

A page of a list ends when it is long enough, in items or in bytes; the answer says where the next
one begins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec
from msgspec import Raw

from stackshift_jobs.errors import Usage
from stackshift_jobs.values.names import one_of
from stackshiftd.core.state.entries import PAGE_BYTES, encode
from stackshiftd.history.rows import RunRow
from stackshiftd.shell.catalog import Catalog
from stackshiftd.shell.methods.run_waits import RunWaits
from stackshiftd.shell.methods.schedules import shown_terms
from stackshiftd.shell.params import (
    MAX_LIST,
    Answer,
    BoundTable,
    FromCursor,
    NameRun,
    Params,
    Reads,
    paged,
    within,
)
from stackshiftd.shell.views.detail import BEGINNING, Position, detail, position
from stackshiftd.shell.views.lookup import Lookup, RunFilters
from stackshiftd.shell.views.run import OUTCOME_FIELDS, View
from stackshiftd.shell.work import Later, Work

SHOWS: Final = 10
SHOWS_BYTES: Final = 64 << 10
"""Runs that are shown in one part of the work, and about how many bytes of them."""
GROUPS: Final = ("status", "job", "queue")
"""What runs can be counted by."""


class GetRun(Params):
    """`detail` adds a page of the run's `steps`, `attempts` and `timeline`; `cursor` comes from the
    previous page."""

    run: str
    detail: bool = False
    cursor: str | None = None


class ListRuns(RunFilters):
    """Which runs to list. `cursor` is the id of the last run of the previous page."""

    limit: int = 50
    cursor: str | None = None


class CountRuns(RunFilters):
    """Which runs to count, and what by."""

    by: str | None = None


class WaitRun(Params):
    """`full` asks for the whole run object, not only its outcome."""

    run: str
    timeout_ms: int | None = None
    full: bool = False


class NameJob(Params):
    """A job by its name."""

    job: str


class RunQueries:
    """Reads runs and jobs; changes nothing."""

    def __init__(
        self,
        catalog: Catalog,
        lookup: Lookup,
        view: View,
        run_waits: RunWaits,
        expectation: Callable[[str], dict[str, Any] | None],
    ) -> None:
        self._expectation = expectation
        self._catalog = catalog
        self._lookup = lookup
        self._view = view
        self._run_waits = run_waits
        self.reads: Reads = {
            "run.get": (GetRun, self.get),
            "run.list": (ListRuns, self.list),
            "run.count": (CountRuns, self.count),
            "run.why": (NameRun, self.why),
            "job.list": (FromCursor, self.jobs),
            "job.get": (NameJob, self.job),
        }
        self.bound: BoundTable = {"run.wait": (WaitRun, self.wait)}

    def get(self, params: GetRun) -> dict[str, Any] | Work:
        """The run object; with `detail` the work that leads to it and to its first page of steps,
        attempts and records, or with `cursor` to another page of those."""
        if params.cursor is not None and not params.detail:
            raise Usage("cursor is given without detail")
        run = self._lookup.resolve(params.run)
        if not params.detail:
            return self._view.run(run)
        return self._detail(run, position(params.cursor))

    def _detail(self, run: str, since: Position) -> Work:
        entry_json = self._view.redaction.entry
        read = partial(self._lookup.read, run)
        page = yield from detail(read, self._lookup.at, since, entry_json, self._view.beats(run))
        return page if since != BEGINNING else self._view.run(run) | page

    def list(self, params: ListRuns) -> Work:
        """The work that leads to `{runs[], cursor}`: a page of run objects, newest first."""
        within(params.limit, 1, MAX_LIST, "limit")
        before = self._created_seq(params.cursor) if params.cursor is not None else None
        return self._list(params, before)

    def count(self, params: CountRuns) -> Work:
        """The work that leads to `{count, counts}`: how many runs match, and with `by` how many of
        each status, job or queue, the most first."""
        if params.by is not None:
            one_of(params.by, GROUPS, "by")
        return self._count(params)

    def _count(self, params: CountRuns) -> Work:
        by_group = self._lookup.counts(params)
        if by_group is None:
            by_group = Counter()
            for run in self._lookup.newest_first(params):
                if run is None:
                    yield None
                else:
                    status = run.status if isinstance(run, RunRow) else run.shown_status
                    by_group[run.job, run.queue, status] += 1
        counts: Counter[str] = Counter()
        for (job, queue, status), count in by_group.items():
            counts[{"job": job, "queue": queue}.get(params.by or "", str(status))] += count
        counts = +counts
        shown = dict(counts.most_common()) if params.by else None
        return {"count": counts.total(), "counts": shown}

    def _created_seq(self, cursor: str) -> int:
        run = self._lookup.resolve(cursor)
        live = self._lookup.live(run)
        if live is not None:
            return live.created_seq
        row = self._lookup.row(run)
        return row.created_seq if row is not None else 0

    def _list(self, params: ListRuns, before: int | None) -> Work:
        """A page ends with its limit, or once it exceeds `PAGE_BYTES`. Each run is shown as it is
        when its turn comes."""
        page: list[Raw] = []
        size = shown_bytes = 0
        for run in self._lookup.newest_first(params, before):
            if run is None:
                yield None
                continue
            shown = self._view.of_row(run) if isinstance(run, RunRow) else self._view.of_run(run)
            page.append(Raw(encode(shown)))
            size += memoryview(page[-1]).nbytes
            if len(page) == params.limit or size > PAGE_BYTES:
                return {"runs": page, "cursor": run.id}
            if len(page) % SHOWS == 0 or size > shown_bytes + SHOWS_BYTES:
                shown_bytes = size
                yield None
        return {"runs": page, "cursor": None}

    def why(self, params: NameRun) -> dict[str, Any]:
        """Why the run has its status: `{run, status, why, why_code, waiting_for}`."""
        run_id = self._lookup.resolve(params.run)
        run = self._view.run(run_id)
        reason = {name: run[name] for name in ("status", "why", "why_code", "waiting_for")}
        return {"run": run_id, **reason}

    def wait(self, owner: object, params: WaitRun, answer: Answer) -> None:
        """Answer when the run has ended, or `{timed_out: true}` after its timeout. The wait ends
        with the connection `owner`."""
        run_id = self._lookup.resolve(params.run)
        live = self._lookup.live(run_id)
        if live is None or live.finished:
            answer(Later(partial(self._outcome, run_id, params.full)))
        else:
            self._run_waits.add(live, params.timeout_ms, params.full, answer, owner)

    def _outcome(self, run_id: str, full: bool) -> dict[str, Any]:
        ended = self._view.run(run_id)
        return ended if full else {name: ended[name] for name in OUTCOME_FIELDS}

    def jobs(self, params: FromCursor) -> dict[str, Any]:
        """`{jobs[], failed_modules[], notes[], cursor}`, the jobs by name."""
        jobs, cursor = paged(sorted(self._catalog.jobs), self._job, params.cursor)
        return {
            "jobs": jobs,
            "failed_modules": [msgspec.to_builtins(module) for module in self._catalog.failed],
            "notes": self._catalog.code.notes(),
            "cursor": cursor,
        }

    def job(self, params: NameJob) -> dict[str, Any]:
        """The job's object as in `jobs`, plus its documentation and all its options."""
        job = self._catalog.find(params.job)
        name = job.name
        return self._job(name) | {
            "doc": job.doc,
            "notes": self._catalog.notes(job.name),
            "priority": job.priority,
            "retry": msgspec.to_builtins(self._catalog.terms(job)),
            "concurrency_key": job.concurrency_key or None,
            "unique": job.unique or None,
            "on_duplicate": job.on_duplicate if job.unique else None,
            "ttl_ms": job.ttl_ms,
            "deadline_ms": job.deadline_ms,
            "on_failure": job.on_failure or None,
            "on_success": job.on_success or None,
            "max_runtime_ms": job.max_runtime_ms,
            "heartbeat": bool(job.heartbeat),
            "idempotency_ttl_ms": self._catalog.key_ttl_ms(job),
            "schedule": shown_terms(job.schedules[name]) if name in job.schedules else None,
            "schedules": {each: shown_terms(job.schedules[each]) for each in job.schedules},
        }

    def _job(self, name: str) -> dict[str, Any]:
        job = self._catalog.find(name)
        return {
            "name": job.name,
            "module": job.module,
            "queue": job.queue,
            "max_attempts": self._catalog.terms(job).max_attempts,
            "timeout_ms": job.timeout_ms,
            "code": job.code,
            "schema": job.schema,
            "expectation": self._expectation(job.name),
            "cron": "; ".join(terms.schedule for terms in job.schedules.values()) or None,
        }
