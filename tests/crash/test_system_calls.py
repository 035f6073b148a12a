"""A system call of the daemon fails, writes half, or is the last; no promise is broken.

The calls on files of the data directory are counted by `faults.c`, over a first life in an empty
directory and over one that begins with snapshots, several segments and an index; both rotate,
compact and end in good order. The short form has 16 faults, the long one (`STACKSHIFT_LONG=1`)
1,200, spread evenly over all calls and kinds.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from math import gcd
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import pytest

from helpers.deadline import SECONDS, wait_until
from helpers.ledger import Ledger
from helpers.processes import serving
from helpers.project import Project
from stackshift_cli.daemon.connection import Connection
from stackshift_jobs.errors import DaemonUnavailable, NotFound, StackshiftError
from stackshift_jobs.wire.unavailable import NO_ANSWER
from stackshiftd.journal.offline import tools

LONG = os.environ.get("STACKSHIFT_LONG") == "1"
EACH: Final = 60 if LONG else 4
"""Faults of one test."""
PARTS: Final = 10 if LONG else 2
"""Tests for each life."""
KEYS: Final = 8
"""Runs started in one life."""
LIVES: Final = ("first", "later")
COMPILER = shutil.which("cc") or shutil.which("gcc")

JOBS = """
def step(run_id, name):
    note(run_id, name)
    return name * 700


@stackshift.job("order", retry=Retry(max_attempts=50, backoff="10ms", factor=1))
def order(ctx):
    ctx.step.run("reserve", step, ctx.run_id, "reserve")
    ctx.state.increment("orders")
    ctx.step.run("ship", step, ctx.run_id, "ship")
    return ctx.payload["key"]


@stackshift.job("orderAsync", retry=Retry(max_attempts=50, backoff="10ms", factor=1))
async def order_async(ctx):
    await ctx.step.run("reserve", step, ctx.run_id, "reserve")
    await ctx.state.increment("orders")
    await asyncio.sleep(0.02)
    await ctx.step.run("ship", step, ctx.run_id, "ship")
    return ctx.payload["key"]
"""
CONFIG = """\
[journal]
segment_size = "16KiB"
retention = "0s"
[workers]
processes = 1
slots = 16
grace = "1s"
inherit_env = ["PYTHONPATH"]
"""
WRITES = ("write", "pwrite", "pwrite64", "writev")
READS = ("read", "pread64")


class Fault(NamedTuple):
    """What happens at the call `at` of a daemon, counted from 1."""

    kind: str
    at: int
    call: str


class Found(NamedTuple):
    """All that is known when a story is over."""

    acknowledged: dict[str, str]
    """The run of each key, as the faulty daemon told it."""
    owners: dict[str, str]
    """The run of each key, as a sound daemon told it afterwards."""
    results: dict[str, Any]
    """The result of each key's run, or why there is none."""
    orders: Any
    """The counter in the state, which each run increments once."""
    faults: list[str]
    """What `Ledger` found, requests without an answer, and the journal's problems."""


def violations(found: Found) -> list[str]:
    """Each broken promise, in words."""
    broken = list(found.faults)
    for key, run in found.acknowledged.items():
        if found.owners.get(key) != run:
            broken.append(f"acknowledged and lost: {key} was {run}, is {found.owners.get(key)}")
    if len(set(found.owners.values())) != len(found.owners):
        broken.append("two keys have one run")
    broken += [
        f"not completed: {key}: {result}" for key, result in found.results.items() if result != key
    ]
    if found.orders != len(found.owners):
        broken.append(f"state is {found.orders}, {len(found.owners)} runs incremented it")
    return broken


# --- A story with one fault ------------------------------------------------------------------


