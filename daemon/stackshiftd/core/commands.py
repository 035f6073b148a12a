"""The commands: everything that may be asked of the core, one frozen value each.

Those under "From a worker" travel as frames from a worker as they stand here, tagged with their
name; `call` is the worker's number for the answer, 0 where it waits for none. `token` is the
sequence number that handed the run out: a command with another token comes from an execution that
is no longer the current one and changes nothing.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw

from stackshift_jobs.values.limits import EVENT_TTL_MS, KEY_TTL_MS, VERSION_MEMORY_MS
from stackshiftd.core.records import (
    DEFAULT_LIMITS,
    DEFAULT_TERMS,
    NULL,
    Error,
    QueueTerms,
    RetryTerms,
    RunLimits,
)


class Command(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, tag=True):
    """Base of all commands; the tag is the class's name."""


# --- From a client -------------------------------------------------------------------------


class StartRun(Command, frozen=True):
    """Create a run, or find the one that owns `key`. `digest` is that of the payload's canonical
    JSON, given where there is a key; `due_us` is 0 for at once."""

    run: str
    job: str
    queue: str
    payload: bytes
    retry: RetryTerms = DEFAULT_TERMS
    limits: RunLimits = DEFAULT_LIMITS
    timeout_ms: int = 0
    priority: int = 0
    concurrency_key: str = ""
    labels: dict[str, str] = {}
    due_us: int = 0
    key: str | None = None
    key_ttl_ms: int = 0
    digest: str = ""


class CancelRun(Command, frozen=True):
    run: str


class RetryRun(Command, frozen=True):
    """Send a finished run on. `restored` are its records, where it has left memory."""

    run: str
    from_step: str | None = None
    replaced: dict[str, bytes] = {}
    restored: tuple[bytes, ...] = ()


class ForkRun(Command, frozen=True):
    """Make the run `run` from the records of another; `payload` None takes that one's."""

    run: str
    source: str
    restored: tuple[bytes, ...]
    from_step: str | None = None
    payload: bytes | None = None
    concurrency_key: str | None = None
    """That of the new payload; None takes the source's."""


class ChangeQueue(Command, frozen=True):
    """What a person says of a queue: `terms` where they are not None; with `reset` nothing else is
    left of its limits that a person set."""

    queue: str
    terms: QueueTerms = QueueTerms()
    reset: bool = False


class RemoveRun(Command, frozen=True):
    """Forget a finished run: out of the dead letter and of every list."""

    run: str


class PauseSchedule(Command, frozen=True):
    job: str


class ResumeSchedule(Command, frozen=True):
    job: str


class DiscardRun(Command, frozen=True):
    """Take a failed run out of the dead letter for good; lists go on showing it."""

    run: str


# --- From a client, or a handler through `Ask` ---------------------------------------------


class Asking(Command, frozen=True, kw_only=True):
    """What clients and handlers ask alike. `run` and `token` are empty for a client. `step` is the
    call of the handler that the answer is recorded for; empty within a step's function, where it
    acts at once and nothing is remembered. `call` is the worker's number for the answer."""

    run: str = ""
    token: int = 0
    call: int = 0
    step: str = ""


class ReadState(Asking, frozen=True, kw_only=True):
    key: str


class ListState(Asking, frozen=True, kw_only=True):
    """The entries whose keys begin with `prefix` and come after `after`, at most `limit`."""

    prefix: str = ""
    after: str = ""
    limit: int = 1000


class SetState(Asking, frozen=True, kw_only=True):
    """`if_version`: only over this version (0: over nothing). `expires_us` 0: never."""

    key: str
    value: bytes
    ttl_ms: int | None = None
    expires_us: int = 0
    if_version: int | None = None
    if_absent: bool = False


class DeleteState(Asking, frozen=True, kw_only=True):
    """`remember_ms`: how long the version is remembered."""

    key: str
    remember_ms: int
    if_version: int | None = None


class IncrementState(Asking, frozen=True, kw_only=True):
    """Add `by`, a number as JSON. Without `ttl_ms` it expires when it would have."""

    key: str
    by: bytes = b"1"
    ttl_ms: int | None = None


class AcquireLock(Asking, frozen=True, kw_only=True):
    """Hold `key` for `ttl_ms` (0, of a run alone: until it is released). `wait_ms`: wait so long
    for it; None: as long as it takes. A client is known by `asker`, and told of as `holder`."""

    key: str
    ttl_ms: int = 0
    wait_ms: int | None = None
    asker: str = ""
    holder: str = ""


