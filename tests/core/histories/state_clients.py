"""Clients and people beside the handlers of a `World`: what they ask, and what they are told."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from core.histories import scripts
from core.histories.naive_model import Naive, Refused
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
        command = c.AcquireLock(key=key, ttl_ms=ttl_ms, wait_ms=wait_ms, asker=asker)
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
