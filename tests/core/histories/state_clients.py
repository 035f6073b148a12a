"""Clients and people beside the handlers of a `World`: what they ask, and what they are
answered."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from core.histories import scripts
from core.histories.naive_model import Naive, Refused, most
from core.histories.scripts import Ask, Op
from core.histories.state_comparison import agree
from core.histories.state_world import TERMS, World
from stackshift_jobs.errors import StackshiftError
from stackshift_jobs.values.strict_json import dumps
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.effects import Answered, Decision, Queued, Started


class Lived(World):
    """One history."""

    # --- Clients ---------------------------------------------------------------------------

    def client(self, command: c.Asking, expect: Callable[[Naive, int], Any]) -> Any:
        """A client makes a request, which the model answers too; returns the answer."""
        now_us = self.now_us
        outcome: Any = None
        try:
            outcome = self.do(command)
            answer = outcome.reply
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
        if isinstance(outcome, Decision):
            self.settle(outcome.records)
            self.let_go(outcome, None, 0)
        return answer

    def acquires(self, asker: str, key: str, ttl_ms: int, wait_ms: int | None) -> None:
        """A client asks for a lock, unless it waits for one already."""
        if self.clients.get((asker, key)) == 0:
            return  # it waits for an answer
        command = c.AcquireLock(
            key=key, ttl_ms=ttl_ms, wait_ms=wait_ms, asker=asker, holders=most(key)
        )
        wait_us = wait_ms * 1000 if wait_ms is not None else None
        answer = self.client(
            command,
            lambda naive, now_us: naive.take(key, (asker, ""), ttl_ms * 1000, wait_us, now_us),
        )
        self.clients[asker, key] = 0

        def note_answer() -> None:
            if isinstance(answer, Answered):
                self.clients[asker, key] = json.loads(bytes(answer.body))["token"]
            elif not isinstance(answer, Queued):
                self.clients.pop((asker, key), None)

        self.unsynced.append(note_answer)

    def releases(self, asker: str, key: str) -> None:
        """A client releases the lock that it holds, if any."""
        if token := self.clients.get((asker, key)):
            command = c.ReleaseLock(key=key, lock_token=token)
            self.client(command, lambda naive, now_us: naive.release(key, asker, now_us))

    def takes_away(self, key: str) -> None:
        """A person takes a lock away from whoever holds it, if anybody does."""
        lock = self.state.locks.get(key)
        if lock is not None and lock.holding is not None:
            command = c.ReleaseLock(key=key, lock_token=lock.holding.token, force=True)
            self.client(command, lambda naive, now_us: naive.take_away(key, now_us))

    def extends(self, asker: str, key: str, ttl_ms: int) -> None:
        """A client extends the lock that it holds, if any."""
        if token := self.clients.get((asker, key)):
            self.client(
                c.ExtendLock(key=key, lock_token=token, ttl_ms=ttl_ms),
                lambda naive, now_us: naive.extend(key, (asker, ""), ttl_ms * 1000, now_us),
            )

    def withdraws(self, asker: str, key: str) -> None:
        """A client gives up waiting for a lock."""
        waits = any(waiter.who == (asker, "") for waiter in self.naive.lines.get(key, ()))
        outcome = self.submit(c.WithdrawLock(key, asker), lambda: self.naive.withdraw(key, asker))
        assert isinstance(outcome, Decision)
        assert bool(outcome.records) == waits
        if waits:
            self.clients.pop((asker, key), None)

    def sends(self, at: int, payload: int, ttl_ms: int, once: str | None) -> None:
        """A client sends an event."""
        event = self.new_event()
        self.client(
            c.SendEvent(**scripts.sent(event, at, payload, ttl_ms, once)),
            scripts.sends(event, at, payload, ttl_ms, once),
        )

    def begins(
        self, script: list[list[Op]], payload: int, key: str | None, ttl_ms: int, timeout_ms: int
    ) -> None:
        """A client starts a run whose handler plays `script`."""
        run = self.new_id()
        self.scripts[run] = script
        self.jobs["scripted"] = "code-1"
        now_us = self.now_us
        command = c.StartRun(
            run=run,
            job="scripted",
            queue="media",
            payload=dumps(payload),
            retry=TERMS,
            timeout_ms=timeout_ms,
            key=key,
            key_ttl_ms=ttl_ms,
            digest=str(payload),
        )
        expected: Any = None

        def expect() -> None:
            nonlocal expected
            expected = self.naive.start(run, payload, key, ttl_ms * 1000, now_us)

        outcome = self.submit(command, expect)
        if isinstance(outcome, StackshiftError):
            assert expected == Refused(outcome.code), f"{outcome} for {expected}"
            return
        assert isinstance(outcome.reply, Started)
        assert outcome.reply == Started(expected, expected != run)
        self.let_go(outcome, None, 0)

    # --- People ----------------------------------------------------------------------------

    def retries(self, run: str, from_step: str | None) -> None:
        """A person retries a run, if it can be retried."""
        restored = () if run in self.state.runs else self.lines(run)
        now_us = self.now_us
        known = list(self.naive.answers.get(run, {}))
        try:
            self.do(c.RetryRun(run, from_step, {}, restored))
        except StackshiftError:
            return
        (record,) = self.decision.records
        assert isinstance(record, r.RunRetried)
        self._check_forgotten(known, record.forgotten, from_step)
        self.naive.retry(run, record.forgotten, now_us)
        self.settle(self.decision.records)
        self.let_go(self.decision, None, 0)

    def forks(self, source: str, from_step: str | None) -> None:
        """A person forks a run, if it can be forked."""
        run = self.new_id()
        known = self.naive.answers.get(source, {})
        try:
            self.do(c.ForkRun(run, source, self.lines(source), from_step))
        except StackshiftError:
            return
        (record,) = self.decision.records
        assert isinstance(record, r.RunCreated)
        self._check_forgotten(list(known), record.forgotten, from_step)
        self.scripts[run] = self.scripts[source]
        self.naive.start(run, None, None, 0, self.now_us)
        self.naive.answers[run] = dict(known)
        self.naive.forget(run, record.forgotten)
        self.settle(self.decision.records)
        self.let_go(self.decision, None, 0)

    def _check_forgotten(self, known: list[str], forgotten: list[str], step: str | None) -> None:
        """Everything that was answered from that step on is forgotten; nothing answered before it
        is, except waits whose timeout ended the run."""
        since = known.index(step) if step in known else len(known)
        assert set(known[since:]) <= set(forgotten), f"{step} is repeated, and not all after it"
        if step is None or step in known:
            before = set(known[:since]) & set(forgotten)
            assert all(name.startswith("wait") for name in before), f"{before} happen again"
