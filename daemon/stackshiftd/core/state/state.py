"""The state of the engine: what a fold of the journal keeps in memory.

Laws:

- Only `fold` changes a `State`; everyone else reads it.
- A run is in memory while it is unfinished, while its handler still executes, or while it is in the
  dead letter. Everything else about finished runs is in the journal alone.
- `order`, `index`, `lines`, `timers`, `awaited`, `chains`, `expiries`, `events.listening`,
  `values.keys` and the lanes of `queues` are indexes: they can be computed from the rest, are not
  part of the state's hash, and exist so that nothing done for one run, and no list, has to scan all
  runs. The head of every heap is live; `fold` settles it after each change.
- A run that is QUEUED behind another with its unique key is in no lane and no suspect.
- The place of a queue in its line is that of `Queue.turn_at`, at the time of the last entry.
- A body over `SPILL_BYTES` is not kept, only the sequence number of the record that contains it.
"""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from typing import Final

import msgspec

from stackshift_jobs.values import limits
from stackshiftd.core.records import (
    Error,
    FollowUp,
    Program,
    QueueTerms,
    RetryTerms,
    RunCancelled,
    RunLimits,
    RunPreceded,
)
from stackshiftd.core.state.alerts import Alerts
from stackshiftd.core.state.entries import Values
from stackshiftd.core.state.events import Events, address_of
from stackshiftd.core.state.expiry import EVENT, EXPECTATION, GROUP, LOCK, Expiry
from stackshiftd.core.state.heap import Heap
from stackshiftd.core.state.leads import Leads
from stackshiftd.core.state.locks import Lock
from stackshiftd.core.state.order import Order
from stackshiftd.core.state.queues import Place, Queue
from stackshiftd.core.state.rotation import Rotation
from stackshiftd.core.state.run_index import RunIndex
from stackshiftd.core.state.schedules import Schedule
from stackshiftd.core.state.unique import UniqueKeys

SPILL_BYTES: Final = 4096
MAX_DEATHS: Final = 3
"""A run whose worker died this many times in a row, with nothing new recorded, is a suspect."""
CLEARED_US: Final = 10_000_000
"""A suspect that has executed alone for this long is cleared: it was the victim of another run. If
its worker dies after all, it is tried alone again, until `MOST_DEATHS`."""
MOST_DEATHS: Final = 2 * MAX_DEATHS


