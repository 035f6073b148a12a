"""The engine: the one place where commands become records, and records become effects.

A command is decided and folded at once; its records wait in a batch while the last batch is on its
way to the disk (group commit), and its effects and replies are let go, in order, when the journal
says that the batch is durable. Invariants:

- Nothing leaves here, an error or a read included, that shows a record which is not yet durable.
- One append is under way at a time; the next batch gathers behind it.
- After a failed append with an unknown outcome nothing is let go ever again.
- When there is no room, the state is rebuilt from the journal, clients' writes are refused, and
  workers' commands wait here, in order, until there is room.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from stackshift_jobs.errors import DiskFull, StackshiftError
from stackshiftd.core import commands as c
from stackshiftd.core.decide.decide import decide
from stackshiftd.core.effects import Discarded, Effect, Finished
from stackshiftd.core.fold.fold import fold
from stackshiftd.core.records import (
    AnyRecord,
    AttemptStopped,
    Entry,
    RunCancelled,
    RunCompleted,
    RunDiscarded,
    RunFailed,
    RunRemoved,
)
from stackshiftd.core.snapshot import load
from stackshiftd.core.state.state import Run, State
from stackshiftd.history.rows import RunRow, row_of
from stackshiftd.journal.interface import Epoch, Full, Journal, Owner, Unknown
from stackshiftd.shell.ids import Ids

Reply = Callable[[Any], None]
"""Gets a decision's reply, or a `StackshiftError`."""

PROBE_SECONDS: Final = 1.0
IDLE_SECONDS: Final = 5.0
"""After this long without a record, one is written that carries the watermark."""

_KEPT_FROM_WORKERS: Final = (
    c.CompleteStep,
    c.FailStep,
    c.OpenStep,
    c.RecordValue,
    c.BeginSleep,
    c.StartChild,
    c.AwaitRun,
    c.Suspend,
    c.CompleteRun,
    c.FailAttempt,
    c.ConfirmStop,
    c.LoseExecution,
    c.DefineJobs,
    c.DefineSchedules,
    c.Claimed,
    c.WithdrawLock,
    c.RefuseCall,
)
"""What must not be lost while there is no room: it cannot be asked for again."""

_LEAVE: Final = frozenset((AttemptStopped, RunDiscarded, RunRemoved))
_ENDS: Final = frozenset((RunCompleted, RunFailed, RunCancelled))
_LENGTHENS: Final = frozenset((AttemptStopped, RunDiscarded))
"""With these a run that finished before leaves memory."""


class ReplayedHistory(NamedTuple):
    """What the journal's tail tells the history: the rows of runs that finished, in order; the
    records' places of finished runs that left memory later; ids of runs that were removed."""

    rows: list[RunRow]
    lengthened: list[tuple[str, array[int]]]
    removed: list[str]


class CommandSource(Protocol):
    """Where a worker's command came from, and its answer goes."""


class EffectSink(Protocol):
    """Who carries effects out."""

    def fill_slots(self) -> None:
        """Submit an `Assign` for each free slot that a ready run could use."""

    def perform(self, effect: Effect, source: CommandSource | None) -> None:
        """Carry an effect out; its records are durable."""

    def published(self, entries: list[Entry]) -> None:
        """These entries are durable, in order."""

    def finished(self, run: Run, row: RunRow) -> None:
        """A run has finished; its row belongs into the history."""

    def lengthened(self, run: str, places: array[int]) -> None:
        """A finished run has got another record."""

    def timers_moved(self) -> None:
        """The next timer may be due at another time."""

    def failed(self, error: BaseException) -> None:
        """The journal has failed for good: stop."""


class Item(msgspec.Struct):
    """One command on its way: what to do once its entries are durable."""

    command: c.Command | None
    source: CommandSource | None
    reply: Reply | None
    answer: Any
    entries: Sequence[Entry]
    effects: tuple[Effect, ...]
    finished: tuple[Run, ...] = ()
    discarded: tuple[Run, ...] = ()


