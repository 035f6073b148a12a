"""The commands: everything the core can be asked to do, one frozen type for each kind.

Those under "From a worker" are also the frames that a worker sends, tagged with their name. `call`
is the worker's number for the answer, 0 if it waits for none. `token` is the sequence number of the
record that dispatched the run: a command with another token comes from an execution that is no
longer the current one, and changes nothing.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw

from stackshift_jobs.values.limits import EVENT_TTL_MS, KEY_TTL_MS, VERSION_MEMORY_MS
from stackshiftd.core.records import (
    DEFAULT_LIMITS,
    DEFAULT_TERMS,
    NO_OPTIONS,
    NULL,
    Error,
    FollowUp,
    NotifyTerms,
    Program,
    QueueTerms,
    RetryTerms,
    RunLimits,
)


class Command(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, tag=True):
    """Base of all commands; the tag is the name of the class."""


# --- From a client -------------------------------------------------------------------------


class StartRun(Command, frozen=True):
    """Create a run, or find the one that owns `key`. With a key, `digest` is that of the payload's
    canonical JSON. `due_us` is 0 for at once. `on_duplicate` is what happens if an unfinished run
    has the key `unique`: `refuse`, `attach`, `replace` or `queue`. `ttl_ms` is how long after it is
    due it may begin, and `deadline_ms` how long after that it may end; 0 for no limit."""

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
    unique: str = ""
    on_duplicate: str = "refuse"
    ttl_ms: int = 0
    deadline_ms: int = 0
    after: list[tuple[str, str]] = []
    """The runs that it begins after, each with how it has ended; empty if it has not."""
    even_if_failed: bool = False
    on_failure: FollowUp | None = None
    on_success: FollowUp | None = None
    max_runtime_ms: int = 0
    schedule: str = ""


class CancelRun(Command, frozen=True):
    """Cancel a run and the runs that it called, with `children` all that it has started too; a
    finished run stays as it is. With `gently` its handler is told first, and has `grace_ms` to end
    (None: the default, or what it was given already)."""

    run: str
    gently: bool = False
    grace_ms: int | None = None
    children: bool = False


class MoveRun(Command, frozen=True):
    """Move a scheduled, queued or retrying run: to the time `due_us` (0: leave its time, the past:
    now), to a `priority`, to a `queue`; None leaves them."""

    run: str
    due_us: int = 0
    priority: int | None = None
    queue: str | None = None


class RetryRun(Command, frozen=True):
    """Retry a finished run, from `from_step` if that is set. `replaced` maps steps to results
    (JSON) to use instead. `restored` are the run's records if it has left memory."""

    run: str
    from_step: str | None = None
    replaced: dict[str, bytes] = {}
    restored: tuple[bytes, ...] = ()


class ForkRun(Command, frozen=True):
    """Create the run `run` as a fork of `source`, whose records are `restored`. `payload` and
    `queue` None keep the source's."""

    run: str
    source: str
    restored: tuple[bytes, ...]
    from_step: str | None = None
    payload: bytes | None = None
    concurrency_key: str | None = None
    """The key of the new payload; None keeps the source's."""
    unique: str | None = None
    """The same for its unique key."""
    queue: str | None = None


class ChangeQueue(Command, frozen=True):
    """Change what a person has set for a queue: the `terms` that are not None. With `reset`, first
    clear all limits that a person has set."""

    queue: str
    terms: QueueTerms = QueueTerms()
    reset: bool = False


class RemoveRun(Command, frozen=True):
    """Remove a finished run from the dead letter and from all lists."""

    run: str


class StartOptions(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False
):
    """The options that the runs of a schedule are started with, as in `run.start`."""

    queue: str | None = None
    priority: int | None = None
    max_attempts: int | None = None
    backoff_ms: int | None = None
    timeout_ms: int | None = None
    labels: dict[str, str] = {}


