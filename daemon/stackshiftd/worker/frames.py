"""What daemon and worker say to each other over their socket pair: one JSON object a line.

From the daemon: `Hello` once, then for each execution `Recall` frames (its record, one call each)
and `Execute`; `CallRecorded` answers a command by its `call`; `Outcome` ends a wait; `End`
asks an execution to stop; `Drain` asks all to stop at their next step.

From the worker: `Importing` before each of its modules, `Greeting` once they are imported, a
`Beat` every 2 s from a thread of its own, `Stuck`, `HandBack`, and the commands of
`core.commands.FromWorker` as they stand there.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw

from stackshiftd.core.commands import FromWorker, ScheduleTerms
from stackshiftd.core.records import NULL, Error, QueueTerms, RetryTerms

BEAT_SECONDS: Final = 2.0


class Frame(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, tag=True):
    """Base of all frames; the tag is the class's name."""


# --- From the daemon -----------------------------------------------------------------------


class Hello(Frame, frozen=True):
    """How this worker is to work. `jobs` are the folders and files of job modules."""

    worker: str
    project: str
    jobs: list[str]
    slots: int
    logs: str
    payload_bytes: int


class Recall(Frame, frozen=True):
    """One recorded call of the execution that follows; see `handler.ops.RecordedCall`."""

    run: str
    step: str
    kind: str
    phase: str
    body: Raw = NULL
    error: Error | None = None
    tried: int = 0
    due_us: int = 0
    child: str = ""
    child_status: str = ""
    input: str = ""


class Execute(Frame, frozen=True):
    """Call the handler."""

    run: str
    token: int
    job: str
    queue: str
    attempt: int
    payload: Raw
    labels: dict[str, str] = {}
    key: str | None = None
    scheduled_at_us: int = 0


class CallRecorded(Frame, frozen=True):
    """It is durable. `body` is what was asked for, `error` why it is refused (which is
    recorded too): `{code, message, hint, …}`."""

    call: int
    due_us: int = 0
    child: str = ""
    body: Raw = NULL
    error: Raw = NULL


class Outcome(Frame, frozen=True):
    """A step that the execution waits for has ended."""

    run: str
    token: int
    step: str
    kind: str
    phase: str
    body: Raw = NULL
    error: Error | None = None
    tried: int = 0
    child: str = ""
    child_status: str = ""


class End(Frame, frozen=True):
    """The execution is not current any more: `reason` is `cancelled` or `timeout`."""

    run: str
    token: int
    reason: str


class Drain(Frame, frozen=True):
    """Leave every handler at its next step and hand its run back."""


FromDaemon = Hello | Recall | Execute | CallRecorded | Outcome | End | Drain

# --- From the worker -----------------------------------------------------------------------


class JobFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the daemon knows of a job. Options that the code does not give are None."""

    name: str
    module: str
    queue: str
    code: str
    doc: str = ""
    retry: RetryTerms | None = None
    timeout_ms: int | None = None
    priority: int = 0
    concurrency_key: str = ""
    idempotency_ttl_ms: int | None = None
    schema: dict[str, Any] | None = None
    schedule: ScheduleTerms | None = None


class FailedModule(msgspec.Struct, frozen=True):
    """A job module that does not import."""

    module: str
    file: str
    line: int
    type: str
    message: str


class Importing(Frame, frozen=True):
    """This module is being imported: where that hangs, it can be named."""

    module: str


class Greeting(Frame, frozen=True):
    pid: int
    python: str
    jobs: list[JobFacts]
    failed: list[FailedModule]
    queues: dict[str, QueueTerms] = {}


class Beat(Frame, frozen=True):
    """Still here."""


class Stuck(Frame, frozen=True):
    """A `def` step is past its timeout and cannot be interrupted: the worker must be replaced."""

    run: str
    step: str


class HandBack(Frame, frozen=True):
    """The handler has left at a drain; its run goes on elsewhere."""

    run: str
    token: int


ToDaemon = Importing | Greeting | Beat | Stuck | HandBack | FromWorker

encode: Final = msgspec.json.Encoder().encode
decode_from_daemon: Final = msgspec.json.Decoder(FromDaemon).decode
decode_from_worker: Final = msgspec.json.Decoder(ToDaemon).decode
