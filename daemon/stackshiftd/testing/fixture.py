"""`Stackshift`: the object that a test of jobs works with."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Unpack

from stackshift_jobs.calls.runs import StartOptions, start_params
from stackshift_jobs.client.blocking import Client
from stackshift_jobs.client.default import queue, use_client
from stackshift_jobs.errors import Usage
from stackshift_jobs.handler import asyncio_order
from stackshift_jobs.handler.steps import Limits
from stackshift_jobs.project.config import LOCAL, Config, HooksSection, load_config
from stackshift_jobs.project.locate import CONFIG_FILE, Project
from stackshift_jobs.registry import Job, job, registry
from stackshift_jobs.values.durations import Duration, instant_us, milliseconds, to_datetime
from stackshiftd.testing.asked import TestFailure
from stackshiftd.testing.bench import Bench
from stackshiftd.testing.client import LocalClient
from stackshiftd.testing.crashes import BEFORE_RECORD, PLACES, Crash
from stackshiftd.testing.jobs import Jobs
from stackshiftd.testing.replays import difference
from stackshiftd.testing.report import run_report
from stackshiftd.testing.runs import Run

START: Final = "2026-01-05T09:00:00Z"
"""The time at the beginning of a test, unless it sets another: a Monday morning."""
PATIENCE_SECONDS: Final = 10.0
"""Real time for which nothing may happen while a handler is executing."""
GRACE_MS: Final = 100
"""Real time that a step has after its timeout before its worker is replaced."""
PAGE_RUNS: Final = 1000
"""Runs that are listed with one request."""


class Stackshift:
    """A project's daemon and its worker, in the process of the test, with a clock that only the
    test moves. When a call returns, everything it leads to has happened: every handler has reached
    its next wait or its end."""

    queue = staticmethod(queue)
    """`stackshift_jobs.queue`: to start runs on a queue, and to declare its limits."""

    def __init__(self, bench: Bench, client: LocalClient, patience: float) -> None:
        self._bench = bench
        self._patience = patience
        self._client = client
        # An attribute of the instance: type checkers take a `staticmethod` to have one signature.
        self.job = job
        """`stackshift_jobs.job`: a job decorated inside a test exists for that test only."""
        self.client: Client = client
        """The SDK's client for this daemon, for everything else that applications can do."""
        self.state = client.state
        """The project's entries and locks, like `stackshift_jobs.state`."""
        self.events = client.events
        """`events.send`, like `stackshift_jobs.events`."""

    # --- Runs ------------------------------------------------------------------------------

    def start(
        self,
        job: str | Callable[..., Any],
        payload: Any = None,
        **options: Unpack[StartOptions],
    ) -> Run:
        """Start a run of `job` (its name, or the decorated function) with the options of
        `Client.start`. When this returns, its handler has reached its next wait or its end. Raises
        what `Client.start` raises."""
        __tracebackhide__ = True
        params = start_params(_name_of(job), payload, options)
        answer = self.call("run.start", **params)
        return Run(self, answer["id"], bool(answer["reused"]))

    def run(self, id: str) -> Run:
        """The run with this id, a unique suffix of an id, `@last` or `@failed`."""
        return Run(self, str(self.call("run.get", run=id)["id"]))

    @property
    def runs(self) -> list[Run]:
        """All runs, oldest first, including those started by handlers and schedules."""
        runs: list[Run] = []
        cursor: str | None = None
        while True:
            position = {} if cursor is None else {"cursor": cursor}
            page = self.call("run.list", limit=PAGE_RUNS, **position)
            runs += [Run(self, run["id"]) for run in page["runs"]]
            cursor = page["cursor"]
            if cursor is None:
                return runs[::-1]

    @property
    def journal(self) -> list[dict[str, Any]]:
        """Every record in the journal, in order: those of runs, and all others (state, events,
        queues, schedules)."""
        return self._bench.records()

    def runs_of(self, job: str | Callable[..., Any]) -> list[Run]:
        """All runs of a job, oldest first."""
        name = _name_of(job)
        return [run for run in self.runs if run.job == name]

    # --- Time ------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """The current time of the test, in UTC, as `ctx.now()` returns it. `time.time()` and
        `datetime.now()` still return real time."""
        return to_datetime(self._bench.clock.us)

    def advance(self, duration: Duration) -> None:
        """Let time pass (`"24h"`, `90`, `timedelta(days=1)`). Everything due meanwhile happens, in
        order and each at its own time: sleeps end, waits time out, failed steps are tried again.
        """
        __tracebackhide__ = True
        self._bench.advance(self._bench.clock.us + milliseconds(duration) * 1000)

    def advance_to(self, when: datetime | str) -> None:
        """Let time pass until `when` (an aware `datetime`, or RFC 3339 text)."""
        __tracebackhide__ = True
        until_us = instant_us(when)
        if until_us < self._bench.clock.us:
            raise Usage(f"{when} is in the past: the time is {self.now.isoformat()}")
        self._bench.advance(until_us)

    # --- Failures --------------------------------------------------------------------------

    @contextmanager
    def crashing(
        self,
        step: str,
        when: str = BEFORE_RECORD,
        *,
        job: str | Callable[..., Any] | None = None,
        times: int = 1,
    ) -> Iterator[Crash]:
        """Make the worker die the first `times` times that a handler reaches a place:

        - `before_step`: before the step's function is called (other calls have no function),
        - `before_record`: after it has returned, before its result is recorded,
        - `after_record`: after its result is recorded, before the handler continues.

        `step` is the name of any call on `ctx` as the timeline shows it: `charge-card`, `page#2`,
        `resize[0]`. The run continues by itself in another worker. At the end of the block, the
        test fails if the worker reached the place fewer than `times` times.
        """
        __tracebackhide__ = True
        if when not in PLACES:
            raise Usage(
                f"when={when!r} is not a place to crash at", hint="one of " + ", ".join(PLACES)
            )
        crash = Crash(step, when, None if job is None else _name_of(job), times)
        crashes = self._bench.home.crashes
        crashes.arm(crash)
        try:
            yield crash
        finally:
            crashes.disarm(crash)
        if crash.happened < times:
            raise TestFailure(
                f"the worker should have died {times} time(s) {crash}, but died {crash.happened} "
                "time(s)"
            )

    def restart(self, down_for: Duration = 0) -> None:
        """Kill the daemon and its worker and start them again `down_for` later, with only the
        journal to restore the state from. Fails the test if the restored state differs."""
        __tracebackhide__ = True
        self._bench.restart(milliseconds(down_for) * 1000)

    def told(self) -> str:
        """A report on all runs, for a test that has failed; empty if a handler hangs."""
        return "" if self._bench.is_stuck else run_report(self.runs)

    # --- Replay ----------------------------------------------------------------------------

    def assert_replays(
        self,
        job: str | Callable[..., Any] | Run,
        payload: Any = None,
        **options: Unpack[StartOptions],
    ) -> Run:
        """Start a run of `job` as `start` does, let time pass until it has ended, and replay every
        prefix of its record: wherever its worker could have died, the handler must go on as it did,
        and with the whole record return or raise what it did. Fails the test with the place and the
        difference if it does not: the handler depends on something that is not on record, such as a
        clock, chance, the order of a set, or the environment.

        Instead of a job it takes a `Run` that the test itself has brought as far as it should be
        replayed. No step's function is called and nothing is recorded meanwhile; what the handler
        does outside of steps happens on each pass. Returns the run.
        """
        __tracebackhide__ = True
        if not isinstance(job, Run):
            run = self.start(job, payload, **options).finish()
        elif payload is not None or options:
            raise Usage("assert_replays takes either a run, or a job with its payload and options")
        else:
            run = job
        registered = registry.get(run.job)
        if registered is None:
            raise Usage(f"{run.job!r} is not a job of this test")
        found = difference(registered, self._bench.entries_of(run.id), self._patience)
        if found is not None:
            raise TestFailure(f"{run.id} of {run.job} does not replay: {found}")
        return run

    # --- Everything else -------------------------------------------------------------------

    def call(self, method: str, /, **params: Any) -> Any:
        """The result of any method of the protocol, as JSON values."""
        __tracebackhide__ = True
        return self._client.ask(method, params)


def _name_of(job: str | Callable[..., Any]) -> str:
    if isinstance(job, str):
        return job
    for registered in registry.values():
        if registered.handler is job:
            return registered.name
    raise Usage(f"{job!r} is not a job of this test", hint="decorate it with stackshift.job")


@contextmanager
def opened(
    project: Path | None,
    *,
    own_module: str,
    own_jobs: Mapping[str, Job],
    start: str = START,
    patience: float = PATIENCE_SECONDS,
    schedules: bool = False,
) -> Iterator[Stackshift]:
    """A `Stackshift` for one test of the project in the directory `project`; None means that only
    the test's own jobs exist. `own_jobs` are the jobs of the test's module `own_module`."""
    asyncio_order.install()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stackshift-test-")))
        config = _config(project, scratch)
        jobs = Jobs(
            project, config.project.jobs if project is not None else (), own_module, schedules
        )
        if project is not None:
            stack.callback(os.chdir, Path.cwd())
            os.chdir(project)  # As a worker does.
        stack.enter_context(jobs.registered(own_jobs))
        stack.callback(setattr, Limits, "value_bytes", Limits.value_bytes)
        bench = Bench(config, jobs, instant_us(start), patience)
        stack.callback(bench.close)
        client = LocalClient(Project(config.root, scratch), bench)
        stack.callback(client.close)
        stack.callback(use_client, use_client(client))
        yield Stackshift(bench, client, patience)


def _config(project: Path | None, scratch: Path) -> Config:
    """The project's settings, except those about processes, other programs and the disk."""
    if project is None:
        project = scratch
        (scratch / CONFIG_FILE).touch()
    config = load_config(project, environ={})
    queues = {
        name: replace(queue, processes=None, hosts=None) for name, queue in config.queues.items()
    }
    return replace(
        config,
        data_dir=scratch,
        # One run at a time, so that simultaneous things happen in the same order each time.
        workers=replace(
            config.workers,
            processes=1,
            hosts=(LOCAL,),
            slots=1,
            grace_ms=GRACE_MS,
            heartbeat_ms=15_000,
            recycle_runs=None,
            max_memory_bytes=None,
        ),
        queues=MappingProxyType(queues),
        hooks=HooksSection(None, None),
    )
