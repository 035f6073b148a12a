"""The protocol between daemon and worker on their socket pair: one JSON object per line.

From the daemon: `Hello` once, then for each execution `Recall` frames (one per recorded call),
`EarlierTries` frames and `Execute`, or `Rehearse`; `CallRecorded` answers the command with the
same `call`; `Outcome` ends a wait; `Cancel` lets an execution know that its run is to be cancelled
gently; `End` asks it to stop; `Drain` asks all of them to stop at their next step.

From the worker: `Importing` before each module, `Greeting` once all are imported, a `Beat` every
`BEAT_SECONDS` from a thread of its own, `Rehearsed`, `Stuck`, `KnowsSecrets`, `HandBack`, `Printed`
from another host (see `host_frames`), and the commands of `core.commands.FromWorker` unchanged.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw

from stackshiftd.core.commands import ExpectationTerms, FromWorker, ScheduleTerms
from stackshiftd.core.records import NULL, Error, QueueTerms, RetryTerms
from stackshiftd.worker.code_files import CodeFile

BEAT_SECONDS: Final = 2.0
"""Less if the heartbeat of `stackshift.toml` is short."""


class Frame(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, tag=True):
    """Base of all frames; the `type` field of the JSON object is the name of the class."""


# --- From the daemon -----------------------------------------------------------------------


class Hello(Frame, frozen=True):
    """The worker's settings. `worker` is its name, `jobs` are the folders and files of job modules,
    `slots` is the most executions at a time, `logs` the folder of the runs' logs (empty: they are
    the daemon's to keep), `payload_bytes` the largest value, `beat_seconds` the time between beats,
    `grace_ms` how long a program has to end when it is asked to, and `umask` and `nice` are those
    of jobs. `deadly` are modules not to import, with the reason. The rest is what
    `worker.secrets.SecretTerms` says."""

    worker: str
    project: str
    jobs: list[str]
    slots: int
    logs: str
    payload_bytes: int
    beat_seconds: float
    grace_ms: int
    umask: int
    nice: int
    data_dir: str = ""
    secret_env: tuple[str, ...] = ("*",)
    secret_files: tuple[str, ...] = (".",)
    redact: tuple[str, ...] = ()
    deadly: dict[str, str] = {}


class Recall(Frame, frozen=True):
    """One recorded call of the execution that the next `Execute` starts; see
    `handler.ops.RecordedCall`. By `seq` a pass goes through the outcomes in the order of the
    journal."""

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
    seq: int = 0
    at_us: int = 0
    released_seq: int = 0
    job: str = ""
    undo: bool = False
    undone: bool = False


class EarlierTries(Frame, frozen=True):
    """How many tries of a step without a result have ended, and how far the last one had come, for
    the next `Execute` of its run."""

    run: str
    step: str
    ended: int
    checkpoint: Raw = NULL


class Cancel(Frame, frozen=True):
    """The run is to be cancelled gently: its handler is to be told. `raised_seq` is the place at
    which an earlier pass was told, at the time `raised_us` and the call `raised_at`."""

    run: str
    token: int
    raised_seq: int = 0
    raised_us: int = 0
    raised_at: str = ""


class Execute(Frame, frozen=True):
    """Start an execution: call the handler of `job`. `token` identifies it in all later frames;
    `scheduled_at_us` is 0 for a run that no schedule started; `attempt_us` is when its attempt
    began. `printed` is what `RunLog` has to know, of a worker that cannot see the run's log.
    `cancel` is set if the run is to be cancelled gently. With `undoes`, the handler goes over what
    is on record, and that is undone; so are the steps `unsure`, which have no result and may be
    done, each since the record of that sequence number."""

    run: str
    token: int
    job: str
    queue: str
    attempt: int
    payload: Raw
    labels: dict[str, str] = {}
    key: str | None = None
    scheduled_at_us: int = 0
    attempt_us: int = 0
    printed: dict[int, int] = {}
    cancel: Cancel | None = None
    undoes: bool = False
    unsure: dict[str, int] = {}


class Rehearse(Frame, frozen=True):
    """Let a handler make one pass over the `Recall` frames before, as `execute` would start it, for
    at most `seconds`, without any effect through `ctx`. The worker must not execute anything."""

    execute: Execute
    seconds: float


class CallRecorded(Frame, frozen=True):
    """The answer to a command: its records are durable, as of `at_us`. `body` is the result, if the
    call has one; `error` says why the call was refused (which is recorded too): `{code, message,
    hint, …}`."""

    call: int
    at_us: int = 0
    due_us: int = 0
    child: str = ""
    body: Raw = NULL
    error: Raw = NULL


class Outcome(Frame, frozen=True):
    """A call that the execution is waiting for has ended, or a lock that it holds is lost."""

    run: str
    token: int
    step: str
    kind: str
    phase: str
    body: Raw = NULL
    error: Error | None = None
    tried: int = 0
    due_us: int = 0
    child: str = ""
    child_status: str = ""
    seq: int = 0
    at_us: int = 0
    released_seq: int = 0
    job: str = ""


class End(Frame, frozen=True):
    """The execution is no longer current and must stop: `reason` is `cancelled` or `timeout`."""

    run: str
    token: int
    reason: str


class Drain(Frame, frozen=True):
    """Stop every handler at its next step and hand its run back."""


FromDaemon = (
    Hello
    | Recall
    | EarlierTries
    | Execute
    | Rehearse
    | CallRecorded
    | Outcome
    | Cancel
    | End
    | Drain
)

# --- From the worker -----------------------------------------------------------------------


class JobFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the daemon knows about a job. Options that the code does not set are None."""

    name: str
    module: str
    queue: str
    code: str
    doc: str = ""
    retry: RetryTerms | None = None
    timeout_ms: int | None = None
    priority: int = 0
    concurrency_key: str = ""
    unique: str = ""
    on_duplicate: str = "refuse"
    ttl_ms: int | None = None
    deadline_ms: int | None = None
    on_failure: str = ""
    on_success: str = ""
    expect: ExpectationTerms | None = None
    max_runtime_ms: int | None = None
    heartbeat: str = ""
    idempotency_ttl_ms: int | None = None
    schema: dict[str, Any] | None = None
    schedules: dict[str, ScheduleTerms] = {}
    """By name: the job's, or `JOB/NAME`."""


