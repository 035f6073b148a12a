"""The engine: the one place where commands become records, and records become effects.

A command is decided and folded at once. Its records wait in a batch while the previous batch is
being written (group commit). Its effects and replies are released, in order, once the journal
reports that the batch is durable. Invariants:

- Nothing is released, errors and reads included, that shows a record which is not yet durable.
- One append is under way at a time; the next batch gathers behind it.
- A look for work has one time, `looked_us`. What may start by then is started by it or waits for
  something other than time, and the alarm is set for what comes due after it. So nothing comes due
  between two readings of a clock, where nobody would look again.
- Nothing is told, reads included, while another daemon may have become the writer; and while the
  place where the journal is does not answer, clients are refused and nobody else is.
- After a failed append with an unknown outcome nothing is ever released again.
- When an append finds no room, the state is rebuilt from the journal (`departures.replay`);
  `disk_room` decides what happens to commands meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import Any, Final, Protocol

import msgspec

from stackshift_jobs.errors import DatabaseUnavailable, StackshiftError
from stackshiftd.core import commands as c
from stackshiftd.core.decide.decide import decide
from stackshiftd.core.effects import Effect
from stackshiftd.core.fold.fold import fold
from stackshiftd.core.records import AnyRecord, Entry
from stackshiftd.core.state.state import Run, State
from stackshiftd.journal.interface import Epoch, Full, Group, Journal, Owner
from stackshiftd.shell.departures import (
    Departures,
    HistorySink,
    Replay,
    fold_tail,
    replay,
)
from stackshiftd.shell.disk_room import Admission, DiskRoom, is_from_client
from stackshiftd.shell.ids import Ids
from stackshiftd.shell.load import Load

log = logging.getLogger("stackshiftd")

Reply = Callable[[Any], None]
"""Is called with a decision's reply, or with a `StackshiftError`."""

PROBE_SECONDS: Final = 1.0
STALL_SECONDS: Final = 5.0
"""After so long without an answer from where the journal is, clients are refused."""
IDLE_SECONDS: Final = 5.0
"""After this long without a record, one is written for the sake of its watermark."""

_NO_RUNS: Final[Mapping[str, Run]] = MappingProxyType({})


class CommandSource(Protocol):
    """The connection that a worker's command came from, and that its answer goes to."""


class EffectSink(HistorySink, Protocol):
    """Carries out effects, and is notified of what is durable."""

    def fill_slots(self, now_us: int) -> None:
        """Submit an `Assign` for each free slot that a run which is ready at `now_us` could use."""

    def perform(self, effect: Effect, source: CommandSource | None, at_us: int) -> None:
        """Carry out an effect, whose records, of the time `at_us`, are durable."""

    def published(self, entries: list[Entry]) -> None:
        """Publish these entries, which are durable and in order."""

    def timers_moved(self) -> None:
        """Look again at when the next timer is due."""

    def failed(self, error: BaseException) -> None:
        """Stop, because the journal has failed for good."""


class Item(msgspec.Struct):
    """A command whose entries are not durable yet, and what to do once they are; or several of
    clients."""

    command: c.Command | None
    source: CommandSource | None
    reply: Reply | None
    answer: Any
    entries: Sequence[Entry]
    effects: tuple[Effect, ...]
    held: Mapping[str, Run]
    """The runs that these entries end or discard."""
    groups: Sequence[Group] | None = None
    """The entries of each of several commands, which are an append each; None for a single one."""


