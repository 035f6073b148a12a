"""The records: everything that can happen, one frozen type for each kind.

A record is in the past tense and complete: `fold` needs nothing else. Its sequence number and time
are in its `Entry`, the same for all kinds. A run's timeline is the entries that contain its id.

A field with a user's JSON (payload, result) is `msgspec.Raw`: passed along, never decoded here.
Times inside records are RFC 3339 text, which people and `jq` can read.

Any change of a kind raises its version in `VERSIONS`: of its fields, their types and defaults, and
of what they mean. Older daemons then refuse its records, rather than fold them wrongly; so they do
with a field that they do not know. Lines of earlier versions must still be read: a field that is
new has a default that means "as before". `tests/journal/frozen` holds a journal of each release and
a description of every version of every kind, which the code is compared with.
"""

from __future__ import annotations

import re
from typing import Any, Final, get_args

import msgspec
from msgspec import Raw

from stackshift_jobs.errors import NewerFormat
from stackshift_jobs.values.durations import from_rfc3339, rfc3339

NULL: Final = Raw(b"null")
"""No body. (msgspec allows no `Raw | None`, so `None` cannot stand for it.)"""
NO_OPTIONS: Final = Raw(b"{}")


class Part(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, forbid_unknown_fields=True):
    """Base of the parts of records."""


class Record(Part, frozen=True, tag_field="kind"):
    """Base of all records; `kind` is the tag."""


class Error(Part, frozen=True):
    """What went wrong: an exception's type, message and traceback (text, bounded by the worker).
    `retryable` is false if it is not to be tried again. `cancels` is true for a `CancelRun`: if the
    handler does not catch it, the run is cancelled. `exit_code` is that of a program that failed
    (negative: killed by that signal), and `stdout` what it had printed, where a script has to be
    told again."""

    type: str
    message: str
    traceback: str = ""
    retryable: bool = True
    cancels: bool = False
    exit_code: int | None = None
    stdout: str = ""


class RetryTerms(Part, frozen=True):
    """How often and how soon to try again. `max_attempts` includes the first try. Only errors of
    the classes `on` are tried again (empty: all), and none of `not_on`; each is a type's name
    (`ConnectionError`), or that with its module (`builtins.ConnectionError`)."""

    max_attempts: int = 3
    backoff_ms: int = 1000
    factor: float = 2.0
    max_backoff_ms: int = 3_600_000
    jitter: float = 0.1
    on: list[str] = []
    not_on: list[str] = []


class RunLimits(Part, frozen=True):
    """How many calls and how many bytes of results a run may record."""

    steps: int = 10_000
    bytes: int = 64 << 20


DEFAULT_TERMS: Final = RetryTerms()
DEFAULT_LIMITS: Final = RunLimits()
"""A field that is this very object is omitted from the record's line, and a line without the field
is decoded to it."""


class FollowUp(Part, frozen=True):
    """The run that another starts by its end: its job, and what the code says of that; 0 for no
    limit."""

    job: str
    queue: str = "default"
    retry: RetryTerms = DEFAULT_TERMS
    timeout_ms: int = 0
    priority: int = 0
    ttl_ms: int = 0
    deadline_ms: int = 0


class NotifyTerms(Part, frozen=True):
    """What `[notify.NAME]` says of whom to tell what, apart from where: of the alerts `on`, about
    jobs and queues that match one of the patterns (empty: all). The same is told once in
    `quiet_ms`; of different things, at most `most` in `per_ms`. `max_attempts` is how often a
    delivery is tried."""

    on: list[str] = []
    jobs: list[str] = []
    queues: list[str] = []
    quiet_ms: int = 300_000
    most: int = 20
    per_ms: int = 3_600_000
    max_attempts: int = 20


class QueueTerms(Part, frozen=True):
    """The terms that one layer sets for a queue; None: not set here. 0 means no limit, which also
    overrides a limit of a lower layer. `rate` new attempts may start per `rate_per_ms`."""

    concurrency: int | None = None
    key_concurrency: int | None = None
    rate: int | None = None
    rate_per_ms: int = 0
    rate_burst: int | None = None
    paused: bool | None = None
    processes: int | None = None


# --- The journal itself --------------------------------------------------------------------


class JournalOpened(Record, frozen=True, tag="journal.opened"):
    """A daemon claimed the journal under a new `epoch`; all earlier daemons are fenced. `host` is
    its machine, where several share the journal."""

    epoch: int
    pid: int
    version: str
    host: str = ""


