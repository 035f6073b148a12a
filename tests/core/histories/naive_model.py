"""State entries, locks, events and keys as the specification describes them, written only to be
easy to read: what the engine says and does is compared with this.

The caller passes in each request and gets the answer that the engine must give. It also passes in
what happens by itself (an entry expires, a wait times out, a run ends), and the model checks that
this is right at that time. Everything that follows from it (whose turn it is, who is resumed) is
computed here. Times are µs since 1970, 0 for none.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

Who = tuple[str, str]
"""A run and its call; or a client, with no call."""


class Refused(NamedTuple):
    """The answer is an error with this code."""

    code: str


class Value(NamedTuple):
    """A state entry."""

    value: Any
    version: int
    expires_us: int
    by: str


class Held(NamedTuple):
    """The holder of a lock."""

    who: Who
    expires_us: int
    fence: int
    """Grows with each holder, and each time that a holder is another execution."""


class Waiter(NamedTuple):
    """A place in the line of a lock."""

    who: Who
    ttl_us: int
    until_us: int


class Event(NamedTuple):
    """A kept event."""

    id: str
    address: tuple[str, str]
    payload: Any
    expires_us: int


class Wait(NamedTuple):
    """A run's wait for events."""

    addresses: tuple[tuple[str, str], ...]
    due_us: int
    on_timeout: str


class Sent(NamedTuple):
    """The event that an idempotency key stands for."""

    event: str
    content: Any
    until_us: int
    resumed: tuple[str, ...]


class Start(NamedTuple):
    """The run that an idempotency key stands for."""

    run: str
    content: Any
    until_us: int


def most(key: str) -> int:
    """How many may hold a lock: one, or of some locks two."""
    return 2 if key in ("b", "d") else 1


