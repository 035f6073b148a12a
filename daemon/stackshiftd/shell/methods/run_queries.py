"""The methods that only read: `run.get list why wait logs` and `job.*`.

Each answers with the state at the time of the request, once all of that is durable.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from stackshift_jobs.errors import Usage
from stackshift_jobs.values.durations import parse_time
from stackshiftd.core.state.state import Status
from stackshiftd.core.why import shown_status
from stackshiftd.history.index import History
from stackshiftd.history.rows import RunRow
from stackshiftd.history.table import Filters
from stackshiftd.shell.catalog import Catalog
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.methods.run_waits import RunWaits
from stackshiftd.shell.methods.schedules import shown_terms
from stackshiftd.shell.params import Answer, BoundTable, NameRun, NoParams, Params, Table
from stackshiftd.shell.views.log_lines import log_page
from stackshiftd.shell.views.lookup import Lookup
from stackshiftd.shell.views.run import OUTCOME_FIELDS, View

MAX_LIST: Final = 1000
STATUSES: Final = frozenset(status.value for status in Status)


class GetRun(Params):
    """`detail` adds the run's `steps`, `attempts` and `timeline`."""

    run: str
    detail: bool = False


class ListRuns(Params):
    """Which runs to list. `since` is a time, `cursor` the id of the last run of the previous page,
    `dead` limits the list to the dead letter."""

    job: str | None = None
    status: str | None = None
    queue: str | None = None
    labels: dict[str, str] | None = None
    since: str | None = None
    limit: int = 50
    cursor: str | None = None
    dead: bool = False


class WaitRun(Params):
    """`full` asks for the whole run object, not only its outcome."""

    run: str
    timeout_ms: int | None = None
    full: bool = False


class RunLogs(Params):
    """At most `limit` lines of a run's log from line `after` + 1 on, of one step or attempt if
    given."""

    run: str
    step: str | None = None
    attempt: int | None = None
    after: int = 0
    limit: int = 1000


class NameJob(Params):
    """A job by its name."""

    job: str


