"""What a test holds in its hand: `Stackshift`."""

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
from stackshift_jobs.handler.context import instant_us
from stackshift_jobs.handler.steps import Limits
from stackshift_jobs.project.config import Config, HooksSection, load_config
from stackshift_jobs.project.locate import CONFIG_FILE, Project
from stackshift_jobs.registry import Job, job, registry
from stackshift_jobs.values.durations import Duration, milliseconds, to_datetime
from stackshiftd.testing.asked import TestFailure
from stackshiftd.testing.bench import Bench
from stackshiftd.testing.client import LocalClient
from stackshiftd.testing.crashes import BEFORE_RECORD, PLACES, Crash
from stackshiftd.testing.jobs import Jobs
from stackshiftd.testing.report import told
from stackshiftd.testing.runs import Run

START: Final = "2026-01-05T09:00:00Z"
"""When a test begins, unless it says otherwise: a Monday morning."""
PATIENCE_SECONDS: Final = 10.0
"""Real time for which nothing may happen while a handler executes."""
GRACE_MS: Final = 100
"""Real time that a step past its timeout gets before its worker is replaced."""
EVERY_RUN: Final = 1000


class Stackshift:
    """A project's daemon and its worker, in the process of the test, with a clock that only the
    test moves. What a call leads to has happened when it returns: every handler has come to its
    next wait, or to its end."""

    queue = staticmethod(queue)
    """`stackshift_jobs.queue`: to start runs on a queue, and to declare how it is limited."""

    def __init__(self, bench: Bench, client: LocalClient) -> None:
        self._bench = bench
        self._client = client
        # An attribute of the instance: type checkers take a `staticmethod` to have one signature.
        self.job = job
        """`stackshift_jobs.job`: a job that is decorated in a test is there for that test alone."""
        self.client: Client = client
        """The SDK's client for this daemon: all else that applications can do."""
        self.state = client.state
        """The project's entries and locks, as `stackshift_jobs.state` has them."""
        self.events = client.events
        """`events.send`, as `stackshift_jobs.events` has it."""

    # --- Runs ------------------------------------------------------------------------------

    def start(
        self,
        job: str | Callable[..., Any],
        payload: Any = None,
        **options: Unpack[StartOptions],
    ) -> Run:
        """Start a run of `job` (its name, or the decorated function) with the options of
        `Client.start`. Its handler has come to its next wait, or to its end, when this returns.
        Raises what `Client.start` raises."""
        __tracebackhide__ = True
        params = start_params(_name_of(job), payload, options)
        answer = self.call("run.start", **params)
        return Run(self, answer["id"], bool(answer["reused"]))

    def run(self, id: str) -> Run:
        """The run with that id (or `@last`, `@failed`, or the end of an id)."""
        return Run(self, str(self.call("run.get", run=id)["id"]))

    @property
    def runs(self) -> list[Run]:
        """All runs, oldest first; also those that handlers and schedules have started."""
        found: list[Run] = []
        cursor: str | None = None
        while True:
            given = {} if cursor is None else {"cursor": cursor}
            page = self.call("run.list", limit=EVERY_RUN, **given)
            found += [Run(self, each["id"]) for each in page["runs"]]
            cursor = page["cursor"]
            if cursor is None:
                return found[::-1]

    @property
    def journal(self) -> list[dict[str, Any]]:
        """Every record that there is, in order: those of runs, and of all else (state, events,
        queues, schedules)."""
        return self._bench.records()

    def runs_of(self, job: str | Callable[..., Any]) -> list[Run]:
        """All runs of a job, oldest first."""
        name = _name_of(job)
        return [run for run in self.runs if run.job == name]

    # --- Time ------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """The time that it is, in UTC: what `ctx.now()` gives. `time.time()` and `datetime.now()`
        know nothing of it."""
        return to_datetime(self._bench.clock.us)

    def advance(self, duration: Duration) -> None:
        """Let time pass (`"24h"`, `90`, `timedelta(days=1)`). All that is due on the way happens,
        in order and each at its own time: sleeps end, waits time out, what failed is tried again.
        """
        __tracebackhide__ = True
        self._bench.advance(self._bench.clock.us + milliseconds(duration) * 1000)

    def advance_to(self, when: datetime | str) -> None:
        """Let time pass until `when` (an aware `datetime`, or RFC 3339 text)."""
        __tracebackhide__ = True
        until_us = instant_us(when)
        if until_us < self._bench.clock.us:
            raise Usage(f"{when} is past: it is {self.now.isoformat()}")
        self._bench.advance(until_us)

    # --- What goes wrong -------------------------------------------------------------------

    @contextmanager
    def crashing(
        self,
        step: str,
        when: str = BEFORE_RECORD,
        *,
        job: str | Callable[..., Any] | None = None,
        times: int = 1,
    ) -> Iterator[Crash]:
        """The worker dies the first time (`times` times) that a handler comes by a place:

        - `before_step`: before the step's function is called (other calls have none),
        - `before_record`: when it has returned, before its result is recorded,
        - `after_record`: when it is recorded, before the handler goes on.

        `step` is the name of any call on `ctx` as the timeline has it: `charge-card`, `page#2`,
        `resize[0]`. The run goes on by itself in another worker. Fails the test at the end of the
        block if the worker did not come by as often.
        """
        __tracebackhide__ = True
        if when not in PLACES:
            raise Usage(
                f"when={when!r} is no place to crash at", hint="one of " + ", ".join(PLACES)
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
                f"the worker was to die {times} time(s) {crash}, and did {crash.happened} time(s)"
            )

    def restart(self, down_for: Duration = 0) -> None:
        """Kill the daemon and its worker and start them anew, `down_for` later: all that is known
        then is what the journal says. Fails the test if that is not all that was known before."""
        __tracebackhide__ = True
        self._bench.restart(milliseconds(down_for) * 1000)

    def told(self) -> str:
        """What there is to say of all runs, for a test that has failed; nothing where a handler
        hangs."""
        return "" if self._bench.is_stuck else told(self.runs)

    # --- All else --------------------------------------------------------------------------

    def call(self, method: str, /, **params: Any) -> Any:
        """The result of any method of the protocol, as JSON values."""
        __tracebackhide__ = True
        return self._client.ask(method, params)


def _name_of(job: str | Callable[..., Any]) -> str:
    if isinstance(job, str):
        return job
    for each in registry.values():
        if each.handler is job:
            return each.name
    raise Usage(f"{job!r} is no job here", hint="decorate it with stackshift.job")


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
    """A `Stackshift` for one test of the project in the directory `project` (None: there are only
    the jobs of the test). `own_jobs` are those of the test's module `own_module`."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stackshift-test-")))
        config = _config(project, scratch)
        jobs = Jobs(
            project, config.project.jobs if project is not None else (), own_module, schedules
        )
        if project is not None:
            stack.callback(os.chdir, Path.cwd())
            os.chdir(project)  # as a worker does
        stack.enter_context(jobs.registered(own_jobs))
        stack.callback(setattr, Limits, "value_bytes", Limits.value_bytes)
        bench = Bench(config, jobs, instant_us(start), patience)
        stack.callback(bench.close)
        client = LocalClient(Project(config.root, scratch), bench)
        stack.callback(client.close)
        stack.callback(use_client, use_client(client))
        yield Stackshift(bench, client)


def _config(project: Path | None, scratch: Path) -> Config:
    """The project's settings, but for what is of processes, of other programs and of the disk."""
    if project is None:
        project = scratch
        (scratch / CONFIG_FILE).touch()
    config = load_config(project, environ={})
    queues = {name: replace(queue, processes=None) for name, queue in config.queues.items()}
    return replace(
        config,
        data_dir=scratch,
        # One run at a time: what happens at the same time happens in the same order each time.
        workers=replace(
            config.workers,
            processes=1,
            slots=1,
            grace_ms=GRACE_MS,
            recycle_runs=None,
            max_memory_bytes=None,
        ),
        queues=MappingProxyType(queues),
        hooks=HooksSection(None, None),
    )
