"""Stories of state entries, locks and events: `story.set("k", 1)`, `story.set("k", 1, run=run)`.

Each verb is done by a client, or by the handler of `run`; with `inside`, by a step's function of
it. It gives the answer, decoded, or raises the refusal that was answered.
"""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec

from core.story import Story
from stackshift_jobs.errors import from_json
from stackshift_jobs.values.durations import milliseconds
from stackshift_jobs.values.strict_json import canonical, dumps
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.effects import Acknowledge, Answered, Decision, Granted, Queued
from stackshiftd.core.snapshot import state_hash

MONTH_MS: Final = 30 * 86_400_000


def _ms(duration: str | None) -> int | None:
    return milliseconds(duration) if duration is not None else None


class Stored(Story):
    """A story with verbs for all that lives under keys."""

    def ask(
        self, kind: type[c.Asking], named: str, run: str = "", inside: bool = False, **fields: Any
    ) -> Any:
        """Ask for something, as the call `named` of a handler. None: the answer comes later."""
        step = self.call(run, named) if run and not inside else ""
        who: dict[str, Any] = {}
        if run:
            who = {"run": run, "token": self.token(run), "call": 7, "step": step}
        decision = self.do(kind(**who, **fields))
        if isinstance(decision.reply, Queued):
            return None
        if isinstance(decision.reply, Answered):
            return json.loads(bytes(decision.reply.body))
        (answer,) = self.effects(Acknowledge)
        if bytes(answer.error) != b"null":
            raise from_json(json.loads(bytes(answer.error)))
        return json.loads(bytes(answer.body))

    def call(self, run: str, named: str) -> str:
        """The identity of the next call `named` of the handler."""
        steps = self.run(run).calls
        times = 1
        while (name := f"{named}#{times}" if times > 1 else named) in steps:
            times += 1
        return name

    # --- State entries ---------------------------------------------------------------------

    def get(self, key: str, run: str = "", **who: Any) -> Any:
        """The entry, or None."""
        return self.ask(c.ReadState, f"[state.get {key}]", run, key=key, **who)

    def value(self, key: str) -> Any:
        """The value that a client reads; None for nothing."""
        entry = self.get(key)
        return entry["value"] if entry is not None else None

    def list(self, prefix: str = "", run: str = "", after: str = "", limit: int = 1000) -> Any:
        """A page of entries, for the run or a client."""
        named = f"[state.list {prefix}]"
        return self.ask(c.ListState, named, run, prefix=prefix, after=after, limit=limit)

    def set(
        self, key: str, value: Any, run: str = "", *, ttl: str | None = None, **fields: Any
    ) -> Any:
        """Write a value, for the run or a client."""
        if ttl is not None:
            fields["ttl_ms"] = milliseconds(ttl)
        return self.ask(
            c.SetState, f"[state.set {key}]", run, key=key, value=dumps(value), **fields
        )

    def increment(
        self, key: str, by: Any = 1, run: str = "", *, ttl: str | None = None, **who: Any
    ) -> Any:
        """The new number."""
        fields: dict[str, Any] = {"key": key, "by": dumps(by), "ttl_ms": _ms(ttl)}
        entry = self.ask(c.IncrementState, f"[state.increment {key}]", run, **fields, **who)
        return entry["value"]

    def delete(self, key: str, run: str = "", *, remember: str = "30d", **fields: Any) -> Any:
        """Delete an entry, for the run or a client."""
        remember_ms = milliseconds(remember)
        named = f"[state.delete {key}]"
        return self.ask(c.DeleteState, named, run, key=key, remember_ms=remember_ms, **fields)

    # --- Locks -----------------------------------------------------------------------------

    def takes(
        self,
        run: str,
        key: str,
        *,
        ttl: str | None = None,
        wait: str | None = None,
        holders: int = 1,
    ) -> Any:
        """A handler acquires a lock: its answer, or None while it waits in line."""
        ttl_ms = milliseconds(ttl) if ttl is not None else 0
        fields: dict[str, Any] = {"key": key, "ttl_ms": ttl_ms, "wait_ms": _ms(wait)}
        return self.ask(c.AcquireLock, f"[lock {key}]", run, **fields, holders=holders)

    def acquires(
        self,
        asker: str,
        key: str,
        *,
        ttl: str = "30s",
        wait: str | None = "0s",
        holders: int = 1,
    ) -> Any:
        """The client `asker` asks for a lock: its answer, or None while it waits in line."""
        fields: dict[str, Any] = {"key": key, "ttl_ms": milliseconds(ttl), "wait_ms": _ms(wait)}
        fields["holders"] = holders
        return self.ask(c.AcquireLock, "", asker=asker, holder=f"{asker}@host", **fields)

    def leaves(self, run: str, key: str, *, raised: bool = False, lock: str = "") -> bool:
        """The block of a handler's lock is left; did it still hold it?"""
        who: dict[str, Any] = {"run": run, "token": self.token(run), "call": 7}
        self.do(c.ReleaseLock(**who, lock=lock or f"[lock {key}]", raised=raised))
        (answer,) = self.effects(Acknowledge)
        return bool(json.loads(bytes(answer.body))["held"])

    def checks(self, run: str, key: str, step: str) -> Any:
        """Before the call `step`, which is not on record: is the lock still held?"""
        return self.ask(c.CheckLock, step, run, lock=f"[lock {key}]")

    def extends(self, run: str, key: str, ttl: str) -> Any:
        """A handler extends the lock that it holds."""
        named = f"[lock.extend {key}]"
        return self.ask(c.ExtendLock, named, run, key=key, ttl_ms=milliseconds(ttl))

    def prolongs(self, key: str, token: int, ttl: str) -> Any:
        """A client extends the lock that it holds."""
        return self.ask(c.ExtendLock, "", key=key, lock_token=token, ttl_ms=milliseconds(ttl))

    def releases(self, key: str, token: int) -> Any:
        """A client lets its lock go."""
        return self.ask(c.ReleaseLock, "", key=key, lock_token=token)

    def withdraws(self, asker: str, key: str) -> Decision:
        """The client `asker` gives up waiting."""
        return self.do(c.WithdrawLock(key, asker))

    def owner(self, key: str) -> str:
        """The run or client that holds a lock by what is on record; none for nobody."""
        lock = self.state.locks.get(key)
        holding = lock.holding if lock is not None else None
        return (holding.run or holding.asker) if holding is not None else ""

    def line(self, key: str) -> Any:
        """Who waits for a lock, in order."""
        lock = self.state.locks.get(key)
        waiting = lock.line.values() if lock is not None else ()
        return [each.run or each.asker for each in waiting]

    def fence(self, key: str) -> int:
        """The token under which a lock is held; 0 for none."""
        lock = self.state.locks.get(key)
        return lock.holding.token if lock is not None and lock.holding is not None else 0

    def granted(self) -> dict[str, Any]:
        """The clients to which the last command gave a lock, with their answers."""
        return {effect.asker: json.loads(bytes(effect.body)) for effect in self.effects(Granted)}

    # --- Events ----------------------------------------------------------------------------

    def send(
        self,
        name: str,
        payload: Any = None,
        key: str = "",
        run: str = "",
        *,
        ttl: str = "7d",
        once: str | None = None,
        once_ttl: str = "30d",
        **who: Any,
    ) -> Any:
        """Send an event; `once` is its idempotency key."""
        self._made += 1
        return self.ask(
            c.SendEvent,
            f"[event.send {name}]",
            run,
            event=f"evt_{self._made:04d}",
            name=name,
            payload=dumps(payload),
            correlation_key=key,
            ttl_ms=milliseconds(ttl),
            key=once,
            key_ttl_ms=milliseconds(once_ttl),
            digest=canonical([name, key, payload]).decode() if once is not None else "",
            **who,
        )

    def waits(
        self,
        run: str,
        *events: str | tuple[str, str],
        named: str = "",
        timeout: str | None = None,
        on_timeout: str = "fail",
    ) -> Any:
        """A handler waits for one of `events`: the event, if one was kept; else None."""
        pairs = [event if isinstance(event, tuple) else (event, "") for event in events]
        name = self.call(run, named or pairs[0][0])
        self.do(
            c.AwaitEvent(
                run=run,
                token=self.token(run),
                call=7,
                step=name,
                events=pairs,
                timeout_ms=_ms(timeout),
                on_timeout=on_timeout,
            )
        )
        return self.got(run, name)

    def got(self, run: str, step: str) -> Any:
        """What the call `step` of a run has as its answer; None while it has none."""
        body = self.run(run).calls[step].body
        return json.loads(body) if isinstance(body, bytes) else None

    def kept(self) -> Any:
        """The ids of the kept events, oldest first."""
        return list(self.state.events.kept)

    # --- The same, replayed ------------------------------------------------------------------

    def folds_alike(self) -> None:
        """Replayed from all records, and from a snapshot at every append, the state is the same."""
        live = state_hash(self.state)
        assert state_hash(self.replayed()) == live
        for at in self.ends:
            assert state_hash(self.via_snapshot(at)) == live, f"by the snapshot at {at}"

    def records(self, of: type[r.Record]) -> Any:
        """All records of a kind."""
        return [entry.record for entry in self.entries if isinstance(entry.record, of)]


def fields(record: msgspec.Struct) -> dict[str, Any]:
    """A record's fields, bodies decoded."""
    return {
        name: json.loads(bytes(value)) if isinstance(value, msgspec.Raw) else value
        for name, value in msgspec.structs.asdict(record).items()
    }