class JournalRecovered(Record, frozen=True, tag="journal.recovered"):
    """A torn tail after `kept_seq` was moved to the file `quarantine` (in the data directory)."""

    kept_seq: int
    dropped_bytes: int
    quarantine: str


class ClockSetBack(Record, frozen=True, tag="clock.set_back"):
    """A person had daemon time, which was `before`, set back to the time of this record: the system
    clock had been ahead. The only record that may be older than the one before it."""

    before: str


class JournalWatermark(Record, frozen=True, tag="journal.watermark"):
    """Nothing happened; its line writes the watermark of everything before it to the disk."""


class JournalClosed(Record, frozen=True, tag="journal.closed"):
    """The daemon stopped in good order."""


class SnapshotTaken(Record, frozen=True, tag="snapshot.taken"):
    """The state up to `upto_seq` is also in a snapshot whose state hash is `state_hash`."""

    upto_seq: int
    state_hash: str


# --- Runs ----------------------------------------------------------------------------------


class RunCreated(Record, frozen=True, tag="run.created"):
    """A run was created. Its terms are fixed here: a later change of the code does not affect them.
    It is cancelled at `expires_at` if it has not begun by then, and fails at `deadline_at` if it
    has not ended. With `after`, it begins when those runs have ended, and fails if one of them did
    not complete, unless `even_if_failed`.

    In a fork, `restored` contains the records of the source, `forgotten` names the recorded steps
    that the fork does not reuse, and `afresh` those whose checkpoints it does not. A run that
    continues another names it in `continues`, and in `chain` the run that began the chain, which
    keeps its idempotency key. A child with `cancel_with_parent` is cancelled if its parent is, one
    that `ends_with_parent` also if that has completed or failed. One that fails for good starts
    `on_failure` in the same append, and one that completes `on_success`; a run that was started so
    has neither. It is late if it has not ended `max_runtime_ms` after it began. `schedule` names
    the schedule that has started it.
    """

    run: str
    job: str
    queue: str
    payload: Raw
    retry: RetryTerms = DEFAULT_TERMS
    limits: RunLimits = DEFAULT_LIMITS
    timeout_ms: int = 0
    priority: int = 0
    concurrency_key: str = ""
    labels: dict[str, str] = {}
    scheduled_at: str | None = None
    key: str | None = None
    key_ttl_ms: int = 0
    payload_digest: str = ""
    parent: str | None = None
    parent_step: str | None = None
    cancel_with_parent: bool = False
    forked_from: str | None = None
    restored: list[Raw] = []
    forgotten: list[str] = []
    unique: str = ""
    expires_at: str | None = None
    deadline_at: str | None = None
    continues: str | None = None
    chain: str | None = None
    after: list[str] = []
    even_if_failed: bool = False
    ends_with_parent: bool = False
    on_failure: FollowUp | None = None
    on_success: FollowUp | None = None
    afresh: list[str] = []
    max_runtime_ms: int = 0
    schedule: str = ""


class RunPreceded(Record, frozen=True, tag="run.preceded"):
    """The run `after`, which this run begins after, ended with `status`: `completed`, `failed` or
    `cancelled`."""

    run: str
    after: str
    status: str


class RunAttached(Record, frozen=True, tag="run.attached"):
    """A start with the idempotency key `key` was given this unfinished run, which has the unique
    key of that start: it is what the key finds for `key_ttl_ms`. `payload` and `payload_digest` are
    those of the start."""

    run: str
    job: str
    key: str
    key_ttl_ms: int
    payload: Raw
    payload_digest: str


class RunQueued(Record, frozen=True, tag="run.queued"):
    """It may execute now. `reason`: `due` (it was scheduled for this time), `retry` (its backoff is
    over), `moved` (a person moved it to now), `after` (the runs before it have ended), `wait` (a
    wait ended while it was suspended), `cancel` (its handler is to be told that the run is
    cancelled) or `job` (its job is defined again)."""

    run: str
    reason: str


class RunMoved(Record, frozen=True, tag="run.moved"):
    """A person moved the run: it is due at `due_at` (also if that is a retry), and has this
    `priority` and `queue`; null where they stay as they were. `expires_at` and `deadline_at` are
    new if its time is."""

    run: str
    due_at: str | None = None
    priority: int | None = None
    queue: str | None = None
    expires_at: str | None = None
    deadline_at: str | None = None


class RunLabelled(Record, frozen=True, tag="run.labelled"):
    """The run was given these labels, beside those that it has, by its handler. `step` is the call,
    empty in the function of a step."""

    run: str
    attempt: int
    step: str
    labels: dict[str, str]


