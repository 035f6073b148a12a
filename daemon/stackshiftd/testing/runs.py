"""A run as a test sees it: always in its current state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any, Protocol, Unpack

from stackshift_jobs.calls.drive import drive
from stackshift_jobs.calls.run_pages import detailed
from stackshift_jobs.calls.runs import (
    MoveOptions,
    cancel_params,
    fork_params,
    move_params,
    retry_params,
)
from stackshift_jobs.values.durations import Duration


class Daemon(Protocol):
    """What a `Run` needs of its daemon; the fixture implements it."""

    def call(self, method: str, /, **params: Any) -> Any:
        """The answer to a request, as JSON values; raises an answer that is an error."""

    @property
    def runs(self) -> list[Run]:
        """All runs of the test, oldest first."""


@dataclass(frozen=True)
class Step:
    """A recorded call of a handler. `kind`: `run sleep event lock call start value`; `status`:
    `running waiting retrying completed failed cancelled`; times are RFC 3339; `detail` says what it
    waits for, if it is a wait; `checkpoint` is the last one of a step without a result."""

    name: str
    kind: str
    status: str
    attempts: int
    started_at: str
    finished_at: str | None
    duration_ms: int | None
    result: Any
    error: dict[str, str] | None
    detail: str | None
    checkpoint: Any

    @staticmethod
    def of(step: dict[str, Any]) -> Step:
        """The step from its object in the run object's `steps`."""
        return Step(**{field.name: step[field.name] for field in fields(Step)})


class Run:
    """A run. Every attribute is read from the daemon when it is used, so a run kept in a variable
    always shows its current state. `reused`: the start found this existing run by its idempotency
    key."""

    def __init__(self, daemon: Daemon, id: str, reused: bool = False) -> None:
        self._daemon = daemon
        self.id = id
        self.reused = reused

    def __repr__(self) -> str:
        run = self.json
        why = f": {run['why']}" if run["why"] and run["why"] != run["status"] else ""
        return f"<Run {run['id']} {run['job']} {run['status']}{why}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def json(self) -> dict[str, Any]:
        """The run object, as `stackshift runs show --json` prints it."""
        call = self._daemon.call
        caller = SimpleNamespace(call=lambda method, params: call(method, **params))
        return drive(detailed(self.id), caller)

    @property
    def job(self) -> str:
        """The name of its job."""
        return str(self.json["job"])

    @property
    def queue(self) -> str:
        """The name of its queue."""
        return str(self.json["queue"])

    @property
    def status(self) -> str:
        """`scheduled queued running waiting retrying completed failed cancelled`."""
        return str(self.json["status"])

    @property
    def payload(self) -> Any:
        """Its payload as JSON values, before any conversion to the job's type."""
        return self.json["payload"]

    @property
    def result(self) -> Any:
        """What its handler returned; None unless it has completed."""
        return self.json["result"]

    @property
    def error(self) -> dict[str, Any] | None:
        """`{type, message, traceback}` of a failed run, with the `exit_code` of a program that
        failed, else None."""
        error: dict[str, Any] | None = self.json["error"]
        return error

    @property
    def attempt(self) -> int:
        """Its current attempt, from 1; resuming after a wait or a crash continues the same one."""
        return int(self.json["attempt"])

    @property
    def waiting_for(self) -> dict[str, Any] | None:
        """What it waits for: `kind`, `step`, `until` and fields by kind, or None."""
        waiting_for: dict[str, Any] | None = self.json["waiting_for"]
        return waiting_for

    @property
    def why(self) -> str:
        """Why it has its status, in a sentence."""
        return str(self.json["why"] or self.json["status"])

    @property
    def why_code(self) -> str:
        """The same as a word, which is the same in all versions."""
        return str(self.json["why_code"])

    @property
    def labels(self) -> dict[str, str]:
        """Its labels: those it was started with, and those that its handler has given it."""
        return dict(self.json["labels"])

    @property
    def steps(self) -> dict[str, Step]:
        """Its recorded calls by name, in the order in which they began."""
        return {step["name"]: Step.of(step) for step in self.json["steps"]}

    @property
    def timeline(self) -> list[dict[str, Any]]:
        """Its records in the journal, in order."""
        return list(self.json["timeline"])

    @property
    def kinds(self) -> list[str]:
        """The kinds of these records: `run.created`, `attempt.started`, `step.completed` …"""
        return [str(record["kind"]) for record in self.timeline]

    @property
    def children(self) -> list[Run]:
        """The runs that its handler started or called, oldest first."""
        return [run for run in self._daemon.runs if run.json["parent"] == self.id]

    def finish(self) -> Run:
        """Keep moving the clock to whatever is due next until this run has ended, and return it.
        Fails the test if nothing more is due: the run waits for something that will not happen by
        itself."""
        __tracebackhide__ = True
        self._daemon.call("run.wait", run=self.id)
        return self

    def cancel(
        self, *, gently: bool = False, grace: Duration | None = None, children: bool = False
    ) -> bool:
        """Cancel it, as `RunHandle.cancel` does; False if that changed nothing."""
        params = cancel_params(self.id, gently, grace, children)
        return bool(self._daemon.call("run.cancel", **params)["changed"])

    def move(self, **where: Unpack[MoveOptions]) -> bool:
        """Move it to another time, priority or queue, as `stackshift runs move` does; False if it
        was there already."""
        return bool(self._daemon.call("run.move", **move_params(self.id, where))["changed"])

    def retry(self, from_step: str | None = None, *, set: Mapping[str, Any] | None = None) -> Run:
        """Retry a failed run, as `stackshift runs retry` does, and return it. With `from_step`,
        that step and all later ones are executed again; `set` replaces results, by step."""
        self._daemon.call("run.retry", **retry_params(self.id, from_step, set))
        return self

    def fork(self, from_step: str | None = None, *, payload: Any = None) -> Run:
        """Fork it, as `RunHandle.fork` does; returns the new run."""
        answer = self._daemon.call("run.fork", **fork_params(self.id, from_step, payload))
        return Run(self._daemon, answer["id"])
