"""State, locks, events and keys beside a naive model of them, in random histories with crashes.

No increment is lost or doubled, no event is lost or consumed twice, a lock has one holder and a key
one run; what a handler was answered, it is answered on every later pass (guarantee: handler
writes). The long form (`STACKSHIFT_LONG=1`) runs 10,000 histories, different ones each time;
`STACKSHIFT_SEED=n` sets the first seed.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from typing import Final

import hypothesis.strategies as st
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from core.histories.script_strategies import drawn as script
from core.histories.scripts import RETENTION_MS, SPANS_MS
from core.histories.state_clients import Lived
from core.story import kind
from stackshift_jobs.values.strict_json import dumps
from stackshiftd.core import commands as c

LONG: Final = os.environ.get("STACKSHIFT_LONG") == "1"
SEED: Final = os.environ.get("STACKSHIFT_SEED")
KEYS: Final = ("a", "b", "c", "d")
CLIENTS: Final = ("c1", "c2")

seeds = st.integers(0, 2**32)


class Histories(RuleBasedStateMachine):
    """A few runs, clients and keys. A seed that a rule draws chooses among what there is."""

    def __init__(self) -> None:
        super().__init__()
        self.lived = Lived()

    # --- Handlers --------------------------------------------------------------------------

    @initialize(drawn=seeds)
    def open(self, drawn: int) -> None:
        """Three runs begin."""
        for _ in range(3):
            self.begin(drawn)
            drawn += 1
        self.work(drawn)

    @rule(drawn=seeds)
    def begin(self, drawn: int) -> None:
        """A client starts a run with a random script."""
        chance = random.Random(drawn)
        self.lived.begins(
            script(chance),
            chance.randrange(2),
            chance.choice((None, None, "k1", "k2")),
            chance.choice(SPANS_MS),
            chance.choice((0, 0, 0, 10_000)),
        )

    @rule(drawn=seeds)
    def work(self, drawn: int) -> None:
        """Handlers advance for a while, one call at a time, in random order."""
        chance, lived = random.Random(drawn), self.lived
        for _ in range(chance.randint(5, 40)):
            if chance.random() < 0.6:
                lived.fill_slots()
                lived.sync()
            if lived.executions:
                execution = chance.choice(list(lived.executions.values()))
                if execution.stopping and chance.random() < 0.3:
                    lived.stop(execution)
                else:
                    lived.step(execution, chance)
            if chance.random() < 0.05:
                lived.ticks(1)

    @rule(drawn=seeds)
    def kill(self, drawn: int) -> None:
        """A worker dies; its handler may live on unheard."""
        chance, lived = random.Random(drawn), self.lived
        if lived.executions:
            execution = chance.choice(list(lived.executions.values()))
            lives_on = chance.random() < 0.5
            lived.kill(execution, ours=chance.random() < 0.7, lives_on=lives_on)

    @rule(drawn=seeds)
    def haunt(self, drawn: int) -> None:
        """Executions that are over still send commands."""
        chance = random.Random(drawn)
        for _ in range(5):
            if self.lived.passes:
                self.lived.haunt(chance)

    # --- Clients ---------------------------------------------------------------------------

    @rule(drawn=seeds)
    def write(self, drawn: int) -> None:
        """A client reads or writes an entry."""
        chance, lived = random.Random(drawn), self.lived
        key = chance.choice(KEYS)
        ttl_ms = chance.choice((None, None, *SPANS_MS))
        ttl_us = ttl_ms * 1000 if ttl_ms is not None else None
        match chance.randrange(5):
            case 0 | 1:
                by = chance.randint(-3, 9)
                lived.client(
                    c.IncrementState(key=key, by=dumps(by), ttl_ms=ttl_ms),
                    lambda naive, now_us: naive.increment(key, by, "", now_us, ttl_us),
                )
            case 2:
                version = chance.choice((None, None, 0, chance.randrange(5)))
                value = chance.choice((1, "text"))
                lived.client(
                    c.SetState(key=key, value=dumps(value), ttl_ms=ttl_ms, if_version=version),
                    lambda naive, now_us: naive.set(
                        key, value, "", now_us, ttl_us=ttl_us, if_version=version
                    ),
                )
            case 3:
                lived.client(
                    c.DeleteState(key=key, remember_ms=RETENTION_MS),
                    lambda naive, now_us: naive.delete(key, now_us, now_us + RETENTION_MS * 1000),
                )
            case _:
                lived.client(c.ReadState(key=key), lambda naive, now_us: naive.read(key, now_us))

    @rule(drawn=seeds)
    def lock(self, drawn: int) -> None:
        """A client acquires, extends, releases or gives up a lock, or a person takes it away."""
        chance, lived = random.Random(drawn), self.lived
        asker, key = chance.choice(CLIENTS), chance.choice(("a", "a", "b", "c", "c", "d"))
        waiting = [
            (waiter.who[0], key)
            for key, line in lived.naive.lines.items()
            for waiter in line
            if not waiter.who[1]
        ]
        match chance.randrange(7):
            case 5:
                lived.takes_away(key)
            case 0 if waiting:
                lived.withdraws(*chance.choice(waiting))
            case 0 | 1 | 2:
                wait_ms = chance.choice((0, None, None))
                lived.acquires(asker, key, chance.choice(SPANS_MS[1:]), wait_ms)
            case 3:
                lived.releases(asker, key)
            case 4:
                lived.extends(asker, key, chance.choice(SPANS_MS[1:]))
            case _:
                lived.withdraws(asker, key)

    @rule(drawn=seeds)
    def send(self, drawn: int) -> None:
        """A client sends an event."""
        chance = random.Random(drawn)
        self.lived.sends(
            chance.randrange(3),
            chance.randrange(2),
            chance.choice(SPANS_MS),
            chance.choice((None, None, "e1", "e2")),
        )

    # --- People ----------------------------------------------------------------------------

    @rule(drawn=seeds)
    def decide(self, drawn: int) -> None:
        """A person cancels a run, sends one on, forks or removes one."""
        chance, lived = random.Random(drawn), self.lived
        kinds = {run: lived.kinds(run) for run in lived.scripts}
        known = [run for run, told in kinds.items() if told and "run.removed" not in told]
        if not known:
            return
        run = chance.choice(known)
        steps = [getattr(entry.record, "step", None) for entry in lived.entries_of(run)]
        named = [step for step in steps if isinstance(step, str) and step]
        step = chance.choice(named) if named and chance.random() < 0.6 else None
        match chance.randrange(6):
            case 0 | 1:
                lived.cancels(run)
            case 2 | 3:
                lived.retries(run, step)
            case 4:
                lived.forks(run, step)
            case _:
                found = lived.state.runs.get(run)
                if run not in lived.naive.unfinished and (found is None or not found.token):
                    lived.submit(c.RemoveRun(run))

    # --- The world -------------------------------------------------------------------------

    @rule(span_ms=st.sampled_from(SPANS_MS), fires=st.sampled_from((0, 1, 2, 1000)))
    def time(self, span_ms: int, fires: int) -> None:
        """Time passes; what is due fires, or some of it, or nothing yet."""
        self.lived.wall_us += span_ms * 1000
        self.lived.ticks(fires)

    @rule(early_us=st.integers(-1, 1))
    def due(self, early_us: int) -> None:
        """It is almost time for what is due next, or just time, or just late."""
        due_us = self.lived.state.next_due_us()
        if due_us is not None:
            self.lived.wall_us = due_us + early_us

    @rule(seconds=st.sampled_from((-3600, -10, -1)))
    def back(self, seconds: int) -> None:
        """The clock is set back."""
        self.lived.wall_us += seconds * 1_000_000

    @rule()
    def set_back(self) -> None:
        """A person sets daemon time back to the clock."""
        lived = self.lived
        lived.ticks(1000)
        before_us = lived.state.now_us
        if before_us > lived.wall_us:
            back = c.SetClockBack(lived.wall_us)
            lived.submit(back, lambda: lived.naive.set_back(before_us))
            assert lived.now_us == lived.wall_us

    @rule()
    def sync(self) -> None:
        """Everything that was appended becomes durable."""
        self.lived.sync()

    @rule(drawn=seeds)
    def crash(self, drawn: int) -> None:
        """The daemon crashes."""
        self.lived.crashes(random.Random(drawn))

    @rule(drawn=seeds)
    def live(self, drawn: int) -> None:
        """A bit of everything, as often as it is in life."""
        chance = random.Random(drawn)
        for act in chance.choices(tuple(LIFE), tuple(LIFE.values()), k=8):
            act(self, chance.randrange(2**32))
            if chance.random() < 0.3:
                self.time(chance.choice(SPANS_MS), chance.choice((0, 1, 2, 1000)))
            if chance.random() < 0.2:
                self.due(chance.choice((-1, 0, 0, 1)))

    def teardown(self) -> None:
        """Let the history come to an end, and compare once more."""
        if len(self.lived.entries) > 2:
            self.lived.ends_well(random.Random(len(self.lived.entries)))


LIFE: Final[dict[Callable[[Histories, int], None], int]] = {
    Histories.begin: 2,
    Histories.work: 8,
    Histories.kill: 1,
    Histories.haunt: 1,
    Histories.write: 2,
    Histories.lock: 3,
    Histories.send: 2,
    Histories.decide: 1,
    Histories.crash: 1,
}

TestHistories = (seed(int(SEED)) if SEED else lambda case: case)(Histories.TestCase)
TestHistories.settings = settings(
    max_examples=10_000 if LONG else 100,
    stateful_step_count=20,
    derandomize=not LONG and not SEED,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


OFTEN: Final = """
state.set state.deleted state.expired lock.requested lock.acquired lock.extended lock.released
event.received event.expired wait.started wait.ended call.refused value.recorded attempt.lost
attempt.suspended attempt.resumed run.completed run.failed run.cancelled journal.opened
"""


def test_histories_are_worth_their_time() -> None:
    """Everything that the model is about happens in them, and often."""
    seen: Counter[str] = Counter()
    for number in range(50):
        machine = Histories()
        machine.open(number)
        for part in range(4):
            machine.live(4 * number + part)
        machine.teardown()
        seen.update(kind(entry.record) for entry in machine.lived.entries)
    for each in OFTEN.split():
        assert seen[each] >= 10, f"{each}: {seen[each]}"
    for each in ("lock.withdrawn", "attempt.stopped", "run.retried", "run.removed"):
        assert seen[each], each