class RunHeld(Record, frozen=True, tag="run.held"):
    """It was its turn, but no worker has its job any more; it waits until one does."""

    run: str


class RunCompleted(Record, frozen=True, tag="run.completed"):
    """The handler returned `result`; the run is finished. Or it continued as the run
    `continued_as`, whose `run.created` is in the same append: who waits for a chain of runs goes on
    waiting. `follow_up` is the run that it started by this, in the same append."""

    run: str
    attempt: int
    result: Raw
    continued_as: str | None = None
    follow_up: str | None = None


class RunFailed(Record, frozen=True, tag="run.failed"):
    """The run failed for good and is in its queue's dead letter. `reason`: `attempts`,
    `non_retryable`, `poisonous`, `deadline`, `after` (with a run before it), `wait` or `undo` (of
    what it had done, which failed: see `undo.started`). `step` is
    the wait that timed out: it is forgotten. `follow_up` is the run that it started by this, in
    the same append."""

    run: str
    attempt: int
    error: Error
    reason: str
    step: str | None = None
    follow_up: str | None = None


class RunCancelled(Record, frozen=True, tag="run.cancelled"):
    """The run was cancelled, which is final. `reason` is `requested`, `parent` (that was
    cancelled), `parent_ended`, `given_up` (the call that started it), `timeout`, `expired` (it had
    not begun in time), `replaced` (by a start with its unique key, which created the run `by`),
    `overlap` (by the next tick of its schedule),
    `gently` (its handler ended within the grace), `grace` (it did not), or `handler`: its handler
    raised `CancelRun`, with this `message`, perhaps in the function of `steps`, which are
    forgotten."""

    run: str
    reason: str
    message: str = ""
    steps: list[str] = []
    by: str = ""


class CancelRequested(Record, frozen=True, tag="cancel.requested"):
    """The run is to be cancelled gently: its handler is told once the runs `first` have ended, and
    the run is cancelled when the handler has ended after that, or else at `grace_at`. `reason` is
    `requested`, or `parent`. A second one moves `grace_at`."""

    run: str
    reason: str
    grace_at: str
    first: list[str] = []


class CancelRaised(Record, frozen=True, tag="cancel.raised"):
    """The handler of a run that is cancelled gently was told: at this place in the order of its
    outcomes `Cancelling` was raised in it, at the call `step`; that is empty if it was not at a
    call."""

    run: str
    attempt: int
    step: str = ""


class UndoStarted(Record, frozen=True, tag="undo.started"):
    """The run is over, and what it has done is undone before it ends: with this `status` (`failed`
    or `cancelled`), `reason` and `error`, as `run.failed` or `run.cancelled` will say, with the
    `message` of a handler that cancelled it. `steps` are forgotten: those whose failure ended it.
    `stopped`: nothing of its handler executes any more."""

    run: str
    attempt: int
    status: str
    reason: str
    error: Error | None = None
    message: str = ""
    steps: list[str] = []
    stopped: bool = True


class RunRetried(Record, frozen=True, tag="run.retried"):
    """A person retried the run. `forgotten` names the steps that will be repeated, `replaced` gives
    steps the result that the person set. With `undoing` it goes on to undo what it had done.
    `restored` contains the run's earlier records if the run
    had left the engine's memory. The steps `afresh` begin without their checkpoints."""

    run: str
    forgotten: list[str] = []
    replaced: dict[str, Raw] = {}
    restored: list[Raw] = []
    afresh: list[str] = []
    undoing: bool = False


class RunLate(Record, frozen=True, tag="run.late"):
    """The run has not ended `limit_ms` after it first began. It goes on."""

    run: str
    limit_ms: int


class RunRemoved(Record, frozen=True, tag="run.removed"):
    """A person removed a finished run from lists and dead letter; its idempotency key stays."""

    run: str


class RunDiscarded(Record, frozen=True, tag="run.discarded"):
    """A person took a failed run out of the dead letter; it stays in lists, as failed."""

    run: str


# --- Attempts ------------------------------------------------------------------------------


class AttemptStarted(Record, frozen=True, tag="attempt.started"):
    """A new attempt was dispatched to `worker`. The sequence number of this record is the token of
    the execution."""

    run: str
    attempt: int
    worker: str
    code: str = ""


class AttemptResumed(Record, frozen=True, tag="attempt.resumed"):
    """The same attempt continues after a wait or a loss, in `worker`, under a new token."""

    run: str
    attempt: int
    worker: str
    code: str = ""