class Engine:
    """State and journal behind one door. Made by `open_engine`."""

    def __init__(
        self,
        journal: Journal,
        clock: Callable[[], int] | None = None,
        ids: Ids | None = None,
    ) -> None:
        self.journal = journal
        self.ids = ids or Ids()
        """Makes the ids that the core is handed."""
        self.state = State()
        self.places: dict[str, array[int]] = {}
        """Where the entries of each run in memory lie."""
        self.finishing: dict[str, Run] = {}
        """Runs that have left the state and whose last record is not durable yet."""
        self.durable_seq = 0
        """What is let go now, and all before it, is durable."""
        self.snapshot_seq = 0
        """Where the snapshot stands that the state was read from; 0 for none."""
        self.read_only = False
        self.roomy = True
        self._clock = clock or _wall_us
        self._shell: EffectSink | None = None
        self._loop = asyncio.get_running_loop()
        self._epoch = Epoch(0)
        self._gathering: list[Item] = []
        self._flying: list[Item] | None = None
        self._flush_due = False
        self._parked: list[tuple[c.Command, Reply | None, CommandSource | None]] = []
        self._dead = False
        self._last_append = 0.0
        self._idle_noted_seq = 0
        self._commits: set[asyncio.Task[None]] = set()
        self._drained: list[asyncio.Future[None]] = []

    def attach(self, shell: EffectSink) -> None:
        """Carry effects out through `shell` from now on."""
        self._shell = shell

    # --- Opening ---------------------------------------------------------------------------

    async def replay(self, covered_seq: int) -> ReplayedHistory:
        """Read snapshot and tail into the state; what the tail tells the history, which knows the
        runs that finished up to `covered_seq`."""
        return self._rebuild(await self.journal.get_snapshot(), covered_seq)

    def _rebuild(self, found: tuple[int, list[bytes]] | None, covered_seq: int) -> ReplayedHistory:
        state = State()
        places: dict[str, array[int]] = {}
        if found is not None:
            loaded = load(found[1])
            state = loaded.state
            self.snapshot_seq = found[0]
            for place, entry in loaded.entries:
                _note_place(places, entry, place)
        caught = ReplayedHistory([], [], [])
        for place, entry in self.journal.read(state.seq + 1):
            run = state.runs.get(getattr(entry.record, "run", ""))
            fold(state, entry)
            _note_place(places, entry, place)
            if run is not None and type(entry.record) in _ENDS and entry.seq > covered_seq:
                caught.rows.append(row_of(run, entry.seq, array("q", places[run.id])))
            if run is not None and run.id not in state.runs:
                left = places.pop(run.id)
                if type(entry.record) in _LENGTHENS:
                    caught.lengthened.append((run.id, left))
            if type(entry.record) is RunRemoved:
                caught.removed.append(entry.record.run)
                places.pop(entry.record.run, None)
        self.state, self.places = state, places
        return caught

    async def claim(self, owner: Owner) -> None:
        """Become the journal's writer; whatever executed before executes no more."""
        claim = await self.journal.claim(owner, self.state.seq, self.now_us())
        self._epoch = claim.epoch
        fold(self.state, claim.entry)
        torn = self.journal.recovery.torn
        if torn is not None:
            self.submit(
                c.NoteRecovery(self.journal.recovery.kept_seq, torn.dropped_bytes, torn.quarantine)
            )
        self.submit(c.Claimed())

    def now_us(self) -> int:
        """Daemon time: the later of the wall clock and the newest record's time."""
        now_us = self._clock()
        newest_us = self.state.now_us
        return now_us if now_us > newest_us else newest_us

    # --- Commands --------------------------------------------------------------------------

    def submit(
        self, command: c.Command, reply: Reply | None = None, source: CommandSource | None = None
    ) -> None:
        """Decide and fold `command` now; reply and effects follow when its records are durable.

        A refusal goes to `reply` too, not before what it is based on is durable.
        """
        if self._dead:
            return
        if (self.read_only or not self.roomy) and self._refused_or_parked(command, reply, source):
            return
        state = self.state
        now_us = self._clock()
        if now_us < state.now_us:
            now_us = state.now_us
        try:
            decision = decide(state, command, now_us)  # type: ignore[arg-type]
        except StackshiftError as refused:
            self.when_durable(reply, refused, command, source)
            return
        effects = decision.effects
        finished: tuple[Run, ...] = ()
        discarded: tuple[Run, ...] = ()
        for effect in effects:
            # They may leave the state: take hold of them before.
            if type(effect) is Finished:
                finished += (state.runs[effect.run],)
            elif type(effect) is Discarded:
                discarded += (state.runs[effect.run],)
        entries: list[Entry] = []
        for seq, record in enumerate(decision.records, state.seq + 1):
            entry = Entry(seq, now_us, record)
            entries.append(entry)
            fold(state, entry)
        for run in (*finished, *discarded):
            if run.id not in state.runs:
                self.finishing[run.id] = run
        if entries or effects:
            self._gather(
                Item(command, source, reply, decision.reply, entries, effects, finished, discarded)
            )
        elif reply is not None:
            self.when_durable(reply, decision.reply, command, source)

    def when_durable(
        self,
        reply: Reply | None,
        answer: Any,
        command: c.Command | None = None,
        source: CommandSource | None = None,
    ) -> None:
        """Give `answer` to `reply` once everything that is folded now is durable. `command` is what
        it answers: a worker's is decided anew if what it was decided by comes to nothing."""
        if reply is None:
            return
        if not self._gathering and self._flying is None:
            reply(answer)
            return
        item = Item(command, source, reply, answer, (), ())
        if self._gathering or self._flying is None:
            self._gathering.append(item)
        else:
            self._flying.append(item)

    def pending(self, run: str) -> list[Entry]:
        """Entries of a run that are folded and not yet durable."""
        return [
            entry
            for item in (*(self._flying or ()), *self._gathering)
            for entry in item.entries
            if getattr(entry.record, "run", None) == run
        ]

    def _gather(self, item: Item) -> None:
        self._gathering.append(item)
        if not self._flush_due and self._flying is None:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def poke(self) -> None:
        """Something else than a command (a new slot) may have made work possible."""
        if not self._flush_due and self._flying is None:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    @property
    def idle(self) -> bool:
        """Is nothing on its way to the journal, and nothing about to be looked at?"""
        return self._flying is None and not self._gathering and not self._flush_due

    # --- Group commit ----------------------------------------------------------------------

    def _flush(self) -> None:
        self._flush_due = False
        if self._dead or self._flying is not None:
            return
        assert self._shell is not None
        if not self.read_only:
            # Here, and not at each command: a run that is started and assigned costs one commit.
            self._shell.fill_slots()
        self._shell.timers_moved()
        if not self._gathering:
            return
        self._flying, self._gathering = self._gathering, []
        task = self._loop.create_task(self._commit(self._flying))
        self._commits.add(task)
        task.add_done_callback(self._commits.discard)

    async def _commit(self, items: list[Item]) -> None:
        groups = [item.entries for item in items if item.entries]
        try:
            places: Iterator[int] = iter(())
            if groups:
                expected = groups[0][0].seq - 1
                places = iter(await self.journal.append(self._epoch, expected, groups))
                self._last_append = time.monotonic()
        except Full as full:
            self._roll_back(items, full)
            return
        except BaseException as failed:
            self.fail(failed)
            return
        assert self._shell is not None
        try:
            published = self._release(items, places)
            # What asks to be told when all this is durable is told at once from here on.
            self._flying = None
            self._shell.published(published)
        except BaseException as failed:
            # Some effects are let go and some are not: only a new start sets that right.
            self.fail(failed)
            raise
        if self._gathering:
            self._flush()
        else:
            self.poke()
            self._tell_drained()

    def fail(self, failed: BaseException) -> None:
        """For good: nothing more is let go, and the daemon stops."""
        self._dead = True
        assert self._shell is not None
        self._shell.failed(failed)

    def _tell_drained(self) -> None:
        for waiter in self._drained:
            if not waiter.done():
                waiter.set_result(None)
        self._drained.clear()

    def _release(self, items: list[Item], places: Iterator[int]) -> list[Entry]:
        """Let go what waited for these items to be durable; their entries."""
        shell = self._shell
        assert shell is not None
        published: list[Entry] = []
        self.durable_seq = max(
            [item.entries[-1].seq for item in items if item.entries], default=self.durable_seq
        )
        # By index: a read that comes in meanwhile joins the end of this very list.
        at = 0
        while at < len(items):
            item = items[at]
            at += 1
            left: list[str] = []
            for entry in item.entries:
                _note_place(self.places, entry, next(places))
                if type(entry.record) in _LEAVE:
                    self._leave(entry.record, left)
            published.extend(item.entries)
            for run in item.finished:
                self.finishing.pop(run.id, None)
                shell.finished(run, self._row(run, item.entries))
            for run in item.discarded:
                if self.finishing.get(run.id) is run:  # and not what became of it since
                    del self.finishing[run.id]
            if item.reply is not None:
                item.reply(item.answer)
            for effect in item.effects:
                shell.perform(effect, item.source)
            for run_id in left:
                self._forget_left(run_id)
        return published

    def _leave(self, record: AnyRecord, left: list[str]) -> None:
        """What a record takes out of memory for good; `left` is told the runs whose row goes on."""
        if isinstance(record, RunRemoved):
            self.places.pop(record.run, None)
        elif isinstance(record, AttemptStopped | RunDiscarded):
            left.append(record.run)

    def _row(self, run: Run, entries: Sequence[Entry]) -> RunRow:
        """The history row of a run that `entries` finish; its places leave memory unless it
        stays."""
        stays = run.id in self.state.runs
        places = self.places[run.id] if stays else self.places.pop(run.id)
        return row_of(run, entries[0].seq, array("q", places))

    def _forget_left(self, run_id: str) -> None:
        """A cancelled run's handler has stopped at last, or a failed run was discarded: its row
        gets this record too."""
        if run_id not in self.state.runs and run_id in self.places:
            assert self._shell is not None
            self._shell.lengthened(run_id, self.places.pop(run_id))

    # --- No room ---------------------------------------------------------------------------

    def _refused_or_parked(
        self, command: c.Command, reply: Reply | None, source: CommandSource | None
    ) -> bool:
        """Is `command` dealt with, there being no room?"""
        if isinstance(command, c.FromClient) or _asked_by_client(command):
            self.when_durable(reply, _no_room())
            return True
        if not self.read_only:
            return False  # The reserve is for work under way.
        if _is_kept(command):
            self._parked.append((command, reply, source))
            return True
        return not isinstance(command, c.NoteWatermark)

    def _roll_back(self, items: list[Item], full: Full) -> None:
        """Nothing of this batch is in the journal: the state becomes what the journal says."""
        self.read_only = True
        lost = [*items, *self._gathering]
        self._gathering = []
        self.finishing.clear()
        found = self._loop.create_task(self.journal.get_snapshot())
        self._flying = []  # Nothing is appended until the state is back.

        def rebuilt(task: asyncio.Task[tuple[int, list[bytes]] | None]) -> None:
            try:
                self._rebuild(task.result(), self.state.seq)
            except BaseException as failed:
                self.fail(failed)
                raise
            gathered, self._gathering = [*(self._flying or ()), *self._gathering], []
            self._flying = None
            parked: list[tuple[c.Command, Reply | None, CommandSource | None]] = []
            for item in [*lost, *gathered]:
                if _is_kept(item.command):
                    # Not refused: a worker's call waits until there is room.
                    parked.append((item.command, item.reply, item.source))
                elif item.reply is not None:
                    item.reply(_no_room())
            self._parked[:0] = parked  # They came before what was parked meanwhile.
            self._tell_drained()  # a daemon that stops does not wait for room

        found.add_done_callback(rebuilt)

    def look_for_room(self) -> None:
        """Once a second: is there room? While there was none, try to write."""
        free = getattr(self.journal, "free_bytes", None)
        self.roomy = free is None or free() > 0
        if self.read_only and self.roomy and self._flying is None:
            self.read_only = False
            parked, self._parked = self._parked, []
            for command, reply, source in parked:
                self.submit(command, reply, source)
            self.submit(c.NoteWatermark())
        elif not self.read_only and not self._gathering and self._flying is None:
            quiet = time.monotonic() - self._last_append > IDLE_SECONDS
            if quiet and self.state.seq > self._idle_noted_seq and self._last_append:
                self.submit(c.NoteWatermark())
                self._idle_noted_seq = self.state.seq

    # --- The end ---------------------------------------------------------------------------

    async def drained(self) -> None:
        """Returns when everything submitted so far is durable and let go."""
        if self._dead or self.read_only or (self._flying is None and not self._gathering):
            return
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._drained.append(waiter)
        await waiter


def _wall_us() -> int:
    return time.time_ns() // 1000


def _note_place(places: dict[str, array[int]], entry: Entry, place: int) -> None:
    run = getattr(entry.record, "run", None)
    if run is not None:
        found = places.get(run)
        if found is None:
            found = places[run] = array("q")
        found.append(place)


def _asked_by_client(command: c.Command | None) -> bool:
    return isinstance(command, c.Asking) and not command.run


def _is_kept(command: c.Command | None) -> bool:
    """Must it not be lost while there is no room?"""
    if isinstance(command, c.Asking):
        return bool(command.run)
    return isinstance(command, _KEPT_FROM_WORKERS)


def _no_room() -> DiskFull:
    return DiskFull(
        "there is no room on the disk to record this; reads go on",
        hint="free some space: the daemon resumes by itself",
    )


def unknown(error: BaseException) -> bool:
    """Is it the failure after which only recovery can tell what the journal holds?"""
    return isinstance(error, Unknown)