class ExtendLock(Asking, frozen=True, kw_only=True):
    """Hold it for `ttl_ms` from now on. A client names its `lock_token`."""

    key: str
    ttl_ms: int
    lock_token: int = 0


class ReleaseLock(Asking, frozen=True, kw_only=True):
    """A client names its `lock_token`; a handler the call `lock` by which it took it, and whether
    its block was left by an exception (`raised`)."""

    key: str = ""
    lock_token: int = 0
    lock: str = ""
    raised: bool = False


class CheckLock(Asking, frozen=True, kw_only=True):
    """Does the run still hold what it took by the call `lock`? If not, `step` is refused."""

    lock: str


class WithdrawLock(Command, frozen=True):
    """The client that waits as `asker` is gone, or its time has passed."""

    key: str
    asker: str


class SendEvent(Asking, frozen=True, kw_only=True):
    """`event` is the id that it gets if it is a new one; `digest` that of all by which the same
    event is known, given where there is a `key`."""

    event: str
    name: str
    payload: bytes
    correlation_key: str = ""
    ttl_ms: int = EVENT_TTL_MS
    key: str | None = None
    key_ttl_ms: int = KEY_TTL_MS
    digest: str = ""


class AwaitEvent(Asking, frozen=True, kw_only=True):
    """A handler waits for the first of `events` (names with correlation keys)."""

    events: list[tuple[str, str]]
    timeout_ms: int | None = None
    on_timeout: str = "fail"


# --- From the shell ------------------------------------------------------------------------


