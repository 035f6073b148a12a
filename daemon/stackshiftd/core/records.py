"""The records: everything that can ever have happened, one frozen value each.

A record is past tense and complete: `fold` needs nothing but it. Where and when it happened (its
sequence number and time) stand in its `Entry`, the same for all kinds. A run's timeline is the
entries that carry its id.

A field that a record holds as JSON of somebody else (payload, result) is `msgspec.Raw`: carried,
never decoded here. Times inside records are RFC 3339 text, as `jq` and people read them.

Adding a field with a default that means "as before" keeps the version of a kind. Anything else
raises it in `VERSIONS`, and older daemons refuse the journal rather than fold it wrongly.
"""

from __future__ import annotations

from typing import Any, Final, get_args

import msgspec
from msgspec import Raw

from stackshift_jobs.values.durations import from_rfc3339, rfc3339

NULL: Final = Raw(b"null")
"""No body. (`Raw` cannot be one of several types of a field, so that there is no `None` for it.)"""


class Record(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", gc=False):
    """Base of all records; `kind` is the tag."""


class Error(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What went wrong: an exception's type, message and traceback (text, bounded by the worker).
    Not `retryable`: it would go the same way again."""

    type: str
    message: str
    traceback: str = ""
    retryable: bool = True


class RetryTerms(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """How often and how soon to try again. `max_attempts` counts the first try."""

    max_attempts: int = 3
    backoff_ms: int = 1000
    factor: float = 2.0
    max_backoff_ms: int = 3_600_000
    jitter: float = 0.1


class RunLimits(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """How many calls a run may record, and how many bytes of results."""

    steps: int = 10_000
    bytes: int = 64 << 20


DEFAULT_TERMS: Final = RetryTerms()
DEFAULT_LIMITS: Final = RunLimits()
"""These very objects are left out of lines, and stand for what is not in them."""


class QueueTerms(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What somebody says of a queue; None: nothing. 0 takes a bound away that somebody else set:
    no limit. `rate` new attempts may start in `rate_per_ms`."""

    concurrency: int | None = None
    key_concurrency: int | None = None
    rate: int | None = None
    rate_per_ms: int = 0
    rate_burst: int | None = None
    paused: bool | None = None
    processes: int | None = None


# --- The journal's own ---------------------------------------------------------------------


class JournalOpened(Record, frozen=True, tag="journal.opened"):
    """A daemon claimed the journal under a new `epoch`; all before it are fenced."""

    epoch: int
    pid: int
    version: str


class JournalRecovered(Record, frozen=True, tag="journal.recovered"):
    """A torn tail after `kept_seq` was moved to the file `quarantine` (in the data directory)."""

    kept_seq: int
    dropped_bytes: int
    quarantine: str


class JournalWatermark(Record, frozen=True, tag="journal.watermark"):
    """Nothing happened; its line carries the watermark of all before it to the disk."""


class JournalClosed(Record, frozen=True, tag="journal.closed"):
    """The daemon stopped in good order."""


class SnapshotTaken(Record, frozen=True, tag="snapshot.taken"):
    """The state up to `upto_seq` is also in a snapshot whose state hash is `state_hash`."""

    upto_seq: int
    state_hash: str


# --- Runs ----------------------------------------------------------------------------------


class RunCreated(Record, frozen=True, tag="run.created"):
    """A run exists. Its terms are fixed here: a later change of the code does not move them.

    A fork brings the records of the run it was made from in `restored`, less the `forgotten` steps.
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


class RunQueued(Record, frozen=True, tag="run.queued"):
    """Its time has come. `reason`: `due` (was scheduled), `retry` (backoff is over), `wait` (what
    it waited for came while it was suspended) or `job` (its job is defined again)."""

    run: str
    reason: str


class RunHeld(Record, frozen=True, tag="run.held"):
    """Its turn had come, but no worker has its job any more; it waits until one has."""

    run: str


class RunCompleted(Record, frozen=True, tag="run.completed"):
    run: str
    attempt: int
    result: Raw


class RunFailed(Record, frozen=True, tag="run.failed"):
    """For good: in its queue's dead letter. `reason`: `attempts non_retryable poisonous wait`.
    `step` is the wait whose time had passed: it is forgotten."""

    run: str
    attempt: int
    error: Error
    reason: str
    step: str | None = None


class RunCancelled(Record, frozen=True, tag="run.cancelled"):
    """Final from here on; `reason` is `requested`, `parent` or `timeout`."""

    run: str
    reason: str


class RunRetried(Record, frozen=True, tag="run.retried"):
    """A person sent it on again. `forgotten` names the steps that will happen again, `replaced`
    gives steps a result by hand. `restored` holds the run's earlier records, where the run had
    left the engine's memory."""

    run: str
    forgotten: list[str] = []
    replaced: dict[str, Raw] = {}
    restored: list[Raw] = []


class RunRemoved(Record, frozen=True, tag="run.removed"):
    """A person removed a finished run from lists and dead letter; its key stays."""

    run: str


class RunDiscarded(Record, frozen=True, tag="run.discarded"):
    """A person took a failed run out of the dead letter; it stays in lists, as failed."""

    run: str


# --- Attempts ------------------------------------------------------------------------------


class AttemptStarted(Record, frozen=True, tag="attempt.started"):
    """Handed to `worker`. The sequence number of this record is the token of the execution."""

    run: str
    attempt: int
    worker: str
    code: str = ""


class AttemptResumed(Record, frozen=True, tag="attempt.resumed"):
    """The same attempt goes on after a wait or a loss, in `worker`, under a new token."""

    run: str
    attempt: int
    worker: str
    code: str = ""


class AttemptSuspended(Record, frozen=True, tag="attempt.suspended"):
    """Every branch waits; the handler is out of memory and holds no slot."""

    run: str
    attempt: int


class AttemptFailed(Record, frozen=True, tag="attempt.failed"):
    """The handler raised, or ran out of time (`stopped` is false: it still executes until
    `attempt.stopped`). `step` is the step whose failure it did not catch: it is forgotten,
    and so are `more_steps`, if it raised a group. `retry_at` is null where `run.failed` follows in
    the same append."""

    run: str
    attempt: int
    error: Error
    step: str | None = None
    retry_at: str | None = None
    stopped: bool = True
    more_steps: list[str] = []


class AttemptLost(Record, frozen=True, tag="attempt.lost"):
    """Its worker or the daemon is gone; it will go on under a new token. `ours`: we ended it."""

    run: str
    attempt: int
    reason: str
    ours: bool = True


class AttemptStopped(Record, frozen=True, tag="attempt.stopped"):
    """The handler of a cancelled or timed-out attempt has stopped; its slot is free again."""

    run: str
    attempt: int


# --- Steps ---------------------------------------------------------------------------------


class StepStarted(Record, frozen=True, tag="step.started"):
    """It has been executing for a while; written without waiting, so that a crash shows it."""

    run: str
    attempt: int
    step: str
    tried: int = 1


class StepCompleted(Record, frozen=True, tag="step.completed"):
    """The one recorded result of a step. `input` is a digest of a mapped item."""

    run: str
    attempt: int
    step: str
    result: Raw
    duration_ms: int = 0
    tried: int = 1
    input: str = ""


class StepFailed(Record, frozen=True, tag="step.failed"):
    """Try number `tried` of the step raised. With `retry_at` it will be tried again then; without,
    it has failed for good and replays as failed."""

    run: str
    attempt: int
    step: str
    error: Error
    duration_ms: int = 0
    tried: int = 1
    retry_at: str | None = None
    input: str = ""


class ValueRecorded(Record, frozen=True, tag="value.recorded"):
    """What a read such as `ctx.now()` gave, so that every pass sees the same."""

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
    """A branch waits durably: `wait` is `sleep`, `child` (for run `child`), `event` (for the first
    of `events`, each a name and a correlation key; `on_timeout`: `fail continue cancel`) or `lock`
    (for `lock`, to hold it for `ttl_ms`; 0 for as long as the run likes). `until` is when it is
    over in any case."""

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


class WaitEnded(Record, frozen=True, tag="wait.ended"):
    """The wait is over, with what it gave: nothing for a sleep; for a child its `status` and
    result or error; for an event which one it was, when it was received, and its payload. Its time
    has passed: `status` is `timed_out`, `result` for a lock the refusal. (A lock that is given ends
    its wait with `lock.acquired`.)"""

    run: str
    step: str
    status: str = ""
    result: Raw = NULL
    error: Error | None = None
    event: str = ""
    name: str = ""
    correlation_key: str = ""
    received_at: str = ""


class CallRefused(Record, frozen=True, tag="call.refused"):
    """A call on `ctx` was refused (a version that is not there, a lock that another holds or that
    ran out, a job that is not there); it replays as this `error`: `{code, message, hint, …}`, with
    `final` where it would be refused again."""

    run: str
    attempt: int
    step: str
    error: Raw


class ProgressReported(Record, frozen=True, tag="progress.reported"):
    """What a handler says of how far it is; shown, never read back."""

    run: str
    attempt: int
    done: float
    total: float | None = None
    message: str = ""


# --- State ---------------------------------------------------------------------------------
#
# `run` is the run on whose behalf it was done, None for a client; `step` the call of its handler
# that it answers, empty within a step's function. So a handler's write, and the fact that it made
# it, are one record.


class StateSet(Record, frozen=True, tag="state.set"):
    """`key` has this value from now on. `op` is `set` or `increment`."""

    key: str
    value: Raw
    version: int
    op: str = "set"
    expires_at: str | None = None
    run: str | None = None
    attempt: int = 0
    step: str = ""


class StateDeleted(Record, frozen=True, tag="state.deleted"):
    """There is nothing under `key`; its version is remembered until `remembered_until`."""

    key: str
    version: int
    remembered_until: str
    run: str | None = None
    attempt: int = 0
    step: str = ""


class StateExpired(Record, frozen=True, tag="state.expired"):
    """The time of the entry has passed; its version is remembered until `remembered_until`."""

    key: str
    version: int
    remembered_until: str


# --- Locks ---------------------------------------------------------------------------------


class LockRequested(Record, frozen=True, tag="lock.requested"):
    """A client waits for the lock, as `asker`; it is forgotten when the daemon goes away. `holder`
    says who it is."""

    key: str
    asker: str
    ttl_ms: int
    holder: str = ""


class LockWithdrawn(Record, frozen=True, tag="lock.withdrawn"):
    """The client waits no more."""

    key: str
    asker: str


class LockAcquired(Record, frozen=True, tag="lock.acquired"):
    """The run (or the client that asked as `asker`) holds the lock. The sequence number of this
    record is the fencing token, until a later record of the run takes its place: one that hands it
    out as a new attempt, or tells of its loss."""

    key: str
    expires_at: str | None = None
    run: str | None = None
    attempt: int = 0
    step: str = ""
    asker: str = ""
    holder: str = ""


class LockExtended(Record, frozen=True, tag="lock.extended"):
    """Its holder holds it until `expires_at`. `step` is the call of a handler that asked so."""

    key: str
    expires_at: str
    run: str | None = None
    attempt: int = 0
    step: str = ""


class LockReleased(Record, frozen=True, tag="lock.released"):
    """Nobody holds it. `reason`: `left` (its block), `raised` (out of its block), `run` (which has
    ended), `expired` or `client`. `step` is the call by which the run had taken it."""

    key: str
    reason: str
    run: str | None = None
    step: str = ""


# --- Events --------------------------------------------------------------------------------


class EventReceived(Record, frozen=True, tag="event.received"):
    """An event has come: the waits of the runs `resumed` end in the same append; if there are none
    it is kept until `kept_until`. `key` is its idempotency key, good for `key_ttl_ms`; `digest`
    covers all by which the same event is known. `run` is the one that sent it."""

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


class EventExpired(Record, frozen=True, tag="event.expired"):
    """Nobody waited for it in time."""

    event: str
    name: str
    correlation_key: str = ""


# --- Queues --------------------------------------------------------------------------------


class QueueChanged(Record, frozen=True, tag="queue.changed"):
    """What `by` (`person`, `file` or `code`; see `core.queues.LAYERS`) says of a queue from now on:
    these terms and no others."""

    queue: str
    by: str
    terms: QueueTerms = QueueTerms()


# --- Schedules -----------------------------------------------------------------------------


class ScheduleDefined(Record, frozen=True, tag="schedule.defined"):
    """The code of `job` has this schedule, new or changed. `since` is when its expression was first
    seen; `next_at` its next tick, null while it is paused."""

    job: str
    schedule: str
    timezone: str
    since: str
    catch_up: str
    overlap: str
    payload: Raw
    next_at: str | None = None


class ScheduleFired(Record, frozen=True, tag="schedule.fired"):
    """The tick `tick` was decided: it started the run `started`, or none, for the `reason`
    `overlap` (the last one still runs), `waits` (for the end of that one) or `missed` (it came
    while the daemon was down). `passed` ticks before it were passed over. Ticks until `counted` are
    caught up one by one; `next_at` is the tick that is due next."""

    job: str
    tick: str
    next_at: str | None = None
    started: str = ""
    reason: str = ""
    passed: int = 0
    counted: str = ""


class ScheduleRetired(Record, frozen=True, tag="schedule.retired"):
    """The code has this schedule no more."""

    job: str


class SchedulePaused(Record, frozen=True, tag="schedule.paused"):
    """A person paused it: it does not tick."""

    job: str


class ScheduleResumed(Record, frozen=True, tag="schedule.resumed"):
    """A person resumed it; its next tick is one to come."""

    job: str
    next_at: str | None = None


AnyRecord = (
    JournalOpened
    | JournalRecovered
    | JournalWatermark
    | JournalClosed
    | SnapshotTaken
    | RunCreated
    | RunQueued
    | RunHeld
    | RunCompleted
    | RunFailed
    | RunCancelled
    | RunRetried
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
    | ValueRecorded
    | ChildStarted
    | WaitStarted
    | WaitEnded
    | CallRefused
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
    | EventExpired
    | QueueChanged
    | ScheduleDefined
    | ScheduleFired
    | ScheduleRetired
    | SchedulePaused
    | ScheduleResumed
)

VERSIONS: Final[dict[str, int]] = {str(cls.__struct_config__.tag): 1 for cls in get_args(AnyRecord)}
"""The highest version of each kind that this program folds."""

BY_KIND: Final[dict[str, type[Record]]] = {
    str(cls.__struct_config__.tag): cls for cls in get_args(AnyRecord)
}


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A record at its place: sequence number (gap-free) and daemon time (µs since 1970, never
    smaller than the one before)."""

    seq: int
    at_us: int
    record: AnyRecord


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(AnyRecord).decode


class _Where(msgspec.Struct):
    seq: int
    at: str


_decode_where: Final = msgspec.json.Decoder(_Where).decode


def entry_json(entry: Entry) -> bytes:
    """An entry as a timeline shows it: `{"seq":17,"at":"…Z","kind":"step.completed","run":…}`."""
    return b'{"seq":%d,"at":"%s",%s' % (
        entry.seq,
        rfc3339(entry.at_us).encode(),
        _encode(entry.record)[1:],
    )


def entry_from_json(line: Any) -> Entry:
    """Inverse of `entry_json`; `line` is bytes or anything with their buffer."""
    where = _decode_where(line)
    return Entry(where.seq, from_rfc3339(where.at), _decode(line))