class AttemptSuspended(Record, frozen=True, tag="attempt.suspended"):
    """Every branch waits; the handler is out of memory and holds no slot."""

    run: str
    attempt: int


class AttemptFailed(Record, frozen=True, tag="attempt.failed"):
    """The handler raised, or ran out of time (then `stopped` is false, and it still executes until
    `attempt.stopped`). `step` is the step whose failure it did not catch: it is forgotten, and so
    are `more_steps`, if it raised a group. `retry_at` is null if `run.failed` follows in the same
    append. An attempt that does not count (`counts`) was snoozed: it uses up nothing of the run's
    budget, and the backoff stays as it is."""

    run: str
    attempt: int
    error: Error
    step: str | None = None
    retry_at: str | None = None
    stopped: bool = True
    more_steps: list[str] = []
    counts: bool = True


class AttemptLost(Record, frozen=True, tag="attempt.lost"):
    """Its worker or the daemon is gone; it will resume under a new token. `ours`: the daemon ended
    it or was cut off from it, as opposed to a crash of the worker, which its runs may have caused.
    """

    run: str
    attempt: int
    reason: str
    ours: bool = True


class AttemptStopped(Record, frozen=True, tag="attempt.stopped"):
    """The handler of a cancelled or timed-out attempt has stopped; its slot is free again."""

    run: str
    attempt: int


# --- Steps ---------------------------------------------------------------------------------


class Program(Part, frozen=True):
    """A program that was started: its process group, and when the leader of the group began, in
    terms of the system (on Linux `BOOT:TICKS`)."""

    group: int
    started: str


class StepStarted(Record, frozen=True, tag="step.started"):
    """The step has been executing for a while, or has started `program`, or begins and the code
    says how it is undone (`undo`). It shows what was under way at a crash, and what has to be
    ended, finished or undone after it. A function that can be undone is called when this record is
    durable."""

    run: str
    attempt: int
    step: str
    tried: int = 1
    program: Program | None = None
    undo: bool = False


class StepCompleted(Record, frozen=True, tag="step.completed"):
    """The one recorded result of a step. `input` is a digest of the item of a `step.map`. With
    `undo` the code says how it is undone; a step `undo NAME` has undone the step NAME."""

    run: str
    attempt: int
    step: str
    result: Raw
    duration_ms: int = 0
    tried: int = 1
    input: str = ""
    undo: bool = False


class StepFailed(Record, frozen=True, tag="step.failed"):
    """Try number `tried` of the step raised. The step is tried again at `retry_at`; without
    `retry_at` it has failed for good and replays as failed. A try that does not count (`counts`)
    was snoozed; see `AttemptFailed`. With `undo` it may be done all the same, and the code says how
    it is undone: its function was ended from outside."""

    run: str
    attempt: int
    step: str
    error: Error
    duration_ms: int = 0
    tried: int = 1
    retry_at: str | None = None
    input: str = ""
    counts: bool = True
    undo: bool = False


class StepCheckpointed(Record, frozen=True, tag="step.checkpointed"):
    """The function of a step has come so far, in its try number `tried`: `value` is what the next
    try gets, also that of a later attempt. Only the last one of a step counts, until the step has
    completed."""

    run: str
    attempt: int
    step: str
    value: Raw
    tried: int = 1


class ValueRecorded(Record, frozen=True, tag="value.recorded"):
    """The value that a read such as `ctx.now()` returned, so that every pass sees the same."""

    run: str
    attempt: int
    step: str
    value: Raw


class ChildStarted(Record, frozen=True, tag="child.started"):
    """The handler started `child`, whose `run.created` is in the same append."""

    run: str
    attempt: int
    step: str
    child: str
    job: str


class WaitStarted(Record, frozen=True, tag="wait.started"):
    """A branch waits durably. `wait` is `sleep`, `child` (for the run `child`, which may belong to
    the `chain` that a run began; `job` is its job if this call started it), `event` (for the first
    of `events`, each a name and a correlation key) or `lock` (for `lock`, to hold it for `ttl_ms`,
    or without expiry if that is 0). `until` is when a sleep ends, or any other wait times out;
    `on_timeout` is what happens to the run then: `fail`, `continue` or `cancel`."""

    run: str
    attempt: int
    step: str
    wait: str
    until: str | None = None
    child: str | None = None
    events: list[tuple[str, str]] = []
    on_timeout: str = ""
    lock: str = ""
    ttl_ms: int = 0
    job: str = ""
    chain: str = ""
    holders: int = 1
    """Of a lock: how many may hold it at a time, if it was up to this wait."""


