"""What the engine needs from a journal, so that the same engine can run on files, in memory (for
tests) or on a shared database.

`append` returns when all of it is durable, or raises. An append is a list of groups; each group is
one atomic request: all of its entries survive, or none. The engine assigns the sequence numbers:
they start at `expected_seq + 1` and have no gaps, across groups too. One append is in flight at a
time; the engine gathers the next one meanwhile.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NewType, Protocol

from stackshift_jobs.errors import BadConfiguration, StackshiftError
from stackshiftd.core.records import Entry

Epoch = NewType("Epoch", int)
Place = int
"""Where an entry is stored. Only its journal can interpret it; the engine keeps it with a run so
that the run's timeline can be read without a search."""
Group = Sequence[Entry]


class Owner(NamedTuple):
    """The claiming daemon: its process id and version."""

    pid: int
    version: str


class Claim(NamedTuple):
    """The result of a claim: the right to append, and the durable `journal.opened` entry.

    The entry has the sequence number after `seen_seq`, which is also the epoch, since it only
    grows. Fold the entry like any other; the first append expects its `seq`.
    """

    epoch: Epoch
    place: Place
    entry: Entry


class Torn(NamedTuple):
    """What recovery had to set aside: how many bytes, and the quarantine files that hold them.

    The engine must append it as a `journal.recovered` record; it is reported again at each start
    until such a record names `quarantine`.
    """

    dropped_bytes: int
    quarantine: str


class Recovery(NamedTuple):
    """The outcome of recovery: everything up to `kept_seq` is present and durable.

    `last_at_us` is the time of that record, 0 if there is none.
    """

    kept_seq: int
    last_at_us: int
    torn: Torn | None = None


class Disk(NamedTuple):
    """Where the journal is, and what is free there. `reserve_bytes` of that are kept for work in
    progress."""

    directory: str
    free_bytes: int
    reserve_bytes: int
    is_read_only: bool = False

    @property
    def spare_bytes(self) -> int:
        """Bytes for new work: 0 means that none is accepted."""
        return 0 if self.is_read_only else max(0, self.free_bytes - self.reserve_bytes)


class Full(StackshiftError):
    """No space left. Nothing of this append is in the journal; a later one may succeed."""

    code = "disk_full"
    exit_status = 75


class Displaced(BadConfiguration):
    """The journal is not where it was opened: it was moved, removed or replaced meanwhile. What was
    recorded is where it was moved to; of this append, nothing counts. Stop, and start nothing."""


def displaced(data_dir: Path) -> Displaced:
    """The error for the journal in `data_dir`."""
    return Displaced(
        f"{data_dir} was moved or removed while the daemon was serving from it",
        hint="what was recorded was moved with it; another daemon can be started",
    )


class Overtaken(Exception):
    """The claim was refused: the daemon that led before has appended something in between. It can
    be read now; fold it, then claim again."""


class Unknown(StackshiftError):
    """The append may or may not be in the journal. Stop serving, claim again, replay."""

    code = "append_unknown"
    exit_status = 70