class Engine:
    """The state and the journal; everything that changes them goes through `submit`."""

    def __init__(
        self,
        journal: Journal,
        clock: Callable[[], int] | None = None,
        ids: Ids | None = None,
    ) -> None:
        self.journal = journal
        self.ids = ids or Ids()
        """Creates the ids that are passed to the core."""
        self.state = State()
        self.departures = Departures()
        self.room = DiskRoom(journal.disk)
        self.load = Load()
        self.durable_seq = 0
        """Everything up to this sequence number is durable."""
        self.snapshot_seq = 0
        """The last sequence number of the snapshot that the state was read from; 0 for none."""
        self.looked_us = 0
        """The daemon time of the last look for work."""
        self._clock = clock or _wall_us
        self._sink: EffectSink | None = None
        self._loop = asyncio.get_running_loop()
        self._epoch = Epoch(0)
        self._gathering: list[Item] = []
        self._flying: list[Item] | None = None
        self._flush_due = False
        self._is_poked = False
        """May something other than a command have made work possible since the last look for it?"""
        self._looked_seq = 0
        """The last record that this look has seen."""
        self._dead = False
        self._unconfirmed: list[tuple[float, Reply, Any]] = []
        """Answers that wait until it is certain that nobody else writes, and since when."""
        self.stalled: StackshiftError | None = None
        """Why clients are refused, while the journal does not answer."""
        journal.confirmed = self._confirmed
        self._last_append = 0.0
        self._idle_noted_seq = 0
        self._commits: set[asyncio.Task[None]] = set()
        self._drained: list[asyncio.Future[None]] = []

    def attach(self, sink: EffectSink) -> None:
        """Set the sink for effects; call this before the first `submit`."""
        self._sink = sink

    # --- Opening ---------------------------------------------------------------------------

    async def replay(self, covered_seq: int) -> Replay:
        """Read snapshot and tail into the state. Returns what the tail contains for the history,
        which already knows the runs that finished up to `covered_seq`."""
        replayed = replay(self.journal, await self.journal.get_snapshot(), covered_seq)
        self._adopt(replayed)
        return replayed

    def catch_up(self) -> Replay:
        """Fold what another daemon has appended since. Returns what of it is for the history."""
        more = Replay(self.state, self.departures.places, self.snapshot_seq, [], [], [])
        fold_tail(more, self.journal)
        self.durable_seq = self.state.seq
        return more

    def _adopt(self, replayed: Replay) -> None:
        self.state = replayed.state
        self.departures.places = replayed.places
        self.snapshot_seq = replayed.snapshot_seq

    async def claim(self, owner: Owner) -> None:
        """Become the journal's writer, and give up all earlier executions. Raises `Full`, and
        `Overtaken` if there is more to catch up with before."""
        claim = await self.journal.claim(owner, self.state.seq, self.now_us())
        self._epoch = claim.epoch
        last_us = self.state.now_us
        fold(self.state, claim.entry)
        torn = self.journal.recovery.torn
        if torn is not None:
            self.submit(
                c.NoteRecovery(self.journal.recovery.kept_seq, torn.dropped_bytes, torn.quarantine)
            )
        self.submit(c.Claimed(last_us))

    @property
    def is_writer(self) -> bool:
        """Has this daemon claimed the journal?"""
        return self._epoch > 0

    def now_us(self) -> int:
        """Daemon time: the later of the wall clock and the newest record's time."""
        now_us = self._clock()
        newest_us = self.state.now_us
        return now_us if now_us > newest_us else newest_us

    @property
    def wall_us(self) -> int:
        """The time of the system clock."""
        return self._clock()

    @property
    def ahead_us(self) -> int:
        """How far daemon time is ahead of the system clock, by records made while that was ahead;
        until it has caught up, daemon time stands still."""
        return max(0, self.state.now_us - self._clock())

    # --- Commands --------------------------------------------------------------------------

    def submit(
        self, command: c.Command, reply: Reply | None = None, source: CommandSource | None = None
    ) -> None:
        """Decide and fold `command` now; reply and effects follow when its records are durable.

        A refusal goes to `reply` too, once everything that it is based on is durable.
        """
        if self._dead:
            return
        if (self.room.is_short or self.stalled is not None) and not self._is_admitted(
            command, reply, source
        ):
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
        held = self.departures.hold(state, decision.records)
        if type(command) is c.SetClockBack:
            now_us = command.to_us
        entries = self._folded(decision.records, now_us, held)
        if entries or effects:
            self._gather(Item(command, source, reply, decision.reply, entries, effects, held))
        elif reply is not None:
            self.when_durable(reply, decision.reply, command, source)

    def submit_all(self, commands: Sequence[c.StartRun], told: Reply) -> list[Any]:
        """Decide and fold the commands of a client, each by itself, as `submit` does. Returns what
        follows from each of them, its reply or a refusal, which nobody may be told yet: `told` is
        called once all of them are durable, or with the error that all of them are refused with."""
        if self._dead or not commands:
            return []
        if (self.room.is_short or self.stalled is not None) and not self._is_admitted(
            commands[0], told, None
        ):
            return []
        state, hold = self.state, self.departures.hold
        now_us = self.now_us()
        replies: list[Any] = []
        groups: list[list[Entry]] = []
        effects: tuple[Effect, ...] = ()
        all_held: dict[str, Run] = {}
        for command in commands:
            try:
                decision = decide(state, command, now_us)
            except StackshiftError as refused:
                replies.append(refused)
                continue
            replies.append(decision.reply)
            if decision.records:
                held = hold(state, decision.records)
                groups.append(self._folded(decision.records, now_us, held))
                if held:
                    all_held.update(held)
            effects += decision.effects
        if groups or effects:
            entries = list(chain.from_iterable(groups))
            item = Item(commands[0], None, told, None, entries, effects, all_held, groups)
            self._gather(item)
        else:
            self.when_durable(told, None, commands[0])
        return replies

    def _folded(
        self, records: Sequence[AnyRecord], now_us: int, held: Mapping[str, Run]
    ) -> list[Entry]:
        """Fold `records`, which end or discard the `held` runs; returns their entries."""
        state = self.state
        entries: list[Entry] = []
        for seq, record in enumerate(records, state.seq + 1):
            entry = Entry(seq, now_us, record)
            entries.append(entry)
            fold(state, entry)
        if held:
            self.departures.folded(state, held)
        return entries

    def when_durable(
        self,
        reply: Reply | None,
        answer: Any,
        command: c.Command | None = None,
        source: CommandSource | None = None,
    ) -> None:
        """Call `reply` with `answer` once everything that is folded now is durable. `command` is
        the command it answers: a worker's is decided again if what it was based on turns out not to
        have been recorded."""
        if reply is None:
            return
        if not self._gathering and self._flying is None:
            self._answer(reply, answer)
            return
        if self.stalled is not None and _can_ask_again(command):
            reply(self.stalled)  # What it waits for may take minutes.
            return
        item = Item(command, source, reply, answer, (), (), _NO_RUNS)
        if self._gathering or self._flying is None:
            self._gathering.append(item)
        else:
            self._flying.append(item)

    def _answer(self, reply: Reply, answer: Any) -> None:
        """Give an answer that no append has confirmed: what was only read may be out of date by now
        if another daemon writes."""
        if self.journal.may_answer:
            reply(answer)
        else:
            self._unconfirmed.append((time.monotonic(), reply, answer))

    def _confirmed(self) -> None:
        waiting, self._unconfirmed = self._unconfirmed, []
        for _, reply, answer in waiting:
            reply(answer)

    def pending(self, run: str) -> list[Entry]:
        """The entries of a run that are folded and not yet durable."""
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
        """Look for work, which something other than a command (a new slot) may have made
        possible; at once, or when the append that is under way is durable."""
        self._is_poked = True
        if not self._flush_due and self._flying is None:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    @property
    def idle(self) -> bool:
        """Is nothing being written to the journal, and no look for work scheduled?"""
        return self._flying is None and not self._gathering and not self._flush_due

    # --- Group commit ----------------------------------------------------------------------

    def _flush(self) -> None:
        self._flush_due = False
        if self._dead or self._flying is not None:
            return
        assert self._sink is not None
        if not self.room.read_only:
            # Here rather than after each command, so that starting and assigning a run costs one
            # commit.
            self._is_poked = False
            self.looked_us = self.now_us()
            self._sink.fill_slots(self.looked_us)
            self._looked_seq = self.state.seq
        self._sink.timers_moved()
        if not self._gathering:
            return
        self._flying, self._gathering = self._gathering, []
        task = self._loop.create_task(self._commit(self._flying))
        self._commits.add(task)
        task.add_done_callback(self._commits.discard)

    async def _commit(self, items: list[Item]) -> None:
        groups: list[Group] = []
        for item in items:
            if item.groups is not None:
                groups += item.groups
            elif item.entries:
                groups.append(item.entries)
        try:
            places: Iterator[int] = iter(())
            if groups:
                expected, began = groups[0][0].seq - 1, time.monotonic()
                written = await self.journal.append(self._epoch, expected, groups)
                places, self._last_append = iter(written), time.monotonic()
                self.load.committed(self._last_append - began, len(written))
                self.room.succeeded()
        except Full:
            self._roll_back(items)
            return
        except BaseException as failed:
            self.fail(failed)
            return
        assert self._sink is not None
        try:
            published = self._release(items, places)
            # From here on, `when_durable` replies at once.
            self._flying = None
            self._sink.published(published)
        except BaseException as failed:
            # Some effects were carried out and some were not: only a restart can resolve that.
            self.fail(failed)
            raise
        if self._gathering or self._is_poked or self.state.seq > self._looked_seq:
            self._flush()
        if self._flying is None:
            self._tell_drained()

    def fail(self, failed: BaseException) -> None:
        """Stop the daemon; from now on nothing is released any more."""
        self._dead = True
        self._tell_drained()  # A daemon that was stopping does not wait for what never comes.
        assert self._sink is not None
        self._sink.failed(failed)

    def _tell_drained(self) -> None:
        for waiter in self._drained:
            if not waiter.done():
                waiter.set_result(None)
        self._drained.clear()

    def _release(self, items: list[Item], places: Iterator[int]) -> list[Entry]:
        """Send the replies and effects of these items, which are durable; returns their entries."""
        sink = self._sink
        assert sink is not None
        published: list[Entry] = []
        self.durable_seq = max(
            [item.entries[-1].seq for item in items if item.entries], default=self.durable_seq
        )
        # By index, because a read that arrives meanwhile is appended to this very list.
        at = 0
        while at < len(items):
            item = items[at]
            at += 1
            departing = self.departures.durable(self.state, item.entries, places, item.held, sink)
            published.extend(item.entries)
            if item.reply is not None:
                if item.entries:
                    item.reply(item.answer)
                else:
                    self._answer(item.reply, item.answer)
            if item.effects:
                at_us = item.entries[-1].at_us if item.entries else 0
                for effect in item.effects:
                    sink.perform(effect, item.source, at_us)
            if departing:
                self.departures.depart(self.state, departing, sink)
        return published

    # --- No room ---------------------------------------------------------------------------

    def _is_admitted(
        self, command: c.Command, reply: Reply | None, source: CommandSource | None
    ) -> bool:
        """Is `command` admitted although room is short, or the journal does not answer? If not, it
        is refused, kept or dropped here."""
        if self.stalled is not None and is_from_client(command):
            if reply is not None:
                reply(self.stalled)
            return False
        if not self.room.is_short:
            return True
        admission = self.room.admission(command)
        if admission is Admission.REFUSED:
            # Somebody may have made room since the last look, and tries again. Whether a write that
            # has failed would succeed now is not tried here: each failure costs a replay.
            self.room.look()
            if not self.room.is_short:
                return True
            self.when_durable(reply, self.room.refusal())
        elif admission is Admission.KEPT:
            self.room.keep(command, reply, source)
        return admission is Admission.ADMITTED

    def _roll_back(self, items: list[Item]) -> None:
        """Rebuild the state from the journal, which contains nothing of this batch."""
        self.room.refused()
        lost = [*items, *self._gathering]
        self._gathering = []
        self.departures.finishing.clear()
        snapshot = self._loop.create_task(self.journal.get_snapshot())
        self._flying = []  # Nothing is appended until the state is rebuilt.

        def rebuilt(task: asyncio.Task[tuple[int, list[bytes]] | None]) -> None:
            try:
                self._adopt(replay(self.journal, task.result(), self.state.seq))
            except BaseException as failed:
                self.fail(failed)
                raise
            gathered, self._gathering = [*(self._flying or ()), *self._gathering], []
            self._flying = None
            all_lost = ((item.command, item.reply, item.source) for item in [*lost, *gathered])
            for reply in self.room.rolled_back(all_lost):
                reply(self.room.refusal())
            self._tell_drained()  # a daemon that stops does not wait for room

        snapshot.add_done_callback(rebuilt)

    def look_at_journal(self) -> None:
        """Refuse clients while the place where the journal is does not answer, and those who have
        waited for an answer of it. Called once a second."""
        is_stalled = self.journal.unanswered_seconds > STALL_SECONDS
        if is_stalled and self.stalled is None:
            log.warning("the database does not answer: clients are refused until it does")
            self.stalled = unavailable()
            self._refuse_reads(self.stalled)
        elif not is_stalled and self.stalled is not None:
            log.warning("the database answers again")
            self.stalled = None
        now, waiting = time.monotonic(), []
        for since, reply, answer in self._unconfirmed:
            if now - since > STALL_SECONDS:
                reply(unavailable())
            else:
                waiting.append((since, reply, answer))
        self._unconfirmed = waiting

    def _refuse_reads(self, refusal: StackshiftError) -> None:
        """Refuse what waits for an append without being part of it."""
        for item in (*(self._flying or ()), *self._gathering):
            if item.reply is not None and not item.entries and _can_ask_again(item.command):
                item.reply(refusal)
                item.reply = None

    def look_for_room(self) -> None:
        """Check for room on the disk; while there was none, try to write. Called once a second."""
        room = self.room
        room.look()
        if room.is_closed:
            return
        if room.read_only and room.is_roomy and self._flying is None:
            for command, reply, source in room.reopened():
                self.submit(command, reply, source)
            self.submit(c.NoteWatermark())
        elif not room.read_only and not self._gathering and self._flying is None:
            quiet = time.monotonic() - self._last_append > IDLE_SECONDS
            if quiet and self.state.seq > self._idle_noted_seq and self._last_append:
                self.submit(c.NoteWatermark())
                self._idle_noted_seq = self.state.seq

    # --- The end ---------------------------------------------------------------------------

    async def drained(self) -> None:
        """Return when everything submitted so far is durable and released, or when nothing is
        written any more."""
        if self._dead or self.room.read_only or (self._flying is None and not self._gathering):
            return
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._drained.append(waiter)
        await waiter


def _can_ask_again(command: c.Command | None) -> bool:
    """Is it a client's command, or (None) a read?"""
    return command is None or is_from_client(command)


def unavailable() -> DatabaseUnavailable:
    """The error for a request while the journal's database does not answer."""
    return DatabaseUnavailable(
        "the database of the journal does not answer",
        hint="the daemon goes on as soon as it does; what was acknowledged is kept",
    )


def _wall_us() -> int:
    return time.time_ns() // 1000