class WaitEnded(Record, frozen=True, tag="wait.ended"):
    """The wait ended, with its result: nothing for a sleep; for a child its `status` and result or
    error; for an event which one it was, when it was received, and its payload. If the wait timed
    out, `status` is `timed_out`, and for a lock `result` is the refusal. (The wait for a lock that
    was acquired ends with `lock.acquired`.) An event is `shared` if it ended other waits too."""

    run: str
    step: str
    status: str = ""
    result: Raw = NULL
    error: Error | None = None
    event: str = ""
    name: str = ""
    correlation_key: str = ""
    received_at: str = ""
    shared: bool = False


class CallRefused(Record, frozen=True, tag="call.refused"):
    """A call on `ctx` was refused (another version of an entry, a lock that another holder has or
    that expired, a job that does not exist). It replays as this `error`: `{code, message, hint,
    …}`, with `final` if it would be refused again."""

    run: str
    attempt: int
    step: str
    error: Raw


class CallWithdrawn(Record, frozen=True, tag="call.withdrawn"):
    """The handler has cancelled the task that made the call `step`, before it saw an outcome: the
    call waits for nothing any more, and the next pass makes it again."""

    run: str
    attempt: int
    step: str


class ProgressReported(Record, frozen=True, tag="progress.reported"):
    """A handler reported how far it is; this is shown, never replayed."""

    run: str
    attempt: int
    done: float
    total: float | None = None
    message: str = ""


# --- State ---------------------------------------------------------------------------------
#
# `run` is the run on whose behalf it was done, None for a client. `step` is the handler's call that
# the record answers, empty in the function of a step. So a handler's write, and the fact that the
# handler made it, are one record.


class StateSet(Record, frozen=True, tag="state.set"):
    """`key` was given this value. `op` is `set` or `increment`."""

    key: str
    value: Raw
    version: int
    op: str = "set"
    expires_at: str | None = None
    run: str | None = None
    attempt: int = 0
    step: str = ""


class StateDeleted(Record, frozen=True, tag="state.deleted"):
    """The entry was deleted; its version is remembered until `remembered_until`."""

    key: str
    version: int
    remembered_until: str
    run: str | None = None
    attempt: int = 0
    step: str = ""


class StateExpired(Record, frozen=True, tag="state.expired"):
    """The entry expired; its version is remembered until `remembered_until`."""

    key: str
    version: int
    remembered_until: str


# --- Locks ---------------------------------------------------------------------------------


class LockRequested(Record, frozen=True, tag="lock.requested"):
    """A client waits for the lock, as `asker`; the wait ends with the daemon that recorded it.
    `holder` is a description of the client for people. At most `holders` may hold the lock when it
    gets it, itself included."""

    key: str
    asker: str
    ttl_ms: int
    holder: str = ""
    holders: int = 1


class LockWithdrawn(Record, frozen=True, tag="lock.withdrawn"):
    """The client gave up waiting for the lock."""

    key: str
    asker: str


class LockAcquired(Record, frozen=True, tag="lock.acquired"):
    """The run (or the client that asked as `asker`) acquired the lock. The sequence number of this
    record is the fencing token, until an `attempt.started` or `attempt.lost` of the run renews the
    token with its own. While it holds the lock, at most `holders` do, itself included."""

    key: str
    expires_at: str | None = None
    run: str | None = None
    attempt: int = 0
    step: str = ""
    asker: str = ""
    holder: str = ""
    holders: int = 1


class LockExtended(Record, frozen=True, tag="lock.extended"):
    """The holder, a run or the client that asked as `asker`, extended the lock until `expires_at`.
    `step` is the call, if a handler made it."""

    key: str
    expires_at: str
    run: str | None = None
    attempt: int = 0
    step: str = ""
    asker: str = ""


class LockReleased(Record, frozen=True, tag="lock.released"):
    """The lock was released. `reason`: `left` (the handler left its block), `raised` (its block
    raised), `run` (the run ended), `withdrawn` (the handler had given up its wait for it),
    `expired`, `client` or `forced` (a person took it away). `step` is the call by which the run had
    acquired it, `asker` the client that had."""

    key: str
    reason: str
    run: str | None = None
    step: str = ""
    asker: str = ""


# --- Events --------------------------------------------------------------------------------