class Naive:
    """Everything that exists, by the model."""

    def __init__(self) -> None:
        self.values: dict[str, Value] = {}
        self.versions: dict[str, tuple[int, int]] = {}
        """Of keys that are gone: the last version, and until when it is remembered."""
        self.holders: dict[str, tuple[Held, ...]] = {}
        self.lines: dict[str, list[Waiter]] = {}
        self.fence = 0
        self.kept: list[Event] = []
        self.fates: dict[str, str] = {}
        """What became of each event that there ever was."""
        self.waits: dict[Who, Wait] = {}
        self.sent: dict[str, Sent] = {}
        self.starts: dict[str, Start] = {}
        self.unfinished: set[str] = set()
        self.unsure: set[tuple[str, str]] = set()
        """(run, key) of locks that a run which was retried still holds by its old handler."""
        self.answers: dict[str, dict[str, Any]] = {}
        """Run → call → its answer, the same on every pass, in the order of the records."""

    def set_back(self, before_us: int) -> None:
        """Time is set back: what had passed by `before_us` does not come again."""
        self.versions = {k: v for k, v in self.versions.items() if v[1] > before_us}
        self.sent = {k: sent for k, sent in self.sent.items() if sent.until_us > before_us}
        self.starts = {
            key: start
            for key, start in self.starts.items()
            if start.until_us > before_us or start.run in self.unfinished
        }

    # --- What handlers know ----------------------------------------------------------------

    def tell(self, run: str, step: str, answer: Any) -> None:
        """The answer to a call is recorded, once."""
        known = self.answers.setdefault(run, {})
        assert step not in known, f"{run} {step} happens twice: {known[step]}, then {answer}"
        known[step] = answer

    def forget(self, run: str, steps: list[str]) -> None:
        """Forget the answers of these steps of a run."""
        for step in steps:
            self.answers.get(run, {}).pop(step, None)

    # --- State -----------------------------------------------------------------------------

    def read(self, key: str, now_us: int) -> Value | None:
        """The entry under `key` at `now_us`, if there is one."""
        found = self.values.get(key)
        if found is not None and 0 < found.expires_us <= now_us:
            return None
        return found

    def _next_version(self, key: str, now_us: int) -> int:
        if key in self.values:
            return self.values[key].version + 1
        version, until_us = self.versions.get(key, (0, 0))
        return version + 1 if until_us > now_us else 1

    def set(
        self,
        key: str,
        value: Any,
        by: str,
        now_us: int,
        *,
        ttl_us: int | None = None,
        if_version: int | None = None,
        if_absent: bool = False,
    ) -> Value | Refused:
        """What a write must answer."""
        found = self.read(key, now_us)
        if found is not None and (if_absent or if_version == 0):
            return Refused("conflict")
        if if_version and (found is None or found.version != if_version):
            return Refused("conflict")
        expires_us = now_us + ttl_us if ttl_us is not None else 0
        made = Value(value, self._next_version(key, now_us), expires_us, by)
        self.values[key] = made
        return made

    def increment(
        self, key: str, number: int, by: str, now_us: int, ttl_us: int | None = None
    ) -> Value | Refused:
        """What an increment must answer."""
        found = self.read(key, now_us)
        if found is not None and type(found.value) is not int:
            return Refused("conflict")
        expires_us = found.expires_us if found is not None else 0
        if ttl_us is not None:
            expires_us = now_us + ttl_us
        value = (found.value if found is not None else 0) + number
        made = Value(value, self._next_version(key, now_us), expires_us, by)
        self.values[key] = made
        return made

    def delete(self, key: str, now_us: int, until_us: int) -> int | None:
        """The version that a delete must answer; None if there is no entry."""
        found = self.read(key, now_us)
        if found is None:
            return None
        del self.values[key]
        self.versions[key] = (found.version + 1, until_us)
        return found.version + 1

    def expire(self, key: str, now_us: int, until_us: int) -> None:
        """It is on record that the time of an entry has passed."""
        found = self.values.pop(key)
        assert 0 < found.expires_us <= now_us, f"{key} expires early: {found}"
        self.versions[key] = (found.version, until_us)

    # --- Locks -----------------------------------------------------------------------------

    def live(self, key: str, now_us: int) -> list[Held]:
        """Who holds it: those whose time has not passed."""
        return [h for h in self.holders.get(key, ()) if not 0 < h.expires_us <= now_us]

    def _late(self, key: str, now_us: int) -> list[Held]:
        return [h for h in self.holders.get(key, ()) if 0 < h.expires_us <= now_us]

    def _first(self, key: str, now_us: int) -> Waiter | None:
        in_time = (w for w in self.lines.get(key, ()) if not 0 < w.until_us <= now_us)
        return next(in_time, None)

    def _hold(self, key: str, who: Who, ttl_us: int, now_us: int) -> Held:
        self.fence += 1
        held = Held(who, now_us + ttl_us if ttl_us else 0, self.fence)
        self.holders[key] = (*self.holders.get(key, ()), held)
        return held

    def let_go(self, key: str, held: Held, now_us: int) -> None:
        """One holds it no more; the first in line who still waits does then."""
        self.holders[key] = tuple(each for each in self.holders[key] if each.who != held.who)
        while len(self.holders[key]) < most(key):
            following = self._first(key, now_us)
            if following is None:
                break
            self._leave_line(key, following.who)
            self._hold(key, following.who, following.ttl_us, now_us)
        if not self.holders[key]:
            del self.holders[key]

    def run_out(self, key: str, now_us: int) -> None:
        """It is on record that the time of its holders has passed, of all for whom it has."""
        late = self._late(key, now_us)
        assert late, f"{key} runs out early: {self.holders[key]}"
        for held in late:
            self.let_go(key, held, now_us)

    def _leave_line(self, key: str, who: Who) -> None:
        self.lines[key] = [waiter for waiter in self.lines[key] if waiter.who != who]

    def take(
        self, key: str, who: Who, ttl_us: int, wait_us: int | None, now_us: int
    ) -> Held | Refused | None:
        """None: it waits."""
        line = self.lines.setdefault(key, [])
        known = [held.who for held in self.holders.get(key, ())]
        known += [waiter.who for waiter in line]
        if who[1] and any(other[0] == who[0] for other in known):
            return Refused("usage")
        mine = [held for held in self.live(key, now_us) if held.who == who]
        if not who[1] and mine:
            return mine[0]
        if not who[1] and any(waiter.who == who for waiter in line):
            return None
        before = dict(self.holders), dict(self.lines), self.fence
        if self._late(key, now_us):
            self.run_out(key, now_us)
        is_first = self._first(key, now_us) is None
        if is_first and len(self.holders.get(key, ())) < most(key):
            return self._hold(key, who, ttl_us, now_us)
        if not who[1] and wait_us == 0:
            # The refusal of a client records nothing, not even that another's time has passed.
            self.holders, self.lines, self.fence = before
        if wait_us == 0:
            return Refused("lock_held")
        until_us = now_us + wait_us if wait_us is not None and who[1] else 0
        self.lines[key] = [*self.lines[key], Waiter(who, ttl_us, until_us)]
        return None

    def extend(self, key: str, who: Who, ttl_us: int, now_us: int) -> Held | Refused:
        """What an extension of a lock must answer."""
        live = self.live(key, now_us)
        mine = [held for held in live if held.who[0] == who[0]]
        if not mine:
            code = "lock_held" if live else "not_found"
            return Refused("lock_lost" if who[1] else code)
        return self._replace(key, mine[0], mine[0]._replace(expires_us=now_us + ttl_us))

    def _replace(self, key: str, held: Held, by: Held) -> Held:
        self.holders[key] = tuple(by if each is held else each for each in self.holders[key])
        return by

    def release(self, key: str, asker: str, now_us: int) -> Refused | None:
        """A client lets its lock go."""
        live = self.live(key, now_us)
        if not live:
            return Refused("not_found")
        mine = [held for held in live if held.who == (asker, "")]
        if not mine:
            return Refused("lock_held")
        self.let_go(key, mine[0], now_us)
        return None

    def take_away(self, key: str, now_us: int) -> Refused | None:
        """A person takes the lock away from the one who has held it longest."""
        first, live = self.holders[key][0], self.live(key, now_us)
        if first not in live:
            return Refused("lock_held" if live else "not_found")
        self.let_go(key, first, now_us)
        return None

    def leave(self, who: Who, now_us: int) -> bool:
        """The block of a handler's lock is left; did it hold it until now?"""
        for key, held in self._all():
            if held.who == who:
                lives = held in self.live(key, now_us)
                self.let_go(key, held, now_us)
                return lives
        return False

    def _all(self) -> list[tuple[str, Held]]:
        return [(key, held) for key, holders in self.holders.items() for held in holders]

    def check(self, who: Who, now_us: int) -> Refused | None:
        """Does the handler still hold what it took by that call?"""
        for key, held in self._all():
            if held.who == who:
                if held in self.live(key, now_us):
                    return None
                self.let_go(key, held, now_us)
                break
        return Refused("lock_lost")

    def withdraw(self, key: str, asker: str) -> None:
        """The client leaves the line of a lock."""
        if key in self.lines:
            self._leave_line(key, (asker, ""))

    def renew(self, run: str) -> None:
        """A new execution of the run begins: the tokens of the last one are no longer valid."""
        for key, held in self._all():
            if held.who[0] == run:
                self.fence += 1
                self._replace(key, held, held._replace(fence=self.fence))

    def lose_clients(self) -> None:
        """The daemon is gone, and with it the clients that wait for locks."""
        for key, line in self.lines.items():
            self.lines[key] = [waiter for waiter in line if waiter.who[1]]

    # --- Events ----------------------------------------------------------------------------

    def send(
        self, event: Event, now_us: int, once: str | None = None, once_us: int = 0
    ) -> tuple[str, tuple[str, ...], int] | Refused:
        """(id, runs resumed, kept until) of the event that there is now."""
        content = (event.address, event.payload)
        owner = self.sent.get(once) if once is not None else None
        if owner is not None and owner.until_us > now_us:
            if owner.content != content:
                return Refused("conflict")
            found = [kept for kept in self.kept if kept.id == owner.event]
            until_us = found[0].expires_us if found and found[0].expires_us > now_us else 0
            return owner.event, owner.resumed, until_us
        waiting = [
            who
            for who, wait in self.waits.items()
            if event.address in wait.addresses and not 0 < wait.due_us <= now_us
        ]
        assert event.id not in self.fates
        for who in waiting:
            self._get(who, event)
        resumed = tuple(dict.fromkeys(run for run, _ in waiting))
        keeps = not waiting and event.expires_us > now_us
        if keeps:
            self.kept.append(event)
        self.fates[event.id] = "kept" if keeps else "resumed" if waiting else "for nobody"
        if once is not None:
            self.sent[once] = Sent(event.id, content, now_us + once_us, resumed)
        return event.id, resumed, event.expires_us if keeps else 0

    def _get(self, who: Who, event: Event) -> None:
        self.waits.pop(who, None)
        self.tell(*who, (event.id, event.address, event.payload, False))

    def wait(self, who: Who, wait: Wait, now_us: int) -> Event | None:
        """The oldest kept event, which nobody else gets; or None, and it waits."""
        self.waits[who] = wait
        for event in self.kept:
            if event.address in wait.addresses and event.expires_us > now_us:
                assert self.fates[event.id] == "kept"
                self.fates[event.id] = f"consumed by {who}"
                self.kept.remove(event)
                self._get(who, event)
                for key, sent in self.sent.items():
                    if sent.event == event.id:
                        self.sent[key] = sent._replace(resumed=(who[0],))
                return event
        return None

    def lapse(self, event: str, now_us: int) -> None:
        """It is on record that a kept event has expired."""
        (found,) = (kept for kept in self.kept if kept.id == event)
        assert found.expires_us <= now_us, f"{found} expires early"
        assert self.fates[event] == "kept"
        self.fates[event] = "expired"
        self.kept.remove(found)

    def time_out(self, who: Who, now_us: int) -> None:
        """It is on record that the time of a wait for an event or a lock has passed."""
        wait = self.waits.pop(who, None)
        if wait is not None:
            assert 0 < wait.due_us <= now_us, f"{who} stops waiting too early: {wait}"
            if wait.on_timeout != "fail":
                self.tell(*who, (None, wait.addresses[0], None, True))
            return
        for key, line in self.lines.items():
            for waiter in line:
                if waiter.who == who:
                    assert 0 < waiter.until_us <= now_us, f"{waiter} is refused too early"
                    self._leave_line(key, who)
                    return
        raise AssertionError(f"{who} does not wait")

    # --- Runs ------------------------------------------------------------------------------

    def start(
        self, run: str, content: Any, key: str | None, ttl_us: int, now_us: int
    ) -> str | Refused:
        """The run that there is now."""
        owner = self.starts.get(key) if key is not None else None
        if owner is not None and (owner.until_us > now_us or owner.run in self.unfinished):
            return owner.run if owner.content == content else Refused("conflict")
        self.unfinished.add(run)
        if key is not None:
            self.starts[key] = Start(run, content, now_us + ttl_us)
        return run

    def retry(self, run: str, forgotten: list[str], now_us: int) -> None:
        """A person sent a finished run on."""
        self.forget(run, forgotten)
        for key, start in list(self.starts.items()):
            if start.run == run and start.until_us <= now_us:
                del self.starts[key]
        self.unfinished.add(run)
        self.unsure |= {(run, key) for key, held in self._all() if held.who[0] == run}

    def end(self, runs: list[str], executing: Collection[str], now_us: int) -> None:
        """These runs have ended together. The handlers of `executing` have not stopped yet."""
        self.unfinished.difference_update(runs)
        for who in [who for who in self.waits if who[0] in runs]:
            del self.waits[who]
        for key, line in self.lines.items():
            self.lines[key] = [waiter for waiter in line if waiter.who[0] not in runs]
        for run in runs:
            if run not in executing:
                self.stopped(run, now_us)

    def stopped(self, run: str, now_us: int) -> None:
        """Nothing executes for the run: the locks that it has no right to any more pass on."""
        for key, held in self._all():
            if held.who[0] == run and (run not in self.unfinished or (run, key) in self.unsure):
                self.let_go(key, held, now_us)
        self.unsure = {(other, key) for other, key in self.unsure if other != run}
