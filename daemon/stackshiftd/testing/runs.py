"""A run as a test sees it: always as it is now."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Protocol


class Daemon(Protocol):
    """The daemon whose run it is, as the fixture gives access to it."""

    def call(self, method: str, /, **params: Any) -> Any:
        """The answer to a request."""

    @property
    def runs(self) -> list[Run]:
        """All runs of the test, the oldest first."""


@dataclass(frozen=True)
class Step:
    """A recorded call of a handler. `kind`: `run sleep event lock call start value`; `status`:
    `running waiting retrying completed failed cancelled`; times are RFC 3339; `detail` says what a
    wait is for."""

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

    @staticmethod
    def of(told: dict[str, Any]) -> Step:
        """What the run object says of it."""
        return Step(**{field.name: told[field.name] for field in fields(Step)})


class Run:
    """A run. Each attribute is read when it is asked for, so a run that is kept in a variable shows
    what has become of it. `reused`: it was there before, and its idempotency key found it."""

    def __init__(self, daemon: Daemon, id: str, reused: bool = False) -> None:
        self._daemon = daemon
        self.id = id
        self.reused = reused

    def __repr__(self) -> str:
        run = self.json
        told = f": {run['why']}" if run["why"] and run["why"] != run["status"] else ""
        return f"<Run {run['id']} {run['job']} {run['status']}{told}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def json(self) -> dict[str, Any]:
        """The run object, as `stackshift runs show --json` prints it."""
        return dict(self._daemon.call("run.get", run=self.id, detail=True))

    @property
    def job(self) -> str:
        """The name of its job."""
        return str(self.json["job"])

    @property
    def queue(self) -> str:
        return str(self.json["queue"])

    @property
    def status(self) -> str:
        """`scheduled queued running waiting retrying completed failed cancelled`."""
        return str(self.json["status"])

    @property
    def payload(self) -> Any:
        return self.json["payload"]

    @property
    def result(self) -> Any:
        """What its handler returned; None before, and of a run that did not complete."""
        return self.json["result"]

    @property
    def error(self) -> dict[str, str] | None:
        """`{type, message, traceback}` of a run that failed."""
        error: dict[str, str] | None = self.json["error"]
        return error

    @property
    def attempt(self) -> int:
        """Which attempt it is in, from 1; resuming after a wait or a crash is the same one."""
        return int(self.json["attempt"])

    @property
    def waiting_for(self) -> dict[str, Any] | None:
        """What it waits for: `kind`, `step`, `until` and what goes with the kind."""
        found: dict[str, Any] | None = self.json["waiting_for"]
        return found

    @property
    def why(self) -> str:
        """Why it is where it is, in a sentence."""
        return str(self.json["why"] or self.json["status"])

    @property
    def why_code(self) -> str:
        """The same as a word that does not change between versions."""
        return str(self.json["why_code"])

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.json["labels"])

    @property
    def steps(self) -> dict[str, Step]:
        """Its recorded calls by name, in the order in which they began."""
        return {each["name"]: Step.of(each) for each in self.json["steps"]}

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
        return [each for each in self._daemon.runs if each.json["parent"] == self.id]

    def finish(self) -> Run:
        """Move the clock to whatever is due next until this run has ended, and return it. Fails the
        test if nothing is due any more: the run waits for something that does not come by itself.
        """
        __tracebackhide__ = True
        self._daemon.call("run.wait", run=self.id)
        return self

    def cancel(self) -> bool:
        """Cancel it, for good; False if it was finished before."""
        return bool(self._daemon.call("run.cancel", run=self.id)["changed"])

    def retry(self, from_step: str | None = None) -> Run:
        """Send a failed run on, as `stackshift runs retry` does, and return it; with `from_step`
        that step and all after it are done again."""
        given = {} if from_step is None else {"from_step": from_step}
        self._daemon.call("run.retry", run=self.id, **given)
        return self
