"""The rows of calls other than steps: waits, children, locks, events, and what was refused.

Of these, locks, sent events, timers and refused calls have rows; reads and writes of state have
none, like `ctx.now()`. Nor has a timer that was dropped before it ran out: `asyncio.timeout` around
a step says nothing if the step was in time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from stackshift_cli.output.messages import compact
from stackshift_cli.timeline.describe import about
from stackshift_cli.timeline.intervals import Kind
from stackshift_cli.timeline.model import Child
from stackshift_cli.timeline.rows import Rows
from stackshift_jobs.values.identities import is_step, is_timer
from stackshift_jobs.values.limits import FINISHED

SHOWN_AFTER_US: Final = 250_000
"""A step is recorded as started when it has run for this long."""
_TIMED_OUT: Final = {"continue": "completed", "cancel": "cancelled"}
"""The status of a wait that timed out, by its `on_timeout`; otherwise it has failed."""


class CallRows(Rows):
    """Folds the records of calls of the run `run_id`."""

    def __init__(self, run_id: str, start_us: int) -> None:
        super().__init__(start_us)
        self.run_id = run_id
        self.on_timeout: dict[str, str] = {}
        self.lock_rows: dict[str, str] = {}

    def wait_started(self, record: dict[str, Any], at_us: int) -> None:
        """A sleep, or a wait for a child, an event or a lock."""
        row = self.begin(record["step"], Kind.WAIT, at_us)
        row.status = "waiting"
        if child := record.get("child"):
            known = row.child.job if row.child is not None else ""
            row.child = Child(str(child), str(record.get("job") or known))
        elif record.get("wait") == "sleep":
            row.note = "asyncio" if is_timer(row.key) else "sleep"
        else:
            self.annotate(row, about(record).words)
        self.on_timeout[row.key] = str(record.get("on_timeout") or "fail")

    def wait_ended(self, record: dict[str, Any], at_us: int) -> None:
        """The wait has an outcome; a backoff that is over leads to the next try."""
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
        if row.child is not None:
            row.child = replace(row.child, status=row.status)
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
            self.add(name, Kind.WORK, max(self.dispatched_us, at_us - SHOWN_AFTER_US), at_us)
        self.row(name).status = "cancelled"
        self.withdrawn.add(name)

    # --- locks, events, and what was refused ---

    def lock_acquired(self, record: dict[str, Any], at_us: int) -> None:
        """The lock is held from now on."""
        name = record.get("step") or f"[lock {record.get('key')}]"
        self.lock_rows[str(record.get("key"))] = name
        self.begin(name, Kind.HOLD, at_us).status = "completed"

    def lock_released(self, record: dict[str, Any], at_us: int) -> None:
        """The lock is not held any more."""
        name = self.lock_rows.pop(str(record.get("key")), None)
        if name is not None:
            self.close(name, at_us)
            note = {"expired": "expired", "forced": "taken away"}.get(str(record.get("reason")))
            if note is not None:
                self.row(name).status, self.row(name).note = "failed", note

    def event_sent(self, record: dict[str, Any], at_us: int) -> None:
        """A mark, if it was this run that sent the event."""
        if (step := record.get("step")) and record.get("run") == self.run_id:
            row = self.row(step)
            row.status = "completed"
            resumed = len(record.get("resumed") or ())
            did = f"resumed {resumed}" if resumed else ""
            self.annotate(row, ", ".join(filter(None, (about(record).words, did))))
            self.add(row.key, Kind.WORK, at_us, at_us)

    def event_returned(self, record: dict[str, Any], _at_us: int) -> None:
        """The event that a withdrawn call had consumed is there for others."""
        row = self.rows.get(str(record.get("step")))
        if row is not None:  # its call has just been withdrawn
            self.annotate(row, f"{about(record).words}, returned")

    def call_refused(self, record: dict[str, Any], at_us: int) -> None:
        """A failed mark, with the reason as its error."""
        if step := record.get("step"):
            self.close(step, at_us)
            row = self.row(step)
            row.status = "failed"
            self.failed_try(row, record, 0)
            self.add(row.key, Kind.FAILED, at_us, at_us)

    def state_written(self, record: dict[str, Any], at_us: int) -> None:
        """A write has a row only if it was refused before."""
        if (row := self.rows.get(str(record.get("step")))) is not None:
            self.close(row.key, at_us)
            row.status = "completed"
            self.add(row.key, Kind.WORK, at_us, at_us)

    def value_recorded(self, record: dict[str, Any], at_us: int) -> None:
        """Under the name of a step: which call of `step.first` decided it."""
        if is_step(name := str(record.get("step") or "[")):
            row = self.row(name)
            row.status, row.note = "completed", _text(record.get("value"))
            self.add(name, Kind.WORK, at_us, at_us)

    def child_started(self, record: dict[str, Any], at_us: int) -> None:
        """A mark, with the run that was started."""
        row = self.row(record["step"])
        row.status = "completed"
        row.child = Child(str(record.get("child")), str(record.get("job") or ""))
        self.add(row.key, Kind.WORK, at_us, at_us)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else compact(value)


CALLS: Final[dict[str, Callable[[CallRows, dict[str, Any], int], None]]] = {
    "wait.started": CallRows.wait_started,
    "wait.ended": CallRows.wait_ended,
    "child.started": CallRows.child_started,
    "lock.acquired": CallRows.lock_acquired,
    "lock.released": CallRows.lock_released,
    "event.received": CallRows.event_sent,
    "event.returned": CallRows.event_returned,
    "call.refused": CallRows.call_refused,
    "call.withdrawn": CallRows.call_withdrawn,
    "value.recorded": CallRows.value_recorded,
    "state.set": CallRows.state_written,
    "state.deleted": CallRows.state_written,
}
"""What handles a record, by its kind."""
