"""The timeline of a run as rows of spans, computed from the run object with detail.

Pure: records in, values out; no clock (`now_us` is an argument), no terminal, no colour. The run's
journal records are the source; `steps[]` only adds steps without a record in this run (those that a
fork took over). Unknown kinds of records are skipped, so that a newer daemon's runs can be shown.

A row is a step, or stands for something that is not a step: `scheduled`, `queued`, and `handler`
(the handler outside its steps, if that took a while, failed, or is all there is). Of the calls that
are not steps, locks, sent events, timers and refused calls have rows; reads and writes of state
have none, like `ctx.now()`. Nor has a timer that was dropped before it ran out: `asyncio.timeout`
around a step says nothing if the step was in time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from stackshift_cli.output.messages import compact
from stackshift_cli.timeline.describe import about
from stackshift_cli.timeline.intervals import Interval, Kind, Stretch, covered_us, joined, without
from stackshift_cli.timeline.model import (
    HANDLER,
    NO_STEP,
    QUEUED,
    SCHEDULED,
    Row,
    Timeline,
    Try,
)
from stackshift_jobs.values.durations import from_rfc3339
from stackshift_jobs.values.identities import is_step, is_timer
from stackshift_jobs.values.limits import FINISHED

_SHOWN_AFTER_US: Final = 250_000
"""A step is recorded as started when it has run for this long."""
_HANDLER_SHOWN_US: Final = 500_000
"""Shorter stretches outside of steps get no row. More than `_SHOWN_AFTER_US`, since a step that is
not recorded as started yet looks like such a stretch."""
FORGOTTEN: Final = "its records are no longer in the journal"
_TIMED_OUT: Final = {"continue": "completed", "cancel": "cancelled"}
"""The status of a wait that timed out, by its `on_timeout`; otherwise it has failed."""
_FRAME: Final = re.compile(r'File "(?:[^"]*/)?([^"/]+)", line (\d+)')


def build(run: dict[str, Any], now_us: int) -> Timeline:
    """The timeline of `run` (the run object with detail) at the time `now_us`."""
    fold = _Fold(run)
    for record in run.get("timeline") or ():
        fold.add_record(record)
    fold.add_unrecorded(run.get("steps") or ())
    return fold.end(now_us)


def is_forgotten(run: dict[str, Any]) -> bool:
    """Has `run` ended so long ago that only the run object is left of it, without records?"""
    return run.get("status") in FINISHED and not run.get("timeline")


def where(traceback: str) -> str:
    """The innermost place that `traceback` names, as `media.py:48`; empty if it names none."""
    frames = _FRAME.findall(traceback)
    return ":".join(frames[-1]) if frames else ""


class _Fold:
    """The fold of a run's records into rows."""

    def __init__(self, run: dict[str, Any]) -> None:
        created = run.get("created_at")
        self.run = run
        self.rows: dict[str, Row] = {}
        self.open: dict[str, tuple[Kind, int]] = {}
        self.start_us = from_rfc3339(created) if created else 0
        self.last_us = self.start_us
        self.busy_since_us = self.start_us
        self.executing_since_us: int | None = None
        self.executed_us: list[Stretch] = []
        self.ended_us: int | None = None
        self.attempt = int(run.get("attempt") or 0)
        self.code = str(run.get("code") or "")
        self.progress = ""
        self.cut_off: dict[str, tuple[str, Kind]] = {}
        """What was waited for when the run ended: its status, and as what it is drawn."""
        self.backing_off: str | None = None
        """The row that the next attempt ends the backoff of."""
        self.on_timeout: dict[str, str] = {}
        self.withdrawn: set[str] = set()
        """Rows of calls that were withdrawn. One that is made again begins with an empty row."""
        self.lock_rows: dict[str, str] = {}

    def add_record(self, record: dict[str, Any]) -> None:
        """Fold one record."""
        at_us = from_rfc3339(record["at"])
        if not self.start_us:
            self.start_us = self.busy_since_us = at_us
        self.last_us = max(self.last_us, at_us)
        if handle := _HANDLERS.get(str(record.get("kind"))):
            handle(self, record, at_us)

    def row(self, name: str) -> Row:
        """The row `name`, which is created if it is new, or its call was withdrawn."""
        if name in self.withdrawn:
            self.withdrawn.discard(name)
            del self.rows[name]
        return self.rows.setdefault(name, Row(name))

    def begin(self, name: str, kind: Kind, at_us: int) -> Row:
        """Open a span of `kind` in the row `name` at `at_us`."""
        self.close(name, at_us)
        self.open[name] = (kind, at_us)
        return self.row(name)

    def close(self, name: str, at_us: int, kind: Kind | None = None) -> None:
        """Close the open span of `name`, if there is one, as `kind` or as the kind it was opened
        with."""
        if name in self.open:
            open_kind, start_us = self.open.pop(name)
            self.add(name, kind or open_kind, start_us, at_us)

    def add(self, name: str, kind: Kind, start_us: int, end_us: int) -> None:
        """Add a closed span to the row `name`."""
        self.row(name).spans.append(Interval(kind, start_us, max(start_us, end_us)))

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
        self.queued(record, at_us)
        for name in record.get("replaced") or ():
            row = self.row(name)
            row.status, row.note = "completed", "result set by hand"

    def run_ended(self, record: dict[str, Any], at_us: int) -> None:
        self.ended_us = at_us
        self.backing_off = None
        self.stop_executing(at_us)
        ended = str(record["kind"]).removeprefix("run.")
        for name, (kind, _) in list(self.open.items()):
            if kind in (Kind.WAIT, Kind.BACKOFF) and name not in (QUEUED, SCHEDULED, HANDLER):
                self.cut_off[name] = (self.row(name).status, kind)
            self.close(name, at_us)
        for row in self.rows.values():
            if row.status in FINISHED:
                continue
            if row.key == QUEUED and ended == "failed":
                # It was queued again when it was given up; nothing failed in the queue.
                row.status = "completed"
            elif row.key == HANDLER:
                row.status = ended
            elif ended == "failed" and not is_timer(row.key):
                row.status = "failed"
            else:
                row.status = "cancelled"

    # --- attempts ---

    def attempt_started(self, record: dict[str, Any], at_us: int) -> None:
        self.attempt = int(record.get("attempt") or self.attempt)
        self.code = str(record.get("code") or self.code)
        if QUEUED in self.open:
            self.close(QUEUED, at_us)
            self.row(QUEUED).status = "completed"
        if self.backing_off is not None:
            self.close(self.backing_off, at_us)
            self.row(self.backing_off).status = "running"
            self.backing_off = None
        if HANDLER in self.rows:
            self.row(HANDLER).status = "running"
        self.busy_since_us = at_us
        if self.executing_since_us is None:
            self.executing_since_us = at_us

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
        for other in [n for n, (kind, _) in self.open.items() if kind is Kind.WORK]:
            self.close(other, at_us, Kind.FAILED)
            self.row(other).status = "failed"
        if retry_at:
            self.back_off(row, at_us, retry_at)
            self.backing_off = row.key

    def attempt_lost(self, record: dict[str, Any], at_us: int) -> None:
        self.stop_executing(at_us)
        lost = {"error": {"type": "lost", "message": str(record.get("reason") or "")}}
        busy = [n for n, (kind, _) in self.open.items() if kind is Kind.WORK]
        for name in busy or [HANDLER]:
            since_us = self.open.get(name, (Kind.WORK, self.busy_since_us))[1]
            if name in self.open:
                self.close(name, at_us, Kind.FAILED)
            else:
                self.add(name, Kind.FAILED, since_us, at_us)
            row = self.row(name)
            row.status = "retrying"
            self.failed_try(row, lost, (at_us - since_us) // 1000)
        self.queued(record, at_us)

    # --- steps ---

    def step_started(self, record: dict[str, Any], at_us: int) -> None:
        start_us = max(self.busy_since_us, at_us - _SHOWN_AFTER_US)
        self.begin(record["step"], Kind.WORK, start_us).status = "running"

    def step_completed(self, record: dict[str, Any], at_us: int) -> None:
        row = self.executed(record, at_us, Kind.WORK)
        row.status = "completed"
        if row.tries:
            row.note = f"attempt {len(row.tries) + 1}"

    def step_failed(self, record: dict[str, Any], at_us: int) -> None:
        row = self.executed(record, at_us, Kind.FAILED)
        self.failed_try(row, record, int(record.get("duration_ms") or 0))
        row.status = "failed"
        if retry_at := record.get("retry_at"):
            self.back_off(row, at_us, retry_at)

    def executed(self, record: dict[str, Any], at_us: int, kind: Kind) -> Row:
        name = record["step"]
        start_us = at_us - int(record.get("duration_ms") or 0) * 1000
        span = self.open.get(name)
        if span and span[0] is not Kind.WORK:
            self.close(name, start_us)
        self.open.pop(name, None)
        self.add(name, kind, start_us, at_us)
        self.busy_since_us = max(self.busy_since_us, at_us)
        return self.row(name)

    def failed_try(self, row: Row, record: dict[str, Any], took_ms: int) -> None:
        error = record.get("error") or {}
        row.tries.append(
            Try(
                number=len(row.tries) + 1,
                type=str(error.get("type") or error.get("code") or "error"),
                message=str(error.get("message") or ""),
                took_ms=took_ms,
                retry_ms=None,
                where=where(str(error.get("traceback") or "")),
            )
        )

    def back_off(self, row: Row, at_us: int, retry_at: str) -> None:
        retry_ms = (from_rfc3339(retry_at) - at_us) // 1000
        row.tries[-1] = replace(row.tries[-1], retry_ms=retry_ms)
        row.status = "retrying"
        self.begin(row.key, Kind.BACKOFF, at_us)

    # --- waits and children ---

    def wait_started(self, record: dict[str, Any], at_us: int) -> None:
        row = self.begin(record["step"], Kind.WAIT, at_us)
        row.status = "waiting"
        if child := record.get("child"):
            row.note = row.note or f"child {child}"
        elif record.get("wait") == "sleep":
            row.note = "asyncio" if is_timer(row.key) else "sleep"
        else:
            self.annotate(row, about(record).words)
            self.on_timeout[row.key] = str(record.get("on_timeout") or "fail")

    def annotate(self, row: Row, words: str) -> None:
        """Note what a row is about, unless its name says so."""
        row.note = "" if words == row.name else words

    def wait_ended(self, record: dict[str, Any], at_us: int) -> None:
        was = self.open.get(record["step"])
        self.close(record["step"], at_us)
        row, status = self.row(record["step"]), str(record.get("status") or "completed")
        if was is not None and was[0] is Kind.BACKOFF:
            row.status = "running"  # The step is tried again.
            return
        if status == "timed_out":
            row.status = _TIMED_OUT.get(self.on_timeout.get(row.key, ""), "failed")
            row.note = f"timed out: {row.note}".removesuffix(": ")
            return
        row.status = status if status in FINISHED else "completed"
        if words := about(record).words:
            self.annotate(row, words)

    def call_withdrawn(self, record: dict[str, Any], at_us: int) -> None:
        """The handler has cancelled the task that made the call: it did not fail."""
        name = record["step"]
        began = name in self.open or bool(self.row(name).spans)
        self.close(name, at_us)
        if is_timer(name):
            del self.rows[name]
            return
        if not began:
            # A step that had not executed for long enough to be recorded as started.
            self.add(name, Kind.WORK, max(self.busy_since_us, at_us - _SHOWN_AFTER_US), at_us)
        self.row(name).status = "cancelled"
        self.withdrawn.add(name)

    # --- locks, events, and what was refused ---

    def lock_acquired(self, record: dict[str, Any], at_us: int) -> None:
        name = record.get("step") or f"[lock {record.get('key')}]"
        self.lock_rows[str(record.get("key"))] = name
        self.begin(name, Kind.HOLD, at_us).status = "completed"

    def lock_released(self, record: dict[str, Any], at_us: int) -> None:
        name = self.lock_rows.pop(str(record.get("key")), None)
        if name is not None:
            self.close(name, at_us)
            if record.get("reason") == "expired":
                self.row(name).status, self.row(name).note = "failed", "expired"

    def event_sent(self, record: dict[str, Any], at_us: int) -> None:
        if (step := record.get("step")) and record.get("run") == self.run.get("id"):
            row = self.row(step)
            row.status = "completed"
            resumed = len(record.get("resumed") or ())
            did = f"resumed {resumed}" if resumed else ""
            self.annotate(row, ", ".join(filter(None, (about(record).words, did))))
            self.add(row.key, Kind.WORK, at_us, at_us)

    def event_returned(self, record: dict[str, Any], _at_us: int) -> None:
        row = self.rows.get(str(record.get("step")))
        if row is not None:  # its call has just been withdrawn
            self.annotate(row, f"{about(record).words}, returned")

    def call_refused(self, record: dict[str, Any], at_us: int) -> None:
        if step := record.get("step"):
            self.close(step, at_us)
            row = self.row(step)
            row.status = "failed"
            self.failed_try(row, record, 0)
            self.add(row.key, Kind.FAILED, at_us, at_us)

    def state_written(self, record: dict[str, Any], at_us: int) -> None:
        # Only if it was refused before, and so has a row.
        if (row := self.rows.get(str(record.get("step")))) is not None:
            self.close(row.key, at_us)
            row.status = "completed"
            self.add(row.key, Kind.WORK, at_us, at_us)

    def value_recorded(self, record: dict[str, Any], at_us: int) -> None:
        # Under the name of a step: which call of `step.first` decided it.
        if is_step(name := str(record.get("step") or "[")):
            row = self.row(name)
            row.status, row.note = "completed", _text(record.get("value"))
            self.add(name, Kind.WORK, at_us, at_us)

    def child_started(self, record: dict[str, Any], at_us: int) -> None:
        row = self.row(record["step"])
        row.status = "completed"
        row.note = f"{record.get('job')} {record.get('child')}"
        self.add(row.key, Kind.WORK, at_us, at_us)

    def progressed(self, record: dict[str, Any], _at_us: int) -> None:
        done, total = record.get("done") or 0, record.get("total")
        count = f"{done:g}/{total:g}" if total else f"{done:g}"
        self.progress = f"{count} {record.get('message') or ''}".strip()

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

    def add_handler(self) -> None:
        """Add a row for what the handler did outside of its steps, if it is worth one."""
        has_steps = any(not key.startswith(NO_STEP) for key in self.rows)
        spans = [span for key, row in self.rows.items() if key != QUEUED for span in row.spans]
        # While it holds a lock the handler may do anything, so that explains no time.
        explained = covered_us(spans, (kind for kind in Kind if kind is not Kind.HOLD))
        for start_us, end_us in without(self.executed_us, explained):
            if end_us - start_us >= _HANDLER_SHOWN_US or not has_steps:
                if HANDLER not in self.rows:
                    self.row(HANDLER).status = str(self.run.get("status"))
                self.add(HANDLER, Kind.WORK, start_us, end_us)

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
        self.add_handler()
        for row in self.rows.values():
            row.spans.sort(key=lambda span: span.start_us)
        rows = sorted(self.rows.values(), key=_first_moment)
        spans = [span for row in rows for span in row.spans]
        in_steps = covered_us(spans, (Kind.WORK, Kind.FAILED, Kind.BACKOFF))
        active = joined((*in_steps, *self.executed_us))
        active_ms = sum(end - start for start, end in active) // 1000
        total_ms = max(0, end_us - self.start_us) // 1000
        waiting_ms = max(0, total_ms - active_ms)
        if is_forgotten(self.run) and self.run.get("duration_ms") is not None:
            total_ms = int(self.run["duration_ms"])
        return Timeline(
            rows=rows,
            start_us=self.start_us,
            end_us=end_us,
            status=str(self.run.get("status")),
            attempt=self.attempt,
            code=self.code,
            active_ms=active_ms,
            waiting_ms=waiting_ms,
            total_ms=total_ms,
            progress=self.progress,
        )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else compact(value)


def _first_moment(row: Row) -> float:
    return min((s.start_us for s in row.spans), default=float("inf"))


_HANDLERS: Final = {
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
    "step.completed": _Fold.step_completed,
    "step.failed": _Fold.step_failed,
    "wait.started": _Fold.wait_started,
    "wait.ended": _Fold.wait_ended,
    "child.started": _Fold.child_started,
    "progress.reported": _Fold.progressed,
    "lock.acquired": _Fold.lock_acquired,
    "lock.released": _Fold.lock_released,
    "event.received": _Fold.event_sent,
    "event.returned": _Fold.event_returned,
    "call.refused": _Fold.call_refused,
    "call.withdrawn": _Fold.call_withdrawn,
    "value.recorded": _Fold.value_recorded,
    "state.set": _Fold.state_written,
    "state.deleted": _Fold.state_written,
}
