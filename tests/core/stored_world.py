"""The engine beside the naive model: handlers that are scripts, clients, clocks, and crashes.

What is decided is folded at once and let go when it is durable (`sync`), as in the daemon: answers
and effects wait until then. A crash loses what is not durable, an append as a whole or not at all;
workers die with all that they hold, at any point between two of their calls.

After each append the state is compared with the model, and each answer with what the model says.
"""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable
from typing import Any, Final

from core import scripts
from core.audit import audit
from core.naive import Event, Held, Naive, Refused, Value
from core.scripts import RETENTION_MS, Answer, Ask, Branch, Failed, Memo, Op, Park, Pass
from core.story import Story
from stackshift_jobs.durations import from_rfc3339, rfc3339
from stackshift_jobs.errors import StackshiftError
from stackshift_jobs.strict import dumps
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.effects import (
    Acknowledge,
    Answered,
    Decision,
    Dispatch,
    Granted,
    Queued,
    Resolve,
    Started,
    Stop,
)
from stackshiftd.core.image import load, state_hash
from stackshiftd.core.state import Memo as Kind
from stackshiftd.core.state import Phase, State, Status, Step

SLOTS: Final = 4
TERMS: Final = r.RetryTerms(max_attempts=3, backoff_ms=1000, jitter=0.0)
ENDS: Final = (r.RunCompleted, r.RunFailed, r.RunCancelled)
ANSWERS: Final = (Kind.VALUE, Kind.REFUSED)


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
        return self.failed is not None or all(branch.gi_frame is None for branch in self.branches)

    @property
    def parks(self) -> bool:
        """Do all branches that are not done wait?"""
        return not self.over and all(
            at in self.parked for at, branch in enumerate(self.branches) if branch.gi_frame
        )