class FailedModule(msgspec.Struct, frozen=True):
    """A job module that cannot be imported; `line` is 0 if the error has none in its file."""

    module: str
    file: str
    line: int
    type: str
    message: str


class Importing(Frame, frozen=True):
    """This module is about to be imported: if the import hangs, the daemon can name the module."""

    module: str


class Greeting(Frame, frozen=True):
    """The worker is ready: its process id and interpreter, the jobs and queues that its modules
    declare, the modules that failed, and the files that all of it was loaded from."""

    pid: int
    python: str
    jobs: list[JobFacts]
    failed: list[FailedModule]
    queues: dict[str, QueueTerms] = {}
    files: dict[str, CodeFile] = {}


class StepBeat(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """When the function of a step was last known to be alive: `age_ms` before the frame was sent.
    `heartbeat_ms` is how long it may be silent, 0 for ever."""

    run: str
    token: int
    step: str
    age_ms: int
    heartbeat_ms: int = 0


class Beat(Frame, frozen=True):
    """The worker process is alive. It has read so many `Execute` frames, and `executing` are the
    runs and tokens of the executions whose end it has not sent yet. `steps` are those whose
    functions beat."""

    orders: int = 0
    executing: list[tuple[str, int]] = []
    steps: list[StepBeat] = []


class Rehearsed(Frame, frozen=True):
    """What a pass that was rehearsed has done: the calls that it `asked` for, those on record that
    it left `unasked`, the `error` that it ended with, or that it was `stopped`. If it asked for
    anything it has not come to its end: then `unasked` are only those whose names the code does not
    have any more, or that it asked for under another identity."""

    run: str
    asked: list[str] = []
    unasked: list[str] = []
    error: Error | None = None
    stopped: bool = False


class Stuck(Frame, frozen=True):
    """A `def` step has exceeded its timeout and cannot be interrupted: the worker must be
    replaced."""

    run: str
    step: str


class KnowsSecrets(Frame, frozen=True):
    """Executions of this worker have secrets now, so what it leaves unread when it dies is not to
    be shown: only the worker could mask it."""


class Printed(Frame, frozen=True):
    """A line for the log of a run, as its file has it, from a worker that cannot see that."""

    run: str
    token: int
    line: Raw


class HandBack(Frame, frozen=True):
    """The handler has stopped because of `Drain`; its run can continue on another worker."""

    run: str
    token: int


ToDaemon = (
    Importing | Greeting | Beat | Rehearsed | Stuck | KnowsSecrets | Printed | HandBack | FromWorker
)

encode: Final = msgspec.json.Encoder().encode
decode_from_daemon: Final = msgspec.json.Decoder(FromDaemon).decode
decode_from_worker: Final = msgspec.json.Decoder(ToDaemon).decode
