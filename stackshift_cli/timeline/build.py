"""The timeline of a run as rows of spans, computed from the run object with detail.

Pure: records in, values out; no clock (`now_us` is an argument), no terminal, no colour. The run's
journal records say what its time was spent on; `steps[]` says what became of each step, and adds
those without a record in this run (which a fork took over). Unknown kinds of records are skipped,
so that a newer daemon's runs can be shown.

A row is a step, or stands for something that is not a step: `scheduled`, `queued` (unless that took
no time), `handler` (the handler outside its steps, if that took a while, failed, or is all there
is), and `code changed`. `calls` has the rows of waits, locks and events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from stackshift_cli.output.messages import compact
from stackshift_cli.timeline.calls import CALLS, SHOWN_AFTER_US, CallRows
from stackshift_cli.timeline.intervals import (
    Kind,
    Stretch,
    covered_us,
    joined,
    length_us,
    without,
)
from stackshift_cli.timeline.model import (
    CODE,
    HANDLER,
    NO_STEP,
    QUEUED,
    SCHEDULED,
    Child,
    CodeChange,
    Row,
    Timeline,
    Totals,
)
from stackshift_cli.timeline.progress import Reports
from stackshift_jobs.values.durations import from_rfc3339
from stackshift_jobs.values.identities import is_step
from stackshift_jobs.values.limits import FINISHED

_HANDLER_SHOWN_US: Final = 500_000
"""Shorter stretches outside of steps get no row. More than `SHOWN_AFTER_US`, since a step that is
not recorded as started yet looks like such a stretch."""
_CHECKPOINT_CHARACTERS: Final = 60
"""Of a checkpoint, in the note of its step."""
FORGOTTEN: Final = "its records are no longer in the journal"


def build(run: dict[str, Any], now_us: int) -> Timeline:
    """The timeline of `run` (the run object with detail) at the time `now_us`."""
    fold = _Fold(run)
    for record in run.get("timeline") or ():
        fold.add_record(record)
    steps = run.get("steps") or ()
    fold.add_unrecorded(steps)
    fold.settle(steps)
    return fold.end(now_us)


def is_forgotten(run: dict[str, Any]) -> bool:
    """Has `run` ended so long ago that only the run object is left of it, without records?"""
    return run.get("status") in FINISHED and not run.get("timeline")


class _Fold(CallRows):
    """The fold of a run's records into rows."""

    def __init__(self, run: dict[str, Any]) -> None:
        created = run.get("created_at")
        self.start_us = from_rfc3339(created) if created else 0
        super().__init__(str(run.get("id")), self.start_us)
        self.run = run
        self.last_us = self.start_us
        self.executing_since_us: int | None = None
        self.executed_us: list[Stretch] = []
        self.ended_us: int | None = None
        self.attempt = int(run.get("attempt") or 0)
        self.code = str(run.get("code") or "")
        self.dispatched_code = ""
        self.far_workers: list[str] = []
        self.changes: list[CodeChange] = []
        self.reports = Reports()
        self.cut_off: dict[str, tuple[str, Kind]] = {}
        """What was waited for when the run ended: its status, and as what it is drawn."""
        self.lost: frozenset[str] | set[str] = frozenset()
        """Rows that had lost their try, and not begun another, when the run ended."""
        self.backing_off: list[str] = []
        """The rows that the next attempt ends the backoff of."""

    def add_record(self, record: dict[str, Any]) -> None:
        """Fold one record."""
        at_us = from_rfc3339(record["at"])
        if not self.start_us:
            self.start_us = self.busy_since_us = at_us
        self.last_us = max(self.last_us, at_us)
        if handle := _HANDLERS.get(str(record.get("kind"))):
            handle(self, record, at_us)

    # --- runs ---

    def created(self, record: dict[str, Any], at_us: int) -> None:
        due = record.get("scheduled_at")
        if due and from_rfc3339(due) > at_us:
            self.begin(SCHEDULED, Kind.WAIT, at_us).status = "waiting"
        else:
            self.queued(record, at_us)

    def queued(self, _record: dict[str, Any], at_us: int) -> None:
        if SCHEDULED in self.open:
            self.close(SCHEDULED, at_us)
            self.row(SCHEDULED).status = "completed"
        self.ended_us = None
        self.begin(QUEUED, Kind.WAIT, at_us).status = "waiting"

    def retried(self, record: dict[str, Any], at_us: int) -> None:
        forgotten = frozenset(record.get("forgotten") or ())
        for name, (status, kind) in self.cut_off.items():
            if name not in forgotten:
                # A wait or a backoff that was under way when the run ended goes on.
                self.begin(name, kind, at_us).status = status
        self.cut_off.clear()
        for name in self.lost - forgotten:
            self.row(name).status = "retrying"
        self.lost = frozenset()
        self.queued(record, at_us)
        for name in forgotten & self.rows.keys():
            row = self.row(name)
            if row.tries and row.status != "completed":
                row.status = "retrying"
                continue
            # It had an outcome, and has none any more: what it shows is the past.
            row.status, row.note = "queued", "runs again"
            row.forgotten_spans, row.forgotten_tries = len(row.spans), len(row.tries)
        for name in record.get("replaced") or ():
            row = self.row(name)
            row.status, row.note = "completed", "result set by hand"

    def run_ended(self, record: dict[str, Any], at_us: int) -> None:
        self.ended_us = at_us
        self.backing_off.clear()
        self.stop_executing(at_us)
        ended = str(record["kind"]).removeprefix("run.")
        for name, (kind, _) in list(self.open.items()):
            if kind in (Kind.WAIT, Kind.BACKOFF) and name not in (QUEUED, SCHEDULED, HANDLER):
                self.cut_off[name] = (self.row(name).status, kind)
            self.close(name, at_us)
        retrying = {row.key for row in self.rows.values() if row.status == "retrying"}
        self.lost = retrying - self.cut_off.keys() - {HANDLER}
        if (wait := record.get("step")) and wait in self.rows:
            self.rows[wait].status = "failed"  # A wait that timed out.
        for row in self.rows.values():
            if row.status in FINISHED:
                continue
            if row.key == QUEUED and ended == "failed":
                # It was queued again when it was given up; nothing failed in the queue.
                row.status = "completed"
            else:
                row.status = ended if row.key == HANDLER else "cancelled"

    # --- attempts ---

    def attempt_started(self, record: dict[str, Any], at_us: int) -> None:
        self.attempt = int(record.get("attempt") or self.attempt)
        self.dispatched(str(record.get("code") or self.dispatched_code or self.code), at_us)
        worker = str(record.get("worker") or "")
        if "/" in worker and worker not in self.far_workers:
            self.far_workers.append(worker)
        if QUEUED in self.open:
            self.close(QUEUED, at_us)
            self.row(QUEUED).status = "completed"
        for name in self.backing_off:
            self.close(name, at_us)
            self.row(name).status = "running"
        self.backing_off.clear()
        if HANDLER in self.rows:
            self.row(HANDLER).status = "running"
        self.busy_since_us = self.dispatched_us = at_us
        if self.executing_since_us is None:
            self.executing_since_us = at_us

    def dispatched(self, code: str, at_us: int) -> None:
        """The handler begins to execute, with `code`."""
        self.reports.restart()
        if self.dispatched_code and code != self.dispatched_code:
            self.changes.append(CodeChange(at_us, self.dispatched_code, code))
        self.code = self.dispatched_code = code

    def attempt_suspended(self, _record: dict[str, Any], at_us: int) -> None:
        self.stop_executing(at_us)

    def stop_executing(self, at_us: int) -> None:
        """Close the stretch in which the handler was in a worker."""
        if self.executing_since_us is not None:
            self.executed_us.append((self.executing_since_us, at_us))
            self.executing_since_us = None

    def attempt_failed(self, record: dict[str, Any], at_us: int) -> None:
        self.stop_executing(at_us)
        retry_at = record.get("retry_at")
        name = record.get("step") or HANDLER
        row = self.row(name)
        if not record.get("step") or not row.tries:
            self.close(name, at_us, Kind.FAILED)
            if not row.spans or row.spans[-1].end_us < at_us:
                self.add(name, Kind.FAILED, self.busy_since_us, at_us)
            self.failed_try(row, record, (at_us - self.busy_since_us) // 1000)
        row.status = "failed"
        failed_with_it = {"error": {"type": "stopped", "message": "its attempt failed"}}
        self.cut_short(failed_with_it, at_us, "retrying" if retry_at else "failed")
        if retry_at:
            self.back_off(row, at_us, retry_at)
            self.backing_off.append(row.key)
            for other_name in record.get("more_steps") or ():
                other = self.row(other_name)
                if other.tries:
                    self.back_off(other, at_us, retry_at)
                    self.backing_off.append(other_name)

    def attempt_lost(self, record: dict[str, Any], at_us: int) -> None:
        self.stop_executing(at_us)
        lost = {"error": {"type": "lost", "message": str(record.get("reason") or "")}}
        if not self.cut_short(lost, at_us, "retrying"):
            row = self.row(HANDLER)
            self.add(HANDLER, Kind.FAILED, self.busy_since_us, at_us)
            self.failed_try(row, lost, (at_us - self.busy_since_us) // 1000)
            row.status = "retrying"
        self.queued(record, at_us)

    def cut_short(self, why: dict[str, Any], at_us: int, status: str) -> bool:
        """End the tries that were under way in the attempt, because of `why`; the steps that were
        running get `status`. Was any of them recorded as started?"""
        busy = [(n, since) for n, (kind, since) in self.open.items() if kind is Kind.WORK]
        for name, since_us in busy:
            self.close(name, at_us, Kind.FAILED)
            self.failed_try(self.row(name), why, (at_us - since_us) // 1000)
        for row in self.rows.values():
            if row.status == "running" and row.key != HANDLER:
                row.status = status
        return bool(busy)

    # --- steps ---

    def step_started(self, record: dict[str, Any], at_us: int) -> None:
        at_once = record.get("program") or record.get("undo")
        before_us = 0 if at_once else SHOWN_AFTER_US
        start_us = max(self.dispatched_us, at_us - before_us)
        row = self.begin(record["step"], Kind.WORK, start_us)
        row.status, row.note = "running", ""

    def step_checkpointed(self, record: dict[str, Any], _at_us: int) -> None:
        row = self.row(record["step"])
        row.note = f"checkpoint {compact(record.get('value'))[:_CHECKPOINT_CHARACTERS]}"

    def step_completed(self, record: dict[str, Any], at_us: int) -> None:
        row = self.executed(record, at_us, Kind.WORK)
        row.status, row.note = "completed", ""

    def step_failed(self, record: dict[str, Any], at_us: int) -> None:
        row = self.executed(record, at_us, Kind.FAILED)
        row.note = ""
        self.failed_try(row, record, int(record.get("duration_ms") or 0))
        row.status = "failed"
        if retry_at := record.get("retry_at"):
            self.back_off(row, at_us, retry_at)

    def executed(self, record: dict[str, Any], at_us: int, kind: Kind) -> Row:
        name = record["step"]
        took_us = int(record.get("duration_ms") or 0) * 1000
        start_us = max(self.dispatched_us, at_us - took_us)
        span = self.open.get(name)
        if span and span[0] is not Kind.WORK:
            self.close(name, start_us)
        self.open.pop(name, None)
        self.add(name, kind, start_us, at_us)
        self.busy_since_us = max(self.busy_since_us, at_us)
        return self.row(name)

    # --- progress ---

    def progressed(self, record: dict[str, Any], at_us: int) -> None:
        self.reports.add(record, at_us)

    # --- the end ---

    def add_unrecorded(self, steps: Iterable[dict[str, Any]]) -> None:
        """Add rows for steps without records in this run: a fork's, or those no longer kept."""
        for step in steps:
            kind = step.get("kind")
            is_call = not is_step(step["name"]) and kind != "lock"
            if step["name"] in self.rows or kind == "value" or is_call:
                continue
            row = self.row(step["name"])
            row.status, row.note = str(step["status"]), "reused"
            started, finished = step.get("started_at"), step.get("finished_at")
            if started and finished and from_rfc3339(started) >= self.start_us:
                self.annotate(row, str(step.get("detail") or ""))
                spent = Kind.WAIT if kind in ("event", "lock") else Kind.WORK
                self.add(row.key, spent, from_rfc3339(started), from_rfc3339(finished))

    def settle(self, steps: Iterable[dict[str, Any]]) -> None:
        """Say of each step what the run object says of it. Records tell what a step has spent its
        time on; what that comes to is for the daemon to say, in one place."""
        for step in steps:
            row = self.rows.get(step["name"])
            # Of a lock the row also shows how long it was held, and how that ended.
            if row is None or step.get("kind") in ("lock", "value"):
                continue
            row.status, row.took_ms = str(step["status"]), step.get("duration_ms")
            if began := step.get("started_at"):
                row.since_us = from_rfc3339(began)
            if step.get("kind") == "run":
                row.attempts = step.get("attempts")

    def add_handler(self) -> None:
        """Add a row for what the handler did outside of its steps, if it is worth one."""
        has_steps = any(not key.startswith(NO_STEP) for key in self.rows)
        spans = [span for key, row in self.rows.items() if key != QUEUED for span in row.spans]
        # While it holds a lock the handler may do anything, so that explains no time.
        explained = covered_us(spans, (kind for kind in Kind if kind is not Kind.HOLD))
        for start_us, end_us in without(self.executed_us, explained):
            if end_us - start_us >= _HANDLER_SHOWN_US or not has_steps:
                if HANDLER not in self.rows:
                    # What failed has a row, and it is not this one, or it would exist.
                    status = str(self.run.get("status"))
                    failed_elsewhere = status == "failed" and has_steps
                    self.row(HANDLER).status = "completed" if failed_elsewhere else status
                self.add(HANDLER, Kind.WORK, start_us, end_us)

    def add_changes(self) -> None:
        """Add a row that marks where the code changed."""
        if self.changes:
            row = self.row(CODE)
            shown = [self.changes[0].before, *(change.after for change in self.changes)]
            row.status, row.note = "", " to ".join(code[:7] for code in shown)
            for change in self.changes:
                self.add(CODE, Kind.CHANGE, change.at_us, change.at_us)

    def add_children(self) -> None:
        """Add to the rows what the caller knows of the runs that they started or wait for."""
        known = self.run.get("children") or {}
        for row in self.rows.values():
            if row.child is not None and (run := known.get(row.child.id)) is not None:
                # Two runs can wait for each other: no run stands below itself.
                others = {id: r for id, r in known.items() if id not in (row.child.id, self.run_id)}
                inside = {**run, "children": others}
                nested = build(inside, self.last_us) if run.get("timeline") else None
                why = "" if run["status"] in FINISHED else str(run.get("why") or "")
                row.child = Child(row.child.id, str(run["job"]), run["status"], why, nested)

    def end(self, now_us: int) -> Timeline:
        """Close what is open and return the timeline."""
        end_us = max(now_us, self.last_us)
        if self.ended_us is not None:
            end_us = self.ended_us
        elif self.run.get("status") in FINISHED and (finished := self.run.get("finished_at")):
            end_us = max(from_rfc3339(finished), self.last_us)
        for name in list(self.open):
            self.close(name, end_us)
        self.stop_executing(end_us)
        self.last_us = max(now_us, end_us)
        self.add_children()
        self.add_handler()
        queued = self.rows.get(QUEUED)
        if queued is not None and queued.status in FINISHED and queued.duration_ms == 0:
            del self.rows[QUEUED]
        totals = self.totals(end_us)
        self.add_changes()
        for row in self.rows.values():
            row.spans.sort(key=lambda span: span.start_us)
        return Timeline(
            rows=sorted(self.rows.values(), key=_first_moment),
            start_us=self.start_us,
            end_us=end_us,
            status=str(self.run.get("status")),
            attempt=self.attempt,
            code=self.code,
            far_workers=self.far_workers,
            changes=self.changes,
            totals=totals,
            progress=self.reports.progress(),
        )

    def totals(self, end_us: int) -> Totals:
        """What the time was spent on. A handler that executes while its branches wait or back off
        is not active, nor is it while it holds a lock and does nothing else."""
        spans = [span for row in self.rows.values() for span in row.spans]
        in_steps = covered_us(spans, (Kind.WORK, Kind.FAILED))
        backoff = covered_us(spans, (Kind.BACKOFF,))
        idle = joined((*backoff, *covered_us(spans, (Kind.WAIT,))))
        active = joined((*in_steps, *without(self.executed_us, idle)))
        active_ms = length_us(active) // 1000
        backoff_ms = length_us(without(backoff, active)) // 1000
        total_ms = max(0, end_us - self.start_us) // 1000
        waiting_ms = max(0, total_ms - active_ms - backoff_ms)
        if is_forgotten(self.run) and self.run.get("duration_ms") is not None:
            total_ms = int(self.run["duration_ms"])
        return Totals(active_ms, backoff_ms, waiting_ms, total_ms)


def _first_moment(row: Row) -> float:
    return min((s.start_us for s in row.spans), default=float("inf"))


_RUNS: Final[dict[str, Callable[[_Fold, dict[str, Any], int], None]]] = {
    "run.created": _Fold.created,
    "run.queued": _Fold.queued,
    "run.retried": _Fold.retried,
    "run.completed": _Fold.run_ended,
    "run.failed": _Fold.run_ended,
    "run.cancelled": _Fold.run_ended,
    "attempt.started": _Fold.attempt_started,
    "attempt.resumed": _Fold.attempt_started,
    "attempt.suspended": _Fold.attempt_suspended,
    "attempt.failed": _Fold.attempt_failed,
    "attempt.lost": _Fold.attempt_lost,
    "step.started": _Fold.step_started,
    "step.checkpointed": _Fold.step_checkpointed,
    "step.completed": _Fold.step_completed,
    "step.failed": _Fold.step_failed,
    "progress.reported": _Fold.progressed,
}
_HANDLERS: Final = {**CALLS, **_RUNS}