class Lived(Story):
    """One history. A scripted handler is stepped by `step`, a client acts by `client_...`."""

    def __init__(self) -> None:
        super().__init__()
        self.naive = Naive()
        self.scripts: dict[str, list[list[Op]]] = {}
        self.executions: dict[str, Execution] = {}
        self.passes: list[Execution] = []
        """Of handlers whose worker is taken for dead, and which live on."""
        self.tries: dict[tuple[str, str], int] = {}
        """How often a step's function has run: the world does not forget."""
        self.tokens: dict[str, tuple[int, int]] = {}
        """Key → (fence, token) of its last holder."""
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
        told: Decision | StackshiftError
        try:
            told = self.do(command)
        except StackshiftError as refused:
            told = refused
        if expect is not None:
            expect()
        self.settle(told.records if isinstance(told, Decision) else ())
        return told

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
            self.compare()
            self.marks.append(self._mark())

    def sync(self) -> None:
        """All that was appended is durable: answers and effects are let go."""
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
                            json.loads(bytes(effect.body)), json.loads(bytes(effect.error)),
                            effect.due_us,
                        )  # fmt: skip
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
        memos = {name: memo_of(step) for name, step in run.steps.items()}
        played = Pass(self, run_id, token, run.attempt, memos)
        self.executions[run_id] = Execution(played, self.scripts[run_id])

    def _resolve(self, run_id: str, token: int, step: str) -> None:
        execution = self.executions.get(run_id)
        run = self.state.runs.get(run_id)
        if execution is None or run is None or execution.played.token != token:
            return
        if step in run.steps:
            execution.played.memos[step] = memo_of(run.steps[step])
            for at, parked in list(execution.parked.items()):
                if parked == step:
                    del execution.parked[at]
                    execution.ready[at] = None

    # --- What a pass may know --------------------------------------------------------------

    def told_again(self, of: Pass, step: str, memo: Memo) -> None:
        """A pass was told again what it was told; the model remembers what that was."""
        if self.token(of.run) == of.token:
            known = self.naive.told[of.run]
            assert step in known, f"{of.run}: {step} is on record, and never happened"
            assert told_by(memo.body) == known[step], f"{of.run}: {step} is told otherwise"

    def failing(self, run: str, step: str, times: int) -> bool:
        self.tries[run, step] = self.tries.get((run, step), 0) + 1
        return self.tries[run, step] <= times

    def new_event(self) -> str:
        self._made += 1
        return f"evt_{self._made:04d}"

    def child(self, script: list[list[Op]]) -> c.StartRun:
        run = self.new_id()
        self.scripts[run] = script
        self.jobs["child"] = "code-1"
        return c.StartRun(run=run, job="child", queue="media", payload=b"{}", retry=TERMS)

    # --- Workers ---------------------------------------------------------------------------

    def fill_slots(self) -> None:
        while sum(bool(run.token) for run in self.state.runs.values()) < SLOTS:
            before = self.state.seq
            codes = dict.fromkeys(self.jobs, "code-1")
            told = self.submit(c.Assign("w1", codes, alone=not self.state.executions.get("w1")))
            assert isinstance(told, Decision)
            self.let_go(told, None, 0)
            if self.state.seq == before:
                return

    def step(self, execution: Execution, chance: random.Random) -> None:
        """One branch of a handler goes on, to its next call."""
        run = execution.played.run
        if execution.over:
            self._end(execution)
        elif execution.ready:
            at = chance.choice(list(execution.ready))
            self._go_on(execution, at, execution.ready.pop(at))
        elif execution.parks and chance.random() < 0.7:
            pending = list(execution.parked.values())
            self.executions.pop(run, None)
            self._say(execution, c.Suspend(run, execution.played.token, pending))

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
            told = self.naive.told.setdefault(played.run, {})
            before = len(told)
            expected = ask.expect(self.naive, now_us)
            agree(ask, json.loads(bytes(answer.body)), json.loads(bytes(answer.error)), expected)
            self._tell(played.run, ask, expected)
            # Waits of its own that an event ends, end by records after that of the event.
            for name in list(told)[before:-1] if ask.command is c.SendEvent and ask.step else ():
                told[name] = told.pop(name)

        decision = self.submit(command, expect)
        assert isinstance(decision, Decision), decision
        self.let_go(decision, execution, at)

    def _tell(self, run: str, ask: Ask, expected: Any) -> None:
        """What is on record of a call, by what the model says."""
        if not ask.step or ask.command is c.AwaitEvent:
            return
        if isinstance(expected, Refused):
            self.naive.tell(run, ask.step, expected.code)
        elif ask.command not in (c.TakeLock, c.CheckLock):
            self.naive.tell(run, ask.step, remembered(ask.command, expected))

    def is_current(self, execution: Execution) -> bool:
        run = self.state.runs.get(execution.played.run)
        return (
            run is not None and run.token == execution.played.token and run.status is Status.RUNNING
        )

    def _said_in_vain(self, command: c.Command) -> None:
        before = state_hash(self.state)
        told = self.do(command)
        assert (told.records, told.effects) == ((), ()), f"{command} of a lost execution"
        assert state_hash(self.state) == before

    def _say(self, execution: Execution, command: c.Command) -> None:
        """Something of the run's own, that has no answer."""
        told = self.submit(command)
        assert isinstance(told, Decision)
        self.let_go(told, None, 0)

    def _end(self, execution: Execution) -> None:
        played, failed = execution.played, execution.failed
        self.executions.pop(played.run, None)
        command: c.Command = c.CompleteRun(played.run, played.token, r.NULL)
        if failed is not None:
            command = c.FailAttempt(
                played.run, played.token, r.Error("E", "boom"), failed.retryable,
                step=failed.step or None,
            )  # fmt: skip
        self._say(execution, command)

    def stop(self, execution: Execution) -> None:
        """A handler that was asked to stop has stopped."""
        self.executions.pop(execution.played.run, None)
        self._say(execution, c.ConfirmStop(execution.played.run, execution.played.token))

    def kill(self, execution: Execution, *, ours: bool, lives_on: bool) -> None:
        """The worker is gone, or is taken to be."""
        played = execution.played
        self.executions.pop(played.run, None)
        if lives_on:
            self.passes.append(execution)
        self._say(execution, c.LoseExecution(played.run, played.token, "gone", ours))

    def haunt(self, chance: random.Random) -> None:
        """A handler that nobody waits for says something."""
        execution = chance.choice(self.passes)
        if execution.ready and not execution.over and not self.is_current(execution):
            at = chance.choice(list(execution.ready))
            self._go_on(execution, at, execution.ready.pop(at))

    # --- Clients ---------------------------------------------------------------------------

    def client(self, command: c.Asking, expect: Callable[[Naive, int], Any]) -> Any:
        """A client asks; what it was told, for a lock's sake."""
        now_us = self.now_us
        told: Any = None
        try:
            told = self.do(command)
            answer = told.reply
        except StackshiftError as refused:
            answer = refused
        expected = expect(self.naive, now_us)
        ask = Ask(type(command), {}, "", None)
        if isinstance(answer, StackshiftError):
            agree(ask, None, answer.as_json(), expected)
        elif isinstance(answer, Queued):
            agree(ask, None, None, expected)
        else:
            assert isinstance(answer, Answered)
            agree(ask, json.loads(bytes(answer.body)), None, expected)
        if isinstance(told, Decision):
            self.settle(told.records)
            self.let_go(told, None, 0)
        return answer

    def acquires(self, asker: str, key: str, ttl_ms: int, wait_ms: int | None) -> None:
        if self.clients.get((asker, key)) == 0:
            return  # it waits for an answer
        command = c.TakeLock(key=key, ttl_ms=ttl_ms, wait_ms=wait_ms, asker=asker)
        wait_us = wait_ms * 1000 if wait_ms is not None else None
        answer = self.client(
            command,
            lambda naive, now_us: naive.take(key, (asker, ""), ttl_ms * 1000, wait_us, now_us),
        )
        self.clients[asker, key] = 0

        def told() -> None:
            if isinstance(answer, Answered):
                self.clients[asker, key] = json.loads(bytes(answer.body))["token"]
            elif not isinstance(answer, Queued):
                self.clients.pop((asker, key), None)

        self.unsynced.append(told)

    def releases(self, asker: str, key: str) -> None:
        if token := self.clients.get((asker, key)):
            command = c.ReleaseLock(key=key, lock_token=token)
            self.client(command, lambda naive, now_us: naive.release(key, asker, now_us))

    def extends(self, asker: str, key: str, ttl_ms: int) -> None:
        if token := self.clients.get((asker, key)):
            self.client(
                c.ExtendLock(key=key, lock_token=token, ttl_ms=ttl_ms),
                lambda naive, now_us: naive.extend(key, (asker, ""), ttl_ms * 1000, now_us),
            )

    def withdraws(self, asker: str, key: str) -> None:
        waits = any(waiter.who == (asker, "") for waiter in self.naive.lines.get(key, ()))
        told = self.submit(c.WithdrawLock(key, asker), lambda: self.naive.withdraw(key, asker))
        assert isinstance(told, Decision)
        assert bool(told.records) == waits
        if waits:
            self.clients.pop((asker, key), None)

    def sends(self, at: int, payload: int, ttl_ms: int, once: str | None) -> None:
        event = self.new_event()
        self.client(
            c.SendEvent(**scripts.sent(event, at, payload, ttl_ms, once)),
            scripts.sends(event, at, payload, ttl_ms, once),
        )

    def begins(
        self, script: list[list[Op]], payload: int, key: str | None, ttl_ms: int, timeout_ms: int
    ) -> None:
        run = self.new_id()
        self.scripts[run] = script
        self.jobs["scripted"] = "code-1"
        now_us = self.now_us
        command = c.StartRun(
            run=run, job="scripted", queue="media", payload=dumps(payload), retry=TERMS,
            timeout_ms=timeout_ms, key=key, key_ttl_ms=ttl_ms, digest=str(payload),
        )  # fmt: skip
        expected: Any = None

        def expect() -> None:
            nonlocal expected
            expected = self.naive.start(run, payload, key, ttl_ms * 1000, now_us)

        told = self.submit(command, expect)
        if isinstance(told, StackshiftError):
            assert expected == Refused(told.code), f"{told} for {expected}"
            return
        assert isinstance(told.reply, Started)
        assert told.reply == Started(expected, expected != run)
        self.let_go(told, None, 0)

    # --- People ----------------------------------------------------------------------------

    def sends_on(self, run: str, from_step: str | None) -> None:
        restored = () if run in self.state.runs else self.lines(run)
        now_us = self.now_us
        known = list(self.naive.told.get(run, {}))
        try:
            self.do(c.RetryRun(run, from_step, {}, restored))
        except StackshiftError:
            return
        (record,) = self.decision.records
        assert isinstance(record, r.RunRetried)
        self._check_forgotten(known, record.forgotten, from_step)
        self.naive.send_on(run, record.forgotten, now_us)
        self.settle(self.decision.records)
        self.let_go(self.decision, None, 0)

    def forks(self, source: str, from_step: str | None) -> None:
        run = self.new_id()
        known = self.naive.told.get(source, {})
        try:
            self.do(c.ForkRun(run, source, self.lines(source), from_step))
        except StackshiftError:
            return
        (record,) = self.decision.records
        assert isinstance(record, r.RunCreated)
        self._check_forgotten(list(known), record.forgotten, from_step)
        self.scripts[run] = self.scripts[source]
        self.naive.start(run, None, None, 0, self.now_us)
        self.naive.told[run] = dict(known)
        self.naive.forget(run, record.forgotten)
        self.settle(self.decision.records)
        self.let_go(self.decision, None, 0)

    def _check_forgotten(self, known: list[str], forgotten: list[str], step: str | None) -> None:
        """What was told from that step on is forgotten; what was told before it is not, but for
        waits whose time had passed and ended the run."""
        since = known.index(step) if step in known else len(known)
        assert set(known[since:]) <= set(forgotten), f"{step} is repeated, and not all after it"
        if step is None or step in known:
            before = set(known[:since]) & set(forgotten)
            assert all(name.startswith("wait") for name in before), f"{before} happen again"

    def cancels(self, run: str) -> None:
        told = self.submit(c.CancelRun(run))
        assert isinstance(told, Decision)
        self.let_go(told, None, 0)

    # --- Time ------------------------------------------------------------------------------

    def ticks(self, most: int = 1000) -> int:
        """All that is due by now happens, or the first few; how many did."""
        for fired in range(most):
            due_us = self.state.next_due_us()
            if due_us is None or due_us > self.now_us:
                self.check_all_is_over()
                return fired
            before = self.state.seq
            told = self.submit(c.Tick(RETENTION_MS), self._ticked)
            assert isinstance(told, Decision)
            assert self.state.seq > before, "a timer that is due and does nothing fires for ever"
            self.let_go(told, None, 0)
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
        assert all(naive.holder(key, now_us) for key in naive.holders)
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
        self.compare()
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
        before = len(self.entries)
        self.claim()
        self.naive.lose_clients()
        self.settle(tuple(entry.record for entry in self.entries[before:]))
        self.sync()

    # --- The comparison --------------------------------------------------------------------

    def compare(self) -> None:
        """The state and the model say the same."""
        state, naive, now_us = self.state, self.naive, self.state.now_us
        assert {
            key: Value(json.loads(v.body), v.version, v.expires_us, v.updated_by)
            for key, v in state.values.by_key.items()
            if v.lives
        } == {key: v._replace(by=v.by or "client") for key, v in naive.values.items()}
        for key, (version, until_us) in naive.versions.items():
            if until_us > now_us and key not in naive.values:
                assert state.values.version(key, now_us) == version
        self._compare_locks()
        assert [
            Event(e.id, (e.name, e.correlation_key), json.loads(e.payload), e.expires_us)
            for e in state.events.kept.values()
        ] == naive.kept
        assert {who for waits in state.events.listening.values() for who in waits} == set(
            naive.waits
        )
        self._compare_keys(now_us)
        self._compare_answers()

    def _compare_locks(self) -> None:
        naive = self.naive
        held = {key: k.holding for key, k in self.state.locks.items() if k.holding is not None}
        assert {key: (h.run or h.asker, h.step, h.expires_us) for key, h in held.items()} == {
            key: (*h.who, h.expires_us) for key, h in naive.holders.items()
        }
        for key, holding in held.items():
            fence, token = self.tokens.get(key, (0, 0))
            now_fence = naive.holders[key].fence
            assert holding.token == token if now_fence == fence else holding.token > token, (
                f"the token of {key} goes from {token} to {holding.token}"
            )
            self.tokens[key] = (now_fence, holding.token)
        lines = {
            key: [
                ((w.run or w.asker), w.step, w.ttl_ms * 1000, w.until_us) for w in k.line.values()
            ]
            for key, k in self.state.locks.items()
            if k.line
        }
        assert lines == {
            key: [(*waiter.who, waiter.ttl_us, waiter.until_us) for waiter in line]
            for key, line in naive.lines.items()
            if line
        }

    def _compare_keys(self, now_us: int) -> None:
        for key, start in self.naive.starts.items():
            lives = start.until_us > now_us or start.run in self.naive.unfinished
            owner = self.state.key_owner(key, now_us)
            assert (owner.run if owner is not None else None) == (start.run if lives else None)
        for key, sent in self.naive.sent.items():
            known = self.state.events.owner(key, now_us)
            told = (known.event, tuple(known.resumed)) if known is not None else None
            assert told == ((sent.event, sent.resumed) if sent.until_us > now_us else None)

    def _compare_answers(self) -> None:
        """Runs remember what they were told, and nothing else."""
        for run in self.state.runs.values():
            known = {
                name: told_by(json.loads(step.body))
                for name, step in run.steps.items()
                if isinstance(step.body, bytes)
                and (
                    step.kind in ANSWERS
                    or (step.kind is Kind.EVENT and step.phase is Phase.COMPLETED)
                )
            }
            assert known == self.naive.told.get(run.id, {}), run.id

    # --- The end ---------------------------------------------------------------------------

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
        assert state_hash(load(self.snapshot(self.state.seq)).state) == live


