"""The engine beside the naive model: handlers that are scripts, clients, clocks, and crashes.

As in the daemon, decisions are folded at once, and their answers and effects are released once they
are durable (`sync`). A crash loses what is not durable, each append as a whole or not at all;
workers die with everything they hold, at any point between two of their calls.

After each append the state is compared with the model, and each answer with that of the model.
"""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable
from inspect import GEN_CLOSED, getgeneratorstate
from typing import Any, Final

from core.histories.audit import audit
from core.histories.naive_model import Naive, Refused
from core.histories.scripts import (
    RETENTION_MS,
    Answer,
    Ask,
    Branch,
    CallKind,
    Failed,
    Op,
    Park,
    Pass,
)
from core.histories.state_comparison import Tokens, agree, answer_from, compare, remembered
from core.story import Story
from stackshift_jobs.errors import StackshiftError
from stackshift_jobs.values.durations import from_rfc3339
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.effects import (
    Acknowledge,
    Decision,
    Dispatch,
    Granted,
    Resolve,
    Stop,
)
from stackshiftd.core.snapshot import load, state_hash
from stackshiftd.core.state.state import Call, State, Status
from stackshiftd.core.state.state import CallKind as Kind

SLOTS: Final = 4
TERMS: Final = r.RetryTerms(max_attempts=3, backoff_ms=1000, jitter=0.0)
ENDS: Final = (r.RunCompleted, r.RunFailed, r.RunCancelled)


def _done(branch: Branch) -> bool:
    return getgeneratorstate(branch) == GEN_CLOSED


class Execution:
    """A handler in memory: a pass, and where each of its branches is."""

    def __init__(self, played: Pass, script: list[list[Op]]) -> None:
        self.played = played
        self.branches: list[Branch] = [
            played.branch(number, ops) for number, ops in enumerate(script)
        ]
        self.ready: dict[int, Any] = dict.fromkeys(range(len(script)))
        """Branch → what it is sent when it goes on."""
        self.parked: dict[int, str] = {}
        self.failed: Failed | None = None
        self.stopping = False

    @property
    def over(self) -> bool:
        """Has the pass failed, or have all its branches ended?"""
        return self.failed is not None or all(_done(branch) for branch in self.branches)

    @property
    def parks(self) -> bool:
        """Do all branches that are not done wait?"""
        return not self.over and all(
            at in self.parked for at, branch in enumerate(self.branches) if not _done(branch)
        )


