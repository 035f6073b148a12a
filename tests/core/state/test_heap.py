"""What is over leaves memory, even if it never comes to the head of a heap."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from core.histories.audit import audit
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.decide.decide import decide
from stackshiftd.core.fold.fold import fold
from stackshiftd.core.state.heap import FEW, Heap
from stackshiftd.core.state.state import State

ROUNDS = 5 * FEW


def test_heap_gives_what_counts_in_order() -> None:
    """Whatever was forgotten, and however often an item was put in again."""
    chance = Random(1)
    heap: Heap[int] = Heap()
    live: set[int] = set()
    for _ in range(5000):
        number = chance.randrange(200)
        if number in live and chance.random() < 0.8:
            live.remove(number)
        else:
            live.add(number)
            heap.add(number, live.__contains__)
        heap.settle(live.__contains__)
        assert (heap[0] if heap else None) == min(live, default=None)
        assert len(heap) <= max(FEW, 2 * 200)


class Engine:
    """State and clock without an audit at each record: these stories are long."""

    def __init__(self) -> None:
        self.state = State()
        self.now_us = 1_795_000_000_000_000
        self.made = 0

    def do(self, command: c.Command) -> None:
        """Decide and fold a command, a microsecond after the last one."""
        self.now_us += 1
        for record in decide(self.state, command, self.now_us).records:  # type: ignore[arg-type]
            fold(self.state, r.Entry(self.state.seq + 1, self.now_us, record))

    def start(self, priority: int = 0, key: str = "", queue: str = "media", delay: int = 0) -> str:
        """Start a run; returns its id."""
        self.made += 1
        run = f"run_{self.made:06d}"
        due_us = self.now_us + delay * 1_000_000 if delay else 0
        self.do(
            c.StartRun(
                run,
                "resize",
                queue,
                b"{}",
                priority=priority,
                concurrency_key=key,
                timeout_ms=3_600_000,
                due_us=due_us,
            )
        )
        return run

    def assign(self) -> str:
        """Dispatch a run; returns its id."""
        before = {run for held in self.state.executions.values() for run in held}
        self.do(c.Assign("w1", {"resize": "code"}))
        (run,) = self.state.executions["w1"].keys() - before
        return run

    def complete(self, run: str) -> None:
        """Complete a run that executes."""
        self.do(c.CompleteRun(run, self.state.runs[run].token, r.NULL))

    def lying(self) -> int:
        """The number of items in all heaps."""
        state = self.state
        count = len(state.timers)
        for line in state.lines.values():
            count += len(line.turns) + len(line.throttled)
        for queue in state.queues.values():
            count += len(queue._arrivals)
            for lane in (queue.fresh, queue.resumed):
                count += len(lane.heads) + len(lane.offered) + len(lane.keyed)
                count += sum(map(len, lane.keyed.values()))
        return count


def come_and_go(engine: Engine, **how: int | str) -> None:
    """Start a run and cancel it."""
    engine.do(c.CancelRun(engine.start(**how)))  # type: ignore[arg-type]


def behind_one_that_waits(engine: Engine) -> Callable[[], None]:
    """Behind a run that waits in the queue."""
    engine.start()
    return lambda: come_and_go(engine)


def before_one_that_waits(engine: Engine) -> Callable[[], None]:
    """Before a run that waits in the queue, by its priority."""
    engine.start(key="k")
    return lambda: come_and_go(engine, key="k", priority=1)


def in_a_paused_queue(engine: Engine) -> Callable[[], None]:
    """In a queue that is paused."""
    engine.start(key="k")
    engine.do(c.ChangeQueue("media", r.QueueTerms(paused=True)))
    return lambda: come_and_go(engine, key="k")


def with_a_key_of_its_own(engine: Engine) -> Callable[[], None]:
    """Each with its own concurrency key."""
    engine.do(c.ChangeQueue("media", r.QueueTerms(key_concurrency=1)))
    engine.start(key="k")
    return lambda: come_and_go(engine, key=f"k{engine.made}")


def in_the_line_of_a_full_key(engine: Engine) -> Callable[[], None]:
    """In the line of a concurrency key that has no room."""
    engine.do(c.ChangeQueue("media", r.QueueTerms(key_concurrency=1)))
    engine.start(key="k")
    engine.assign()
    engine.start(key="k")
    return lambda: come_and_go(engine, key="k")


def past_the_oldest_of_the_queue(engine: Engine) -> Callable[[], None]:
    """The oldest run has a full key and stays, all others pass it."""
    engine.do(c.ChangeQueue("media", r.QueueTerms(key_concurrency=1)))
    engine.start(key="k")
    engine.assign()
    engine.start(key="k")

    def passes() -> None:
        engine.start()
        engine.complete(engine.assign())

    return passes


def by_a_queue_that_comes_and_goes(engine: Engine) -> Callable[[], None]:
    """While no slot is free, another queue is at the head of the line."""
    engine.start(queue="before")
    return lambda: come_and_go(engine, queue="media")


def by_a_queue_that_is_paused_and_resumed(engine: Engine) -> Callable[[], None]:
    """The queue is paused and resumed behind another at the head of the line."""
    engine.start(queue="before")
    engine.start()

    def toggles() -> None:
        for paused in (True, False):
            engine.do(c.ChangeQueue("media", r.QueueTerms(paused=paused)))

    return toggles


def by_a_throttled_queue_whose_rate_is_changed(engine: Engine) -> Callable[[], None]:
    """While another queue waits for a rate that allows its run sooner."""
    for queue, per_ms in (("before", 60_000), ("media", 3_600_000)):
        engine.do(c.ChangeQueue(queue, r.QueueTerms(rate=1, rate_per_ms=per_ms)))
        for _ in range(2):
            engine.start(queue=queue)
        engine.assign()

    def changes() -> None:
        per_ms = 3_600_000 + engine.state.seq % 100
        engine.do(c.ChangeQueue("media", r.QueueTerms(rate=1, rate_per_ms=per_ms)))

    return changes


def with_a_delay(engine: Engine) -> Callable[[], None]:
    """Scheduled for later than another run."""
    engine.start(delay=1)
    return lambda: come_and_go(engine, delay=60)


def with_a_timeout(engine: Engine) -> Callable[[], None]:
    """A run executes all the while, and its timeout is the next timer."""
    engine.start()
    engine.assign()

    def passes() -> None:
        engine.start()
        engine.complete(engine.assign())

    return passes


@pytest.mark.parametrize(
    "story",
    [
        behind_one_that_waits,
        before_one_that_waits,
        in_a_paused_queue,
        with_a_key_of_its_own,
        in_the_line_of_a_full_key,
        past_the_oldest_of_the_queue,
        by_a_queue_that_comes_and_goes,
        by_a_queue_that_is_paused_and_resumed,
        by_a_throttled_queue_whose_rate_is_changed,
        with_a_delay,
        with_a_timeout,
    ],
)
def test_what_comes_and_goes_leaves_nothing(story: Callable[[Engine], Callable[[], None]]) -> None:
    """Hundreds of runs that came and went take no more memory than a few."""
    engine = Engine()
    happens = story(engine)
    most = 0
    for _ in range(2):
        for _ in range(ROUNDS):
            happens()
            most = max(most, engine.lying())
        audit(engine.state)
    assert most <= 6 * FEW