class EventReceived(Record, frozen=True, tag="event.received"):
    """An event was sent. The waits of the runs `resumed` end in the same append; if there are none,
    the event is kept until `kept_until`. `key` is its idempotency key, valid for `key_ttl_ms`;
    `digest` covers everything that a send with the same key must have in common. `run` is the
    sender."""

    event: str
    name: str
    payload: Raw
    correlation_key: str = ""
    kept_until: str | None = None
    resumed: list[str] = []
    key: str | None = None
    key_ttl_ms: int = 0
    digest: str = ""
    run: str | None = None
    attempt: int = 0
    step: str = ""


class EventReturned(Record, frozen=True, tag="event.returned"):
    """The run had received an event by its call `step`, and withdrew that call before its handler
    saw it: the event goes to the waits in `resumed`, or is kept again, ordered as of the record
    `place`."""

    event: str
    name: str
    payload: Raw
    run: str
    step: str
    received_at: str
    place: int
    correlation_key: str = ""
    kept_until: str | None = None
    resumed: list[str] = []


class EventExpired(Record, frozen=True, tag="event.expired"):
    """A kept event expired: no wait consumed it in time."""

    event: str
    name: str
    correlation_key: str = ""


# --- Queues --------------------------------------------------------------------------------


class QueueChanged(Record, frozen=True, tag="queue.changed"):
    """The layer `by` (`person`, `file` or `code`; see `core.state.queues.LAYERS`) now sets these
    terms for a queue, and no others."""

    queue: str
    by: str
    terms: QueueTerms = QueueTerms()


# --- Schedules -----------------------------------------------------------------------------


class ScheduleDefined(Record, frozen=True, tag="schedule.defined"):
    """There is a new or changed schedule of `job`. `since` is when its expression was first seen;
    `next_at` is its next tick, null while it is paused, and `due_at` is when that tick is decided,
    null if there is no jitter in between.

    `name` is empty if it is that of the job. `source` says who declares the schedule: the code
    (empty), `file` (`stackshift.toml`), `command` or `crontab`. `jitter_ms` spreads the ticks, by
    `seed`; missed ticks older than `catch_up_for_ms` (0: no limit) are not caught up. `start` has
    the options of its runs, `note` what a person wrote about it. `boot` is the boot of the machine
    that `@reboot` has seen. `max_runtime_ms` is that of its runs, 0 for the job's; `heartbeat` is
    the URL that hears of them, if a person has added it. What is expected of them is `expect`, of
    which there is an `expectation.defined` besides."""

    job: str
    schedule: str
    timezone: str
    since: str
    catch_up: str
    overlap: str
    payload: Raw
    next_at: str | None = None
    name: str = ""
    source: str = ""
    due_at: str | None = None
    jitter_ms: int = 0
    seed: str = ""
    catch_up_for_ms: int = 0
    start: Raw = NO_OPTIONS
    note: str = ""
    boot: str = ""
    expect: str = ""
    max_runtime_ms: int = 0
    heartbeat: str = ""


class ScheduleFired(Record, frozen=True, tag="schedule.fired"):
    """The tick `tick` was decided. It started the run `started`, or none, for the `reason`
    `overlap` (the last run is still unfinished), `waits` (it waits for that run to end),
    `unique` (another run has the unique key of its job) or `missed` (it was due while the daemon
    was down). `passed` earlier ticks were skipped. Ticks up
    to `counted` are caught up one by one; `next_at` is the next tick, `due_at` as in
    `ScheduleDefined`."""

    job: str
    tick: str
    next_at: str | None = None
    started: str = ""
    reason: str = ""
    passed: int = 0
    counted: str = ""
    name: str = ""
    due_at: str | None = None


class ScheduleBooted(Record, frozen=True, tag="schedule.booted"):
    """The machine was started, as `boot`, so an `@reboot` schedule has the tick `next_at` (null
    while it is paused), to be decided at `due_at` as in `ScheduleDefined`."""

    job: str
    boot: str
    next_at: str | None = None
    name: str = ""
    due_at: str | None = None


class ScheduleRetired(Record, frozen=True, tag="schedule.retired"):
    """The code, or `stackshift.toml`, no longer has this schedule."""

    job: str
    name: str = ""


class ScheduleRemoved(Record, frozen=True, tag="schedule.removed"):
    """A person removed the schedule: nothing of it is left but its runs."""

    job: str
    name: str = ""


class SchedulePaused(Record, frozen=True, tag="schedule.paused"):
    """A person paused the schedule: it does not tick."""

    job: str
    name: str = ""