class ScheduleTerms(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The schedule that a job's code names: an expression, the zone whose clock it reads, what
    becomes of missed ticks and of those that come while the last run is under way, and the payload
    of its runs."""

    schedule: str
    timezone: str = "UTC"
    catch_up: str = "once"
    overlap: str = "skip"
    payload: Raw = Raw(b"{}")


class DefineSchedules(Command, frozen=True):
    """Workers have these `jobs`, of which some have schedules. Not `complete`: some module did not
    import, what is missing may be in it."""

    schedules: dict[str, ScheduleTerms]
    jobs: frozenset[str] = frozenset()
    complete: bool = True


class FireSchedule(Command, frozen=True):
    """The tick of `job` may be due. `start` is its run, prepared; which tick it is for, and so its
    time and key, is decided."""

    job: str
    start: StartRun


class Claimed(Command, frozen=True):
    """The journal was claimed anew: whatever executed before executes no more."""


class Assign(Command, frozen=True):
    """A slot in `worker` is free. `alone`: nothing else executes there, a suspect may be tried.
    `codes`: the jobs that it has, with the digest of their code. `pool` is the queue that the
    worker is for; none for all that have no workers of their own."""

    worker: str
    codes: dict[str, str]
    alone: bool = False
    pool: str = ""


class DefineQueues(Command, frozen=True):
    """All that `by` (`file` or `code`) says of queues."""

    by: str
    queues: dict[str, QueueTerms]


class DefineJobs(Command, frozen=True):
    """Workers have these jobs; runs held for want of one of them go on."""

    codes: dict[str, str]


class Tick(Command, frozen=True):
    """The first timer may be due. `remember_ms`: how long the version of a state entry is
    remembered that expires."""

    remember_ms: int = VERSION_MEMORY_MS


class LoseExecution(Command, frozen=True):
    """The worker that executed `run` under `token` is gone. `ours`: we ended it."""

    run: str
    token: int
    reason: str
    ours: bool


class NoteSnapshot(Command, frozen=True):
    upto_seq: int
    state_hash: str


class NoteRecovery(Command, frozen=True):
    kept_seq: int
    dropped_bytes: int
    quarantine: str


class NoteWatermark(Command, frozen=True):
    """Carry the watermark of all that is durable to the disk."""


class Close(Command, frozen=True):
    """The daemon stops in good order."""


# --- From a worker -------------------------------------------------------------------------


class CompleteStep(Command, frozen=True):
    run: str
    token: int
    call: int
    step: str
    result: Raw
    duration_ms: int = 0
    tried: int = 1
    input: str = ""


class FailStep(Command, frozen=True):
    """A try of a step raised. `retry` are the step's own terms, if it has any; `retry_after_ms` is
    what the function asked for; not `retryable` ends it at once."""

    run: str
    token: int
    call: int
    step: str
    error: Error
    duration_ms: int = 0
    tried: int = 1
    retryable: bool = True
    retry: RetryTerms | None = None
    retry_after_ms: int | None = None
    input: str = ""


class OpenStep(Command, frozen=True):
    """A step has been executing for a while. No answer."""

    run: str
    token: int
    step: str
    tried: int = 1


class RecordValue(Command, frozen=True):
    """What a read gave. `told`: the worker does not know it yet."""

    run: str
    token: int
    call: int
    step: str
    value: Raw
    told: bool = False


class BeginSleep(Command, frozen=True):
    """Wait until `until_us`, or for `delay_ms` from now on."""

    run: str
    token: int
    call: int
    step: str
    delay_ms: int | None = None
    until_us: int | None = None


class StartChild(Command, frozen=True):
    """Start the run `start` exactly once, on behalf of a handler; with `wait`, wait for it and
    cancel it with this one."""

    run: str
    token: int
    call: int
    step: str
    start: StartRun
    wait: bool = False
    cancel_with_parent: bool = False


class CallJob(Command, frozen=True):
    """A handler's wish to start a run. The shell makes a `StartChild` of it: the core knows neither
    jobs nor ids. `options` is JSON, as of a start."""

    run: str
    token: int
    call: int
    step: str
    job: str
    payload: Raw
    wait: bool
    cancel_with_parent: bool
    options: Raw


class Ask(Command, frozen=True):
    """A handler asks for what a client may ask for too: the method and params of the protocol. The
    shell makes a command of it (an `Asking`); `step` is empty within a step's function."""

    run: str
    token: int
    call: int
    step: str
    method: str
    params: Raw


class RefuseCall(Command, frozen=True):
    """What a handler's call asks for cannot be had; the shell knows. `error`: `{code, message, …}`.
    Nothing is recorded for an empty `step`."""

    run: str
    token: int
    call: int
    step: str
    error: Raw


class AwaitRun(Command, frozen=True):
    """Wait for a run. `status`, `result`, `error` tell how it ended, where it has left memory."""

    run: str
    token: int
    call: int
    step: str
    child: str
    status: str = ""
    result: Raw = NULL
    error: Error | None = None


class Suspend(Command, frozen=True):
    """The handler is out of memory; it waits for `pending` (names of steps) and nothing else."""

    run: str
    token: int
    pending: list[str]


class CompleteRun(Command, frozen=True):
    run: str
    token: int
    result: Raw


class FailAttempt(Command, frozen=True):
    """The handler raised. `step` is the step whose failure it did not catch, `more_steps` are
    others, if it raised a group."""

    run: str
    token: int
    error: Error
    retryable: bool = True
    retry_after_ms: int | None = None
    step: str | None = None
    more_steps: list[str] = []


class ConfirmStop(Command, frozen=True):
    """The handler of a cancelled or timed-out attempt has stopped."""

    run: str
    token: int


class ReportProgress(Command, frozen=True):
    run: str
    token: int
    done: float
    total: float | None = None
    message: str = ""


FromWorker = (
    CompleteStep
    | FailStep
    | OpenStep
    | RecordValue
    | BeginSleep
    | CallJob
    | Ask
    | AwaitRun
    | Suspend
    | CompleteRun
    | FailAttempt
    | ConfirmStop
    | ReportProgress
)
FromClient = (
    StartRun
    | CancelRun
    | RetryRun
    | ForkRun
    | RemoveRun
    | DiscardRun
    | ChangeQueue
    | PauseSchedule
    | ResumeSchedule
)
FromBoth = (
    ReadState
    | ListState
    | SetState
    | DeleteState
    | IncrementState
    | AcquireLock
    | ExtendLock
    | ReleaseLock
    | CheckLock
    | SendEvent
    | AwaitEvent
)
FromShell = (
    StartChild
    | RefuseCall
    | WithdrawLock
    | Claimed
    | Assign
    | DefineJobs
    | DefineQueues
    | DefineSchedules
    | FireSchedule
    | Tick
    | LoseExecution
    | NoteSnapshot
    | NoteRecovery
    | NoteWatermark
    | Close
)
AnyCommand = FromWorker | FromClient | FromBoth | FromShell
