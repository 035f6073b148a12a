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
    """Answer the worker's call `call`, which is recorded. `due_us` is when a sleep or the next try
    is due, `child` the run that was started, `body` the result (JSON), `error` why the call is
    refused (JSON: `{code, message, …}`)."""

    call: int
    due_us: int = 0
    child: str = ""
    body: Raw = NULL
    error: Raw = NULL


class Granted(msgspec.Struct, frozen=True):
    """Tell the client that waited as `asker` that it holds the lock; `body` is its answer."""

    asker: str
    body: Raw


class Resolve(msgspec.Struct, frozen=True):
    """Tell the worker the outcome of a call that the execution waits for."""

    run: str
    token: int
    step: str


class Stop(msgspec.Struct, frozen=True):
    """Stop an execution: ask it to, and kill its worker if it has not stopped after the grace.
    `reason` is `cancelled`, `timeout` or `limit`."""

    run: str
    token: int
    reason: str


class Interrupt(msgspec.Struct, frozen=True):
    """Let an execution know that its run is to be cancelled gently."""

    run: str
    token: int


Effect = Dispatch | Acknowledge | Granted | Resolve | Stop | Interrupt


class Started(msgspec.Struct, frozen=True):
    """Reply to a start: the run's id; `reused` if its idempotency key already had an owner, or if
    the start was `attached` to the owner of its unique key. `replaced` are the runs that it has
    cancelled."""

    run: str
    reused: bool
    attached: bool = False
    replaced: tuple[str, ...] = ()


class Changed(msgspec.Struct, frozen=True):
    """Reply to a change of a run, a queue or a schedule; `changed` is false if nothing had to be
    changed."""

    subject: str
    changed: bool


class Rerun(msgspec.Struct, frozen=True):
    """Reply to a retry or fork: which recorded steps are reused, and which are repeated."""

    run: str
    reused: list[str]
    repeated: list[str]


class Answered(msgspec.Struct, frozen=True):
    """Reply to a client's request: the method's result, as JSON."""

    body: Raw


class Queued(msgspec.Struct, frozen=True):
    """Reply to a client that asked for a lock and now waits for it, as `asker`; `Granted`
    follows."""

    asker: str


class Decision(msgspec.Struct, frozen=True):
    """What follows from a command: records for the journal (one atomic append), effects once they
    are durable, and the reply."""

    records: tuple[AnyRecord, ...] = ()
    effects: tuple[Effect, ...] = ()
    reply: Started | Changed | Rerun | Answered | Queued | None = None


NOTHING = Decision()
