"""Tells the core who is to be told of alerts, and what jobs expect; and waits, when the daemon
stops, for the message that says so."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from stackshift_jobs.errors import StackshiftError
from stackshift_jobs.project.config import Config
from stackshift_jobs.values.durations import rfc3339
from stackshift_jobs.values.names import NOTIFY_QUEUE
from stackshiftd.core import commands as c
from stackshiftd.core.records import NotifyTerms
from stackshiftd.core.state.alerts import DAEMON_STOPPED, subject_id
from stackshiftd.history.filters import Filters
from stackshiftd.history.index import History
from stackshiftd.shell.catalog import Catalog
from stackshiftd.shell.engine import Engine

STOP_SECONDS: Final = 5.0
"""How long a daemon that stops waits for the delivery of the message about that. What was not
delivered by then is delivered when one is back."""
_LOOK_SECONDS: Final = 0.02
_COMPLETED: Final = frozenset(("completed",))


class Alerts:
    """What the core has to know of alerts, from the file and from the code."""

    def __init__(self, engine: Engine, catalog: Catalog, history: History) -> None:
        self._engine = engine
        self._catalog = catalog
        self._history = history

    def define(self, config: Config) -> None:
        """Tell the core whom `stackshift.toml` says to tell; what it knows already is not recorded
        again."""
        self._engine.submit(c.DefineNotify(notify_terms(config)))

    def learn(self) -> None:
        """Tell the core what the jobs in the catalog expect; called after a greeting."""
        expectations = {
            job.name: job.expect for job in self._catalog.jobs.values() if job.expect is not None
        }
        known = self._engine.state.alerts.expectations
        if not expectations and not known:
            return
        succeeded = {job: self._succeeded_us(job) for job in expectations if job not in known}
        self._engine.submit(
            c.DefineExpectations(
                expectations,
                frozenset(self._catalog.jobs),
                not self._catalog.failed,
                {job: us for job, us in succeeded.items() if us},
            )
        )

    def expectation(self, job: str, schedule: str = "") -> dict[str, Any] | None:
        """What is expected of a job, or of a schedule of it, and whether it was met
        last: `pending` before the first judgement, `met`, `late` or `missing`. None if nothing is
        expected."""
        expected = self._engine.state.alerts.expectations.get(subject_id(job, schedule))
        if expected is None:
            return None
        return {
            "expect": expected.expect,
            "timezone": expected.timezone,
            "status": expected.missed or ("met" if expected.succeeded_us else "pending"),
            "due_at": rfc3339(expected.due_us) if expected.due_us else None,
            "succeeded_at": rfc3339(expected.succeeded_us) if expected.succeeded_us else None,
            "missed_at": rfc3339(expected.missed_us) if expected.missed_us else None,
        }

    def _succeeded_us(self, job: str) -> int:
        """When the job last completed, as far as the history knows; else 0."""
        try:
            rows = self._history.newest(Filters(statuses=_COMPLETED, job=job), 1)
        except StackshiftError:
            return 0  # It is being rebuilt.
        return rows[0].finished_us if rows else 0

    async def tell_stop(self) -> None:
        """Tell those who want to know that the daemon stops, and wait for that a little."""
        targets = self._engine.state.alerts.targets.values()
        if not any(target.wants(DAEMON_STOPPED, "", "") for target in targets):
            return
        self._engine.submit(c.NoteStopping())
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline and self._are_under_way():
            await asyncio.sleep(_LOOK_SECONDS)

    def _are_under_way(self) -> bool:
        """Is a message being delivered, or about to be, for the first time?"""
        return any(
            run.queue == NOTIFY_QUEUE and not run.finished and run.attempt <= 1
            for run in self._engine.state.runs.values()
        )


def notify_terms(config: Config) -> dict[str, NotifyTerms]:
    """What `stackshift.toml` says of whom to tell what, without where."""
    return {
        name: NotifyTerms(
            on=list(section.on),
            jobs=list(section.jobs),
            queues=list(section.queues),
            quiet_ms=section.quiet_ms,
            most=section.rate.count,
            per_ms=section.rate.per_ms,
            max_attempts=section.max_attempts,
        )
        for name, section in config.notify.items()
    }
