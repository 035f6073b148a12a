"""What a shared journal needs from the log that is its truth: the bytes of the journal's files, one
row an append, in a place that several machines reach.

Laws of every log:

- Rows have no gaps: each begins where the one before it ends, and its hash covers all before it.
- An append takes effect only directly behind the row that its writer names. So of two writers one
  wins, and the other learns it: the log alone is the fence.
- Whoever leads beats; only who has seen no beat for a whole lease may lead instead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final, NamedTuple, Protocol

from stackshift_jobs.errors import Conflict
from stackshiftd.journal.interface import Place


class Tip(NamedTuple):
    """The end of a log: where its last row begins and ends, its last record, and the hash of all up
    to there."""

    place: Place
    ends: Place
    seq: int
    hash: bytes


class Row(NamedTuple):
    """One append: whole lines, with the header of a segment before them if it begins one."""

    place: Place
    first_seq: int
    last_seq: int
    hash: bytes
    data: bytes

    @property
    def tip(self) -> Tip:
        """The end of a log whose last row this is."""
        return Tip(self.place, self.place + len(self.data), self.last_seq, self.hash)


class Lease(NamedTuple):
    """Who leads. `term` grows with each leader, `beat` with each sign of life; `owner` is empty if
    the last leader has left in good order."""

    journal: str
    term: int
    beat: int
    owner: str
    lease_ms: int


class Member(NamedTuple):
    """A daemon of the project, as it says of itself. `id` is that of its directory, `certificate`
    the PEM text of what it proves itself with, or "" if it does not listen, `address` where
    (`10.0.0.5:7433`), `role` `leads`, `follows` or `stopped`, `seq` the last record that it has,
    `ahead_ms` how far its clock is ahead of the database's, and `seen_ms` how long ago it said all
    that, by the database's clock."""

    host: str
    id: str
    certificate: str
    address: str
    version: str
    role: str
    seq: int
    ahead_ms: int
    seen_ms: int = 0


class Piece(NamedTuple):
    """A piece of a snapshot file, which consists of `of`."""

    data: bytes
    of: int


class Server(NamedTuple):
    """What answers for a log: its version, and who must have a commit before it is told:
    `synchronous_standby_names`, which is empty where the server alone does, or another service sees
    to it."""

    version: str
    synchronous: str


def next_row(after: Tip, first_seq: int, last_seq: int, data: bytes) -> Row:
    """The row with `data` that follows `after`."""
    digest = hashlib.blake2b(after.hash + data, digest_size=16).digest()
    return Row(after.ends, first_seq, last_seq, digest, data)


RESERVED: Final = "for "
"""How the owner begins of a journal whose leader has left it to the host that is named then."""
MOVED: Final = "moved "
"""How the owner of a journal begins that has moved to files, which are the truth since."""


def leader_of(lease: Lease) -> str:
    """The host whose daemon leads, or is to lead; "" if none does."""
    return lease.owner.removeprefix(RESERVED).partition(" ")[0]


LATELY_MS: Final = 10_000
"""A member that has said nothing for so long is taken for gone."""


def taken(host: str) -> Conflict:
    """The error for a second daemon with the name of one that lives."""
    return Conflict(
        f"another daemon of this project is called {host}",
        hint="give each machine a name of its own: [cluster] host",
    )


class SharedLog(Protocol):
    """One log. All methods but `close` raise `DatabaseUnavailable`."""

    async def find(self) -> Lease | None:
        """The lease; None if there is no journal yet."""

    async def make(self, lease: Lease, rows: Iterable[Row]) -> Lease:
        """Make the journal with these first rows, all or none, unless there is one; the lease that
        counts. One that has moved away is replaced by itself."""

    async def tip(self) -> Tip:
        """The end of the log."""

    async def append(self, after: Tip, row: Row) -> None:
        """Put `row` behind `after`; durable when it returns. Raises `Fenced` if another row is
        there, `Full`, `JournalDiverged` if `after` has vanished, and `Unknown` if the outcome could
        not be learnt in time."""

    async def read(self, place: Place) -> list[Row]:
        """Some rows, at least one, from the one that contains or begins at `place`; empty at the
        end."""

    async def lead(self, seen: Lease, owner: str, lease_ms: int) -> int | None:
        """Become the leader, with a lease of this length, if the one of `seen` has not beaten
        since; the new term, or None."""

    async def beat(self, term: int) -> bool:
        """A sign of life of the leader of `term`; false if another one leads."""

    async def leave(self, term: int, owner: str = "") -> None:
        """The leader of `term` leaves in good order, to anybody, or to `owner`."""

    async def put_member(self, member: Member) -> int:
        """Note what a daemon says of itself; the log's time, in µs since 1970. Raises `Conflict` if
        a daemon of another directory has said something under this name lately."""

    async def members(self) -> list[Member]:
        """The daemons that were here, by name."""

    async def server(self) -> Server:
        """What answers."""

    async def forget_member(self, host: str) -> bool:
        """Forget a daemon; false if there is none of this name."""

    async def put_piece(self, seq: int, number: int, of: int, data: bytes) -> None:
        """Keep a piece of the snapshot file at `seq`: that of `number`, from 0, of so many. They
        are put in order. The first one drops what an earlier try has left; with the last one the
        snapshot is kept, and all that is older than the last two is dropped."""

    async def snapshots(self) -> list[int]:
        """What snapshots are kept, oldest first, by their sequence numbers."""

    async def get_piece(self, seq: int, number: int) -> Piece | None:
        """A piece of the snapshot file at `seq`; None if it is not kept any more."""

    async def trim(self, below: Place) -> None:
        """Drop rows that end at or before `below`; never the last one."""

    def close(self) -> None:
        """Drop all connections."""
