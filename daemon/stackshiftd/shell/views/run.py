"""The run object: a run as the protocol and `--json` show it, whether in memory or long
finished."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from msgspec import Raw

from stackshift_jobs.errors import error_text
from stackshift_jobs.values.durations import rfc3339
from stackshiftd.core import records as r
from stackshiftd.core.decide.dead_letter import is_dead
from stackshiftd.core.records import Entry, entry_from_json
from stackshiftd.core.state.state import KeyEntry, Progress, Run, Status
from stackshiftd.core.why import (
    NOBODY,
    Fleet,
    Why,
    cancelled_code,
    cancelled_text,
    standing_still,
    why,
)
from stackshiftd.history.rows import RunRow
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.views.bodies import Bodies
from stackshiftd.shell.views.lookup import Lookup, ended_by
from stackshiftd.shell.views.redaction import Redaction
from stackshiftd.shell.views.steps import error_object

_FIELD_ORDER: Final = (
    "id job queue status attempt max_attempts priority payload result error idempotency_key labels "
    "created_at scheduled_at started_at finished_at duration_ms waiting_for why why_code code "
    "parent dead unique expires_at deadline_at continues continued_as forked_from "
    "progress follow_up late_at cancelling"
)
RUN_FIELDS: Final = tuple(_FIELD_ORDER.split())
"""Every field of a run object; all of them are always present."""
OUTCOME_FIELDS: Final = ("id", "status", "result", "error", "why")
"""The fields that say how a run ended."""


class View:
    """Builds run objects."""

    def __init__(
        self, engine: Engine, lookup: Lookup, bodies: Bodies, fleet: Any, redaction: Redaction
    ) -> None:
        self.redaction = redaction
        self._engine = engine
        self._lookup = lookup
        self._bodies = bodies
        self._fleet = fleet

    def run(self, run_id: str) -> dict[str, Any]:
        """The run object of an existing run."""
        live = self._lookup.live(run_id)
        if live is not None:
            return self.of_run(live)
        row = self._lookup.row(run_id)
        assert row is not None, f"{run_id} is neither in memory nor in the history"
        return self.of_row(row)

    def ended(self, run_id: str) -> Callable[[], dict[str, Any]]:
        """A function that builds the run object of a run that has ended, as it was then, whenever
        it is called. Until then it holds no payload and no result."""
        row = self._lookup.row(run_id)
        return partial(self.run, run_id) if row is None else partial(self.at_end, row)

    def at_end(self, row: RunRow) -> dict[str, Any]:
        """The run object as it was when the run ended as `row` says, even if it was retried
        since."""
        live = self._lookup.live(row.id)
        if live is not None and live.finished and live.finished_us == row.finished_us:
            return self.of_run(live)
        return self.of_row(row)

    def why(self, run: Run) -> Why:
        """Why a run in memory has its status."""
        state = self._engine.state
        # One that has ended waits for no worker, and to look at them all takes time.
        fleet: Fleet = NOBODY if run.finished else self._fleet(state.pool_of(run.queue))
        reason = why(state, run, fleet, self._engine.now_us())
        return standing_still(reason, self._engine.ahead_us)

    def beats(self, run_id: str) -> dict[str, str]:
        """When the functions of a run's steps were last known to be alive, of those that beat."""
        run = self._engine.state.runs.get(run_id)
        if run is None:
            return {}
        fleet: Fleet = self._fleet(self._engine.state.pool_of(run.queue))
        return {beat.step: rfc3339(beat.at_us) for beat in fleet.beats.get(run_id, ())}

    def status(self, run_id: str) -> str | None:
        """The status of a run; None if it has finished and is no longer kept."""
        live = self._lookup.live(run_id)
        if live is not None:
            return live.shown_status.value
        row = self._lookup.row(run_id)
        return row.status if row is not None else None

    def owner(self, key: str, entry: KeyEntry) -> dict[str, Any]:
        """The run object of the run that owns `key`. If that run was removed or is past the
        journal's retention, only the fields that the key's entry has are set."""
        if self.status(entry.run) is not None:
            return self.run(entry.run)
        return dict.fromkeys(RUN_FIELDS) | {
            "id": entry.run,
            "job": entry.job,
            "payload": self.redaction.payload(Raw(entry.payload)) if entry.payload else None,
            "idempotency_key": key,
            "why": "it has finished and is no longer kept; its idempotency key is still in use",
            "why_code": "removed",
            "dead": False,
        }

    def outcome(self, run: Run) -> dict[str, Any]:
        """How a run in memory has ended: its `OUTCOME_FIELDS`."""
        return {
            "id": run.id,
            "status": run.status,
            "result": Raw(self._bodies.of(run, run.result)) if run.result is not None else None,
            "error": error_object(run.error) if run.status is Status.FAILED else None,
            "why": self.why(run).text,
        }

    def of_run(self, run: Run) -> dict[str, Any]:
        """The run object of a run in memory."""
        reason = self.why(run)
        read = self._bodies.reader(run)
        done = run.finished
        return {
            "id": run.id,
            "job": run.job,
            "queue": run.queue,
            "status": run.shown_status.value,
            "attempt": run.attempt,
            "max_attempts": run.retry.max_attempts,
            "priority": run.priority,
            "payload": self.redaction.payload(Raw(read(run.payload))),
            "result": Raw(read(run.result)) if run.result is not None else None,
            "error": error_object(run.error) if run.status is Status.FAILED else None,
            "idempotency_key": run.key,
            "labels": run.labels,
            "created_at": rfc3339(run.created_us),
            "scheduled_at": _time(run.scheduled_us),
            "started_at": _time(run.started_us),
            "finished_at": _time(run.finished_us) if done else None,
            "duration_ms": _duration(run.started_us, run.finished_us) if done else None,
            "waiting_for": waiting_for(reason),
            "why": reason.text,
            "why_code": reason.code,
            "code": run.code or None,
            "parent": run.parent,
            "dead": is_dead(self._engine.state, run),
            "unique": run.unique or None,
            "expires_at": None if done else _time(run.expires_us),
            "deadline_at": None if done else _time(run.deadline_us),
            "continues": run.continues,
            "continued_as": run.continued_as,
            "forked_from": run.forked_from,
            "progress": None if done else _progress(run.progress),
            "follow_up": run.follow_up,
            "late_at": None if done else _time(run.late_us),
            "cancelling": cancelling_object(run),
        }

    def of_row(self, row: RunRow) -> dict[str, Any]:
        """The run object of a finished run; its bodies are read from the journal."""
        entries = self._engine.journal.fetch([row.places[0], row.places[row.end]])
        created = _created(entries)
        ended = ended_by([entry for entry in entries if entry is not entries[0]] or entries)
        error = ended.error if ended is not None else None
        code = text = row.status
        if error is not None:
            text = f"failed: {error_text(error.type, error.message)}"
        elif ended is not None and ended.cancelled is not None:
            code, text = cancelled_code(ended.cancelled), cancelled_text(ended.cancelled)
        elif ended is not None and ended.continued_as is not None:
            text = f"continued as {ended.continued_as}"
        return {
            "id": row.id,
            "job": row.job,
            "queue": row.queue,
            "status": row.status,
            "attempt": row.attempt,
            "max_attempts": row.max_attempts,
            "priority": row.priority,
            "payload": self.redaction.payload(created.payload) if created is not None else None,
            "result": ended.result if ended is not None else None,
            "error": error_object(error),
            "idempotency_key": row.key,
            "labels": row.labels,
            "created_at": rfc3339(row.created_us),
            "scheduled_at": _time(row.scheduled_us),
            "started_at": _time(row.started_us),
            "finished_at": _time(row.finished_us),
            "duration_ms": _duration(row.started_us, row.finished_us),
            "waiting_for": None,
            "why": text,
            "why_code": code,
            "code": row.code or None,
            "parent": row.parent,
            "dead": False,
            "unique": created.unique or None if created is not None else None,
            "expires_at": None,
            "deadline_at": None,
            "continues": created.continues if created is not None else None,
            "continued_as": ended.continued_as if ended is not None else None,
            "forked_from": row.forked_from,
            "progress": None,
            "follow_up": ended.follow_up if ended is not None else None,
            "late_at": None,
            "cancelling": None,
        }