class Story:
    """A life of a daemon with a fault, and one without in which everything has to end well."""

    def __init__(self, project: Project, library: Path, prefix: str) -> None:
        self._project = project
        self._library = library
        self._prefix = prefix
        self._acknowledged: dict[str, str] = {}
        self._ledger = Ledger(project)
        self._faults: list[str] = []

    def live(self, fault: Fault | None) -> list[str]:
        """A life with this fault; the names of the calls that were counted."""
        log = self._project.root / "calls.txt"
        done = self._project.root / "happened"
        settings = {
            "LD_PRELOAD": self._library,
            "FAULT_UNDER": self._project.data_dir,
            "FAULT_LOG": log,
            "FAULT_DONE": done,
            "FAULT": f"{fault.kind}:{fault.at}" if fault else "",
        }
        words = [f"{name}={value}" for name, value in settings.items()]
        process, ready = self._project.launch(["env", *words, *self._project.command()])
        try:
            with os.fdopen(ready, "rb") as pipe:
                said = pipe.readline()
            if said and json.loads(said).get("ready"):
                self._use()
        finally:
            self._end(process)
        return log.read_text().split()

    def _use(self) -> None:
        """Start runs, wait for some, read, compact; until the daemon is gone."""
        try:
            with suppress(DaemonUnavailable), Connection.open(self._project.data_dir) as daemon:
                for number in range(KEYS):
                    key = f"{self._prefix}-{number}"
                    told = self._ask(daemon, "run.start", **self._start(key))
                    if told is not None:
                        self._acknowledged[key] = told["id"]
                for run in list(self._acknowledged.values())[: KEYS // 2]:
                    self._ask(daemon, "run.wait", run=run, timeout_ms=5000)
                self._ask(daemon, "run.list")
                self._ask(daemon, "state.set", key=self._prefix, value="x" * 2000)
                self._ask(daemon, "journal.compact")
                self._ask(daemon, "event.send", name="paid", payload=None)
        except TimeoutError as bad:
            self._faults.append(f"no answer: {bad}")

    def _ask(self, daemon: Connection, method: str, **params: Any) -> Any:
        """The daemon's answer; None if it refuses. Raises `DaemonUnavailable` if it is gone."""
        try:
            return daemon.call(method, params, SECONDS)
        except DaemonUnavailable as bad:
            if bad.fields.get("reason") == NO_ANSWER:
                self._faults.append(f"no answer: {bad}")
            raise
        except StackshiftError:
            return None

    @staticmethod
    def _start(key: str) -> dict[str, Any]:
        job = "order" if int(key.split("-")[1]) % 2 else "orderAsync"
        return {"job": job, "payload": {"key": key}, "idempotency_key": key}

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """SIGTERM; a daemon that does not end by it breaks a promise."""
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self._faults.append("the daemon does not end")
            process.kill()
            process.wait()
        wait_until(lambda: not serving(self._project.root), "workers to end with their daemon")

    def found(self, before: int) -> Found:
        """What a sound daemon makes of it. `before`: runs of earlier lives."""
        if list(self._project.data_dir.glob("journal/*.jsonl")):  # Else it ended before it wrote.
            self._ledger.read()
        # What completes from here on is looked at before it may be removed.
        file = self._project.root / "stackshift.toml"
        file.write_text(file.read_text().replace('retention = "0s"', 'retention = "1h"'))
        self._project.start()
        # All keys, whether their starts were acknowledged or not.
        keys = [f"{self._prefix}-{number}" for number in range(KEYS)]
        owners = {key: self._project.call("run.start", **self._start(key))["id"] for key in keys}
        results = {key: self._result(key, run) for key, run in owners.items()}
        orders = self._project.call("state.get", key="orders")["value"] - before
        status = self._project.stop()
        self._ledger.read()
        report = tools.verify(self._project.data_dir)
        faults = [*self._faults, *self._ledger.faults, *map(str, report.problems)]
        if status:
            faults.append(f"a sound daemon ended with status {status}")
        return Found(self._acknowledged, owners, results, orders, faults)

    def _result(self, key: str, run: str) -> Any:
        try:
            seen = self._project.call("run.wait", run=run, timeout_ms=round(SECONDS * 1000))
        except NotFound:
            # Retention was zero: what was over may be gone, what was not may not.
            return key if run in self._ledger.ended else "gone"
        return seen.get("result", seen)


# --- Which faults there are ----------------------------------------------------------------


def kinds(call: str) -> tuple[str, ...]:
    """The faults that a call can have."""
    if call in READS:
        return ("kill", "eio")
    if call in WRITES:
        return ("kill", "killed", "eio", "enospc", "short")
    return ("kill", "killed", "eio", "enospc")


def spread(calls: list[str], count: int) -> list[Fault]:
    """`count` of the faults that `calls` can have, evenly over calls and kinds."""
    every = [Fault(kind, n, call) for n, call in enumerate(calls, 1) for kind in kinds(call)]
    # A stride that shares no divisor with their number meets each once before any twice.
    stride = max(1, len(every) // count)
    while gcd(stride, len(every)) > 1:
        stride += 1
    return [every[n * stride % len(every)] for n in range(count)]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`faults.c`, compiled."""
    made = tmp_path_factory.mktemp("library") / "faults.so"
    source = Path(__file__).with_name("faults.c")
    assert COMPILER is not None
    subprocess.run(
        [COMPILER, "-shared", "-fPIC", "-O1", "-o", str(made), str(source), "-ldl"], check=True
    )
    return made


@pytest.fixture(scope="module")
def earlier(
    tmp_path_factory: pytest.TempPathFactory, library: Path
) -> dict[str, tuple[Path | None, list[str]]]:
    """For each of `LIVES`, the data directory that it begins with, and the calls of a life in which
    nothing happens."""
    folder = tmp_path_factory.mktemp("earlier")
    made: dict[str, tuple[Path | None, list[str]]] = {}
    data_dir = None
    for name in LIVES:
        project = Project(folder / name, {"story": JOBS}, CONFIG)
        try:
            if data_dir is not None:
                shutil.copytree(data_dir, project.data_dir)
            made[name] = (data_dir, Story(project, library, name).live(None))
        finally:
            project.close()
        data_dir = project.data_dir
    return made


@pytest.mark.skipif(sys.platform != "linux", reason="preloading and /proc are those of Linux")
@pytest.mark.skipif(COMPILER is None, reason="there is no C compiler here")
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("life", LIVES)
def test_no_promise_is_broken_by_a_failing_call(
    tmp_path: Path,
    library: Path,
    earlier: dict[str, tuple[Path | None, list[str]]],
    life: str,
    part: int,
) -> None:
    """Acknowledged starts exist and complete, no step runs that is on record, state is exact, the
    journal is whole, every request is answered, and the next daemon starts."""
    data_dir, calls = earlier[life]
    broken: list[str] = []
    for number, fault in enumerate(spread(calls, EACH * PARTS)[part::PARTS]):
        project = Project(tmp_path / str(number), {"story": JOBS}, CONFIG)
        try:
            if data_dir is not None:
                shutil.copytree(data_dir, project.data_dir)
            story = Story(project, library, f"k{number}")
            story.live(fault)
            found = story.found(KEYS if data_dir is not None else 0)
            broken += [f"{life} {fault}: {each}" for each in violations(found)]
        except AssertionError as bad:
            broken.append(f"{life} {fault}: {bad}")
        finally:
            project.close()
        if not broken:
            shutil.rmtree(project.root)
    assert not broken, "\n".join(broken)


# --- The checker itself --------------------------------------------------------------------

SOUND = Found(
    {"k-0": "run_a"}, {"k-0": "run_a", "k-1": "run_b"}, {"k-0": "k-0", "k-1": "k-1"}, 2, []
)


@pytest.mark.parametrize(
    ("planted", "said"),
    [
        ({"acknowledged": {"k-0": "run_c"}}, "acknowledged and lost: k-0"),
        ({"acknowledged": {"k-9": "run_c"}}, "acknowledged and lost: k-9"),
        ({"owners": {"k-0": "run_a", "k-1": "run_a"}}, "two keys have one run"),
        ({"results": {"k-0": "gone", "k-1": "k-1"}}, "not completed: k-0: gone"),
        ({"orders": 3}, "state is 3, 2 runs incremented it"),
        ({"orders": 1}, "state is 1, 2 runs incremented it"),
        ({"faults": ["recorded twice"]}, "recorded twice"),
    ],
)
def test_each_violation_is_seen(planted: dict[str, Any], said: str) -> None:
    """What the test above looks for, planted."""
    assert violations(SOUND) == []
    [one] = violations(SOUND._replace(**planted))
    assert said in one


class Written:
    """Stands for a project whose journal and witness can be written."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.told: list[str] = []

    def journal(self, since_seq: int = 0) -> list[dict[str, Any]]:
        """The records after `since_seq`."""
        return [record for record in self.records if record["seq"] > since_seq]

    def witness(self) -> list[str]:
        """What steps have noted."""
        return self.told

    def completed(self, seq: int) -> dict[str, Any]:
        """The record of a step."""
        return {"seq": seq, "kind": "step.completed", "run": "run_a", "step": "ship"}


@pytest.mark.parametrize(
    ("again", "said"), [("witness", "ran again though on record"), ("journal", "recorded twice")]
)
def test_ledger_sees_a_step_that_is_done_twice(again: str, said: str) -> None:
    """It ran once more after it was on record, or is on record twice."""
    written = Written()
    ledger = Ledger(cast("Project", written))
    written.told.append("run_a ship")
    written.records.append(written.completed(1))
    ledger.check()
    if again == "witness":
        written.told.append("run_a ship")
    else:
        written.records.append(written.completed(2))
    with pytest.raises(AssertionError, match=said):
        ledger.check()
