"""Which finished runs are wanted, and what the index's file knows of each run to find it by.

Runs with the same job, queue and status form a group (those that no other run started are apart). A
*term* is a label, the run that started it, or the run that it is a fork of, as a number.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Final, NamedTuple

from stackshiftd.history.rows import RunRow

_PARENT: Final = "\0parent"
_FORKED_FROM: Final = "\0forked_from"
"""Stand for names of labels, which contain no such character."""


class Group(NamedTuple):
    """What the runs of a group have in common."""

    job: str
    queue: str
    status: str
    is_root: bool


def group_of(row: RunRow) -> Group:
    """The group of a run."""
    return Group(row.job, row.queue, row.status, not row.parent)


def terms_of(row: RunRow) -> list[int]:
    """The terms of a run."""
    return _terms(row.labels, row.parent, row.forked_from)


class Filters(NamedTuple):
    """Which runs to list: those that match all that is given, created by the records from
    `from_seq` on and before `before_seq`; with `is_root` only those that no other run started."""

    job: str | None = None
    statuses: frozenset[str] | None = None
    queue: str | None = None
    labels: dict[str, str] | None = None
    since_us: int = 0
    before_seq: int | None = None
    from_seq: int = 0
    is_root: bool = False
    parent: str | None = None
    forked_from: str | None = None
    until_us: int | None = None

    def match(self, row: RunRow) -> bool:
        """Does `row` match?"""
        return (
            self.match_group(group_of(row))
            and row.created_us >= self.since_us
            and (self.until_us is None or row.created_us <= self.until_us)
            and row.created_seq >= self.from_seq
            and (self.before_seq is None or row.created_seq < self.before_seq)
            and self.parent in (None, row.parent)
            and self.forked_from in (None, row.forked_from)
            and all(row.labels.get(k) == v for k, v in (self.labels or {}).items())
        )

    def match_group(self, group: Group) -> bool:
        """May runs of `group` match?"""
        return (
            self.job in (None, group.job)
            and self.queue in (None, group.queue)
            and (self.statuses is None or group.status in self.statuses)
            and (group.is_root or not self.is_root)
        )

    @property
    def names_group(self) -> bool:
        """Is there a group whose runs do not match?"""
        wanted = (self.job, self.queue, self.statuses)
        return wanted != (None, None, None) or self.is_root

    @property
    def terms(self) -> list[int]:
        """The terms that a run must have."""
        return _terms(self.labels or {}, self.parent, self.forked_from)

    @property
    def spans(self) -> tuple[str, list[Any]]:
        """When a run must have been created: conditions in SQL, each after AND, and their
        values."""
        given = {
            "created_seq < ?": self.before_seq,
            "created_seq >= ?": self.from_seq or None,
            "created_us >= ?": self.since_us or None,
            "created_us <= ?": self.until_us,
        }
        asked = {sql: value for sql, value in given.items() if value is not None}
        return "".join(f" AND {sql}" for sql in asked), list(asked.values())


def _terms(labels: dict[str, str], parent: str | None, forked_from: str | None) -> list[int]:
    if not labels and parent is None and forked_from is None:
        return []
    named = [*labels.items()]
    if parent is not None:
        named.append((_PARENT, parent))
    if forked_from is not None:
        named.append((_FORKED_FROM, forked_from))
    return [_number(f"{name}\n{text}") for name, text in named]


def _number(text: str) -> int:
    """64 bits of a hash, with a sign, as SQLite stores them."""
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