class ScheduleResumed(Record, frozen=True, tag="schedule.resumed"):
    """A person resumed the schedule; its next tick is in the future. `due_at` as in
    `ScheduleDefined`."""

    job: str
    next_at: str | None = None
    name: str = ""
    due_at: str | None = None


# --- Alerts --------------------------------------------------------------------------------


class NotifyDefined(Record, frozen=True, tag="notify.defined"):
    """`stackshift.toml` has a new or changed `[notify.NAME]`, called `notify`."""

    notify: str
    terms: NotifyTerms = NotifyTerms()


class NotifyRetired(Record, frozen=True, tag="notify.retired"):
    """`stackshift.toml` no longer has it."""

    notify: str


class AlertTold(Record, frozen=True, tag="alert.told"):
    """`notify` is told of `count` alerts by the run `message`, whose `run.created` is in the same
    append: each is `alert` (`failed`, `late`, `missing`, `recovered` or `daemon_stopped`; empty:
    of different kinds) about `job`, the last one by the run `subject`. What is the same, which is
    the `group`, is counted until `until` and told together; null if nothing is waited for."""

    notify: str
    group: str
    alert: str
    message: str
    job: str = ""
    subject: str = ""
    count: int = 1
    until: str | None = None


class AlertHeld(Record, frozen=True, tag="alert.held"):
    """An alert is told together with others of its `group`, at `until`. The group `""` is of all
    that is more than `notify` is to be told at a time."""

    notify: str
    group: str
    alert: str
    until: str
    job: str = ""
    subject: str = ""


class AlertPostponed(Record, frozen=True, tag="alert.postponed"):
    """What the group holds is told at `until`: `notify` has been told as much as it is to be."""

    notify: str
    group: str
    until: str


class AlertClosed(Record, frozen=True, tag="alert.closed"):
    """Nothing more of the group has come: what is the same is told at once again."""

    notify: str
    group: str


class ExpectationDefined(Record, frozen=True, tag="expectation.defined"):
    """The code of `job` expects a success of it as `expect` says, in `timezone`; or with
    `schedule`, a success of the runs that this schedule of `job` has started is expected. Those
    after `since` count for the next one, which is due by `due_at`; or it is due `every_ms` after
    the last one. The last one before this record was at `succeeded_at`."""

    job: str
    expect: str
    timezone: str
    since: str
    due_at: str | None = None
    every_ms: int = 0
    succeeded_at: str | None = None
    schedule: str = ""


class ExpectationRetired(Record, frozen=True, tag="expectation.retired"):
    """Nothing is expected any more of `job`, or of `schedule`: that has changed, or is paused."""

    job: str
    schedule: str = ""


class ExpectationMet(Record, frozen=True, tag="expectation.met"):
    """A run of `job`, or of `schedule`, had completed by `due`; another is due by `due_at`."""

    job: str
    due: str
    due_at: str | None = None
    schedule: str = ""


class ExpectationMissed(Record, frozen=True, tag="expectation.missed"):
    """No run of `job`, or of `schedule`, had completed by `due`. `alert` is `late` if one, which is
    `subject`, was under way, else `missing`. The next is due by `due_at`; null until there is a
    success."""

    job: str
    due: str
    alert: str
    subject: str = ""
    due_at: str | None = None
    schedule: str = ""


class JobRecovered(Record, frozen=True, tag="job.recovered"):
    """`run` is the first that completed after `job` had been in trouble since `since`: `alert` is
    the last of it, `failed`, `late` or `missing`. Or `schedule` was late or missing since then."""

    job: str
    run: str
    alert: str
    since: str
    schedule: str = ""


AnyRecord = (
    JournalOpened
    | JournalRecovered
    | ClockSetBack
    | JournalWatermark
    | JournalClosed
    | SnapshotTaken
    | RunCreated
    | RunPreceded
    | RunAttached
    | RunQueued
    | RunMoved
    | RunHeld
    | RunLabelled
    | RunCompleted
    | RunFailed
    | RunCancelled
    | CancelRequested
    | CancelRaised
    | UndoStarted
    | RunRetried
    | RunLate
    | RunRemoved
    | RunDiscarded
    | AttemptStarted
    | AttemptResumed
    | AttemptSuspended
    | AttemptFailed
    | AttemptLost
    | AttemptStopped
    | StepStarted
    | StepCompleted
    | StepFailed
    | StepCheckpointed
    | ValueRecorded
    | ChildStarted
    | WaitStarted
    | WaitEnded
    | CallRefused
    | CallWithdrawn
    | ProgressReported
    | StateSet
    | StateDeleted
    | StateExpired
    | LockRequested
    | LockWithdrawn
    | LockAcquired
    | LockExtended
    | LockReleased
    | EventReceived
    | EventReturned
    | EventExpired
    | QueueChanged
    | ScheduleDefined
    | ScheduleFired
    | ScheduleBooted
    | ScheduleRetired
    | ScheduleRemoved
    | SchedulePaused
    | ScheduleResumed
    | NotifyDefined
    | NotifyRetired
    | AlertTold
    | AlertHeld
    | AlertPostponed
    | AlertClosed
    | ExpectationDefined
    | ExpectationRetired
    | ExpectationMet
    | ExpectationMissed
    | JobRecovered
)

