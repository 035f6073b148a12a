"""What the limits of queues mean, computed naively: the judge of `test_queue_limits`.

It knows nothing about the engine except its records. Every question is answered by looking at all
runs, and a bucket is a fraction of tokens, not a time. `see` fails for an entry that dispatches a
run which may not start, or whose turn it is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil

from stackshift_jobs.values.durations import from_rfc3339
from stackshiftd.core import records as r

LAYERS = ("person", "file", "code")
DEATHS = 3
CLEARED_US = 10_000_000
"""A suspect that executes for so long, and is handed back, is none any more."""


@dataclass
class MRun:
    """A run as the records describe it."""

    id: str
    queue: str
    key: str
    priority: int
    created_seq: int
    place_us: int
    status: str
    executing: bool = False
    fresh: bool = True
    """Its next execution begins an attempt."""
    deaths: int = 0
    progressed: bool = False
    retry_us: int = 0
    since_us: int = 0
    """When it was last handed out."""
    unique: str = ""
    joined: int = 0
    """The record by which it became due, and took its place under its unique key."""

    @property
    def over(self) -> bool:
        """Has it ended, and has its handler stopped?"""
        return self.status == "over" and not self.executing

    @property
    def ready(self) -> bool:
        """Is it queued, with no handler executing?"""
        return self.status == "queued" and not self.executing

    @property
    def suspect(self) -> bool:
        """Must it be tried alone?"""
        return self.deaths >= DEATHS

    @property
    def rank(self) -> tuple[int, int, int]:
        """Its order in its queue; the smallest is first."""
        return (-self.priority, self.place_us, self.created_seq)


@dataclass
class MQueue:
    """A queue as the records describe it."""

    name: str
    said: dict[str, r.QueueTerms] = field(default_factory=dict)
    served: int = 0
    tokens: Fraction = Fraction(0)
    tokens_us: int = 0
    started: list[int] = field(default_factory=list)
    """Times of the attempts that started under the rate and burst in force."""
    paused_us: int = 0

    def term(self, name: str) -> int | None:
        """The value of a term, from the first layer that sets it."""
        for by in LAYERS:
            value: int | None = getattr(self.said.get(by, r.QueueTerms()), name)
            if value is not None:
                return value
        return None

    @property
    def paused(self) -> bool:
        """Is it paused?"""
        return bool(self.term("paused"))

    @property
    def pool(self) -> str:
        """The pool that serves it: its own name, or "" for the shared one."""
        return self.name if self.term("processes") else ""

    @property
    def rate(self) -> tuple[int, int, int] | None:
        """(starts, per this many µs, burst); None without a rate."""
        for by in LAYERS:
            terms = self.said.get(by, r.QueueTerms())
            if terms.rate is not None:
                burst = self.term("rate_burst") or 1
                return (terms.rate, terms.rate_per_ms * 1000, burst) if terms.rate else None
        return None

    def tokens_at(self, now_us: int) -> Fraction:
        """The tokens in the bucket at `now_us`."""
        assert self.rate is not None
        rate, per_us, burst = self.rate
        return min(
            Fraction(burst), self.tokens + Fraction(rate * (now_us - self.tokens_us), per_us)
        )

    def permit_us(self) -> int:
        """The first microsecond at which there is a whole token."""
        if self.rate is None or self.tokens >= 1:
            return self.tokens_us if self.rate else 0
        rate, per_us, _ = self.rate
        return self.tokens_us + ceil((1 - self.tokens) * per_us / rate)

    def has_token(self, now_us: int) -> bool:
        """Does the rate allow a fresh start at `now_us`?"""
        return self.rate is None or self.tokens_at(now_us) >= 1

    def change(self, by: str, terms: r.QueueTerms, now_us: int) -> None:
        """Change the terms of a layer. No token is created, and none is lost except those that no
        longer fit; what is missing is rounded up to a multiple of 1/`per_us` of a token. A new
        bucket is full."""
        before, was_paused = self.rate, self.paused
        tokens = self.tokens_at(now_us) if before is not None else None
        self.said[by] = terms
        if not self.paused:
            self.paused_us = 0
        elif not was_paused:
            self.paused_us = now_us
        if self.rate == before:
            return
        self.started = []
        if self.rate is not None:
            _, per_us, burst = self.rate
            missing = max(Fraction(0), burst - tokens) if tokens is not None else Fraction(0)
            self.tokens = burst - Fraction(ceil(missing * per_us), per_us)
            self.tokens_us = now_us

    def start(self, now_us: int) -> None:
        """Take a token for a fresh start, and check that no window has too many."""
        if self.rate is None:
            return
        self.tokens = self.tokens_at(now_us) - 1
        self.tokens_us = now_us
        rate, per_us, burst = self.rate
        self.started.append(now_us)
        for n, first_us in enumerate(reversed(self.started), 1):
            room = burst + Fraction(rate * (now_us - first_us), per_us)
            assert n <= room, (
                f"{self.name}: {n} starts in {now_us - first_us} µs, {float(room)} may"
            )


class Model:
    """All runs and queues, as the entries passed to `see` describe them."""

    def __init__(self) -> None:
        self.runs: dict[str, MRun] = {}
        self.queues: dict[str, MQueue] = {}
        self.alone = False
        self.tried_alone = 0
        """The hand-out that comes is meant for a run that must be tried alone."""
        self.pool = ""
        """Whose workers the hand-out that comes is for."""

    # --- Questions -------------------------------------------------------------------------

    def busy(self, queue: str) -> list[MRun]:
        """The runs of a queue that hold a slot."""
        return [run for run in self.runs.values() if run.executing and run.queue == queue]

    def unfinished(self, unique: str) -> list[MRun]:
        """The unfinished runs with this unique key."""
        runs = self.runs.values()
        return [run for run in runs if run.unique == unique and run.status != "over"]

    def blocked(self, run: MRun) -> bool:
        """Did another run with its unique key become due before it, and is not over?"""
        return bool(run.unique) and any(
            each.unique == run.unique and not each.over and 0 < each.joined < run.joined
            for each in self.runs.values()
        )

    def has_room(self, run: MRun) -> bool:
        """Pause, concurrency and keys allow one more like it."""
        if self.blocked(run):
            return False
        queue = self.queues[run.queue]
        busy = self.busy(run.queue)
        most = queue.term("concurrency") or len(self.runs) + 1
        of_key = queue.term("key_concurrency") or len(self.runs) + 1
        same = sum(each.key == run.key for each in busy) if run.key else 0
        return not queue.paused and len(busy) < most and same < of_key

    def may_go(self, run: MRun, now_us: int) -> bool:
        """May the run start at `now_us`?"""
        if not (run.ready and self.has_room(run)):
            return False
        return not run.fresh or self.queues[run.queue].has_token(now_us)

    def going(self, pool: str, now_us: int) -> list[MRun]:
        """All that may go to the workers of `pool`, suspects aside."""
        return [
            run
            for run in self.runs.values()
            if run.ready
            and not run.suspect
            and self.queues[run.queue].pool == pool
            and self.may_go(run, now_us)
        ]

    def suspects(self, pool: str, now_us: int) -> list[MRun]:
        """The suspects that may be tried in a worker of `pool`."""
        return [
            run
            for run in self.runs.values()
            if run.ready
            and run.suspect
            and self.queues[run.queue].pool == pool
            and self.may_go(run, now_us)
        ]

    def permits_us(self, now_us: int) -> Iterator[int]:
        """When the rate lets runs go that wait for nothing else."""
        for queue in self.queues.values():
            waiting = [
                run
                for run in self.runs.values()
                if run.queue == queue.name and run.ready and not run.suspect and self.has_room(run)
            ]
            if waiting and all(run.fresh for run in waiting) and queue.permit_us() > now_us:
                yield queue.permit_us()

    def reasons(self, now_us: int) -> Iterator[str]:
        """What each ready run waits for."""
        for run in self.runs.values():
            if not run.ready:
                continue
            queue, busy = self.queues[run.queue], self.busy(run.queue)
            if queue.pool:
                yield "waits in a pool of its own"
            if self.blocked(run):
                yield "waits for a unique key"
            elif queue.paused:
                yield "waits paused"
            elif self.may_go(run, now_us):
                yield "waits for a slot"
            elif self.has_room(run):
                yield "waits for the rate"
            elif len(busy) >= (queue.term("concurrency") or len(busy) + 1):
                yield "waits for concurrency"
            else:
                yield "waits for a key"

    # --- Records ---------------------------------------------------------------------------

    def queue(self, name: str) -> MQueue:
        """The queue called `name`, created if it does not exist."""
        return self.queues.setdefault(name, MQueue(name))

    def see(self, entry: r.Entry) -> None:
        """Take in what has happened. Fails where it should not have."""
        record, now_us = entry.record, entry.at_us
        match record:
            case r.QueueChanged():
                self.queue(record.queue).change(record.by, record.terms, now_us)
            case r.RunCreated():
                due_us = from_rfc3339(record.scheduled_at) if record.scheduled_at else 0
                later = due_us > now_us
                self.queue(record.queue)
                self.runs[record.run] = MRun(
                    record.run,
                    record.queue,
                    record.concurrency_key,
                    record.priority,
                    entry.seq,
                    due_us if later else now_us,
                    "scheduled" if later else "queued",
                    unique=record.unique,
                    joined=0 if later else entry.seq,
                )
            case r.AttemptStarted() | r.AttemptResumed():
                run = self.runs[record.run]
                assert run.fresh == isinstance(record, r.AttemptStarted)
                self.check_choice(run, now_us)
                run.status, run.executing, run.progressed = "running", True, False
                run.since_us = now_us
                self.queues[run.queue].served = entry.seq
                if run.fresh:
                    self.queues[run.queue].start(now_us)
                run.fresh = False
            case r.RunHeld():
                self.check_choice(self.runs[record.run], now_us)
                self.runs[record.run].status = "waiting"
            case _:
                self.see_of_run(entry)

    def see_of_run(self, entry: r.Entry) -> None:  # noqa: C901  # a case a record
        """Apply an entry to its run."""
        record = entry.record
        run = self.runs.get(getattr(record, "run", ""))
        if run is None:
            return
        match record:
            case r.RunQueued():
                if run.status == "retrying":
                    run.place_us = run.retry_us
                run.joined = run.joined or entry.seq
                run.status = "queued"
            case r.RunMoved():
                self.see_move(run, record)
            case r.AttemptSuspended():
                run.status, run.executing, run.deaths = "waiting", False, 0
            case r.AttemptFailed():
                run.status, run.fresh, run.deaths = "retrying", True, 0
                run.executing = not record.stopped
                run.retry_us = from_rfc3339(record.retry_at) if record.retry_at else 0
            case r.AttemptLost():
                run.status, run.executing = "queued", False
                survived = entry.at_us - run.since_us >= CLEARED_US
                if not record.ours:
                    run.deaths = 1 if run.progressed else run.deaths + 1
                elif run.suspect and (survived or run.progressed):
                    run.deaths = 0
            case r.AttemptStopped():
                run.executing = False
            case r.RunCompleted():
                run.status, run.executing = "over", False
            case r.RunFailed() | r.RunCancelled():
                run.status = "over"
            case r.RunRetried():
                taken = run.unique and self.unfinished(run.unique)
                assert not taken, f"{run.id} is retried beside {taken}"
                run.joined = run.joined if run.executing else entry.seq
                run.status, run.fresh, run.deaths = "queued", True, 0
                run.place_us = entry.at_us
            case r.WaitStarted() | r.WaitEnded():
                run.progressed = True
                if isinstance(record, r.WaitEnded) and run.status == "waiting":
                    run.status = "queued"

    def see_move(self, run: MRun, record: r.RunMoved) -> None:
        """A move changes the rank of a run, and a run that is put off has no place in any line."""
        run.priority = run.priority if record.priority is None else record.priority
        run.queue = record.queue or run.queue
        self.queue(run.queue)
        if record.due_at is None:
            return
        due_us = from_rfc3339(record.due_at)
        if run.status == "retrying":
            run.retry_us = due_us
        elif run.status in ("queued", "scheduled"):
            run.status, run.place_us, run.joined = "scheduled", due_us, 0

    def check_choice(self, run: MRun, now_us: int) -> None:
        """Is it the one that is to go, or be held, now?"""
        queue = self.queues[run.queue]
        assert run.ready, f"{run.id} is {run.status}"
        assert not queue.paused, f"{run.id} is handed out of {queue.name}, which is paused"
        assert self.has_room(run), f"{run.id} goes over a limit of {queue.name}"
        assert self.may_go(run, now_us), f"{run.id} goes before its time ({queue.permit_us()})"
        assert queue.pool == self.pool, f"{run.id} is handed to workers of {self.pool!r}"
        if run.suspect:
            assert self.alone, f"{run.id} must be tried alone"
            self.tried_alone += 1
            return
        going = self.going(self.pool, now_us)
        first = min((each for each in going if each.queue == run.queue), key=lambda each: each.rank)
        assert first is run, f"{first.id} {first.rank} goes before {run.id} {run.rank}"
        due = min(self.queues[each.queue].served for each in going)
        assert queue.served == due, f"{queue.name} was served at {queue.served}, another at {due}"

    # --- The whole -------------------------------------------------------------------------

    def executing(self) -> Counter[str]:
        """Queue → how many of its runs execute."""
        return Counter(run.queue for run in self.runs.values() if run.executing)
