"""Random histories of queues: `run_history(seed)`.

A history is a list of acts that is drawn from its seed and applied to an engine (state, decide,
fold) whose free slots are filled as the dispatcher fills them. `queue_model` judges each
record; after each act it is asked whether any run waits that need not. A history that fails is
reduced to the acts that it takes, and shown with its seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final, NamedTuple

from core.histories.audit import audit
from core.histories.queue_model import Model
from stackshift_jobs.errors import StackshiftError
from stackshift_jobs.values.limits import ON_DUPLICATE
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.decide.decide import decide
from stackshiftd.core.fold.fold import fold
from stackshiftd.core.snapshot import dump, load, state_hash
from stackshiftd.core.state.state import PENDING, Run, State, Status

START_US: Final = 1_795_000_000_000_000
QUEUES: Final = ("a", "b", "c", "d")
KEYS: Final = ("", "k1", "k2", "k3")
UNIQUE: Final = ("", "", "", "", "", "", "", "u1", "u2")
JOBS: Final = ("resize", "mail")
SPANS_US: Final = (
    1,
    2,
    333_333,
    428_571,
    428_572,
    1_000_000,
    3_000_000,
    10_000_000,
    60_000_000,
    3_600_000_000,
)
RATES: Final = ((7, 3000), (1, 1000), (3, 1), (100, 60_000), (1, 10_000), (2, 7), (11, 13_000))
"""(starts, in so many milliseconds)."""
WORKERS: Final = {"": ("w1", "w2"), "a": ("a1",), "b": ("b1", "b2")}
"""Pool → its workers; those of a queue serve it when it has processes of its own."""
SLOTS: Final = 2
SPARES: Final = 2
"""Extra workers of a pool, each for one suspect."""


class Act(NamedTuple):
    """What happens next. `pick` and `more` choose among what there is when it happens."""

    name: str
    pick: int
    more: int


class History:
    """One engine and its judge."""

    def __init__(self) -> None:
        self.state = State()
        self.model = Model()
        self.entries: list[r.Entry] = []
        self.kept: dict[str, list[r.Entry]] = {}
        self.wall_us = START_US
        self.made = 0
        self.missing: frozenset[str] = frozenset()
        self.file: dict[str, r.QueueTerms] = {}
        self.code: dict[str, r.QueueTerms] = {}

    @property
    def now_us(self) -> int:
        """Daemon time: the later of the wall clock and the newest record's time."""
        return max(self.wall_us, self.state.now_us)

    # --- The engine ------------------------------------------------------------------------

    def do(self, command: c.Command) -> int:
        """Decide, fold, and have every record judged; how many there were."""
        try:
            decision = decide(self.state, command, self.now_us)  # type: ignore[arg-type]
        except StackshiftError:
            return 0
        for record in decision.records:
            self.append(record)
        return len(decision.records)

    def append(self, record: r.AnyRecord) -> None:
        """Fold a record, after the model has judged it."""
        entry = r.Entry(self.state.seq + 1, self.now_us, record)
        self.model.see(entry)
        self.entries.append(entry)
        fold(self.state, entry)
        run = getattr(record, "run", None)
        if run in self.state.runs:
            self.kept.setdefault(run, []).append(entry)
        elif run is not None:
            self.kept.pop(run, None)

    def runs(self, *statuses: Status) -> list[Run]:
        """The runs in memory with one of these statuses."""
        return [run for run in self.state.runs.values() if run.status in statuses]

    def executing(self) -> list[Run]:
        """The runs that have an execution."""
        return [run for run in self.state.runs.values() if run.token]

    # --- The dispatcher --------------------------------------------------------------------

    def fill(self) -> None:
        """Fill slots until nothing changes any more: each commit is followed by another look."""
        for _ in range(1000):
            before = self.state.seq
            for pool in tuple(self.state.lines):
                self.fill_pool(pool)
            if self.state.seq == before:
                return
        raise AssertionError("filling slots does not end")

    def fill_pool(self, pool: str) -> None:
        """Fill the slots of one pool, and compare each run with the model's choice."""
        codes = {job: "code" for job in JOBS if job not in self.missing}
        while self.state.next_suspect(self.now_us, pool) is not None:
            spare = self.idle_spare(pool)
            if spare is None:
                break
            self.model.pool, self.model.alone = pool, True
            assert self.do(c.Assign(spare, codes, alone=True, pool=pool)), "a suspect may go"
            self.model.alone = False
        self.model.pool = pool
        for _ in range(1000):
            worker = self.freest(pool)
            if self.state.next_ready(self.now_us, pool) is None or worker is None:
                return
            assert self.do(c.Assign(worker, codes, pool=pool)), "it said that a run may go"
        raise AssertionError(f"filling the slots of {pool!r} does not end")

    def workers(self, pool: str) -> tuple[str, ...]:
        """The workers of a pool."""
        return WORKERS.get(pool, ())

    def idle_spare(self, pool: str) -> str | None:
        """An extra worker for a suspect, if there may be one more."""
        names = (f"{pool}-spare{number}" for number in range(SPARES))
        return next((name for name in names if not self.state.executions.get(name)), None)

    def free(self, worker: str) -> int:
        """The free slots of a worker."""
        return SLOTS - len(self.state.executions.get(worker, {}))

    def freest(self, pool: str) -> str | None:
        """The worker with the most free slots, if any has one."""
        free = [worker for worker in self.workers(pool) if self.free(worker) > 0]
        return max(free, key=self.free) if free else None

    # --- The judge -------------------------------------------------------------------------

    def judge(self) -> None:
        """Nobody waits who need not; who waits for a rate is woken in time."""
        for pool in WORKERS:
            suspects = self.model.suspects(pool, self.now_us)
            assert not suspects or self.idle_spare(pool) is None, (
                f"{suspects[0].id} waits for a worker of its own, of which there may be more"
            )
            if any(self.free(worker) > 0 for worker in self.workers(pool)):
                going = self.model.going(pool, self.now_us)
                assert not going, f"{going[0].id} waits while a slot of {pool!r} is free"
        expected = min(self.model.permits_us(self.now_us), default=None)
        assert self.state.next_permit_us(self.now_us) == expected
        counts = {name: queue.executing for name, queue in self.state.queues.items()}
        assert self.model.executing() == {name: n for name, n in counts.items() if n}
        for name, queue in self.state.queues.items():
            assert queue.paused_us == self.model.queues[name].paused_us
            assert queue.depth == sum(
                run.ready and run.queue == name for run in self.model.runs.values()
            )

    # --- Acts ------------------------------------------------------------------------------

    def start(self, pick: int, more: int) -> None:
        """A client starts up to four runs."""
        for _ in range(1 + more % 4):
            self.made += 1
            unique = UNIQUE[(pick + more) % len(UNIQUE)]
            mode = ON_DUPLICATE[(pick // 2 + more) % len(ON_DUPLICATE)]
            before = [run.id for run in self.model.unfinished(unique)] if unique else []
            records = self.do(
                c.StartRun(
                    run=f"run_{self.made:04d}",
                    job=JOBS[pick % 7 % 2],
                    queue=QUEUES[pick % len(QUEUES)],
                    payload=b"{}",
                    retry=r.RetryTerms(max_attempts=1 + more % 3, backoff_ms=500, jitter=0.0),
                    timeout_ms=2000 if pick % 11 == 0 else 0,
                    priority=more // 4 % 3 - 1,
                    concurrency_key=KEYS[more // 16 % len(KEYS)],
                    due_us=self.now_us + SPANS_US[more % len(SPANS_US)] if pick % 5 == 0 else 0,
                    unique=unique,
                    on_duplicate=mode,
                )
            )
            refused = bool(before) and mode in ("refuse", "attach")
            assert (records == 0) == refused, f"{mode} beside {before}: {records} records"
            if before and mode == "replace":
                left = [run.id for run in self.model.unfinished(unique)]
                assert left == [f"run_{self.made:04d}"], f"{left} are left of {before}"
            pick, more = pick // 3, more + 5

    def end(self, pick: int, more: int) -> None:
        """Some executions come to an end, one way or another."""
        for _ in range(1 + more % 3):
            executing = self.executing()
            if not executing:
                return
            run = executing[pick % len(executing)]
            if run.status is not Status.RUNNING:
                self.do(c.ConfirmStop(run.id, run.token))
            elif more % 2:
                self.do(c.CompleteRun(run.id, run.token, r.NULL))
            else:
                self.do(c.FailAttempt(run.id, run.token, r.Error("E", "boom")))
            pick //= 2

    def sleep(self, pick: int, more: int) -> None:
        """A running handler sleeps and is suspended."""
        if running := self.runs(Status.RUNNING):
            run = running[pick % len(running)]
            nap = f"nap{self.state.seq}"
            self.do(c.BeginSleep(run.id, run.token, 7, nap, SPANS_US[more % 10] // 1000))
            pending = [name for name, step in run.calls.items() if step.phase in PENDING]
            self.do(c.Suspend(run.id, run.token, pending))

    def die(self, pick: int, more: int) -> None:
        """A worker dies with all that it executes."""
        alive = [worker for worker, held in self.state.executions.items() if held]
        if alive:
            worker = alive[pick % len(alive)]
            for run, token in list(self.state.executions[worker].items()):
                self.do(c.LoseExecution(run, token, "killed", more % 4 == 0))

    def crash(self, pick: int, more: int) -> None:
        """A run takes worker after worker with it."""
        if executing := self.executing():
            run = executing[pick % len(executing)].id
            for _ in range(1 + more % 5):
                found = self.state.runs.get(run)
                self.fill()
                if found is not None and found.token:
                    self.do(c.LoseExecution(run, found.token, "killed", False))
            if pick % 3 == 0:
                self.limit(pick, more)

    def restart(self, pick: int, _more: int) -> None:
        """The daemon restarts."""
        self.append(r.JournalOpened(self.state.seq + 1, pick, "0.1.0"))
        self.do(c.Claimed())
        self.do(c.DefineQueues("file", self.file))

    def cancel(self, pick: int, _more: int) -> None:
        """A person cancels a run."""
        if self.state.runs:
            self.do(c.CancelRun(list(self.state.runs)[pick % len(self.state.runs)]))

    def move(self, pick: int, more: int) -> None:
        """A person moves a run."""
        if self.state.runs:
            run = list(self.state.runs)[pick % len(self.state.runs)]
            due_us = self.now_us + SPANS_US[more % len(SPANS_US)] if more % 3 else 0
            priority = pick % 3 - 1 if pick % 2 else None
            queue = QUEUES[more % len(QUEUES)] if more % 2 else None
            self.do(c.MoveRun(run, due_us if more % 4 else min(1, due_us), priority, queue))

    def retry(self, pick: int, _more: int) -> None:
        """A person retries a failed run."""
        if failed := self.runs(Status.FAILED):
            self.do(c.RetryRun(failed[pick % len(failed)].id))

    def tick(self, pick: int, more: int) -> None:
        """Time passes; what is due in between fires at its time, or late."""
        end_us = self.now_us + SPANS_US[pick % len(SPANS_US)]
        late = more % 3 == 0
        self.wall_us = end_us if late else self.now_us
        while (due_us := self.state.next_due_us()) is not None and due_us <= end_us:
            self.wall_us = max(self.wall_us, due_us)
            assert self.do(c.Tick()), "a timer that is due does nothing"
            if more % 3 == 1:
                self.fill()
        self.wall_us = max(self.wall_us, end_us)

    def permit(self, pick: int, _more: int) -> None:
        """To the microsecond at which a rate lets a run go, or just before, or after."""
        permit_us = self.state.next_permit_us(self.now_us)
        if permit_us is not None:
            self.wall_us = permit_us + pick % 3 - 1

    def jump(self, pick: int, _more: int) -> None:
        """The wall clock jumps."""
        self.wall_us += (-86_400, -60, -1, 1, 60, 7200)[pick % 6] * 1_000_000

    def terms(self, pick: int, more: int) -> r.QueueTerms:
        """What somebody may say of a queue; 0 takes a bound away."""
        rate, per_ms = RATES[more % len(RATES)] if more % 5 else (0, 0)
        return r.QueueTerms(
            concurrency=pick // 2 % 4 if pick % 2 else None,
            key_concurrency=pick // 5 % 3 if pick % 3 == 0 else None,
            rate=rate if more % 2 else None,
            rate_per_ms=per_ms if more % 2 else 0,
            rate_burst=more // 3 % 5 if more % 4 == 1 else None,
        )

    def limit(self, pick: int, more: int) -> None:
        """A person limits a queue."""
        reset = (pick + more) % 7 == 0
        queue = QUEUES[(pick + more) % 4]
        self.do(c.ChangeQueue(queue, self.terms(pick // 4, more // 2), reset))

    def pause(self, pick: int, more: int) -> None:
        """A person pauses or resumes a queue."""
        self.do(c.ChangeQueue(QUEUES[pick % 4], r.QueueTerms(paused=more % 2 == 0)))

    def define(self, pick: int, more: int) -> None:
        """`stackshift.toml` or the modules say something else."""
        queue = QUEUES[pick % 3]
        terms = self.terms(pick // 3, more // 3)
        if pick % 5 == 0:
            self.code[queue] = terms
        elif pick % 5 == 1:
            self.file.pop(queue, None)
        else:
            own = {"processes": 1} if queue in WORKERS and more % 2 else {}
            paused = {"paused": more % 4 == 0} if more % 3 == 0 else {}
            given = {name: getattr(terms, name) for name in terms.__struct_fields__}
            self.file[queue] = r.QueueTerms(**{**given, **own, **paused})
        self.do(c.DefineQueues("file", self.file))
        self.do(c.DefineQueues("code", self.code))

    def jobs(self, pick: int, more: int) -> None:
        """A job disappears from the code, or returns."""
        self.missing = frozenset(JOBS[pick % 2 : pick % 2 + 1]) if more % 2 else frozenset()
        self.do(c.DefineJobs({job: "code" for job in JOBS if job not in self.missing}))

    def snapshot(self, _pick: int, _more: int) -> None:
        """The daemon continues from a snapshot."""
        entries = sorted((e for found in self.kept.values() for e in found), key=lambda e: e.seq)
        lines = list(dump(self.state, [(entry.seq, entry) for entry in entries]))
        loaded = load(lines).state
        assert state_hash(loaded) == state_hash(self.state)
        audit(self.state)
        audit(loaded)
        self.state = loaded


ACTS: Final[dict[str, tuple[int, Callable[[History, int, int], None]]]] = {
    "start": (20, History.start),
    "end": (22, History.end),
    "sleep": (4, History.sleep),
    "die": (3, History.die),
    "crash": (5, History.crash),
    "restart": (1, History.restart),
    "cancel": (4, History.cancel),
    "retry": (6, History.retry),
    "move": (4, History.move),
    "tick": (14, History.tick),
    "permit": (10, History.permit),
    "jump": (1, History.jump),
    "limit": (8, History.limit),
    "pause": (4, History.pause),
    "define": (3, History.define),
    "jobs": (1, History.jobs),
    "snapshot": (3, History.snapshot),
}
"""How often each act happens, and what it does."""


def drawn(seed: int) -> list[Act]:
    """The acts of the history `seed`."""
    chance = random.Random(seed)
    names = list(ACTS)
    weights = [ACTS[name][0] * chance.choice((0.3, 1, 1, 2)) for name in names]
    picked = chance.choices(names, weights, k=chance.randint(20, 60))
    return [Act(name, chance.randrange(1000), chance.randrange(1000)) for name in picked]


def tell(acts: list[Act], note: Callable[[list[str]], object] | None = None) -> History:
    """Live through `acts`; raises what does not hold. `note` gets what runs wait for after each."""
    history = History()
    for act in acts:
        ACTS[act.name][1](history, act.pick, act.more)
        history.fill()
        history.judge()
        if note is not None:
            note(list(history.model.reasons(history.now_us)))
    audit(history.state)
    replayed = State()
    for entry in history.entries:
        fold(replayed, entry)
    assert state_hash(replayed) == state_hash(history.state), "replay differs"
    return history


def run_history(seed: int) -> None:
    """Live through the history `seed`; a failure is shown with the acts that it takes."""
    acts = drawn(seed)
    if failure(acts) is not None:
        acts = shrunk(acts, lambda fewer: failure(fewer) is not None)
        shown = "".join(f"\n    Act{tuple(act)}," for act in acts)
        raise AssertionError(f"history {seed}: {failure(acts)!r}; it takes{shown}") from failure(
            acts
        )


def failure(acts: list[Act]) -> Exception | None:
    """What does not hold in a history, if something does not."""
    try:
        tell(acts)
    except Exception as found:
        return found
    return None


def shrunk(acts: list[Act], fails: Callable[[list[Act]], bool]) -> list[Act]:
    """As few of `acts` as still fail: halves are left out, then quarters, and so on."""
    size = len(acts) // 2
    while size:
        at = 0
        while at < len(acts):
            fewer = acts[:at] + acts[at + size :]
            if fails(fewer):
                acts = fewer
            else:
                at += size
        size //= 2
    return acts