VERSIONS: Final[dict[str, int]] = {str(cls.__struct_config__.tag): 1 for cls in get_args(AnyRecord)}
"""The highest version of each kind that this daemon folds."""

BY_KIND: Final[dict[str, type[Record]]] = {
    str(cls.__struct_config__.tag): cls for cls in get_args(AnyRecord)
}


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A record with its sequence number (gap-free) and daemon time (µs since 1970, not smaller than
    that of the entry before, except for `ClockSetBack`)."""

    seq: int
    at_us: int
    record: AnyRecord


NEWER_HINT: Final = "install the newer version again, or restore a backup made before it"


def is_in_order(entry: Entry, after_us: int) -> bool:
    """May `entry` follow one of the time `after_us`?"""
    return entry.at_us >= after_us or type(entry.record) is ClockSetBack


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(AnyRecord).decode
_VERSION_MARKS: Final = {
    name: b'"v":%d,' % version if version > 1 else b"" for name, version in VERSIONS.items()
}
_ENTRY: Final = re.compile(
    rb'\{"seq":([1-9][0-9]{0,18}),"at":"([^"\\]{1,40})",(?:"v":([1-9][0-9]{0,8}),)?'
    rb'(?="kind":"([^"\\]{1,64})")'
)


def check_version(kind: str, version: int, seq: int) -> None:
    """Raise `NewerFormat` if this daemon cannot fold records of this kind and version."""
    if version > VERSIONS.get(kind, 0):
        raise NewerFormat(
            f"record {seq} of the journal ({kind} version {version}) was written by a newer "
            "stackshift",
            hint=NEWER_HINT,
            seq=seq,
            kind=kind,
        )


def decode_record(body: bytes, seq: int) -> AnyRecord:
    """The record in `body`, its JSON, which begins with its kind; its version was checked.

    Raises `NewerFormat` for a field that is not known, and `msgspec.DecodeError`.
    """
    try:
        record: AnyRecord = _decode(body)
        return record
    except msgspec.ValidationError as bad:
        if has_unknown_field(bad):
            raise NewerFormat(
                f"record {seq} of the journal was written by a newer stackshift ({bad})",
                hint=NEWER_HINT,
                seq=seq,
            ) from bad
        raise


def has_unknown_field(bad: msgspec.ValidationError) -> bool:
    """Is it a field that this version does not know, which made decoding fail? (msgspec tells it
    by its message only.)"""
    return str(bad).startswith("Object contains unknown field")


def version_mark(kind: str) -> bytes:
    """The `v` key of a line of this kind; empty for version 1."""
    return _VERSION_MARKS[kind]


def entry_json(entry: Entry) -> bytes:
    """An entry as a timeline shows it: `{"seq":17,"at":"…Z","kind":"step.completed","run":…}`."""
    return b'{"seq":%d,"at":"%s",%s%s' % (
        entry.seq,
        rfc3339(entry.at_us).encode(),
        _VERSION_MARKS[kind_of(entry.record)],
        _encode(entry.record)[1:],
    )


def kind_of(record: AnyRecord) -> str:
    """The kind of a record."""
    return str(record.__struct_config__.tag)


def entry_from_json(line: Any) -> Entry:
    """The inverse of `entry_json`; `line` is bytes or anything that supports the buffer protocol.

    Raises `NewerFormat`, and `msgspec.DecodeError` for anything that `entry_json` did not write.
    """
    data = bytes(line)
    found = _ENTRY.match(data)
    if found is None:
        raise msgspec.DecodeError("not an entry")
    seq = int(found[1])
    check_version(found[4].decode("ascii", "replace"), int(found[3] or 1), seq)
    return Entry(
        seq, from_rfc3339(found[2].decode()), decode_record(b"{" + data[found.end() :], seq)
    )
