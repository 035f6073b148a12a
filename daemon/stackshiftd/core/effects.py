"""The effects: what a decision asks the shell to do once its records are durable, and never
before."""

from __future__ import annotations

import msgspec
from msgspec import Raw

from stackshiftd.core.records import NULL, AnyRecord


class Dispatch(msgspec.Struct, frozen=True):
    """Hand the run to its worker, under `token`."""

    run: str
    token: int
    worker: str


class Acknowledge(msgspec.Struct, frozen=True):
    """Answer the call `call` of the worker that asked: it is recorded. `due_us` is when a sleep or
    the next try is due, `child` the run that was started, `body` what was asked for (JSON), `error`
    why it is refused (JSON: `{code, message, …}`)."""

    call: int
    due_us: int = 0
    child: str = ""
    body: Raw = NULL
    error: Raw = NULL


class Granted(msgspec.Struct, frozen=True):
    """The client that waited as `asker` holds the lock."""

    asker: str
    body: Raw


class Resolve(msgspec.Struct, frozen=True):
    """A step that an execution waits for has got its outcome: tell the worker."""

    run: str
    token: int
    step: str


class Stop(msgspec.Struct, frozen=True):
    """The execution is to end: ask, then after the grace kill. `reason` is `cancelled` or
    `timeout`."""

    run: str
    token: int
    reason: str


Effect = Dispatch | Acknowledge | Granted | Resolve | Stop


class Started(msgspec.Struct, frozen=True):
    """Reply to a start: the run's id; `reused` where the key had an owner."""

    run: str
    reused: bool


class Changed(msgspec.Struct, frozen=True):
    """Reply to a change of a run, a queue or a schedule: `changed` is false if it was so before."""

    subject: str
    changed: bool


class Rerun(msgspec.Struct, frozen=True):
    """Reply to a retry or fork: which recorded steps are reused, which happen again."""

    run: str
    reused: list[str]
    repeated: list[str]


class Answered(msgspec.Struct, frozen=True):
    """Reply to a client's question: the method's result, as JSON."""

    body: Raw


class Queued(msgspec.Struct, frozen=True):
    """Reply to a client that asked for a lock: it waits, as `asker`; `Granted` follows."""

    asker: str


class Decision(msgspec.Struct, frozen=True):
    """What follows from a command: records for the journal (one atomic append), effects once they
    are durable, and the reply."""

    records: tuple[AnyRecord, ...] = ()
    effects: tuple[Effect, ...] = ()
    reply: Started | Changed | Rerun | Answered | Queued | None = None


NOTHING = Decision()
