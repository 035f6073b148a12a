"""What the engine asks of a journal, so that the same engine can stand on files, on memory (tests)
and on a shared database.

`append` returns when all of it is durable, or raises. An append is a list of groups; each group is
one atomic request: all of its entries survive or none. Sequence numbers are the engine's: they
start at `expected_seq + 1` and have no gaps, across groups too. One append is in flight at a time;
the engine gathers the next one meanwhile.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, NamedTuple, NewType, Protocol

from stackshift_jobs.errors import StackshiftError
from stackshiftd.core.records import Entry

Epoch = NewType("Epoch", int)
Place = int
"""Where an entry lies, as its journal knows it: opaque to all others, kept beside a run so that its
timeline is read without a search."""
Group = Sequence[Entry]


class Owner(NamedTuple):
    """Who claims: the daemon's process id and version."""

    pid: int
    version: str


class Claim(NamedTuple):
    """What a claim gave: the right to append, and the durable `journal.opened` that says so.

    The entry took the sequence number after `seen_seq`; it is the epoch too, since it only grows.
    Fold it like any other; the first append expects its `seq`.
    """

    epoch: Epoch
    place: Place
    entry: Entry


class Torn(NamedTuple):
    """What recovery had to set aside. Owed to the journal as a `journal.recovered` record; reported
    again at each start until one names `quarantine`."""

    dropped_bytes: int
    quarantine: str


class Recovery(NamedTuple):
    """How the journal was found: everything up to `kept_seq` is there and durable."""

    kept_seq: int
    last_at_us: int
    torn: Torn | None = None


class Fenced(StackshiftError):
    """Another daemon has claimed the journal since."""

    code = "fenced"
    exit_status = 3


class Full(StackshiftError):
    """No room. Nothing of this append is in the journal; a later one may succeed."""

    code = "disk_full"
    exit_status = 75


class Unknown(StackshiftError):
    """It may or may not be in the journal. Stop serving, claim again, replay."""

    code = "append_unknown"
    exit_status = 70


class Journal(Protocol):
    """One writer, many readers."""

    @property
    def journal_id(self) -> str:
        """`jrn_…`, the same for the journal's whole life."""
        ...

    @property
    def recovery(self) -> Recovery:
        """How it was found when it was opened."""
        ...

    @property
    def last_seq(self) -> int:
        """The last record that an append took."""
        ...

    @property
    def last_at_us(self) -> int:
        """The time of that record; 0 in an empty journal."""
        ...

    @property
    def durable_seq(self) -> int:
        """The last record known to be durable; smaller than `last_seq` with
        `durability = "interval"` only."""
        ...

    async def claim(self, owner: Owner, seen_seq: int, at_us: int) -> Claim:
        """Become the one writer after having read up to `seen_seq`, which must be all there is;
        fences the last one. `at_us` is daemon time. Raises `Full` or `Unknown`."""
        ...

    async def append(
        self, epoch: Epoch, expected_seq: int, groups: Sequence[Group]
    ) -> Sequence[Place]:
        """Make all `groups` durable; the places of their entries, in order. Raises `Fenced`, `Full`
        or `Unknown`."""
        ...

    def read(self, from_seq: int) -> Iterator[tuple[Place, Entry]]:
        """The entries from `from_seq` on, up to what is known durable when it is called. Begins
        with the oldest kept one where `from_seq` was trimmed."""
        ...

    def search(self, words: Sequence[bytes]) -> Iterator[tuple[Place, Entry] | None]:
        """The kept entries whose lines hold all `words`, the newest first, of what is known durable
        when it is called. None stands between them now and then, so that a search which takes long
        can be done by parts. A look through the whole journal: for people, not for programs."""
        ...

    def tail(self, from_seq: int) -> AsyncIterator[tuple[Place, Entry]]:
        """Like `read`, and then each entry as it becomes durable."""
        ...

    def fetch(self, places: Sequence[Place]) -> list[Entry]:
        """The entries at `places` that are still kept, in order (trimmed ones are left out)."""
        ...

    async def put_snapshot(self, seq: int, lines: Sequence[bytes], state_hash: str = "") -> None:
        """Keep a snapshot of the state up to `seq`, the last record of an append; the last two are
        kept. `lines` are ASCII JSON without newlines. Durable when it returns; raises `Full`."""
        ...

    async def get_snapshot(self) -> tuple[int, list[bytes]] | None:
        """The newest good snapshot: where it stands, and its lines as they were put. Read on from
        the record after it."""
        ...

    def snapshot_lines(self) -> list[bytes]:
        """The lines of the newest good snapshot, read now; none where there is none."""
        ...

    async def adopt_snapshot(self) -> None:
        """Take notice of a snapshot that another process has put there."""
        ...

    async def trim(self, below_seq: int) -> None:
        """Drop whole segments whose entries are all below `below_seq`; nothing that the older
        snapshot would need."""
        ...

    def free_bytes(self) -> int:
        """Room for records, a reserve for work under way left out; 0 means: take no new work."""
        ...

    def stats(self) -> dict[str, Any]:
        """Where it stands and how large it is, as `journal.stats` reports it."""
        ...

    def close(self) -> None:
        """Make all that was appended durable and let go of it."""
        ...
