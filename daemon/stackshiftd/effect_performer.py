"""Performs effects, and passes on what has become durable: to workers, waiting clients, feeds and
the history."""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stackshift_jobs.errors import error_text
from stackshiftd.core.effects import (
    Acknowledge,
    Dispatch,
    Effect,
    Granted,
    Interrupt,
    Resolve,
    Stop,
)
from stackshiftd.core.records import Entry
from stackshiftd.core.state.state import Run
from stackshiftd.history.rows import RunRow
from stackshiftd.parts import Parts


class EffectPerformer:
    """The `engine.EffectSink` of a daemon. `failed` is called with the error by which the journal
    has failed for good."""

    def __init__(
        self, parts: Parts, data_dir: Path, failed: Callable[[BaseException], None]
    ) -> None:
        self._parts = parts
        self._engine = parts.engine
        self._data_dir = data_dir
        self.failed = failed
        self.on_published: Callable[[], None] = lambda: None
        """Called when something has been recorded."""

    def fill_slots(self, now_us: int) -> None:
        """Submit an `Assign` for each free slot that a run which is ready at `now_us` could use."""
        self._parts.dispatcher.fill_slots(now_us)

    def timers_moved(self) -> None:
        """Set the timers again, because the next one may be due at another time."""
        self._parts.timers.rearm()
        self._parts.schedule_timer.rearm()

    def perform(self, effect: Effect, source: Any, at_us: int) -> None:
        """Carry out an effect, whose records, of the time `at_us`, are durable."""
        match effect:
            case Acknowledge():
                self._parts.dispatcher.acknowledge(effect, source, at_us)
            case Dispatch():
                self._parts.dispatcher.dispatch(effect)
            case Granted():
                self._parts.locks.granted(effect)
            case Resolve():
                self._parts.dispatcher.resolve(effect)
            case Interrupt():
                self._parts.dispatcher.interrupt(effect)
            case Stop():
                self._parts.dispatcher.stop(effect)

    def published(self, entries: list[Entry]) -> None:
        """Send durable entries to the feeds, count them, and answer those who waited for them: for
        an entry of the state, or for a queue to drain. What follows from them is sent first."""
        self._parts.dispatcher.flush()
        self._parts.heartbeats.published(entries, self._engine.state)
        self._parts.feeds.published(entries)
        self._parts.activity.published(entries)
        self._parts.state_waits.published(entries)
        self._parts.queues.noticed()
        self.on_published()

    def finished(self, run: Run, row: RunRow) -> None:
        """Add a finished run to the history, answer those who wait for it, and call the hooks and
        the heartbeat of its job."""
        self._parts.history.add(row)
        self._parts.run_waits.finished(run, row)
        self._parts.hooks.ended(row)
        self._parts.metrics.ended(row)
        error = run.error
        text = error_text(error.type, error.message) if error is not None else ""
        self._parts.heartbeats.ended(run, row, text, self._engine.state)

    def lengthened(self, run: str, places: array[int]) -> None:
        """Add the places of later records of a finished run to the history."""
        self._parts.history.lengthen(run, places)

    def removed(self, run: str) -> None:
        """Remove a run from the history, and delete its log."""
        self._parts.history.remove(run)
        with contextlib.suppress(OSError):
            (self._data_dir / "logs" / f"{run}.jsonl").unlink(missing_ok=True)
