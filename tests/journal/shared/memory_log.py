"""A shared log in memory, whose answers a test can lose, and which can stop to answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Literal

from stackshift_jobs.errors import (
    DatabaseUnavailable,
    Fenced,
    JournalDiverged,
)
from stackshiftd.journal.interface import (
    Place,
    Unknown,
)
from stackshiftd.journal.shared.log import (
    LATELY_MS,
    MOVED,
    Lease,
    Member,
    Piece,
    Row,
    Server,
    Tip,
    taken,
)

Fault = Literal["before", "after"]


class MemoryLog:
    """One log. Several journals may share it, each with a view of its own (`view`)."""

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self.rows: list[Row] = []
        self.pieces: dict[int, list[Piece]] = {}
        """Of snapshots, by their sequence numbers."""
        self.is_silent = False
        """Does it answer nothing?"""
        self.daemons: dict[str, tuple[Member, float]] = {}
        self.clock_ahead_us = 0
        """How far its clock is ahead."""
        self.looks = 0
        """How often somebody has looked who leads, or has tried to."""
        self.faults: list[Fault] = []
        """For the next appends: the outcome is not told, before or after the row is in."""

    async def find(self) -> Lease | None:
        """See `SharedLog.find`."""
        self.looks += 1
        self._answer()
        return self.lease

    async def make(self, lease: Lease, rows: Iterable[Row]) -> Lease:
        """See `SharedLog.make`."""
        self._answer()
        if self.lease is None or self.lease.owner.startswith(MOVED):
            self.pieces.clear()
            self.lease, self.rows = lease, list(rows)
        return self.lease

    async def tip(self) -> Tip:
        """See `SharedLog.tip`."""
        self._answer()
        return self.rows[-1].tip

    async def append(self, after: Tip, row: Row) -> None:
        """See `SharedLog.append`."""
        while self.is_silent:  # It is sent again and again.
            await asyncio.sleep(0.005)
        fault = self.faults.pop(0) if self.faults else None
        if fault == "before":
            raise Unknown("no answer")
        if self.rows[-1].tip != after:
            if after.seq > self.rows[-1].last_seq:
                raise JournalDiverged("the log has lost what was acknowledged")
            raise Fenced("another daemon has appended to the journal since")
        self.rows.append(row)
        if fault == "after":
            raise Unknown("no answer")

    async def read(self, place: Place) -> list[Row]:
        """See `SharedLog.read`."""
        self._answer()
        return [row for row in self.rows if row.tip.ends > place][:3]

    async def lead(self, seen: Lease, owner: str, lease_ms: int) -> int | None:
        """See `SharedLog.lead`."""
        self._answer()
        assert self.lease is not None
        if (self.lease.term, self.lease.beat) != (seen.term, seen.beat):
            return None
        self.lease = Lease(seen.journal, seen.term + 1, seen.beat + 1, owner, lease_ms)
        return self.lease.term

    async def beat(self, term: int) -> bool:
        """See `SharedLog.beat`."""
        self._answer()
        assert self.lease is not None
        if self.lease.term != term:
            return False
        self.lease = self.lease._replace(beat=self.lease.beat + 1)
        return True

    async def leave(self, term: int, owner: str = "") -> None:
        """See `SharedLog.leave`."""
        if await self.beat(term):
            assert self.lease is not None
            self.lease = self.lease._replace(owner=owner)

    async def put_member(self, member: Member) -> int:
        """See `SharedLog.put_member`."""
        self._answer()
        now = time.monotonic()
        before, at = self.daemons.get(member.host, (member, now))
        is_gone = before.role == "stopped" or now - at >= LATELY_MS / 1000
        if before.id != member.id and not is_gone:
            raise taken(member.host)
        self.daemons[member.host] = member, now
        return time.time_ns() // 1000 + self.clock_ahead_us

    async def members(self) -> list[Member]:
        """See `SharedLog.members`."""
        self._answer()
        now = time.monotonic()
        return [
            member._replace(seen_ms=round((now - at) * 1000))
            for _, (member, at) in sorted(self.daemons.items())
        ]

    async def server(self) -> Server:
        """See `SharedLog.server`."""
        self._answer()
        return Server("memory", "")

    async def forget_member(self, host: str) -> bool:
        """See `SharedLog.forget_member`."""
        self._answer()
        return self.daemons.pop(host, None) is not None

    async def put_piece(self, seq: int, number: int, of: int, data: bytes) -> None:
        """See `SharedLog.put_piece`."""
        self._answer()
        assert number <= len(self.pieces.get(seq, ())), "they are put in order"
        self.pieces[seq] = [*self.pieces.get(seq, ())[:number], Piece(data, of)]
        if number == of - 1:
            least = (await self.snapshots())[-2:][0]
            self.pieces = {at: found for at, found in self.pieces.items() if at >= least}

    async def snapshots(self) -> list[int]:
        """See `SharedLog.snapshots`."""
        self._answer()
        return sorted(seq for seq, found in self.pieces.items() if len(found) == found[0].of)

    async def get_piece(self, seq: int, number: int) -> Piece | None:
        """See `SharedLog.get_piece`."""
        self._answer()
        found = self.pieces.get(seq, [])
        return found[number] if number < len(found) else None

    async def trim(self, below: Place) -> None:
        """See `SharedLog.trim`."""
        self._answer()
        self.rows = [r for r in self.rows[:-1] if r.tip.ends > below] + self.rows[-1:]

    def close(self) -> None:
        """There is no connection."""

    def _answer(self) -> None:
        if self.is_silent:
            raise DatabaseUnavailable("it does not answer")
