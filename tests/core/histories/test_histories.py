"""Random histories of many runs: in whatever order things happen, the laws of the state hold, and
the journal folds to the same state again (guarantee: deterministic replay)."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any, Final

import hypothesis.strategies as st
import msgspec
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from core.histories.audit import audit
from core.histories.index_audit import audit_lists
from core.story import ONCE, STEADY, Story
from stackshift_jobs.errors import Conflict, NotFound
from stackshift_jobs.values.durations import from_rfc3339
from stackshift_jobs.values.limits import ON_DUPLICATE
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.decide.gentle import may_be_told
from stackshiftd.core.snapshot import load, state_hash
from stackshiftd.core.state.state import PENDING, CallKind, Phase, Run, Status

LONG: Final = os.environ.get("STACKSHIFT_LONG") == "1"
WORKERS: Final = ("w1", "w2", "w3")
JOBS: Final = ("resize", "report", "mail")
STEPS: Final = ("a", "b", "c", "d")
QUICK: Final = r.RetryTerms(max_attempts=2, backoff_ms=100, jitter=0.5)
PICKY: Final = r.RetryTerms(3, 500, 1.0, jitter=0.0, on=["A", "jobs.B"], not_on=["B"])
FOLLOW_UP: Final = r.FollowUp("mail", "office", QUICK, ttl_ms=300_000)
TERMS: Final = (ONCE, QUICK, STEADY, PICKY)
KINDS: Final = ("A", "B", "C")
LATE: Final = ("fail", "continue", "cancel")
SPANS: Final = ("0s", "1ms", "1s", "10s", "5m", "3h")
QUEUES: Final = ("media", "office")
KEYS: Final = ("", "", "k1", "k2")
UNIQUE: Final = ("", "", "", "u1", "u2")
LIMITS: Final = (None, None, None, None, None, None, "1s", "5m")
"""For a run to begin, or to end."""
LABELS: Final[tuple[dict[str, str], ...]] = (
    {},
    {"env": "shop"},
    {"env": "test"},
    {"env": "shop", "a": "7"},
)
RATES: Final = ((0, 0), (7, 3000), (1, 10_000))
"""Starts, in so many milliseconds; none, for no rate."""
ALERTS: Final = ["failed", "recovered", "late", "missing", "daemon_stopped"]
EXPECTED: Final = ("every 10s", "every 3h", "hourly by :15", "daily by 03:00")
SIZES: Final = (0, 1, 5000)
"""Of bodies; the last is not kept in memory."""

picks = st.integers(0, 999)


class Histories(RuleBasedStateMachine):
    """A few workers, jobs and queues, and every command that the core takes.

    Numbers that a rule draws choose among what there is when it is applied, so that almost every
    step of a history does something.
    """

    def __init__(self) -> None:
        super().__init__()
        self.story = Story()
        self.started: list[str] = []
        self.over: list[tuple[str, int]] = []
        """(run, token) of executions that are over."""

    def runs(self, *statuses: Status) -> list[Run]:
        """The runs in memory with one of these statuses."""
        return [run for run in self.story.state.runs.values() if run.status in statuses]

    def executing(self) -> list[Run]:
        """The runs that have an execution."""
        return [run for run in self.story.state.runs.values() if run.token]

    def note_over(self) -> None:
        """Remember the executions there are; those that are not current later are over."""
        self.over.extend((run.id, run.token) for run in self.executing())

    # --- Clients ---------------------------------------------------------------------------

    @initialize(many=st.lists(picks, min_size=1, max_size=6))
    def open(self, many: list[int]) -> None:
        """A daemon claims the journal, and some runs begin."""
        self.story.claim()
        for pick in many:
            self.begin(pick, None, None)
        self.assign("w1", len(many), "")

    @rule(pick=picks, key=st.none() | st.sampled_from(("k1", "k2")), delay=st.sampled_from(SPANS))
    def start(self, pick: int, key: str | None, delay: str) -> None:
        """A client starts a run, at once or later."""
        self.begin(pick, key, delay if pick % 2 else None)

    def begin(self, pick: int, key: str | None, delay: str | None) -> None:
        """Start a run; a key that is in use must lead to its owner or a conflict."""
        unique, mode = UNIQUE[pick % len(UNIQUE)], ON_DUPLICATE[pick // 7 % 4]
        having = self.having(unique)
        owner = self.story.state.key_owner(key, self.story.now_us) if key is not None else None
        try:
            run = self.story.start(
                JOBS[pick % 3],
                "x" * SIZES[pick % 7 % 3],
                queue=QUEUES[pick % 2],
                delay=delay,
                key=key,
                key_ttl=SPANS[pick % 6],
                retry=TERMS[pick % 7 % 4],
                timeout=(None, None, "1s", "10s")[pick % 4],
                priority=pick % 3 - 1,
                concurrency_key=KEYS[pick % 4],
                unique=unique,
                on_duplicate=mode,
                after=self.before(pick) if delay is None else (),
                even_if_failed=pick % 2 == 0,
                on_failure=FOLLOW_UP if pick % 11 < 3 else None,
                on_success=FOLLOW_UP if pick % 13 < 2 else None,
                max_runtime=LIMITS[pick // 3 % len(LIMITS)],
                labels=LABELS[pick % len(LABELS)],
                ttl=LIMITS[pick % len(LIMITS)],
                deadline=LIMITS[pick // 9 % len(LIMITS)],
            )
        except Conflict as conflict:
            if owner is not None:
                assert conflict.owner == owner.run
            else:
                assert mode in ("refuse", "attach")
                assert conflict.owner in having
            return
        if owner is not None:
            assert run == owner.run
        elif having and mode == "attach":
            assert run in having
            assert key is None or self.story.state.keys[key].run == run
        else:
            assert run not in self.started
            self.started.append(run)
            assert mode == "queue" or not unique or self.having(unique) == [run]

    def before(self, pick: int) -> list[str]:
        """Runs for another to begin after; mostly none."""
        if pick % 5 or not self.started:
            return []
        return list(dict.fromkeys(self.started[pick // n % len(self.started)] for n in (5, 7)))

    def having(self, unique: str) -> list[str]:
        """The unfinished runs with this unique key."""
        runs = self.story.state.runs.values()
        return [run.id for run in runs if unique and run.unique == unique and not run.finished]

    @rule(pick=picks)
    def cancel(self, pick: int) -> None:
        """A person cancels a run; a finished one stays as it is."""
        if self.started:
            run = self.started[pick % len(self.started)]
            found = self.story.state.runs.get(run)
            alive = found is not None and not found.finished
            assert self.story.cancel(run, children=pick % 3 == 0) == alive

    @rule(pick=picks, grace=st.none() | st.sampled_from(SPANS), children=st.booleans())
    def cancel_gently(self, pick: int, grace: str | None, children: bool) -> None:
        """A person has a run cancelled when its handler has ended."""
        if not self.started:
            return
        run = self.started[pick % len(self.started)]
        found = self.story.state.runs.get(run)
        alive = found is not None and not found.finished
        again = found is not None and found.cancelling is not None and not (grace or children)
        undoing = found is not None and found.undoing is not None
        begun = found is not None and found.attempt
        changed = self.story.cancel(run, gently=True, grace=grace, children=children)
        assert changed == (alive and not again and not undoing)
        if alive and undoing:
            return
        if alive and begun:
            assert found is not None
            assert found.cancelling is not None
            assert not found.finished
        elif alive:
            assert found is not None
            assert found.status is Status.CANCELLED

    @rule(pick=picks, delay=st.none() | st.sampled_from(SPANS))
    def move(self, pick: int, delay: str | None) -> None:
        """A person moves a run to another time, queue or priority."""
        if not self.story.state.runs:
            return
        run = list(self.story.state.runs.values())[pick % len(self.story.state.runs)]
        queue = QUEUES[pick // 3 % 2] if pick % 3 else None
        before, token = run.status, run.token
        try:
            self.story.move(run.id, delay=delay, priority=pick % 3 - 1, queue=queue)
        except Conflict:
            movable = (Status.SCHEDULED, Status.QUEUED, Status.RETRYING)
            assert before not in movable or token or (before is Status.QUEUED and run.attempt)
            return
        assert run.priority == pick % 3 - 1
        assert queue in (None, run.queue)
        if delay == "0s" and before is not Status.WAITING:
            assert run.status is Status.QUEUED
        if delay == "3h" and before in (Status.SCHEDULED, Status.QUEUED):
            assert run.status is Status.SCHEDULED
            assert run.scheduled_us == self.story.now_us + 3 * 3_600_000_000

    def ended(self) -> list[str]:
        """The runs that have ended, in memory or not."""
        runs = self.story.state.runs
        return [run for run in self.started if run not in runs or runs[run].finished]

    @rule(pick=picks, by_step=st.booleans(), replaced=st.booleans())
    def retry(self, pick: int, by_step: bool, replaced: bool) -> None:
        """A person retries a run that has ended."""
        if not (ended := self.ended()):
            return
        run = ended[pick % len(ended)]
        step = self.named(run, pick) if by_step else None
        try:
            self.story.retry(run, from_step=step, replaced={"b": 42} if replaced else None)
        except Conflict as conflict:
            taken = conflict.owner in self.having(conflict.fields.get("unique", ""))
            assert taken or self.story.status(run) is Status.COMPLETED
        except NotFound:
            assert step is not None
        else:
            assert self.story.run(run).status is Status.QUEUED

    def named(self, run: str, pick: int) -> str | None:
        """A step that the run has, or once had."""
        steps = [getattr(entry.record, "step", None) for entry in self.story.entries_of(run)]
        names = [name for name in steps if isinstance(name, str)]
        return names[pick % len(names)] if names else None

    @rule(pick=picks, by_step=st.booleans())
    def fork(self, pick: int, by_step: bool) -> None:
        """A person forks a run."""
        if not self.started:
            return
        source = self.started[pick % len(self.started)]
        step = self.named(source, pick) if by_step else None
        try:
            self.started.append(self.story.fork(source, from_step=step).run)
        except NotFound:
            assert step is not None
        except Conflict as conflict:
            assert conflict.owner in self.having(conflict.fields["unique"])

    @rule(pick=picks)
    def remove(self, pick: int) -> None:
        """A person removes a finished run."""
        ended = [run for run in self.ended() if not self.story.token(run)]
        if ended and pick % 3 == 0:
            run = ended[pick % len(ended)]
            self.story.remove(run)
            self.started.remove(run)

    @rule(pick=picks)
    def discard(self, pick: int) -> None:
        """A person discards a run, which must be in the dead letter."""
        if not self.started:
            return
        run = self.started[pick % len(self.started)]
        found = self.story.state.runs.get(run)
        dead = found is not None and found.status is Status.FAILED and not found.token
        try:
            self.story.discard(run)
        except Conflict:
            assert not dead
        else:
            assert dead
            assert run not in self.story.state.runs
            assert self.story.status(run) is Status.FAILED

    # --- The shell -------------------------------------------------------------------------

    @rule(
        worker=st.sampled_from(WORKERS),
        times=st.integers(1, 6),
        without=st.sampled_from(("", "", "", "mail")),
        pool=st.sampled_from(("", "", "media")),
    )
    def assign(self, worker: str, times: int, without: str, pool: str = "") -> None:
        """A worker has free slots."""
        worker += pool
        for _ in range(times):
            alone = not self.story.state.executions.get(worker)
            run = self.story.assign(worker, alone=alone, without=without, pool=pool)
            if run is not None:
                self.check_limits(self.story.run(run), pool)
                expires_at = self.story.created(run).expires_at
                if expires_at is not None and self.story.run(run).attempt == 1:
                    retried = any(
                        isinstance(e.record, r.RunRetried) for e in self.story.entries_of(run)
                    )
                    begun_us = self.story.run(run).started_us
                    assert retried or begun_us < from_rfc3339(expires_at)
        self.note_over()

    def check_limits(self, run: Run, pool: str) -> None:
        """What was just handed out is within the limits in force."""
        queue = self.story.state.queues[run.queue]
        same = sum(each.queue == run.queue for each in self.executing())
        of_key = [each for each in self.executing() if each.concurrency_key == run.concurrency_key]
        limits = queue.limits
        assert not limits.paused
        assert same <= (limits.concurrency or same)
        if run.concurrency_key:
            same = sum(each.queue == run.queue for each in of_key)
            assert same <= (limits.key_concurrency or same)
        assert self.story.state.pool_of(run.queue) == pool

    @rule(pick=picks, rate=st.sampled_from(RATES), reset=st.booleans())
    def limit(self, pick: int, rate: tuple[int, int], reset: bool) -> None:
        """A person changes limits, or pauses, or takes all of it back."""
        terms: dict[str, Any] = {}
        if pick % 2:
            terms |= {"concurrency": pick // 2 % 3}
        if pick % 3 == 0:
            terms |= {"key_concurrency": pick // 3 % 3}
        if pick % 4 == 0:
            terms |= {"rate": rate[0], "rate_per_ms": rate[1], "rate_burst": pick % 7}
        if pick % 5 == 0:
            terms |= {"paused": reset}
        self.story.limit(QUEUES[pick % 2], reset=reset, **terms)

    @rule(by=st.sampled_from(("file", "code")), pick=picks, own=st.booleans())
    def declare(self, by: str, pick: int, own: bool) -> None:
        """The file or the modules say something else of queues, or nothing."""
        media = r.QueueTerms(
            concurrency=pick % 4 or None,
            paused=pick % 7 == 0 or None,
            processes=1 if own and by == "file" else None,
        )
        office = r.QueueTerms(key_concurrency=pick % 3 or None)
        queues = {"media": media, "office": office} if pick % 5 else {"office": office}
        self.story.declare(by, **queues)

    @rule(names=st.sets(st.sampled_from(("ops", "mail"))), pick=picks)
    def notify(self, names: set[str], pick: int) -> None:
        """The file says something else of who is told of alerts."""
        terms = r.NotifyTerms(
            on=ALERTS[: pick % 5 + 1] if pick % 3 else ALERTS,
            jobs=["re*"] if pick % 5 == 0 else [],
            quiet_ms=(1000, 300_000)[pick % 2],
            most=pick % 2 + 1,
            per_ms=(60_000, 3_600_000)[pick // 2 % 2],
            max_attempts=pick % 2 + 1,
        )
        self.story.notify(**dict.fromkeys(names, terms))
        assert self.story.state.alerts.targets.keys() == names

    @rule(jobs=st.sets(st.sampled_from(JOBS)), pick=picks)
    def expect(self, jobs: set[str], pick: int) -> None:
        """The modules say something else of what is expected."""
        self.story.expect(dict.fromkeys(jobs, EXPECTED[pick % len(EXPECTED)]))
        assert self.story.state.alerts.expectations.keys() == jobs

    @rule(jobs=st.sets(st.sampled_from(JOBS), min_size=1))
    def define(self, jobs: set[str]) -> None:
        """Workers have these jobs, so none of them is held any more."""
        self.story.define(*sorted(jobs))
        assert jobs.isdisjoint(self.story.state.held)

    @rule(pick=picks)
    def claim(self, pick: int) -> None:
        """Another daemon claims the journal; nothing executes after that."""
        if pick % 5 == 0:
            self.story.claim()
            assert not self.executing()

    @rule(by=st.sampled_from(SPANS))
    def tick(self, by: str) -> None:
        """Time passes, and fires what is due."""
        self.story.tick(to=by)

    @rule(seconds=st.sampled_from((-86_400, -60, -1, 1, 60, 86_400)))
    def jump(self, seconds: int) -> None:
        """The wall clock jumps."""
        self.story.wall_us += seconds * 1_000_000

    @rule()
    def set_back(self) -> None:
        """A person sets daemon time back to the wall clock."""
        story = self.story
        while (due_us := story.state.next_due_us()) is not None and due_us <= story.now_us:
            story.do(c.Tick(1000))
        was_ahead = story.state.now_us > story.wall_us
        assert story.set_clock_back() is was_ahead
        assert story.now_us == story.wall_us

    @rule(pick=picks, ours=st.booleans())
    def lose(self, pick: int, ours: bool) -> None:
        """A worker is lost."""
        if executing := self.executing():
            self.story.lose(executing[pick % len(executing)].id, ours=ours)

    @rule(pick=picks, times=st.integers(1, 5))
    def crash(self, pick: int, times: int) -> None:
        """One run takes worker after worker with it."""
        if executing := self.executing():
            run = executing[pick % len(executing)]
            for _ in range(times):
                if run.token:
                    self.story.lose(run.id)
                self.story.assign("w4", alone=True)

    # --- Workers ---------------------------------------------------------------------------

    @rule(seed=st.integers(0, 2**32))
    def work(self, seed: int) -> None:
        """Workers take runs and say this and that of them."""
        chance = random.Random(seed)
        for _ in range(chance.randint(3, 15)):
            running = self.runs(Status.RUNNING)
            if len(running) < 2:
                self.assign(chance.choice(WORKERS), 2, "")
            if running:
                chance.choice(self.ACTS)(self, chance.choice(running), chance.randrange(1000))

    def step_ends(self, run: Run, pick: int) -> None:
        """A try of a step completes or fails."""
        step = self.open_step(run, pick)
        if step is None:
            return
        if pick % 3:
            undo = pick % 4 == 0 and run.undoing is None
            self.story.step_done(run.id, step, "y" * SIZES[pick % 7 % 3], undo=undo)
            assert run.calls[step].phase is Phase.COMPLETED
        else:
            self.story.step_fails(
                run.id,
                step,
                retry=(*TERMS, None)[pick % 5],
                retryable=pick % 5 > 0,
                after=SPANS[pick % 6] if pick % 7 == 0 else None,
                counts=pick % 11 > 0,
                kinds=[[f"jobs.{KINDS[pick % 13 % 3]}", "builtins.Exception"]],
                undo=pick % 2 == 0 and run.undoing is None,
            )

    def open_step(self, run: Run, pick: int) -> str | None:
        """A step of the run whose function may be executing."""
        names = [
            name
            for name in STEPS
            if name not in run.calls
            or (run.calls[name].kind is CallKind.RUN and run.calls[name].phase is Phase.OPEN)
        ]
        return names[pick % len(names)] if names else None

    def step_opens(self, run: Run, pick: int) -> None:
        """A step has been executing for a while."""
        undo = pick % 3 == 0 and run.undoing is None
        self.story.step_opens(run.id, STEPS[pick % len(STEPS)], undo=undo)

    def checkpoints(self, run: Run, pick: int) -> None:
        """The function of a step says how far it has come, in order or late."""
        step = STEPS[pick % len(STEPS)]
        before = run.tries[step].checkpoint if step in run.tries else None
        value = "c" * SIZES[pick % 7 % 3]
        self.story.checkpoints(run.id, step, value)
        call = run.calls.get(step)
        if call is not None and call.phase in (Phase.COMPLETED, Phase.FAILED):
            assert (run.tries[step].checkpoint if step in run.tries else None) == before
        else:
            last = run.tries[step].checkpoint
            assert last is not None
            if before is not None and before.body == msgspec.json.encode(value):
                assert last == before
            else:
                assert last.seq == self.story.state.seq

    def sleeps(self, run: Run, pick: int) -> None:
        """The handler sleeps."""
        self.story.sleeps(run.id, f"nap#{self.story.state.seq}", SPANS[pick % len(SPANS)])

    def reads(self, run: Run, pick: int) -> None:
        """The handler records a value, labels its run and reports progress."""
        name = f"[label a]#{self.story.state.seq}" if pick % 2 else ""
        self.story.labels(run.id, name, a=str(pick), **{f"l{pick % 40}": ""})
        self.story.reads(run.id, f"[now]#{self.story.state.seq}", pick)
        self.story.do(c.ReportProgress(run.id, run.token, 1.0))

    def has_child(self, run: Run, pick: int) -> None:
        """The handler calls or starts a run."""
        name, job = f"child#{self.story.state.seq}", JOBS[pick % 3]
        timeout, on_timeout = SPANS[pick % 6] if pick % 7 == 0 else None, LATE[pick % 3]
        if pick % 2:
            made = self.story.calls(run.id, name, job, timeout=timeout, on_timeout=on_timeout)
        else:
            tied, ends = pick % 4 == 0, pick % 5 == 0
            made = self.story.starts(run.id, name, job, with_parent=tied, ends_with_parent=ends)
        self.started.append(made)

    def has_unique_child(self, run: Run, pick: int) -> None:
        """The handler starts a run with a unique key, which it may have itself."""
        name, unique = f"child#{self.story.state.seq}", UNIQUE[3 + pick % 2]
        wait, mode = pick % 3 == 0, ON_DUPLICATE[pick // 3 % 4]
        if wait and mode in ("attach", "queue"):
            return  # Two that wait for each other never end, by right.
        having = self.having(unique)
        start = self.story.calls if wait else self.story.starts
        made = start(run.id, name, JOBS[pick % 3], unique=unique, on_duplicate=mode)
        call = run.calls[name]
        if call.kind is CallKind.REFUSED:
            assert having
            assert mode != "queue"
            assert mode != "replace" or not run.finished
        elif call.child == made and made not in having:
            self.started.append(made)
            assert mode == "queue" or self.having(unique) == [made]

    def awaits(self, run: Run, pick: int) -> None:
        # Only runs made later are waited for: two that wait for each other never end, by right.
        """The handler waits for a run."""
        runs = self.story.state.runs.values()
        unique = {each.id for each in runs if each.unique or each.after}
        if later := [each for each in self.started if each > run.id and each not in unique]:
            timeout, on_timeout = SPANS[pick % 6] if pick % 5 == 0 else None, LATE[pick % 3]
            self.story.awaits(
                run.id,
                f"result#{self.story.state.seq}",
                later[pick % len(later)],
                timeout=timeout,
                on_timeout=on_timeout,
            )

    def withdraws(self, run: Run, pick: int) -> None:
        """The handler gives up a call, whatever has become of it."""
        names = [*run.calls, "never made"]
        self.story.do(c.WithdrawCall(run.id, run.token, names[pick % len(names)]))

    def suspends(self, run: Run, pick: int) -> None:
        """The handler leaves memory."""
        pending = [name for name, step in run.calls.items() if step.phase in PENDING]
        over = [name for name, step in run.calls.items() if step.phase is Phase.COMPLETED]
        if pending and pick % 3:
            told = may_be_told(self.story.state, run)  # It is suspended, and resumed to be told.
            self.story.suspends(run.id)
            assert run.status is (Status.QUEUED if told else Status.WAITING)
        elif over:
            # What it waited for came while it was on its way out.
            self.story.suspends(run.id, over[0])
            assert run.status is Status.QUEUED

    def completes(self, run: Run, pick: int) -> None:
        """The handler returns."""
        if pick % 3 == 0 and run.undoing is None:
            self.story.completes(run.id, "z" * SIZES[pick % 7 % 3])
            assert run.id not in self.story.state.runs

    def is_told(self, run: Run, pick: int) -> None:
        """The handler is told that it is cancelled, once its children have ended; or it ends."""
        if run.cancelling is None or run.undoing is not None:
            return
        if run.cancelling.raised_seq:
            if pick % 2:
                self.story.ends_told(run.id)
                assert run.status is Status.CANCELLED or run.undoing is not None
            return
        runs = self.story.state.runs
        left = [name for name in run.cancelling.first if name in runs and not runs[name].finished]
        assert self.story.told(run.id) == (not left)
        if left:
            self.story.suspends(run.id)

    def undoes(self, run: Run, pick: int) -> None:
        """What the run has done is undone, or that fails; then it ends as it was to end."""
        undoing = run.undoing
        if undoing is None:
            return
        if pick % 5 == 0:
            self.story.fails(run.id)
            assert run.status is Status.FAILED
            return
        for _ in range(pick % 3 + 1):
            if run.still_done:
                step = self.story.undoes(run.id)
                assert step not in run.still_done
        if not run.still_done:
            self.story.ends_undone(run.id)
            assert run.status.value == undoing.status
            assert not run.token

    def continues(self, run: Run, pick: int) -> None:
        """The handler continues as a new run."""
        if pick % 2 == 0 and run.cancelling is None and run.undoing is None:
            self.started.append(self.story.continues(run.id, pick))

    def fails(self, run: Run, pick: int) -> None:
        """The handler raises."""
        failed = [name for name, step in run.calls.items() if step.phase is Phase.FAILED]
        step = failed[0] if failed else None
        after = SPANS[pick % 6] if pick % 7 == 0 else None
        self.story.fails(
            run.id,
            retryable=pick % 4 > 0,
            after=after,
            step=step,
            counts=pick % 11 > 0,
            cancels=pick % 13 == 0,
            kinds=[[f"jobs.{KINDS[pick % 5 % 3]}", "builtins.Exception"]],
        )
        assert step not in run.calls

    ACTS: Final[tuple[Callable[[Histories, Run, int], None], ...]] = (
        step_ends,
        step_ends,
        step_ends,
        step_opens,
        checkpoints,
        sleeps,
        reads,
        has_child,
        has_child,
        has_unique_child,
        awaits,
        withdraws,
        suspends,
        suspends,
        completes,
        is_told,
        is_told,
        undoes,
        undoes,
        continues,
        fails,
    )

    @rule(pick=picks)
    def stops(self, pick: int) -> None:
        """A handler that was asked to has stopped; of one that was not asked it means nothing."""
        if executing := self.executing():
            run = executing[pick % len(executing)]
            asked = run.status is not Status.RUNNING
            assert bool(self.story.stops(run.id).records) == asked

    @rule(pick=picks, how=picks)
    def comes_late(self, pick: int, how: int) -> None:
        """A worker speaks under a token that is not the current one any more."""
        late = [(run, token) for run, token in self.over if self.story.token(run) != token]
        if not late:
            return
        run, token = late[pick % len(late)]
        commands = from_worker(run, token)
        before = state_hash(self.story.state)
        decision = self.story.do(commands[how % len(commands)])
        assert not decision.records
        assert not decision.effects
        assert state_hash(self.story.state) == before

    # --- The end ---------------------------------------------------------------------------

    def teardown(self) -> None:
        """Replay the history, let all runs end, and replay it again."""
        if self.story.entries:
            self.check_replay()
            self.let_all_end()
            self.check_replay()
            self.check_follow_ups()

    def check_follow_ups(self) -> None:
        """Each end that names a follow-up has created that run and no other, and it names none."""
        records = [entry.record for entry in self.story.entries]
        ends = [each for each in records if isinstance(each, r.RunCompleted | r.RunFailed)]
        named = {each.follow_up: each.run for each in ends if each.follow_up is not None}
        assert len(named) == sum(each.follow_up is not None for each in ends)
        created = {each.run: each for each in records if isinstance(each, r.RunCreated)}
        for follow_up, run in named.items():
            made = created[follow_up]
            assert (made.parent, made.on_failure, made.on_success) == (run, None, None)
        for end in ends:
            made = created[end.run]
            terms = made.on_failure if isinstance(end, r.RunFailed) else made.on_success
            goes_on = isinstance(end, r.RunCompleted) and end.continued_as is not None
            assert (end.follow_up is not None) == (terms is not None and not goes_on)

    def check_replay(self) -> None:
        """Live, replayed and read from a snapshot, the state is the same."""
        story = self.story
        live = state_hash(story.state)
        assert state_hash(story.replayed()) == live
        for at in random.Random(story.state.seq).choices(story.ends, k=2):
            assert state_hash(story.via_snapshot(at)) == live
        loaded = load(story.snapshot(story.state.seq)).state
        assert state_hash(loaded) == live
        for state in (story.state, loaded):
            audit(state)
            audit_lists(state, random.Random(state.seq))

    def let_all_end(self) -> None:
        """Work conserves: with slots, time and jobs enough, every run ends."""
        story = self.story
        for by in ("file", "code"):
            story.declare(by)
        story.expect({})  # What is expected again and again would never end.
        for queue in story.state.queues:
            story.limit(queue, concurrency=0, key_concurrency=0, rate=0, paused=False)
        for _ in range(100 * len(story.entries)):
            story.define(*JOBS)
            before = -1
            while story.state.seq > before:  # It may also end a run that was too late.
                before = story.state.seq
                story.assign("w1", alone=not story.state.executions.get("w1"))
            executing = self.executing()
            for run in executing:
                if run.status is Status.RUNNING and run.undoing is not None:
                    story.ends_undone(run.id)
                elif run.status is Status.RUNNING:
                    story.completes(run.id)
                else:
                    story.stops(run.id)
            if not executing:
                due_us = story.state.next_due_us()
                if due_us is None:
                    break
                story.wall_us = max(story.wall_us, due_us)
                story.tick()
        assert all(run.finished for run in story.state.runs.values())
        assert all(queue.turn is None for queue in story.state.queues.values())
        assert not story.state.suspects
        assert not story.state.timers


def from_worker(run: str, token: int) -> list[c.Command]:
    """All that a worker may say of an execution."""
    child = c.StartRun("run_late", "resize", "media", b"{}")
    return [
        c.CompleteStep(run, token, 7, "a", r.NULL),
        c.FailStep(run, token, 7, "a", r.Error("E", "late")),
        c.OpenStep(run, token, "a"),
        c.OpenStep(run, token, "a", undo=True, call=7),
        c.RecordValue(run, token, 7, "[now]", r.NULL),
        c.BeginSleep(run, token, 7, "nap", 1000),
        c.StartChild(run, token, 7, "child", child, True),
        c.AwaitRun(run, token, 7, "result", "run_0001"),
        c.WithdrawCall(run, token, "nap"),
        c.RaiseCancel(run, token, 7, "nap"),
        c.FinishCancel(run, token),
        c.FinishUndo(run, token),
        c.Suspend(run, token, ["nap"]),
        c.CompleteRun(run, token, r.NULL),
        c.ContinueRun(run, token, child),
        c.FailAttempt(run, token, r.Error("E", "late"), step="a"),
        c.ConfirmStop(run, token),
        c.ReportProgress(run, token, 1.0),
        *asked_by(run, token, "[call]"),
        *asked_by(run, token, ""),
    ]


def asked_by(run: str, token: int, step: str) -> list[c.Command]:
    """All that a handler may ask for like a client; with no `step`, within a step's function."""
    who: dict[str, Any] = {"run": run, "token": token, "call": 7, "step": step}
    return [
        c.ReadState(**who, key="k"),
        c.ListState(**who),
        c.SetState(**who, key="k", value=b"1"),
        c.DeleteState(**who, key="k", remember_ms=1000),
        c.IncrementState(**who, key="k"),
        c.AcquireLock(**who, key="k"),
        c.ExtendLock(**who, key="k", ttl_ms=1000),
        c.ReleaseLock(**who, lock="[lock k]"),
        c.CheckLock(**who, lock="[lock k]"),
        c.SendEvent(**who, event="evt_late", name="late", payload=b"1"),
        c.AwaitEvent(**who, events=[("late", "")], timeout_ms=1000),
    ]


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=1000 if LONG else 80,
    stateful_step_count=60,
    derandomize=not LONG,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