class Journal(Protocol):
    """One writer, many readers. What is read is read here, at once, wherever the journal is."""

    confirmed: Callable[[], None]
    """Called when answers may be given again, after `may_answer` was false."""

    @property
    def journal_id(self) -> str:
        """`jrn_…`, constant for the journal's whole life."""
        ...

    @property
    def recovery(self) -> Recovery:
        """What recovery kept and set aside when the journal was opened."""
        ...

    @property
    def last_seq(self) -> int:
        """The last record that was appended."""
        ...

    @property
    def last_at_us(self) -> int:
        """The time of that record; 0 in an empty journal."""
        ...

    @property
    def durable_seq(self) -> int:
        """The last record known to be durable; less than `last_seq` only with
        `durability = "interval"`."""
        ...

    @property
    def is_in_place(self) -> bool:
        """Is the journal still where it was opened? If not, nothing more is acknowledged."""
        ...

    @property
    def loss(self) -> StackshiftError | None:
        """Why nothing more is acknowledged although no append has failed: it was moved, or another
        daemon leads. None as long as it is ours."""
        ...

    @property
    def may_answer(self) -> bool:
        """Is it certain that no other daemon has appended anything? If not, what is read here may
        be out of date."""
        ...

    @property
    def unanswered_seconds(self) -> float:
        """For how long the append that is under way has not been answered; 0 if none is."""
        ...

    @property
    def origin(self) -> dict[str, Any] | None:
        """Where the journal is if not here, as `daemon.status` shows it; None if it is here."""
        ...

    @property
    def leader(self) -> str | None:
        """The host whose daemon appends, while this one only follows, or "" if it is not known yet;
        None once this one may claim the journal."""
        ...

    @property
    def was_here(self) -> bool:
        """Was the last daemon that had appended when this was opened one of this very directory, on
        this machine?"""
        ...

    async def follow(self, caught_up: Callable[[], Awaitable[None]]) -> None:
        """Return when this daemon may claim the journal: at once, if no other appends. Until then
        all that another one appends can be read here a moment later; `caught_up` is called after
        each look. Raises `JournalDiverged`."""
        ...

    async def leave(self, to: str = "") -> None:
        """Let another daemon append, in good order, that of the host `to` or any: nothing more is
        appended here."""
        ...

    async def claim(self, owner: Owner, seen_seq: int, at_us: int) -> Claim:
        """Become the only writer, and fence the previous one. The caller must have read up to
        `seen_seq`, the last record. `at_us` is daemon time. Raises `Full`, `Overtaken` or
        `Unknown`."""
        ...

    async def append(
        self, epoch: Epoch, expected_seq: int, groups: Sequence[Group]
    ) -> Sequence[Place]:
        """Make all `groups` durable and return the places of their entries, in order. Raises
        `Fenced`, `Full`, `Displaced` or `Unknown`."""
        ...

    def read(self, from_seq: int) -> Iterator[tuple[Place, Entry]]:
        """The entries from `from_seq` on, up to the last one known to be durable at the call.
        Begins with the oldest kept entry if `from_seq` was trimmed."""
        ...

    def search(self, words: Sequence[bytes]) -> Iterator[tuple[Place, Entry] | None]:
        """The kept entries known to be durable at the call whose lines contain all `words`, newest
        first. None is yielded now and then, so that a long search can be done in slices. It reads
        the whole journal: for requests by people, not by programs."""
        ...

    def tail(self, from_seq: int) -> AsyncIterator[tuple[Place, Entry]]:
        """Like `read`, followed by each new entry as it becomes durable."""
        ...

    def fetch(self, places: Sequence[Place]) -> list[Entry]:
        """The entries at `places` that are still kept, in that order; trimmed ones are left out."""
        ...

    async def put_snapshot(self, seq: int, lines: Sequence[bytes], state_hash: str = "") -> None:
        """Store a snapshot of the state up to `seq`, the last record of an append. The last two
        snapshots are kept. `lines` are ASCII JSON without newlines. Durable when it returns; raises
        `Full`."""
        ...

    async def get_snapshot(self) -> tuple[int, list[bytes]] | None:
        """The newest good snapshot: its sequence number, and its lines as stored; None if there is
        none. Replay continues with the record after it."""
        ...

    def snapshot_lines(self) -> list[bytes]:
        """The lines of the newest good snapshot, read synchronously; empty if there is none."""
        ...

    async def adopt_snapshot(self) -> None:
        """Look for a newer snapshot that another process has stored."""
        ...

    async def trim(self, below_seq: int) -> None:
        """Drop whole segments whose entries are all below `below_seq`, except what the older of the
        two snapshots would need."""
        ...

    def disk(self) -> Disk:
        """The directory of the journal, and the room that there is now."""
        ...

    def can_write(self) -> bool:
        """Is there room for new work, and does the disk let something be written? Tries it, and
        leaves nothing behind."""
        ...

    def stats(self) -> dict[str, Any]:
        """Its range of records and its size, as `journal.stats` reports them."""
        ...

    def close(self) -> None:
        """Make all appends durable and release the journal."""
        ...