class Status(StrEnum):
    """The status of a run; `fold.transitions` is the table of what changes it."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    RETRYING = "retrying"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINISHED: Final = frozenset(Status(name) for name in limits.FINISHED)


class Spilled(msgspec.Struct, frozen=True, gc=False):
    """A body that is in the journal only: in the record `seq`, `size` bytes long."""

    seq: int
    size: int


Body = bytes | Spilled
"""JSON text, or where to read it."""


class CallKind(StrEnum):
    """The kind of a recorded call on `ctx`."""

    RUN = "run"
    VALUE = "value"
    SLEEP = "sleep"
    START = "start"
    CHILD = "child"
    """A wait for a run: `ctx.step.call` (which has started it) or `ctx.step.result`."""
    EVENT = "event"
    LOCK = "lock"
    REFUSED = "refused"
    """A call of any kind that was refused."""


class Phase(StrEnum):
    """How far a recorded call has come."""

    OPEN = "running"
    WAITING = "waiting"
    RETRYING = "retrying"
    COMPLETED = "completed"
    """For a lock: it is held."""
    FAILED = "failed"
    RELEASED = "released"
    """The block of a lock was left."""
    GONE = "gone"
    """A lock is no longer held, although its block was not left in good order."""
    WITHDRAWN = "withdrawn"
    """The handler has cancelled the task that made the call. To the next pass it is as if it had
    never been made."""


PENDING: Final = frozenset((Phase.WAITING, Phase.RETRYING))


class WaitTerms(msgspec.Struct, frozen=True, gc=False):
    """What a call waits for: one of `events` (names with correlation keys), or `lock`, to hold it
    for `ttl_ms`, among at most `holders`. `on_timeout` is what happens to the run if an event, or
    the end of a child, does not come in time."""

    events: list[tuple[str, str]] = []
    on_timeout: str = ""
    lock: str = ""
    ttl_ms: int = 0
    holders: int = 1

    @property
    def addresses(self) -> list[str]:
        """The addresses of `events`, in order; see `state.events.address_of`."""
        return [address_of(name, key) for name, key in self.events]


class Call(msgspec.Struct):
    """One recorded call of a run, under its name and occurrence."""

    kind: CallKind
    phase: Phase
    seq: int
    """Sequence number of the record that last changed it; `runs retry --from` goes by this
    order."""
    body: Body | None = None
    error: Error | None = None
    tried: int = 0
    due_us: int = 0
    """When a wait times out, a retry is due, or a held lock expires; 0 for never."""
    child: str | None = None
    child_status: str = ""
    input: str = ""
    wait: WaitTerms | None = None
    released_seq: int = 0
    """Sequence number of the record by which a lock was released or lost. If a step recorded before
    it is repeated, it is repeated under the lock."""
    at_us: int = 0
    """When the record `seq` was written."""
    job: str = ""
    """The job of the run that the call started. Empty if it started none; early journals do not
    say it of a run that was called."""
    program: Program | None = None
    """The program that a step last started, until the step has an outcome."""
    undo: bool = False
    """Does the code say how this step is undone?"""
    undone: bool = False
    snoozes: int = 0
    """Tries of a step that do not count against its own budget."""
    chain: str = ""
    """The first of the chain of runs to which `child` belonged when the wait for it began."""

    @property
    def awaited(self) -> str:
        """By what `State.awaited` and `State.latest` know the run that the call waits for."""
        return self.chain or self.child or ""


class Progress(msgspec.Struct, frozen=True, gc=False):
    """What the handler of a run reported last: `done` of `total`, and when."""

    done: float
    total: float | None
    message: str
    at_us: int


class Checkpoint(msgspec.Struct, frozen=True, gc=False):
    """How far the function of a step has come: what its next try gets, the record that says so, and
    when that was."""

    body: Body
    seq: int
    at_us: int


class Tries(msgspec.Struct):
    """The tries of a step that has no result, over all attempts of its run."""

    ended: int = 0
    """Those that have failed or were lost."""
    going: bool = False
    """Is one recorded as started, and not as ended?"""
    checkpoint: Checkpoint | None = None
    """The last one, of whichever try."""
    unsure_seq: int = 0
    """Sequence number of the record since which what the step does may be done: the code says how
    it is undone, and a try of it has ended from outside, so nobody knows how far it came."""


class Cancelling(msgspec.Struct):
    """That a run is to be cancelled gently: since when, why (`requested` or `parent`), until when
    its handler may go on, and which runs have to end before that is told."""

    reason: str
    since_us: int
    grace_us: int
    first: list[str]
    raised_seq: int = 0
    """Sequence number of the record that the handler was told; 0 while it was not."""
    raised_us: int = 0
    raised_at: str = ""
    """The call at which `Cancelling` was raised; empty if it was not at a call."""


class Undoing(msgspec.Struct, frozen=True):
    """That what a run has done is undone, and how it ends then; see `records.UndoStarted`."""

    status: str
    reason: str
    error: Error | None
    message: str


class Run(msgspec.Struct):
    """One run, as the records so far describe it."""

    id: str
    job: str
    queue: str
    payload: Body
    retry: RetryTerms
    limits: RunLimits
    timeout_ms: int
    priority: int
    concurrency_key: str
    """Limited by its queue's `key_concurrency`; empty for none."""
    unique: str
    """Its unique key; empty for none. See `state.unique`."""
    labels: dict[str, str]
    key: str | None
    parent: str | None
    parent_step: str | None
    forked_from: str | None
    cancel_with_parent: bool
    created_seq: int
    created_us: int
    scheduled_us: int
    """When it is or was due; 0 if no time was requested."""
    place_us: int
    """The due time by which its queue orders it; a resumed run keeps it."""
    status: Status
    calls: dict[str, Call]
    attempt: int = 0
    attempt_us: int = 0
    """When this attempt began."""
    attempts_before: int = 0
    """Attempts that do not count against the budget: those before a person last retried the run,
    and those that were snoozed since."""
    next_is_new: bool = True
    """Does the next dispatch begin a new attempt? Otherwise it resumes this one."""
    retry_us: int = 0
    started_us: int = 0
    finished_us: int = 0
    token: int = 0
    """Sequence number of the record that dispatched it; 0 while no handler executes."""
    worker: str = ""
    code: str = ""
    since_us: int = 0
    spent_us: int = 0
    """Running time of this attempt in earlier executions; waits do not count."""
    deaths: int = 0
    progressed: bool = False
    """Was anything recorded since it was last dispatched?"""
    progress: Progress | None = None
    tries: dict[str, Tries] = {}
    """Step → its tries, until the step has completed. Not in its call, which is forgotten when its
    failure ends an attempt: the next attempt goes on counting, and from the last checkpoint."""
    bytes_recorded: int = 0
    error: Error | None = None
    failed_step: str | None = None
    """The step whose failure ended the last attempt; it is no longer among `calls`."""
    expires_us: int = 0
    """When it is cancelled unless it has begun; 0 for never, and once it has begun."""
    deadline_us: int = 0
    """When it fails unless it has ended; 0 for never."""
    deadline_span_us: int = 0
    """How long it was given to end, from when it was due; a retry gives it as long again."""
    after: list[str] = []
    """The unfinished runs that it begins after, as `State.awaited` knows them."""
    even_if_failed: bool = False
    failed_predecessor: RunPreceded | None = None
    """The first of them that did not complete, if that matters."""
    preceded_us: int = 0
    """When it became certain whether it may begin; 0 before that, and for a run without `after`."""
    undoing: Undoing | None = None
    """Is or was what it has done undone? Kept if that failed, for a retry."""
    cancelling: Cancelling | None = None
    """Is it to be cancelled gently?"""
    cancelled: RunCancelled | None = None
    """The record by which it was cancelled."""
    result: Body | None = None
    children: list[str] = []
    """Runs that are cancelled with this one."""
    ends_with_parent: bool = False
    continues: str | None = None
    """The run that has continued as this one."""
    chain: str | None = None
    """The first of the runs that this one continues."""
    continued_as: str | None = None
    on_failure: FollowUp | None = None
    on_success: FollowUp | None = None
    """What it starts by its end."""
    follow_up: str | None = None
    """The run that it has started by its end."""
    max_runtime_ms: int = 0
    """How long after it began it is late; 0 for never."""
    schedule: str = ""
    """The schedule that has started it."""
    begun_us: int = 0
    """When it began, or began again after a person retried it; 0 until it does."""
    late_us: int = 0
    """When it was found to be late, since then; 0 if it was not."""
    locks: tuple[str, ...] = ()
    """Keys of the locks that it holds."""
    first_labels: dict[str, str] | None = None
    """Those that a pass of its handler begins with, if it has given the run others since."""

    @property
    def finished(self) -> bool:
        """Has it completed, failed or been cancelled?"""
        return self.status in FINISHED

    @property
    def shown_status(self) -> Status:
        """The status that people see: a suspended run is `retrying` if all its waits are backoffs
        of steps."""
        if self.status is Status.WAITING:
            pending = [call.phase for call in self.calls.values() if call.phase in PENDING]
            if pending and all(phase is Phase.RETRYING for phase in pending):
                return Status.RETRYING
        return self.status

    @property
    def attempts_used(self) -> int:
        """Attempts that count against its budget, `retry.max_attempts`."""
        return self.attempt - self.attempts_before

    @property
    def still_done(self) -> list[str]:
        """The steps that can be undone and are not, in the order in which they would be: those with
        a result, and those of which nobody knows how far they came."""
        done = {
            name: call.seq
            for name, call in self.calls.items()
            if call.undo and not call.undone and call.phase is Phase.COMPLETED
        }
        done |= {name: seq for name in self.tries if (seq := self.unsure_since(name))}
        return sorted(done, key=done.__getitem__, reverse=True)

    def unsure_since(self, step: str) -> int:
        """The record since which what `step` does may be done, although it has no result: 0 if it
        is certain that it is not, or if nobody could undo it."""
        tries = self.tries[step]
        call = self.calls.get(step)
        executes = tries.going and call is not None and call.undo
        return tries.unsure_seq or (call.seq if executes and call is not None else 0)

    @property
    def suspect(self) -> bool:
        """Have so many workers died while executing it that it must be tried alone?"""
        return self.deaths >= MAX_DEATHS


