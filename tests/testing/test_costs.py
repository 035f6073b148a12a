"""What a run and a step cost, in numbers that are the same on every machine: records, bytes, syncs
and calls of functions. The bounds are a little above what they are; whoever raises one says why."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, cast

import pytest

from core.story import Story
from helpers.batches import Batches
from journal.builders import claimed, opened
from journal.disk import Disk
from stackshift_jobs import AsyncJobContext, JobContext
from stackshift_jobs.testing import Stackshift
from stackshiftd.core import commands as c
from stackshiftd.core.records import Entry, RunCreated
from stackshiftd.journal.interface import Epoch, Group, Owner, Place
from stackshiftd.journal.line_format import encode_group
from stackshiftd.journal.memory import MemoryJournal
from stackshiftd.shell.departures import replay
from stackshiftd.shell.engine import Engine

MANY = 500
RUN_BYTES = 530
"""Of the journal, for a run that does nothing: created, started, completed."""
STEP_BYTES = 175
STEP_CALLS = 112
"""Of Python functions, in daemon and worker together, for a step that returns a number. They are
about 101, and 383 for a run, and differ by one or two with what the threads happen to do."""
RUN_CALLS = 420
START_CALLS = 55
"""For a start with an idempotency key, of a batch."""
REPLAY_CALLS = 88
"""For a run of five steps, eight records, of which a journal is read."""


class Calls:
    """Counts calls of StackShift's functions, in all threads that begin meanwhile."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> None:
        """The profiler of a thread."""
        if event == "call" and "stackshift" in frame.f_globals.get("__name__", ""):
            self.count += 1


@contextmanager
def counted() -> Iterator[Calls]:
    """Count what this thread and new ones call."""
    calls = Calls()
    threading.setprofile(calls)
    sys.setprofile(calls)
    try:
        yield calls
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def declare(stackshift: Stackshift, kind: str) -> None:
    """A job of this kind with as many steps as its payload says."""
    if kind == "def":

        @stackshift.job("steps")
        def steps(ctx: JobContext[Any]) -> None:
            for number in range(ctx.payload):
                ctx.step.run(f"s{number}", lambda: 1)

    else:

        @stackshift.job("steps")
        async def async_steps(ctx: AsyncJobContext[Any]) -> None:
            for number in range(ctx.payload):
                await ctx.step.run(f"s{number}", give)


async def give() -> int:
    """A step's function."""
    return 1


@pytest.mark.parametrize("kind", ["async def", "def"])
def test_run_and_step_are_so_many_records(stackshift: Stackshift, kind: str) -> None:
    """A step is one record, whatever its function does; a run is three."""
    declare(stackshift, kind)
    for steps in (0, 1, 5):
        run = stackshift.start("steps", steps)
        records = run.timeline
        assert len(records) == 3 + steps, [record["kind"] for record in records]


@pytest.mark.parametrize("kind", ["async def", "def"])
def test_run_and_step_take_so_much_of_the_journal(stackshift: Stackshift, kind: str) -> None:
    """Each byte is written, synced, kept and read again."""
    declare(stackshift, kind)
    empty, ten = (journal_bytes(stackshift, steps) for steps in (0, 10))
    assert empty <= RUN_BYTES
    assert (ten - empty) / 10 <= STEP_BYTES


def journal_bytes(stackshift: Stackshift, steps: int) -> int:
    """The bytes of the lines of a run."""
    journal = stackshift._bench._journal
    before = journal.last_seq
    stackshift.start("steps", steps)
    entries = [entry for _, entry in journal.read(before + 1)]
    return sum(len(line) for entry in entries for line in encode_group([entry], before))


@pytest.mark.parametrize("kind", ["async def", "def"])
def test_run_and_step_take_so_many_calls(stackshift: Stackshift, kind: str) -> None:
    """A time would differ from machine to machine; the calls made for it hardly do. The least of a
    few times, since a thread that has to wait looks around meanwhile."""
    declare(stackshift, kind)
    stackshift.start("steps", 1)
    empty, forty = (min(calls_of(stackshift, steps) for _ in range(5)) for steps in (0, 40))
    assert empty <= RUN_CALLS
    assert (forty - empty) / 40 <= STEP_CALLS