def waiting_for(reason: Why) -> dict[str, Any] | None:
    """The `waiting_for` object of a run: `{kind, step, until, run}` and, for an event, `event`,
    `correlation_key` and `events[]`, or for a lock `lock` and `owner`. None if it is not waiting.
    """
    if not reason.kind:
        return None
    wait = reason.wait
    shown: dict[str, Any] = {
        "kind": reason.kind,
        "step": reason.step or None,
        "until": _time(reason.until_us),
        "run": reason.run or None,
    }
    if wait is not None and reason.kind == "event":
        events = [{"name": name, "correlation_key": key or None} for name, key in wait.events]
        first = events[0]
        shown |= {"event": first["name"], "correlation_key": first["correlation_key"]}
        shown["events"] = events
    elif wait is not None:
        shown |= {"lock": wait.lock, "owner": reason.owner or None}
    return shown


def cancelling_object(run: Run) -> dict[str, Any] | None:
    """The `cancelling` object of an unfinished run that is cancelled gently: `{reason,
    requested_at, grace_ends_at, told_at}`, the last null until its handler was told; else None."""
    known = run.cancelling
    if known is None or run.finished:
        return None
    return {
        "reason": known.reason,
        "requested_at": rfc3339(known.since_us),
        "grace_ends_at": rfc3339(known.grace_us),
        "told_at": _time(known.raised_us),
    }


def _created(entries: list[Entry]) -> r.RunCreated | None:
    record = entries[0].record if entries else None
    if isinstance(record, r.RunRetried) and record.restored:
        # The run was no longer in memory when it was retried; the record carries its earlier ones.
        record = entry_from_json(record.restored[0]).record
    return record if isinstance(record, r.RunCreated) else None


def _progress(last: Progress | None) -> dict[str, Any] | None:
    if last is None:
        return None
    return {
        "done": last.done,
        "total": last.total,
        "message": last.message,
        "at": rfc3339(last.at_us),
    }


def _time(us: int) -> str | None:
    return rfc3339(us) if us else None


def _duration(started_us: int, finished_us: int) -> int | None:
    if not started_us or not finished_us:
        return None
    return max(0, finished_us - started_us) // 1000  # Time may have been set back in between.
