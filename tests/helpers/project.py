"""A project in a temporary directory, with a real daemon that can be started, stopped and killed.

Owns every process that works in its directory: `close` ends all of them, whoever started them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import psutil

from helpers import scenery, via
from helpers.deadline import SECONDS, wait_until
from helpers.processes import clear, serving, wait_gone
from stackshift_cli.daemon.connection import Connection
from stackshift_jobs.calls.drive import drive
from stackshift_jobs.calls.run_pages import detailed
from stackshift_jobs.errors import DaemonUnavailable
from stackshift_jobs.project.discovery import places_elsewhere
from stackshiftd.journal.offline import tools

REPOSITORY: Final = Path(__file__).parents[2]
FINISHED: Final = ("completed", "failed", "cancelled")
NONE: Final[Mapping[str, str]] = {}
Json = dict[str, Any]


def environment() -> dict[str, str]:
    """That of the tests, with the sources that are tested first among the imports."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("STACKSHIFT_")}
    return kept | via.variables() | {"PYTHONPATH": os.pathsep.join(via.sources())}


class Project:
    """`modules` are job modules by name; each may use what `jobs._scenery` has."""

    def __init__(self, root: Path, modules: dict[str, str], config: str = scenery.CONFIG) -> None:
        root.mkdir(parents=True)
        self.root = root.resolve()
        self.near_dir = self.root / ".stackshift"
        """The data directory of the daemon that clients here talk to."""
        self.data_dir = via.leader_dir(self.near_dir)
        """That of the daemon that executes runs: journal, logs and the rest. Usually the same."""
        self.address = via.address(self.root)
        """What a client is given to reach it."""
        self.daemon: subprocess.Popen[bytes] | None = None
        (self.root / "stackshift.toml").write_text(config)
        (self.root / "jobs").mkdir()
        (self.root / scenery.GATES).mkdir()
        self.write_module("_scenery", scenery.MODULE)
        for name, text in modules.items():
            self.write_module(name, "from jobs._scenery import *\n\n" + text)
        self._connection: Connection | None = None
        self._direct: Connection | None = None

    def write_module(self, name: str, text: str) -> Path:
        """Write `jobs/NAME.py`."""
        path = self.root / "jobs" / f"{name}.py"
        path.write_text(text)
        return path

    # --- The daemon ------------------------------------------------------------------------

    def command(self, *more: str) -> list[str]:
        """The command line of this project's daemon."""
        return [
            sys.executable,
            "-P",
            "-m",
            "stackshiftd",
            "run",
            "--project",
            str(self.root),
            *more,
        ]

    def launch(
        self, program: list[str] | None = None, variables: Mapping[str, str] = NONE
    ) -> tuple[subprocess.Popen[bytes], int]:
        """Start a daemon and do not wait; the process, and where it will say that it is ready."""
        ready, ready_end = os.pipe()
        log = os.open(self.root / "daemon.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        command = program or self.command()
        try:
            process = subprocess.Popen(
                [*command, "--ready-fd", str(ready_end)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.root,
                env={**environment(), **variables},
                pass_fds=(ready_end,),
                start_new_session=True,
            )
        finally:
            os.close(ready_end)
            os.close(log)
        return process, ready

    def start(self, program: list[str] | None = None) -> Json:
        """Start the daemon; what it says when it is ready."""
        assert self.daemon is None, "one daemon at a time"
        self._forget()
        return self.adopt(*self.launch(program))

    def adopt(self, process: subprocess.Popen[bytes], ready: int) -> Json:
        """Wait until a daemon that was launched is ready; what it says then."""
        self.daemon = process
        with os.fdopen(ready, "rb") as pipe:
            line = pipe.readline()
        assert line, f"the daemon ended without a word: {self.log()[-2000:]}"
        said: Json = json.loads(line)
        assert said.get("ready"), said
        if via.VIA:
            assert self.call("daemon.status")["role"] == "leads"
            self._hang_up()
        return said

    def stop(self, seconds: float = SECONDS) -> int:
        """SIGTERM; the daemon's exit status."""
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGTERM)
        return self.ended(seconds)

    def ended(self, seconds: float = SECONDS) -> int:
        """Wait until the daemon has ended; its exit status."""
        assert self.daemon is not None
        status = self.daemon.wait(seconds)
        self._forget()
        return status

    def kill(self) -> None:
        """SIGKILL the daemon, and wait until its workers are gone too."""
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait()
        self._forget()
        wait_until(lambda: not serving(self.root), "workers to die with their daemon")

    def _forget(self) -> None:
        self.daemon = None
        self._hang_up()

    def close(self) -> None:
        """End all that works in this project."""
        daemon = self.daemon
        self._forget()
        clear(self.root)
        if daemon is not None:
            daemon.wait()
        for data_dir in {self.data_dir, self.near_dir}:
            for place in places_elsewhere(data_dir):  # One of them is what a long path needs.
                shutil.rmtree(place, ignore_errors=True)

    def log(self) -> str:
        """What the daemon and idle workers have printed."""
        try:
            return (self.root / "daemon.log").read_text()
        except FileNotFoundError:
            return ""

    # --- Asking it -------------------------------------------------------------------------

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """A connection of one's own."""
        with Connection.open(self.dialled) as connection:
            yield connection

    @property
    def dialled(self) -> str:
        """What connections are opened to."""
        return self.address if self.address.startswith("ssh://") else str(self.near_dir)

    def call(self, method: str, /, **params: Any) -> Any:
        """The result of a method; raises the error that the daemon answers with."""
        try:
            return self._asked(method).call(method, params, timeout=SECONDS)
        except DaemonUnavailable:
            self._hang_up()
            raise

    def _asked(self, method: str) -> Connection:
        """The connection for a method; what is asked of one daemon alone, the leader is asked."""
        if method.startswith("daemon.") and self.dialled != str(self.data_dir):
            self._direct = self._direct or Connection.open(self.data_dir)
            return self._direct
        self._connection = self._connection or Connection.open(self.dialled)
        return self._connection

    @property
    def connections(self) -> int:
        """How many connections of ours the daemon has that clients here talk to."""
        direct = self._direct if self.near_dir == self.data_dir else None
        return sum(each is not None for each in (self._connection, direct))

    def _hang_up(self) -> None:
        for connection in (self._connection, self._direct):
            if connection is not None:
                connection.close()
        self._connection = self._direct = None

    def begin(self, job: str, payload: Any = None, **options: Any) -> str:
        """Start a run; its id."""
        params = {"job": job, "payload": {} if payload is None else payload} | options
        return str(self.call("run.start", **params)["id"])

    def get(self, run: str) -> Json:
        """The run object, with its steps, attempts and timeline."""
        caller = SimpleNamespace(call=lambda method, params: self.call(method, **params))
        return drive(detailed(run), caller)

    def finish(self, run: str, seconds: float = SECONDS) -> Json:
        """The run object, with detail, of a run once it has finished."""
        made = self.call("run.wait", run=run, timeout_ms=round(seconds * 1000))
        assert not made.get("timed_out"), f"not finished: {self.call('run.why', run=run)}"
        return self.get(run)

    def until_status(self, run: str, *statuses: str) -> Json:
        """The run object once it has one of these statuses."""

        def there() -> Json | None:
            found: Json = self.call("run.get", run=run)
            return found if found["status"] in statuses else None

        return wait_until(there, f"{run} to be {' or '.join(statuses)}") or {}

    @property
    def executing(self) -> int:
        """Process id of the daemon that executes runs."""
        return int(self.call("daemon.status")["pid"])

    def memory(self) -> int:
        """Bytes that its daemons hold."""
        assert self.daemon is not None
        daemons = {self.daemon.pid, self.executing}
        return sum(psutil.Process(pid).memory_info().rss for pid in daemons)

    def workers(self) -> list[int]:
        """Process ids of the workers that serve."""
        told = self.call("daemon.status")["workers"]
        return [worker["pid"] for worker in told if worker["status"] == "serving"]

    # --- What happened ---------------------------------------------------------------------

    def witness(self) -> list[str]:
        """What `note` wrote, in order."""
        try:
            return (self.root / scenery.WITNESS).read_text().splitlines()
        except FileNotFoundError:
            return []

    def at(self, gate: str, times: int = 1) -> None:
        """Wait until a handler stands at the gate (for the time `times`)."""
        wait_until(
            lambda: self.witness().count(f"at {gate}") >= times, f"somebody at the gate {gate}"
        )

    def open(self, gate: str) -> None:
        """Let whoever stands at the gate, or comes later, pass."""
        (self.root / scenery.GATES / gate).touch()

    def journal(self, since_seq: int = 0) -> list[Json]:
        """The journal's records as they stand in its files."""
        return [json.loads(line) for line in tools.cat(self.data_dir, since_seq)]

    def verify(self) -> None:
        """The journal is what was written."""
        report = tools.verify(self.data_dir)
        assert report.ok, report.problems


def kinds(run: Json, *wanted: str) -> list[str]:
    """The kinds of a run's records, in order; of `wanted` only, if given."""
    told = [record["kind"] for record in run["timeline"]]
    return [kind for kind in told if not wanted or kind in wanted]


def steps(run: Json) -> dict[str, Json]:
    """A run's steps by name."""
    return {step["name"]: step for step in run["steps"]}


def wait_workers_gone(pids: list[int]) -> None:
    """Returns when these workers have ended."""
    wait_gone(pids, "workers")