class KeyEntry(msgspec.Struct, frozen=True):
    """The owner of an idempotency key. `payload` is empty if it was over 4 KiB."""

    run: str
    job: str
    digest: str
    payload: bytes
    expires_us: int


AFTER: Final = "after"
LATE: Final = "late"
TTL: Final = "ttl"
DEADLINE: Final = "deadline"
GRACE: Final = "grace"


class Timer(msgspec.Struct, frozen=True, order=True, gc=False):
    """Something is due at `due_us`. `step` is empty for the run itself; for a call, `seq` is its
    own: what is due at the same time ends in the order in which it was recorded, as in a program
    that waits for it. `token` is 0 except for the timeout of an execution. `limit` is `TTL`,
    `DEADLINE` or `GRACE` if the run itself is over then, `LATE` if it takes too long then, and
    `AFTER` if what follows from the end of the runs before it is to be decided."""

    due_us: int
    seq: int
    run: str
    step: str = ""
    token: int = 0
    limit: str = ""


class State:
    """Everything the core knows. Anyone may read it; only `fold` changes it."""

    __slots__ = (
        "alerts",
        "awaited",
        "chains",
        "dead",
        "epoch",
        "events",
        "executions",
        "expiries",
        "finished",
        "held",
        "index",
        "key_expiry",
        "keys",
        "leads",
        "lines",
        "locks",
        "now_us",
        "order",
        "queues",
        "retried",
        "runs",
        "schedules",
        "schedules_seq",
        "seq",
        "spill_bytes",
        "suspects",
        "throttled",
        "timers",
        "undelivered",
        "unique",
        "values",
    )

    def __init__(self, spill_bytes: int = SPILL_BYTES) -> None:
        self.spill_bytes = spill_bytes
        self.seq = 0
        self.now_us = 0
        self.epoch = 0
        self.leads = Leads()
        self.finished = 0
        """How many runs have ever finished."""
        self.dead = 0
        self.undelivered = 0
        """How many of these are messages about alerts."""
        self.runs: dict[str, Run] = {}
        self.order = Order()
        """The runs in the order of their creation."""
        self.index: RunIndex[Run] = RunIndex(self.runs, self.order)
        self.retried: dict[str, None] = {}
        """Those in memory that have been retried (as their records say, which a snapshot has): the
        history may know each as it was before that. Not part of the state's hash."""
        self.keys: dict[str, KeyEntry] = {}
        self.key_expiry: list[tuple[int, str]] = []
        self.unique = UniqueKeys()
        self.queues: dict[str, Queue] = {}
        self.lines: dict[str, Rotation] = {"": Rotation(self.queues, False)}
        """Pool → the line of the queues that its workers serve. Every queue that has workers of its
        own has a pool of its name; "" is the pool that all others share."""
        self.throttled = 0
        """How many queues wait for their rate alone."""
        self.suspects: dict[str, None] = {}
        """Ready runs that must be tried alone in a worker, in order of arrival."""
        self.timers: Heap[Timer] = Heap()
        self.awaited: dict[str, list[tuple[str, str]]] = {}
        """Awaited run → (run, step) of the waits for it; of a chain of runs, the first one."""
        self.chains: dict[str, str] = {}
        """First run of a chain → the one as which it continues now, if that is unfinished."""
        self.held: dict[str, dict[str, None]] = {}
        """Job that no worker has → runs that wait for it to be defined."""
        self.executions: dict[str, dict[str, int]] = {}
        """Worker → run → token of the execution."""
        self.schedules: dict[str, Schedule] = {}
        """Job → its schedule, retired ones included."""
        self.schedules_seq = 0
        """Sequence number of the last record that changed a schedule."""
        self.values = Values()
        self.locks: dict[str, Lock] = {}
        self.events = Events()
        self.alerts = Alerts()
        self.expiries: Heap[Expiry] = Heap()
        """When `values`, `locks` and `events` expire, and something of `alerts` is due."""

    # --- Queries ---------------------------------------------------------------------------

    def next_ready(self, now_us: int, pool: str = "") -> Run | None:
        """The run that the workers of `pool` execute next at `now_us`, or None if none may start.
        Suspects are not considered."""
        line = self.lines.get(pool)
        if line is None:
            return None
        name = line.next(now_us)
        if name is None:
            return None
        place = self.queues[name].next(now_us)
        assert place is not None, f"queue {name} has a turn and no run"
        return self.runs[place[3]]

    def next_suspect(self, now_us: int, pool: str = "") -> Run | None:
        """A run to try alone in a worker of `pool`, or None if none may start."""
        for run_id in self.suspects:
            run = self.runs[run_id]
            queue = self.queues[run.queue]
            if (
                self.pool_of(run.queue) == pool
                and queue.has_slot
                and queue.has_room(run.concurrency_key)
                and not (run.next_is_new and queue.permit_us > now_us)
            ):
                return run
        return None

    def next_permit_us(self, looked_us: int) -> int | None:
        """The earliest time after `looked_us`, when work was last looked for, at which a queue's
        rate allows its next run. It may have passed."""
        if not self.throttled:
            return None
        permits = [line.next_permit_us(looked_us) for line in self.lines.values()]
        return min((permit_us for permit_us in permits if permit_us is not None), default=None)

    def pool_of(self, queue: str) -> str:
        """The pool whose workers serve the queue: its own name, or "" for the shared one."""
        return queue if self.queues[queue].limits.processes is not None else ""

    def latest(self, run_id: str) -> Run | None:
        """The run, or the one as which it continues now if it began a chain; None if that is not in
        memory."""
        return self.runs.get(self.chains.get(run_id, run_id))

    def next_due_us(self) -> int | None:
        """When the next timer or expiry is due; None for never."""
        if not self.expiries:
            return self.timers[0].due_us if self.timers else None
        expires_us = self.expiries[0].due_us
        return min(expires_us, self.timers[0].due_us) if self.timers else expires_us

    def key_owner(self, key: str, now_us: int) -> KeyEntry | None:
        """The owner of `key` at `now_us`, if the key is still valid."""
        entry = self.keys.get(key)
        return entry if entry is not None and self.key_lives(entry, now_us) else None

    def key_lives(self, entry: KeyEntry, now_us: int) -> bool:
        """Is the key still valid: its time has not passed, or its run, or the one as which that
        continues, has not finished?"""
        run = self.latest(entry.run)
        return now_us < entry.expires_us or (run is not None and not run.finished)

    def unique_owners(self, key: str) -> list[Run]:
        """The unfinished runs with this unique key, the one whose turn it is first; at most one, if
        none was told to wait for its turn."""
        runs = (self.runs[run] for run in self.unique.runs(key))
        return [run for run in runs if not run.finished]

    def is_blocked(self, run: Run) -> bool:
        """Must the run wait until another with its unique key is over?"""
        return run.unique != "" and self.unique.is_blocked(run.unique, run.id)

    # --- Time, set back by fold alone -----------------------------------------------------

    def set_clock_back(self, before_us: int) -> None:
        """Keep what had passed by `before_us` passed, now that `now_us` is earlier. What is not due
        yet stays due at its time. A bucket is filled from now on, from nothing."""
        self.keys = {
            key: entry for key, entry in self.keys.items() if self.key_lives(entry, before_us)
        }
        self.values.forget(before_us)
        self.events.forget_keys(before_us)
        for name, queue in self.queues.items():
            queue.empty(self.now_us)
            self.settle_queue(name)

    # --- Indexes, changed by fold alone ----------------------------------------------------

    def queue(self, name: str) -> Queue:
        """The queue called `name`, created if it does not exist."""
        queue = self.queues.get(name)
        if queue is None:
            queue = self.queues[name] = Queue(partial(self._is_ready, name))
        return queue

    def enter(self, run: Run) -> None:
        """Put `run`, which was created or is back, among the runs in memory."""
        self.runs[run.id] = run
        self.order.add(run.created_seq, run.id)
        self.index.enter(run)

    def leave(self, run_id: str) -> None:
        """Remove a run from memory."""
        self.index.leave(self.runs.pop(run_id))
        if self.retried:
            self.retried.pop(run_id, None)
        self.order.settle(self.runs)

    def make_ready(self, run: Run) -> None:
        """Put `run`, which has become QUEUED and has no handler executing, into its queue."""
        self.queue(run.queue).depth += 1
        if run.unique:
            self.unique.join(run.unique, run.id)
            if self.is_blocked(run):
                return
        self._line_up(run)

    def _line_up(self, run: Run) -> None:
        """Let a ready run be found: nothing of its own keeps it from starting."""
        queue = self.queues[run.queue]
        if run.suspect:
            self.suspects[run.id] = None
            return
        place = (-run.priority, run.place_us, run.created_seq, run.id, run.concurrency_key)
        queue.push(place, run.next_is_new)
        if queue.turn is None or queue.turn.throttled:  # One more run does not change another turn.
            self.settle_queue(run.queue)

    def unready(self, run: Run) -> None:
        """Take `run`, which is no longer ready, out of its queue."""
        self._take_out(run, run.queue)

    def _take_out(self, run: Run, name: str) -> None:
        queue = self.queues[name]
        queue.depth -= 1
        if run.id in self.suspects:
            del self.suspects[run.id]
        elif not self.is_blocked(run):
            queue.leave(run.concurrency_key)
        self.settle_queue(name)

    def end_unique(self, run: Run) -> None:
        """Let the next run with the unique key of `run`, which is over, have its turn."""
        if self.unique.has(run.unique, run.id):
            self._give_turn(self.unique.leave(run.unique, run.id))

    def postpone_unique(self, run: Run) -> None:
        """The same for a run that is put off: it keeps its place, but not its turn."""
        if run.unique:
            self._give_turn(self.unique.postpone(run.unique, run.id))

    def _give_turn(self, following: str) -> None:
        if following and self.runs[following].status is Status.QUEUED:
            self._line_up(self.runs[following])

    def relocate(self, run: Run, queue: str, priority: int) -> None:
        """Change the queue and the priority of a run, ready or not."""
        is_ready = run.status is Status.QUEUED and not run.token
        self.index.change(run)
        before, run.queue, run.priority = run.queue, queue, priority
        self.queue(queue)
        self.line_of(queue)
        if is_ready:
            self._take_out(run, before)
            self.make_ready(run)

    def settle_queue(self, name: str) -> None:
        """Update the queue's turn, and with it its place in its line."""
        queue = self.queues[name]
        before, turn = queue.turn, queue.turn_at(self.now_us)
        if turn is before or turn == before:
            return
        queue.turn = turn
        if turn is not None:
            self.throttled += turn.throttled
            self.line_of(name).add(name, turn)
        if before is not None:
            self.throttled -= before.throttled
            self.lines[name if before.own else ""].settle()

    def settle_throttled(self) -> None:
        """Move queues whose rate allows a run at `now_us` from the throttled to the turns."""
        for line in self.lines.values():
            while line.throttled and line.throttled[0][0] <= self.now_us:
                self.settle_queue(line.throttled[0][1])

    def limit_queue(self, name: str, by: str, terms: QueueTerms) -> None:
        """Replace the terms of the layer `by` for a queue."""
        self.queue(name).limit(by, terms, self.now_us)
        self.line_of(name)
        self.settle_queue(name)

    def restore_queue(
        self, name: str, said: dict[str, QueueTerms], paused_us: int, served: int, full_at: int
    ) -> None:
        """Set what a snapshot contains about a queue apart from its runs."""
        self.queue(name).restore(said, paused_us, served, full_at)
        self.line_of(name)
        self.settle_queue(name)

    def line_of(self, queue: str) -> Rotation:
        """The line that the queue belongs to, created if it does not exist."""
        pool = self.pool_of(queue)
        line = self.lines.get(pool)
        if line is None:
            line = self.lines[pool] = Rotation(self.queues, bool(pool))
        return line

    def _is_ready(self, queue: str, fresh: bool, place: Place) -> bool:
        run = self.runs.get(place[3])
        return (
            run is not None
            and run.status is Status.QUEUED
            and not run.token
            and run.deaths < MAX_DEATHS
            and run.place_us == place[1]
            and run.priority == -place[0]
            and run.queue == queue
            and run.next_is_new == fresh
            and not (run.unique and self.is_blocked(run))
        )

    def set_timer(self, due_us: int, run: str, token: int = 0, limit: str = "") -> None:
        """Set a timer of `run` for `due_us`; see `Timer`."""
        self.timers.add(Timer(due_us, 0, run, "", token, limit), self._is_live)

    def set_call_timer(self, run: str, name: str, call: Call) -> None:
        """Set the timer of a call of `run`."""
        self.timers.add(Timer(call.due_us, call.seq, run, name), self._is_live)

    def limit_run(self, run: Run) -> None:
        """Set the timers of its ttl and deadline."""
        if run.expires_us:
            self.set_timer(run.expires_us, run.id, limit=TTL)
        if run.deadline_us:
            self.set_timer(run.deadline_us, run.id, limit=DEADLINE)

    def expect_end(self, run: Run) -> None:
        """Set the timer by which it is late, if it can be."""
        if run.max_runtime_ms and not run.late_us:
            self.set_timer(run.begun_us + run.max_runtime_ms * 1000, run.id, limit=LATE)

    def settle_timers(self) -> None:
        """Bring a live timer to the head."""
        self.timers.settle(self._is_live)

    def _is_live(self, timer: Timer) -> bool:
        run = self.runs.get(timer.run)
        if run is None or run.finished:
            return False
        if timer.limit == AFTER:
            return run.preceded_us == timer.due_us and run.status is Status.WAITING
        if timer.limit == LATE:
            return not run.late_us and timer.due_us == run.begun_us + run.max_runtime_ms * 1000
        if timer.limit == GRACE:
            found = run.cancelling if run.undoing is None else None
            return found is not None and found.grace_us == timer.due_us
        if timer.limit:
            return timer.due_us == (run.expires_us if timer.limit == TTL else run.deadline_us)
        if timer.token:
            return run.token == timer.token and run.status is Status.RUNNING
        if timer.step:
            step = run.calls.get(timer.step)
            return step is not None and step.phase in PENDING and step.due_us == timer.due_us
        if run.status is Status.SCHEDULED:
            return run.scheduled_us == timer.due_us
        return run.status is Status.RETRYING and run.retry_us == timer.due_us

    def set_expiry(self, due_us: int, what: str, key: str) -> None:
        """Let `what` (see `Expiry`) under `key` expire at `due_us`."""
        self.expiries.add(Expiry(due_us, what, key), self._ends)

    def settle_expiries(self) -> None:
        """Bring a live expiry to the head."""
        self.expiries.settle(self._ends)

    def _ends(self, expiry: Expiry) -> bool:
        if expiry.what == EVENT:
            return expiry.key in self.events.kept
        if expiry.what == LOCK:
            lock = self.locks.get(expiry.key)
            holdings = lock.holdings if lock is not None else []
            return any(holding.expires_us == expiry.due_us for holding in holdings)
        if expiry.what == GROUP:
            group = self.alerts.groups.get(expiry.key)
            return group is not None and group.until_us == expiry.due_us
        if expiry.what == EXPECTATION:
            expectation = self.alerts.expectations.get(expiry.key)
            return expectation is not None and expectation.due_us == expiry.due_us
        value = self.values.by_key.get(expiry.key)
        return value is not None and value.lives and value.expires_us == expiry.due_us