class RunQueries:
    """Reads runs and jobs; changes nothing."""

    def __init__(
        self,
        engine: Engine,
        catalog: Catalog,
        lookup: Lookup,
        view: View,
        history: History,
        logs: Path,
        run_waits: RunWaits,
    ) -> None:
        self._engine = engine
        self._catalog = catalog
        self._lookup = lookup
        self._view = view
        self._history = history
        self._logs = logs
        self._run_waits = run_waits
        self.table: Table = {
            "run.get": (GetRun, self.get),
            "run.list": (ListRuns, self.list),
            "run.why": (NameRun, self.why),
            "run.logs": (RunLogs, self.logs),
            "job.list": (NoParams, self.jobs),
            "job.get": (NameJob, self.job),
        }
        self.bound: BoundTable = {"run.wait": (WaitRun, self.wait)}

    def get(self, params: GetRun, answer: Answer) -> None:
        """Answer the run object."""
        run = self._lookup.resolve(params.run)
        self._engine.when_durable(answer, self._view.run(run, with_detail=params.detail))

    def list(self, params: ListRuns, answer: Answer) -> None:
        """Answer `{runs[], cursor}`: a page of run objects, newest first."""
        if not 1 <= params.limit <= MAX_LIST:
            raise Usage(f"limit is {params.limit}", hint=f"1 to {MAX_LIST}")
        if params.status is not None and params.status not in STATUSES:
            raise Usage(f"{params.status!r} is not a status", hint=", ".join(sorted(STATUSES)))
        since_us = parse_time(params.since) if params.since is not None else 0
        before = self._created_seq(params.cursor) if params.cursor is not None else None
        self._engine.when_durable(answer, self._listed(params, since_us, before))

    def _created_seq(self, cursor: str) -> int:
        run = self._lookup.resolve(cursor)
        live = self._lookup.live(run)
        if live is not None:
            return live.created_seq
        row = self._lookup.row(run)
        return row.created_seq if row is not None else 0

    def _listed(self, params: ListRuns, since_us: int, before: int | None) -> dict[str, Any]:
        found: list[tuple[int, Any]] = []
        dead_only = params.dead
        # Few runs are executing, but very many may be waiting behind them.
        running = params.status == Status.RUNNING.value
        lookup = self._lookup
        for run in lookup.executing_newest_first() if running else lookup.newest_first():
            if len(found) >= params.limit or run.created_us < since_us:
                break
            if (
                (before is None or run.created_seq < before)
                and (params.job is None or run.job == params.job)
                and (params.queue is None or run.queue == params.queue)
                and (params.status is None or shown_status(run).value == params.status)
                and (not dead_only or run.status is Status.FAILED)
                and all(run.labels.get(k) == v for k, v in (params.labels or {}).items())
            ):
                found.append((run.created_seq, run))
        if not dead_only:
            filters = Filters(
                params.job, params.status, params.queue, params.labels, since_us, before
            )
            rows = self._history.newest(filters, params.limit)
            live = self._engine.state.runs
            found.extend((row.created_seq, row) for row in rows if row.id not in live)
        found.sort(key=lambda pair: -pair[0])
        runs = [
            self._view.of_row(run) if isinstance(run, RunRow) else self._view.of_run(run)
            for _, run in found[: params.limit]
        ]
        more = len(runs) == params.limit
        return {"runs": runs, "cursor": runs[-1]["id"] if runs and more else None}

    def why(self, params: NameRun, answer: Answer) -> None:
        """Answer `{run, status, why, why_code, waiting_for}`: why the run has its status."""
        run_id = self._lookup.resolve(params.run)
        run = self._view.run(run_id)
        reason = {name: run[name] for name in ("status", "why", "why_code", "waiting_for")}
        self._engine.when_durable(answer, {"run": run_id, **reason})

    def wait(self, owner: object, params: WaitRun, answer: Answer) -> None:
        """Answer when the run has ended, or `{timed_out: true}` after its timeout. The wait ends
        with the connection `owner`."""
        run_id = self._lookup.resolve(params.run)
        live = self._lookup.live(run_id)
        if live is None or live.finished:
            ended = self._view.run(run_id)
            if not params.full:
                ended = {name: ended[name] for name in OUTCOME_FIELDS}
            self._engine.when_durable(answer, ended)
        else:
            self._run_waits.add(live, params.timeout_ms, params.full, answer, owner)

    def logs(self, params: RunLogs, answer: Answer) -> None:
        """Answer `{lines[], next, finished}`; `next` is the `after` of the next request."""
        run_id = self._lookup.resolve(params.run)
        self._engine.when_durable(answer, self._logged(params, run_id))

    def _logged(self, params: RunLogs, run_id: str) -> dict[str, Any]:
        path = self._logs / f"{run_id}.jsonl"
        lines, read = log_page(path, params.after, params.limit, params.step, params.attempt)
        live = self._lookup.live(run_id)
        return {"lines": lines, "next": read, "finished": live is None or live.finished}

    def jobs(self, _params: NoParams, answer: Answer) -> None:
        """Answer `{jobs[], failed_modules[], notes[]}`, the jobs by name."""
        answer(
            {
                "jobs": [self._job(name) for name in sorted(self._catalog.jobs)],
                "failed_modules": [msgspec.to_builtins(module) for module in self._catalog.failed],
                "notes": self._catalog.code.notes(),
            }
        )

    def job(self, params: NameJob, answer: Answer) -> None:
        """Answer the job's object as in `jobs`, plus its documentation and all its options."""
        job = self._catalog.find(params.job)
        answer(
            self._job(job.name)
            | {
                "doc": job.doc,
                "notes": self._catalog.notes(job.name),
                "priority": job.priority,
                "retry": msgspec.to_builtins(self._catalog.terms(job)),
                "concurrency_key": job.concurrency_key or None,
                "idempotency_ttl_ms": self._catalog.key_ttl_ms(job),
                "schedule": job.schedule and shown_terms(job.schedule),
            }
        )

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
        }