class ScheduleTerms(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A schedule as it is declared: an expression, its time zone, what happens to missed ticks
    (`catch_up`, `catch_up_for_ms`) and to ticks while the last run is unfinished (`overlap`), how
    far ticks are spread (`jitter_ms`), and the payload of its runs. The rest is as in
    `records.ScheduleDefined`; `job` is empty if it is called like the schedule."""

    schedule: str
    timezone: str = "UTC"
    catch_up: str = "once"
    overlap: str = "skip"
    payload: Raw = Raw(b"{}")
    job: str = ""
    source: str = ""
    catch_up_for_ms: int = 0
    jitter_ms: int = 0
    start: Raw = NO_OPTIONS
    note: str = ""
    expect: str = ""
    max_runtime_ms: int = 0
    heartbeat: str = ""


class AddSchedule(Command, frozen=True):
    """Add the schedule `name`, which no code declares. `replace`: if there is one of that name that
    was added before, change it. `seed` and `boot` as in `DefineSchedules`."""

    name: str
    terms: ScheduleTerms
    replace: bool = False
    seed: str = ""
    boot: str = ""


class RemoveSchedule(Command, frozen=True):
    """Remove a schedule that was added, or that is no longer in the code."""

    name: str


class PauseSchedule(Command, frozen=True):
    """Stop the schedule `name` from ticking until it is resumed."""

    name: str


class ResumeSchedule(Command, frozen=True):
    """Let the paused schedule `name` tick again."""

    name: str


class DiscardRun(Command, frozen=True):
    """Take a failed run out of the dead letter for good; lists still show it."""

    run: str


# --- From a client, or a handler through `Ask` ---------------------------------------------


class Asking(Command, frozen=True, kw_only=True):
    """Base of the commands that both clients and handlers give. `run` and `token` are empty for a
    client. `step` is the handler's call that the answer is recorded for; it is empty in the
    function of a step, where the command acts at once and no answer is recorded. `call` is the
    worker's number for the answer."""

    run: str = ""
    token: int = 0
    call: int = 0
    step: str = ""


class ReadState(Asking, frozen=True, kw_only=True):
    """Read the entry under `key`."""

    key: str


class ListState(Asking, frozen=True, kw_only=True):
    """List entries whose keys begin with `prefix` and sort after `after`, at most `limit`."""

    prefix: str = ""
    after: str = ""
    limit: int = 1000


class SetState(Asking, frozen=True, kw_only=True):
    """Write `value`. `if_version`: only if the entry has this version (0: does not exist).
    `expires_us` 0: never; `ttl_ms` overrides it."""

    key: str
    value: bytes
    ttl_ms: int | None = None
    expires_us: int = 0
    if_version: int | None = None
    if_absent: bool = False


class DeleteState(Asking, frozen=True, kw_only=True):
    """Delete the entry under `key`. `remember_ms` is how long its version is remembered."""

    key: str
    remember_ms: int
    if_version: int | None = None


class IncrementState(Asking, frozen=True, kw_only=True):
    """Add `by`, a number as JSON. Without `ttl_ms` the entry keeps its expiry."""

    key: str
    by: bytes = b"1"
    ttl_ms: int | None = None


class AcquireLock(Asking, frozen=True, kw_only=True):
    """Acquire `key` for `ttl_ms` (0, for runs only: until it is released). `wait_ms` is how long to
    wait for it; None: without limit. `asker` identifies a client, `holder` describes it to people.
    At most `holders` may hold it then, the asker included."""

    key: str
    ttl_ms: int = 0
    wait_ms: int | None = None
    asker: str = ""
    holder: str = ""
    holders: int = 1


class ExtendLock(Asking, frozen=True, kw_only=True):
    """Hold a lock for `ttl_ms` from now on. A client identifies it by its `lock_token`."""

    key: str
    ttl_ms: int
    lock_token: int = 0


class ReleaseLock(Asking, frozen=True, kw_only=True):
    """Release a lock. A client identifies it by its `lock_token`; a handler by `lock`, the call by
    which it acquired it. `raised`: an exception left the block of the lock. `force`: the lock is
    taken away from its holder, which may be a run, and whose token is given."""

    key: str = ""
    lock_token: int = 0
    lock: str = ""
    raised: bool = False
    force: bool = False


class LabelRun(Asking, frozen=True, kw_only=True):
    """Give the run that asks these labels, beside those that it has."""

    labels: dict[str, str]


class CheckLock(Asking, frozen=True, kw_only=True):
    """Check that the run still holds the lock it acquired by the call `lock`; if not, the call
    `step` is refused."""

    lock: str


class WithdrawLock(Command, frozen=True):
    """Take the client that waits as `asker` out of the line: it is gone, or has timed out."""

    key: str
    asker: str


class SendEvent(Asking, frozen=True, kw_only=True):
    """Send an event. `event` is its id if it is a new one. With a `key`, `digest` covers everything
    that a send with the same key must have in common."""

    event: str
    name: str
    payload: bytes
    correlation_key: str = ""
    ttl_ms: int = EVENT_TTL_MS
    key: str | None = None
    key_ttl_ms: int = KEY_TTL_MS
    digest: str = ""


class AwaitEvent(Asking, frozen=True, kw_only=True):
    """Wait, in a handler, for the first of `events` (names with correlation keys)."""

    events: list[tuple[str, str]]
    timeout_ms: int | None = None
    on_timeout: str = "fail"


# --- From the shell ------------------------------------------------------------------------


class DefineSchedules(Command, frozen=True):
    """Set the schedules, by name, that the code of the `jobs` which workers have and
    `stackshift.toml` declare. `complete` is false if a module did not import: a job that is missing
    may be in that module. `seed` is the project's own, so that two projects do not spread their
    ticks alike; `boot` is the boot of the machine, empty if nothing tells it."""

    schedules: dict[str, ScheduleTerms]
    jobs: frozenset[str] = frozenset()
    complete: bool = True
    seed: str = ""
    boot: str = ""


class NoteBoot(Command, frozen=True):
    """The machine runs since the boot `boot`: `@reboot` schedules that have seen another one
    tick."""

    boot: str


class FireSchedule(Command, frozen=True):
    """Decide the tick of the schedule `name`, if one is due. `start` is the prepared run; the
    decision fills in the tick that it is for, and so its time and key."""

    name: str
    start: StartRun


class DefineNotify(Command, frozen=True):
    """Set who is told of alerts, and of which, as `stackshift.toml` has it."""

    notify: dict[str, NotifyTerms]


class ExpectationTerms(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What a job's code expects of it, in a time zone; see `values.expectations`."""

    expect: str
    timezone: str = "UTC"


class DefineExpectations(Command, frozen=True):
    """Set the expectations of the `jobs` that workers have. `complete` is as in `DefineSchedules`.
    `succeeded` has when a job last completed, in µs, if it has."""

    expectations: dict[str, ExpectationTerms]
    jobs: frozenset[str] = frozenset()
    complete: bool = True
    succeeded: dict[str, int] = {}


class NoteStopping(Command, frozen=True):
    """Tell those who want to be told that the daemon stops: it was asked to."""


class Claimed(Command, frozen=True):
    """Note that this daemon has claimed the journal, whose last record before was made at
    `last_us`: no earlier execution continues."""

    last_us: int = 0


class Assign(Command, frozen=True):
    """Dispatch a run to a free slot of `worker`. `alone`: nothing else executes there, so a suspect
    may be tried. `codes`: the jobs that it has, with the digests of their code. `pool` is the queue
    that the worker belongs to; empty if it serves all queues without workers of their own."""

    worker: str
    codes: dict[str, str]
    alone: bool = False
    pool: str = ""


class DefineQueues(Command, frozen=True):
    """Set all terms of queues that the layer `by` (`file` or `code`) has."""

    by: str
    queues: dict[str, QueueTerms]


class DefineJobs(Command, frozen=True):
    """Queue the runs that were held because no worker had their job, if workers now have it.
    `codes` maps jobs to the digests of their code."""

    codes: dict[str, str]


class Tick(Command, frozen=True):
    """Act on the first timer or expiry, if it is due. `remember_ms` is how long the version of a
    state entry that expires is remembered."""

    remember_ms: int = VERSION_MEMORY_MS


class LoseExecution(Command, frozen=True):
    """Give up the execution of `run` under `token`, whose worker is gone. `ours`: see
    `records.AttemptLost`."""

    run: str
    token: int
    reason: str
    ours: bool


class NoteSnapshot(Command, frozen=True):
    """Record that a snapshot of the state up to `upto_seq` was written."""

    upto_seq: int
    state_hash: str


class SetClockBack(Command, frozen=True):
    """Set daemon time back to `to_us`, the time of the system clock. What had passed by then stays
    passed; everything that is due by then must have been acted on."""

    to_us: int


class NoteRecovery(Command, frozen=True):
    """Record that recovery moved a torn tail after `kept_seq` to the file `quarantine`."""

    kept_seq: int
    dropped_bytes: int
    quarantine: str


class NoteWatermark(Command, frozen=True):
    """Record the watermark of everything that is durable now."""


class Close(Command, frozen=True):
    """Record that the daemon stops in good order."""


# --- From a worker -------------------------------------------------------------------------


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What an error itself says of another try. One that is not `retryable` is final. `after_ms`
    and `at_us` are the delay and the time that it asks for; the later one is taken. One that does
    not count (`counts`) is a snooze. `cancels`: the run is to end as cancelled. `kinds` are the
    classes of each of its parts, with their modules, the most derived first; a part that asks for
    its next try has none, because no policy keeps it from that."""

    retryable: bool = True
    after_ms: int | None = None
    at_us: int | None = None
    counts: bool = True
    cancels: bool = False
    kinds: list[list[str]] = []


class CompleteStep(Command, frozen=True):
    """Record the result of a step, at its try number `tried`. `input` is a digest of the item of a
    `step.map`. `undo`: the code says how it is undone."""

    run: str
    token: int
    call: int
    step: str
    result: Raw
    duration_ms: int = 0
    tried: int = 1
    input: str = ""
    undo: bool = False


class FailStep(Command, frozen=True):
    """Record that a try of a step raised. `retry` are the step's own terms, if it has any. `undo`:
    see `records.StepFailed`."""

    run: str
    token: int
    call: int
    step: str
    error: Error
    duration_ms: int = 0
    tried: int = 1
    verdict: Verdict = Verdict()
    retry: RetryTerms | None = None
    input: str = ""
    undo: bool = False


class OpenStep(Command, frozen=True):
    """Record that a step has been executing for a while, has started `program`, or begins and can
    be undone (`undo`). A `call` of 0 wants no answer."""

    run: str
    token: int
    step: str
    tried: int = 1
    program: Program | None = None
    undo: bool = False
    call: int = 0


class CheckpointStep(Command, frozen=True):
    """Record how far the function of a step has come; see `records.StepCheckpointed`. A `call` of 0
    wants no answer."""

    run: str
    token: int
    call: int
    step: str
    value: Raw
    tried: int = 1


class RecordValue(Command, frozen=True):
    """Record the result of a read. `told`: include it in the answer, because the worker does not
    know it yet."""

    run: str
    token: int
    call: int
    step: str
    value: Raw
    told: bool = False


class BeginSleep(Command, frozen=True):
    """Sleep until `until_us`, or for `delay_ms` from now."""

    run: str
    token: int
    call: int
    step: str
    delay_ms: int | None = None
    until_us: int | None = None


class StartChild(Command, frozen=True):
    """Start the run `start` exactly once, on behalf of a handler; with `wait`, wait for it, at most
    `timeout_ms`, and cancel it with this one. `cancel_with_parent`, `ends_with_parent` and
    `on_timeout`: see `records.RunCreated` and `records.WaitStarted`."""

    run: str
    token: int
    call: int
    step: str
    start: StartRun
    wait: bool = False
    cancel_with_parent: bool = False
    ends_with_parent: bool = False
    timeout_ms: int | None = None
    on_timeout: str = ""


class ContinueRun(Command, frozen=True):
    """Complete the run, and continue it as the run `start`."""

    run: str
    token: int
    start: StartRun


class CallJob(Command, frozen=True):
    """Start a run, at the request of a handler. The shell turns this into a `StartChild`, because
    the core knows neither jobs nor ids. `options` is JSON, like the options of a start."""

    run: str
    token: int
    call: int
    step: str
    job: str
    payload: Raw
    wait: bool
    cancel_with_parent: bool
    options: Raw
    ends_with_parent: bool = False
    timeout_ms: int | None = None
    on_timeout: str = ""


class Ask(Command, frozen=True):
    """Do for a handler what a client can request too, by method and params of the protocol. The
    shell turns this into an `Asking`. `step` is empty in the function of a step."""

    run: str
    token: int
    call: int
    step: str
    method: str
    params: Raw


class RefuseCall(Command, frozen=True):
    """Refuse a handler's call, for a reason that the shell knows. `error`: `{code, message, …}`.
    Nothing is recorded if `step` is empty."""

    run: str
    token: int
    call: int
    step: str
    error: Raw


class AwaitRun(Command, frozen=True):
    """Wait for the run `child`, and for those as which it continues, at most `timeout_ms`. If it
    has left memory, `status`, `result` and `error` are how it ended."""

    run: str
    token: int
    call: int
    step: str
    child: str
    status: str = ""
    result: Raw = NULL
    error: Error | None = None
    timeout_ms: int | None = None
    on_timeout: str = ""


class WithdrawCall(Command, frozen=True):
    """Withdraw the call `step`: the handler has cancelled the task that waited for it. `body` is
    the event that it had received, if it had and the handler has not seen it."""

    run: str
    token: int
    step: str
    body: Raw = NULL


class RaiseCancel(Command, frozen=True):
    """Record that `Cancelling` is raised in the handler, at the call `step` (empty: not at a call):
    nothing else of it executes. The answer is `false` if others have to end before."""

    run: str
    token: int
    call: int
    step: str


class FinishCancel(Command, frozen=True):
    """Cancel the run: its handler has ended after `Cancelling` was raised in it."""

    run: str
    token: int


class FinishUndo(Command, frozen=True):
    """End the run: what it had done is undone."""

    run: str
    token: int


class Suspend(Command, frozen=True):
    """Suspend the run: its handler has left memory and waits only for `pending` (names of
    steps)."""

    run: str
    token: int
    pending: list[str]


class CompleteRun(Command, frozen=True):
    """Complete the run: its handler returned `result`."""

    run: str
    token: int
    result: Raw


class ContinueAs(Command, frozen=True):
    """Complete the run, and continue it as a new run of the same job with this payload: its handler
    has asked for that. The shell turns this into a `ContinueRun`."""

    run: str
    token: int
    payload: Raw


class FailAttempt(Command, frozen=True):
    """End the attempt: its handler raised. `step` is the step whose failure it did not catch, and
    `more_steps` are others, if it raised a group."""

    run: str
    token: int
    error: Error
    verdict: Verdict = Verdict()
    step: str | None = None
    more_steps: list[str] = []


class ConfirmStop(Command, frozen=True):
    """Confirm that the handler of a cancelled or timed-out attempt has stopped."""

    run: str
    token: int


class ReportProgress(Command, frozen=True):
    """Record how far a handler is: `done` of `total`, if that is known."""

    run: str
    token: int
    done: float
    total: float | None = None
    message: str = ""


FromWorker = (
    CompleteStep
    | FailStep
    | OpenStep
    | CheckpointStep
    | RecordValue
    | BeginSleep
    | CallJob
    | Ask
    | AwaitRun
    | WithdrawCall
    | RaiseCancel
    | FinishCancel
    | FinishUndo
    | Suspend
    | CompleteRun
    | ContinueAs
    | FailAttempt
    | ConfirmStop
    | ReportProgress
)
FromClient = (
    StartRun
    | CancelRun
    | MoveRun
    | RetryRun
    | ForkRun
    | RemoveRun
    | DiscardRun
    | ChangeQueue
    | AddSchedule
    | RemoveSchedule
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
    | LabelRun
    | SendEvent
    | AwaitEvent
)
FromShell = (
    StartChild
    | ContinueRun
    | RefuseCall
    | WithdrawLock
    | Claimed
    | Assign
    | DefineJobs
    | DefineQueues
    | DefineSchedules
    | DefineNotify
    | DefineExpectations
    | NoteStopping
    | NoteBoot
    | FireSchedule
    | Tick
    | LoseExecution
    | NoteSnapshot
    | SetClockBack
    | NoteRecovery
    | NoteWatermark
    | Close
)
AnyCommand = FromWorker | FromClient | FromBoth | FromShell
