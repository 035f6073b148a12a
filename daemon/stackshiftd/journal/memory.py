"""A journal in memory with the same contract: for tests of the engine and of jobs.

Owns nothing that survives the process. Entries are encoded to the same lines as in files, so that
what cannot be written fails here too, and what is read back is a new object, as after a restart.
Appends can be held, refused or lost on request, so that a test can act between an append and its
outcome.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, Final

from stackshift_jobs.errors import (
    Fenced,
    StackshiftError,
)
from stackshiftd.core.records import Entry, JournalOpened, is_in_order
from stackshiftd.journal.interface import (
    Claim,
    Disk,
    Epoch,
    Full,
    Group,
    Owner,
    Place,
    Recovery,
    Unknown,
)
from stackshiftd.journal.line_format import decode, encode_group

_ROOM: Final = 1 << 40
_SNAPSHOTS_KEPT: Final = 2


class MemoryJournal:
    """A `Journal` in memory. A place is the entry's sequence number."""

    def __init__(self, journal_id: str = "jrn_memory") -> None:
        self._journal_id = journal_id
        self._lines: list[bytes] = []
        self._first_seq = 1
        self._last_at_us = 0
        self._snapshots: list[tuple[int, list[bytes]]] = []
        self._recovery = Recovery(kept_seq=0, last_at_us=0)
        self._epoch: Epoch | None = None
        self._in_flight = False
        self._closed = False
        self._broken = False
        self._fault: tuple[Full | Unknown, bool] | None = None
        self._open_gate = asyncio.Event()
        self._open_gate.set()
        self._followers: set[asyncio.Event] = set()
        self.confirmed: Callable[[], None] = lambda: None
        self.free = _ROOM
        """How much room there is; a test may set it."""

    # --- For tests -------------------------------------------------------------------------

    def hold(self) -> None:
        """Keep appends in flight, as a slow disk does, until `release`."""
        self._open_gate.clear()

    def release(self) -> None:
        """Let held appends become durable."""
        self._open_gate.set()

    def fail_next(self, error: Full | Unknown, *, written: bool = False) -> None:
        """Make the next append raise `error`.

        `Unknown` is final, like a failed sync. `written` says whether the append's entries exist
        after `reopened`.
        """
        self._fault = (error, written)

    def reopened(self) -> MemoryJournal:
        """The journal as the next process finds it after this one was killed.

        What is durable is in it, what is in flight is not, and this journal is fenced.
        """
        self._closed = True
        other = MemoryJournal(self._journal_id)
        other._lines, other._first_seq = list(self._lines), self._first_seq
        other._snapshots = list(self._snapshots)
        other._last_at_us = decode(self._lines[-1]).at_us if self._lines else self._last_at_us
        other._recovery = Recovery(other.last_seq, other._last_at_us)
        other.free = self.free
        return other

    # --- The contract ----------------------------------------------------------------------

    @property
    def journal_id(self) -> str:
        """The id given to the constructor."""
        return self._journal_id

    @property
    def recovery(self) -> Recovery:
        """Empty for a new journal; never torn."""
        return self._recovery

    @property
    def last_seq(self) -> int:
        """The last record whose append has succeeded."""
        return self._first_seq + len(self._lines) - 1

    @property
    def last_at_us(self) -> int:
        """The time of that record; 0 in an empty journal."""
        return self._last_at_us

    @property
    def durable_seq(self) -> int:
        """The same as `last_seq`: every append is durable at once."""
        return self.last_seq

    async def claim(self, owner: Owner, seen_seq: int, at_us: int) -> Claim:
        """Become the writer; see `Journal.claim`."""
        assert seen_seq == self.last_seq, f"claimed at {seen_seq}, journal is at {self.last_seq}"
        epoch = Epoch(seen_seq + 1)
        opened = JournalOpened(epoch=epoch, pid=owner.pid, version=owner.version)
        entry = Entry(epoch, max(at_us, self._last_at_us), opened)
        self._epoch = epoch
        [place] = await self.append(epoch, seen_seq, [[entry]])
        return Claim(epoch, place, entry)

    async def append(
        self, epoch: Epoch, expected_seq: int, groups: Sequence[Group]
    ) -> Sequence[Place]:
        """Append `groups` once the gate is open; see `Journal.append`, `hold` and `fail_next`."""
        if self._broken:
            raise Unknown("an earlier append failed; it is unknown what was kept")
        if self._closed or epoch != self._epoch:
            raise Fenced(f"epoch {epoch} was fenced by epoch {self._epoch}")
        assert not self._in_flight, "one append at a time"
        assert expected_seq == self.last_seq, f"append after {expected_seq}, not {self.last_seq}"
        lines = self._encode(groups)
        self._in_flight = True
        try:
            await asyncio.sleep(0)  # As with a disk, other tasks run while it is in flight.
            await self._open_gate.wait()
        finally:
            self._in_flight = False
            self._settle(lines)
        return range(expected_seq + 1, expected_seq + 1 + len(lines))

    def _encode(self, groups: Sequence[Group]) -> list[bytes]:
        seq, at_us, lines = self.last_seq, self._last_at_us, list[bytes]()
        for group in groups:
            for entry in group:
                seq += 1
                assert entry.seq == seq, f"record {entry.seq} where {seq} was expected"
                assert is_in_order(entry, at_us), f"record {seq} is older than the one before it"
                at_us = entry.at_us
            if group:
                lines += encode_group(group, self.last_seq)
        return lines

    def _settle(self, lines: list[bytes]) -> None:
        """Apply the outcome of an append, whether or not its caller is still waiting."""
        if self._closed:
            raise Unknown("the process was killed while this was in flight")
        fault, self._fault = self._fault, None
        if (fault is None or fault[1]) and lines:
            self._lines += lines
            self._last_at_us = decode(lines[-1]).at_us
        if fault is not None:
            self._broken = isinstance(fault[0], Unknown)
            self._wake_followers()
            raise fault[0]
        self._wake_followers()

    def read(self, from_seq: int) -> Iterator[tuple[Place, Entry]]:
        """Decode the entries from `from_seq` on, as they are at the call."""
        first = max(from_seq, self._first_seq)
        lines = self._lines[first - self._first_seq :]
        return ((place, decode(line)) for place, line in enumerate(lines, first))

    async def tail(self, from_seq: int) -> AsyncIterator[tuple[Place, Entry]]:
        """Follow the entries; ends when closed, raises `Unknown` after a final failure."""
        advanced = asyncio.Event()
        self._followers.add(advanced)
        try:
            while True:
                advanced.clear()
                for place, entry in self.read(from_seq):
                    from_seq = entry.seq + 1
                    yield place, entry
                if from_seq <= self.last_seq:
                    continue
                if self._closed:
                    return
                if self._broken:
                    raise Unknown("an earlier append failed; it is unknown what was kept")
                await advanced.wait()
        finally:
            self._followers.discard(advanced)

    def _wake_followers(self) -> None:
        for follower in self._followers:
            follower.set()

    def search(self, words: Sequence[bytes]) -> Iterator[tuple[Place, Entry] | None]:
        """Search the lines, newest first; never yields None."""
        lines = reversed(list(enumerate(self._lines, self._first_seq)))
        return (
            (place, decode(line)) for place, line in lines if all(word in line for word in words)
        )

    def fetch(self, places: Sequence[Place]) -> list[Entry]:
        """The entries with the sequence numbers `places`; trimmed ones are left out."""
        return [
            decode(self._lines[place - self._first_seq])
            for place in places
            if self._first_seq <= place <= self.last_seq
        ]

    async def put_snapshot(self, seq: int, lines: Sequence[bytes], state_hash: str = "") -> None:
        """Keep the snapshot and the one before it; its hash is not kept."""
        del state_hash
        assert seq <= self.last_seq, f"snapshot at {seq}, journal is at {self.last_seq}"
        kept = [old for old in self._snapshots if old[0] < seq]
        self._snapshots = [*kept, (seq, list(lines))][-_SNAPSHOTS_KEPT:]

    async def get_snapshot(self) -> tuple[int, list[bytes]] | None:
        """The newest snapshot, in a list of its own; None if there is none."""
        if not self._snapshots:
            return None
        seq, lines = self._snapshots[-1]
        return seq, list(lines)

    def snapshot_lines(self) -> list[bytes]:
        """The lines of the newest snapshot; empty if there is none."""
        return list(self._snapshots[-1][1]) if self._snapshots else []

    async def adopt_snapshot(self) -> None:
        """Do nothing: no other process can store a snapshot here."""

    async def trim(self, below_seq: int) -> None:
        """Drop the entries below `below_seq` that the older of two snapshots covers."""
        if len(self._snapshots) == _SNAPSHOTS_KEPT:
            keep_from = min(below_seq, self._snapshots[0][0] + 1, self.last_seq)
            gone = max(0, keep_from - self._first_seq)
            self._lines, self._first_seq = self._lines[gone:], self._first_seq + gone

    @property
    def is_in_place(self) -> bool:
        """Memory is not moved."""
        return True

    loss: StackshiftError | None = None
    """A test may set it."""
    may_answer = True
    """A test may say that it is not certain."""
    unanswered_seconds = 0.0
    """A test may say that an append is not answered."""
    origin: dict[str, Any] | None = None
    """It is here."""

    leader: str | None = None
    was_here = True
    """Nobody else could have appended."""

    async def follow(self, caught_up: Callable[[], Awaitable[None]]) -> None:
        """Nobody leads it."""

    async def leave(self, to: str = "") -> None:
        """Nobody else could append."""

    def can_write(self) -> bool:
        """It always can."""
        return True

    def disk(self) -> Disk:
        """A disk with `free` bytes, and no reserve."""
        return Disk("memory", self.free, 0)

    def stats(self) -> dict[str, Any]:
        """As `Journal.stats`, with a single segment named `memory`."""
        size = sum(map(len, self._lines))
        kept = self._snapshots[-1] if self._snapshots else None
        return {
            "journal": self._journal_id,
            "first_seq": self._first_seq,
            "last_seq": self.last_seq,
            "durable_seq": self.durable_seq,
            "segments": [{"file": "memory", "first_seq": self._first_seq, "bytes": size}],
            "bytes": size,
            "snapshot": {"seq": kept[0], "bytes": sum(map(len, kept[1]))} if kept else None,
        }

    def close(self) -> None:
        """Fence later appends and end all followers."""
        self._closed = True
        self._wake_followers()