def calls_of(stackshift: Stackshift, steps: int) -> int:
    """How many calls a run makes, from its start to its end."""
    with counted() as calls, profiled_daemon(stackshift, calls):
        stackshift.start("steps", steps)
    return calls.count


@contextmanager
def profiled_daemon(stackshift: Stackshift, calls: Calls) -> Iterator[None]:
    """Count the calls of the thread of the daemon and of async handlers as well."""
    loop = stackshift._bench._loop
    begun, ended = threading.Event(), threading.Event()

    def begin() -> None:
        sys.setprofile(calls)
        begun.set()

    def end() -> None:
        sys.setprofile(None)
        ended.set()

    loop.call_soon_threadsafe(begin)
    assert begun.wait(10)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(end)
        assert ended.wait(10)


def test_what_comes_together_is_one_append() -> None:
    """64 starts in a turn are one sync; what comes while that is under way is the next."""

    async def story() -> list[int]:
        journal = CountedJournal()
        engine = Engine(journal, lambda: 1_795_000_000_000_000)
        engine.attach(cast(Any, Nobody()))
        await engine.replay(0)
        await engine.claim(Owner(1, "test"))
        await engine.drained()
        journal.appends.clear()
        for burst in range(2):
            for n in range(64):
                engine.submit(c.StartRun(f"run_{burst}_{n}", "job", "default", b"{}"))
            await asyncio.sleep(0)  # The first is on its way.
        await engine.drained()
        return journal.appends

    assert asyncio.run(story()) == [64, 64]


def test_start_of_a_batch_makes_so_many_calls(tmp_path: Path) -> None:
    """With a key, behind others: what a start costs whose request many share."""

    async def started() -> int:
        batches = await Batches(tmp_path).open()
        runs = [
            b'{"job":"work","payload":{"n":%d},"idempotency_key":"k%d"}' % (n, n)
            for n in range(2 * MANY)
        ]
        await batches.start(runs[:MANY])
        with counted() as calls:
            results = await batches.start(runs[MANY:])
        assert {result["status"] for result in results} == {"queued"}
        return calls.count

    calls = asyncio.run(started()) / MANY
    assert calls <= START_CALLS


def test_replay_of_a_run_makes_so_many_calls() -> None:
    """Of five steps: what a restart costs for each run that came after the last snapshot."""
    made = Story()
    made.claim()
    for _ in range(100):
        run = made.start()
        made.assign()
        for number in range(5):
            made.step_done(run, f"s{number}", number)
        made.completes(run)

    async def replayed() -> int:
        journal = opened(Disk())
        claim = await claimed(journal)
        await journal.append(claim.epoch, 1, [[entry] for entry in made.entries[1:]])
        with counted() as calls:
            state = replay(journal, None, 0).state
        assert (state.seq, state.finished, state.runs) == (made.state.seq, 100, {})
        return calls.count

    assert asyncio.run(replayed()) / 100 <= REPLAY_CALLS


class CountedJournal(MemoryJournal):
    """Counts the records of each append."""

    def __init__(self) -> None:
        super().__init__()
        self.appends: list[int] = []

    async def append(
        self, epoch: Epoch, expected_seq: int, groups: Sequence[Group]
    ) -> Sequence[Place]:
        """Append them, and count them."""
        self.appends.append(sum(map(len, groups)))
        return await super().append(epoch, expected_seq, groups)


class Nobody:
    """An `EffectSink` without workers and clients."""

    def fill_slots(self, _now_us: int) -> None:
        """There is no worker."""

    def timers_moved(self) -> None:
        """There is no clock."""

    def published(self, entries: list[Entry]) -> None:
        """All of them are starts, or our own claim."""
        assert all(isinstance(entry.record, RunCreated) for entry in entries if entry.seq > 1)