def memo_of(step: Step) -> Memo:
    """A step as a worker is told of it."""
    body: Any = json.loads(step.body) if isinstance(step.body, bytes) else None
    if step.kind is Kind.RUN:
        body = step.tried
    return Memo(step.kind.value, step.phase.value, body, step.due_us)


def agree(ask: Ask, body: Any, error: Any, expected: Any) -> None:
    """The answer is what the model says."""
    if isinstance(expected, Refused) or error is not None:
        code = error["code"] if error is not None else f"answered {body}"
        assert isinstance(expected, Refused), f"{ask.command.__name__} {code}, not {expected}"
        assert code == expected.code, f"{ask.command.__name__} {code}, not {expected.code}"
        return
    told = shown(ask.command, expected)
    if ask.command is c.TakeLock and expected is not None:
        assert body["expires_at"] == told["expires_at"]
    elif told is not None and isinstance(body, dict):
        assert {name: told[name] for name in body if name in told} == {
            name: value for name, value in body.items() if name in told
        }, f"{ask.command.__name__}: {body}, not {told}"
    elif ask.command not in (c.CheckLock, c.AwaitEvent) and not isinstance(body, dict):
        assert body == told, f"{ask.command.__name__}: {body}, not {told}"


def shown(command: Any, expected: Any) -> Any:
    """What the model says, as an answer is written."""

    def until(expires_us: int) -> str | None:
        return rfc3339(expires_us) if expires_us else None

    if isinstance(expected, Value):
        return {
            "value": expected.value, "version": expected.version,
            "expires_at": until(expected.expires_us), "updated_by": expected.by or "client",
        }  # fmt: skip
    if isinstance(expected, Held):
        return {"expires_at": until(expected.expires_us)}
    if command is c.DeleteState:
        return {"deleted": expected is not None, "version": expected}
    if command is c.SendEvent:
        event, resumed, until_us = expected
        return {"id": event, "resumed": list(resumed), "kept_until": until(until_us)}
    if command is c.ReleaseLock and isinstance(expected, bool):
        return {"held": expected}
    return None if command is c.ReleaseLock else expected


def told_by(body: Any) -> Any:
    """An answer as the model remembers it: what must be the same on every pass."""
    if not isinstance(body, dict):
        return body
    if "code" in body:
        return body["code"]
    if "timed_out" in body:
        address = (body["name"], body["correlation_key"] or "")
        return (body["id"], address, body["payload"], body["timed_out"])
    names = ("value", "version", "deleted", "id", "expires_at")
    return {name: body[name] for name in names if name in body}


REMEMBERED: Final = {
    c.SetState: ("version",),
    c.IncrementState: ("value", "version"),
    c.ReadState: ("value", "version", "expires_at"),
    c.DeleteState: ("deleted", "version"),
    c.SendEvent: ("id",),
    c.ExtendLock: ("expires_at",),
}


def remembered(command: Any, expected: Any) -> Any:
    """What a run remembers of an answer, by what the model says."""
    told = shown(command, expected)
    return {name: told[name] for name in REMEMBERED[command]} if told is not None else None