class World(Story):
    """An engine, its workers, time, and crashes; `stored_people` adds who uses it."""

    def __init__(self) -> None:
        super().__init__()
        self.naive = Naive()
        self.scripts: dict[str, list[list[Op]]] = {}
        self.executions: dict[str, Execution] = {}
        self.passes: list[Execution] = []
        """Of handlers whose worker is taken for dead, and which live on."""
        self.tries: dict[tuple[str, str], int] = {}
        """How often a step's function has run: the world does not forget."""
        self.tokens: Tokens = {}
        self.clients: dict[tuple[str, str], int] = {}
        """(asker, key) → the token that it knows; 0 while it waits for an answer."""
        self.unsynced: list[Callable[[], None]] = []
        self.marks: list[tuple[int, int, bytes]] = [self._mark()]
        """Entries, ends and model after each append since the last that is durable."""
        self.claims()

    # --- The engine ------------------------------------------------------------------------

    def _mark(self) -> tuple[int, int, bytes]:
        return len(self.entries), len(self.ends), pickle.dumps((self.naive, self.tokens))

    def submit(
        self, command: c.Command, expect: Callable[[], Any] | None = None
    ) -> Decision | StackshiftError:
        """Decide and fold; the model does the same, and agrees."""
        outcome: Decision | StackshiftError
        try:
            outcome = self.do(command)
        except StackshiftError as refused:
            outcome = refused
        if expect is not None:
            expect()
        self.settle(outcome.records if isinstance(outcome, Decision) else ())
        return outcome

    def settle(self, records: tuple[r.AnyRecord, ...]) -> None:
        """The model learns what has become of runs, and is compared with the state."""
        ended: list[str] = []
        for entry in self.entries[len(self.entries) - len(records) :]:
            match record := entry.record:
                case r.AttemptStarted() | r.AttemptLost():
                    self.naive.renew(record.run)
                case r.AttemptFailed():
                    self.naive.forget(record.run, [record.step or ""])
                case r.RunCompleted() | r.RunFailed() | r.RunCancelled():
                    ended.append(record.run)
        if ended:
            executing = {run for run in ended if self.token(run)}
            self.naive.end(ended, executing, self.now_us)
        for record in records:
            if isinstance(record, r.AttemptStopped):
                self.naive.stopped(record.run, self.now_us)
        if records:
            compare(self.state, self.naive, self.tokens)
            self.marks.append(self._mark())

    def sync(self) -> None:
        """Everything that was appended is durable: release answers and effects."""
        self.marks = self.marks[-1:]
        released, self.unsynced = self.unsynced, []
        for let_go in released:
            let_go()

    def let_go(self, decision: Decision, execution: Execution | None, at: int) -> None:
        """What follows from a decision, once it is durable."""

        def perform() -> None:
            for effect in decision.effects:
                match effect:
                    case Acknowledge() if execution is not None:
                        execution.ready[at] = Answer(
                            json.loads(bytes(effect.body)),
                            json.loads(bytes(effect.error)),
                            effect.due_us,
                        )
                    case Dispatch():
                        self._begin(effect.run, effect.token)
                    case Resolve():
                        self._resolve(effect.run, effect.token, effect.step)
                    case Granted():
                        body = json.loads(bytes(effect.body))
                        self.clients[effect.asker, body["key"]] = body["token"]
                    case Stop() if effect.run in self.executions:
                        self.executions[effect.run].stopping = True

        self.unsynced.append(perform)

    def _begin(self, run_id: str, token: int) -> None:
        run = self.state.runs.get(run_id)
        if run is None or run.token != token:
            return
        memos = {name: memo_of(step) for name, step in run.calls.items()}
        played = Pass(self, run_id, token, run.attempt, memos)
        self.executions[run_id] = Execution(played, self.scripts[run_id])

    def _resolve(self, run_id: str, token: int, step: str) -> None:
        execution = self.executions.get(run_id)
        run = self.state.runs.get(run_id)
        if execution is None or run is None or execution.played.token != token:
            return
        if step in run.calls:
            execution.played.memos[step] = memo_of(run.calls[step])
            for at, parked in list(execution.parked.items()):
                if parked == step:
                    del execution.parked[at]
                    execution.ready[at] = None

    # --- What a pass may know --------------------------------------------------------------

    def answered_again(self, of: Pass, step: str, memo: CallKind) -> None:
        """Check an answer that is replayed to a pass against the one that the model remembers."""
        if self.token(of.run) == of.token:
            known = self.naive.answers[of.run]
            assert step in known, f"{of.run}: {step} is on record, and never happened"
            assert answer_from(memo.body) == known[step], (
                f"{of.run}: {step} is answered differently"
            )

    def failing(self, run: str, step: str, times: int) -> bool:
        """Does this try of the step fail, if its first `times` tries do?"""
        self.tries[run, step] = self.tries.get((run, step), 0) + 1
        return self.tries[run, step] <= times

    def new_event(self) -> str:
        """The id of a new event."""
        self._made += 1
        return f"evt_{self._made:04d}"

    def child(self, script: list[list[Op]]) -> c.StartRun:
        """A run to start, whose handler plays `script`."""
        run = self.new_id()
        self.scripts[run] = script
        self.jobs["child"] = "code-1"
        return c.StartRun(run=run, job="child", queue="media", payload=b"{}", retry=TERMS)

    # --- Workers ---------------------------------------------------------------------------

    def fill_slots(self) -> None:
        """Dispatch runs until all slots are taken, or nothing more can be dispatched."""
        while sum(bool(run.token) for run in self.state.runs.values()) < SLOTS:
            before = self.state.seq
            codes = dict.fromkeys(self.jobs, "code-1")
            outcome = self.submit(c.Assign("w1", codes, alone=not self.state.executions.get("w1")))
            assert isinstance(outcome, Decision)
            self.let_go(outcome, None, 0)
            if self.state.seq == before:
                return

    def step(self, execution: Execution, chance: random.Random) -> None:
        """Advance one branch of a handler to its next call."""
        run = execution.played.run
        if execution.over:
            self._end(execution)
        elif execution.ready:
            at = chance.choice(list(execution.ready))
            self._go_on(execution, at, execution.ready.pop(at))
        elif execution.parks and chance.random() < 0.7:
            pending = list(execution.parked.values())
            self.executions.pop(run, None)
            self._say(c.Suspend(run, execution.played.token, pending))

    def _go_on(self, execution: Execution, at: int, answer: Any) -> None:
        played = execution.played
        try:
            op = execution.branches[at].send(answer)
        except StopIteration:
            return
        except Failed as failed:
            execution.failed = failed
            return
        if isinstance(op, Park):
            memo = played.memos[op.step]
            if memo.phase in ("waiting", "retrying"):
                execution.parked[at] = op.step
            else:
                execution.ready[at] = None
            return
        self._ask(execution, at, op)

    def _ask(self, execution: Execution, at: int, ask: Ask) -> None:
        played = execution.played
        command = ask.command(
            run=played.run, token=played.token, call=7, step=ask.step, **ask.fields
        )
        if not self.is_current(execution):
            self._said_in_vain(command)
            return
        child = ask.fields.get("start")
        now_us = self.now_us

        def expect() -> None:
            if child is not None:
                self.naive.start(child.run, None, None, 0, now_us)
            if ask.expect is None:
                return
            (answer,) = self.effects(Acknowledge)
            answers = self.naive.answers.setdefault(played.run, {})
            before = len(answers)
            expected = ask.expect(self.naive, now_us)
            agree(ask, json.loads(bytes(answer.body)), json.loads(bytes(answer.error)), expected)
            self._tell(played.run, ask, expected)
            # Waits of its own that an event ends, end by records after that of the event.
            for name in list(answers)[before:-1] if ask.command is c.SendEvent and ask.step else ():
                answers[name] = answers.pop(name)

        decision = self.submit(command, expect)
        assert isinstance(decision, Decision), decision
        self.let_go(decision, execution, at)

    def _tell(self, run: str, ask: Ask, expected: Any) -> None:
        """What is on record of a call, by what the model says."""
        if not ask.step or ask.command is c.AwaitEvent:
            return
        if isinstance(expected, Refused):
            self.naive.tell(run, ask.step, expected.code)
        elif ask.command not in (c.AcquireLock, c.CheckLock):
            self.naive.tell(run, ask.step, remembered(ask.command, expected))

    def is_current(self, execution: Execution) -> bool:
        """Is this the run's current execution?"""
        run = self.state.runs.get(execution.played.run)
        return (
            run is not None and run.token == execution.played.token and run.status is Status.RUNNING
        )

    def _said_in_vain(self, command: c.Command) -> None:
        before = state_hash(self.state)
        outcome = self.do(command)
        assert (outcome.records, outcome.effects) == ((), ()), f"{command} of a lost execution"
        assert state_hash(self.state) == before

    def _say(self, command: c.Command) -> None:
        """Submit a command of a run that has no answer."""
        outcome = self.submit(command)
        assert isinstance(outcome, Decision)
        self.let_go(outcome, None, 0)

    def _end(self, execution: Execution) -> None:
        played, failed = execution.played, execution.failed
        self.executions.pop(played.run, None)
        command: c.Command = c.CompleteRun(played.run, played.token, r.NULL)
        if failed is not None:
            command = c.FailAttempt(
                played.run,
                played.token,
                r.Error("E", "boom"),
                c.Verdict(retryable=failed.retryable),
                step=failed.step or None,
            )
        self._say(command)

    def stop(self, execution: Execution) -> None:
        """A handler that was asked to stop has stopped."""
        self.executions.pop(execution.played.run, None)
        self._say(c.ConfirmStop(execution.played.run, execution.played.token))

    def kill(self, execution: Execution, *, ours: bool, lives_on: bool) -> None:
        """The worker is gone, or is taken to be."""
        played = execution.played
        self.executions.pop(played.run, None)
        if lives_on:
            self.passes.append(execution)
        self._say(c.LoseExecution(played.run, played.token, "gone", ours))

    def haunt(self, chance: random.Random) -> None:
        """A handler that nobody waits for says something."""
        execution = chance.choice(self.passes)
        if execution.ready and not execution.over and not self.is_current(execution):
            at = chance.choice(list(execution.ready))
            self._go_on(execution, at, execution.ready.pop(at))

    # --- Time ------------------------------------------------------------------------------

    def ticks(self, most: int = 1000) -> int:
        """All that is due by now happens, or the first few; how many did."""
        for fired in range(most):
            due_us = self.state.next_due_us()
            if due_us is None or due_us > self.now_us:
                self.check_all_is_over()
                return fired
            before = self.state.seq
            outcome = self.submit(c.Tick(RETENTION_MS), self._ticked)
            assert isinstance(outcome, Decision)
            assert self.state.seq > before, "a timer that is due and does nothing fires for ever"
            self.let_go(outcome, None, 0)
        return most

    def _ticked(self) -> None:
        record = self.decision.records[0]
        ends = [each for each in self.decision.records if isinstance(each, r.WaitEnded)]
        match record:
            case r.StateExpired():
                until_us = from_rfc3339(record.remembered_until)
                assert until_us == self.now_us + RETENTION_MS * 1000
                self.naive.expire(record.key, self.now_us, until_us)
            case r.EventExpired():
                self.naive.lapse(record.event, self.now_us)
            case r.LockReleased() if record.reason == "expired":
                self.naive.run_out(record.key, self.now_us)
        for ended in ends:
            if ended.status == "timed_out":
                self._timed_out(ended)

    def _timed_out(self, ended: r.WaitEnded) -> None:
        who = (ended.run, ended.step)
        wait = self.naive.waits.get(who)
        on_timeout = wait.on_timeout if wait is not None else ""
        self.naive.time_out(who, self.now_us)
        finishes = {type(each) for each in self.decision.records if isinstance(each, ENDS)}
        expected = {"fail": r.RunFailed, "cancel": r.RunCancelled}.get(on_timeout)
        assert finishes == ({expected} if expected else set())

    def check_all_is_over(self) -> None:
        """What is due has happened: nothing that has ended is still there."""
        now_us = self.now_us
        naive = self.naive
        assert all(naive.read(key, now_us) for key in naive.values)
        assert all(naive.live(key, now_us) == [*naive.holders[key]] for key in naive.holders)
        assert all(event.expires_us > now_us for event in naive.kept)
        assert not any(0 < wait.due_us <= now_us for wait in naive.waits.values())
        for line in naive.lines.values():
            assert not any(0 < waiter.until_us <= now_us for waiter in line)

    # --- Crashes ---------------------------------------------------------------------------

    def crashes(self, chance: random.Random) -> None:
        """The daemon dies; another finds what was durable, and perhaps more."""
        live = state_hash(self.state)
        kept = chance.randrange(len(self.marks))
        entries, ends, naive = self.marks[kept]
        lossless = kept == len(self.marks) - 1
        del self.entries[entries:], self.ends[ends:]
        self.naive, self.tokens = pickle.loads(naive)
        self.unsynced.clear()
        self.executions.clear()
        self.passes.clear()
        self.clients = {each: token for each, token in self.clients.items() if token}
        self.state = self.rebuilt(chance)
        assert not lossless or state_hash(self.state) == live
        audit(self.state)
        compare(self.state, self.naive, self.tokens)
        self.marks = [self._mark()]
        self.claims()

    def rebuilt(self, chance: random.Random) -> State:
        """From all records, and from a snapshot and its tail: the same."""
        replayed = self.replayed()
        at = chance.choice(self.ends)
        loaded = self.via_snapshot(at)
        assert state_hash(loaded) == state_hash(replayed), f"by a snapshot at {at}"
        return loaded if chance.random() < 0.5 else replayed

    def claims(self) -> None:
        """Another daemon claims the journal."""
        before = len(self.entries)
        self.claim()
        self.naive.lose_clients()
        self.settle(tuple(entry.record for entry in self.entries[before:]))
        self.sync()

    # --- The end ---------------------------------------------------------------------------

    def cancels(self, run: str) -> None:
        told = self.submit(c.CancelRun(run))
        assert isinstance(told, Decision)
        self.let_go(told, None, 0)

    def ends_well(self, chance: random.Random) -> None:
        """Every run ends, by itself or by a person; nothing of it is left behind."""
        self.sync()
        self.crashes(chance)
        for run in list(self.state.runs.values()):
            if not run.finished:
                self.cancels(run.id)
        self.sync()
        self.wall_us = self.now_us + 86_400_000_000
        self.ticks()
        assert all(run.finished and not run.token for run in self.state.runs.values())
        assert (self.state.locks, self.state.events.kept) == ({}, {})
        assert (self.state.events.listening, self.state.awaited) == ({}, {})
        assert not self.state.expiries
        assert not self.state.timers
        live = state_hash(self.state)
        assert state_hash(self.replayed()) == live
        loaded = load(self.snapshot(self.state.seq)).state
        assert state_hash(loaded) == live
        audit(loaded)


def memo_of(step: Call) -> CallKind:
    """A call as it is sent to a worker."""
    body: Any = json.loads(step.body) if isinstance(step.body, bytes) else None
    if step.kind is Kind.RUN:
        body = step.tried
    return CallKind(step.kind.value, step.phase.value, body, step.due_us)
