"""Locks in memory: who holds each one, and who waits for it in what order.

Laws:

- A lock has one holder at any sequence number; or several, if each of them asked for it among so
  many (`holders`) or more. Runs and clients wait in one line, first come, first served, also if one
  behind the first asked for it among more.
- A lock is in memory while it has a holder or a line. If it has a line but no holder, every wait in
  the line has timed out: the append that releases a lock also gives it to those next in line for
  whom there is room. (Room that the first in line leaves by giving up, for those behind who asked
  for it among more, is given at the next release.)
- The fencing token is the sequence number of the record by which the lock was acquired, or by which
  its token was renewed. A later holder, and a later execution of the same run after a loss, has a
  greater one.
- A run holds a lock by one call (`step`), whose phase says whether the lock is still held.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Final

import msgspec

from stackshift_jobs.values.durations import rfc3339

encode: Final = msgspec.json.Encoder().encode


class Holding(msgspec.Struct, forbid_unknown_fields=True):
    """The holder of a lock: a run, by its call `step`, or the client `asker`. `expires_us` is 0 for
    never."""

    token: int
    expires_us: int
    since_us: int
    run: str = ""
    step: str = ""
    asker: str = ""
    holder: str = ""
    """A description of that client for people."""
    holders: int = 1
    """How many may hold the lock while this one does."""


class Waiting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A run or client in the line, which will hold the lock for `ttl_ms`, among at most `holders`.
    Its wait times out at `until_us`; 0 for never."""

    seq: int
    ttl_ms: int
    until_us: int
    run: str = ""
    step: str = ""
    asker: str = ""
    holder: str = ""
    holders: int = 1


class Lock(msgspec.Struct):
    """One lock. `holdings` are in the order in which they began. The keys of `line` are
    `place_of(run)` for a run, which is in it at most once, and the asker for a client."""

    holdings: list[Holding] = []
    line: dict[str, Waiting] = {}

    @property
    def holding(self) -> Holding | None:
        """The one who has held it longest; None if nobody holds it."""
        return self.holdings[0] if self.holdings else None

    def live(self, now_us: int) -> list[Holding]:
        """The holders at `now_us`, without those whose time has passed and only the record of that
        is missing."""
        return [each for each in self.holdings if not 0 < each.expires_us <= now_us]

    def expired(self, now_us: int) -> list[Holding]:
        """The others."""
        return [each for each in self.holdings if 0 < each.expires_us <= now_us]

    def held(self, now_us: int) -> Holding | None:
        """The one of `live` who has held it longest; None if there is none."""
        return next(iter(self.live(now_us)), None)

    def of_run(self, run: str) -> Holding | None:
        """The holding of a run, whatever its time; None if it has none."""
        return next((each for each in self.holdings if each.run == run), None) if run else None

    def of_asker(self, asker: str) -> Holding | None:
        """The same for a client."""
        return next((each for each in self.holdings if not each.run and each.asker == asker), None)

    def waiting(
        self, now_us: int, gone: frozenset[str] = frozenset(), given: Container[str] = ()
    ) -> tuple[str, Waiting] | None:
        """The first in line, and its key, whose wait has not timed out; except for the runs in
        `gone`, and for those to whom the lock is `given` already."""
        for place, waiting in self.line.items():
            is_over = 0 < waiting.until_us <= now_us
            if waiting.run not in gone and place not in given and not is_over:
                return place, waiting
        return None


def has_room(holders: int, holding: Iterable[Holding | Waiting]) -> bool:
    """May another hold the lock, among at most `holders`, beside those who are `holding` it?"""
    limits = [holders, *(each.holders for each in holding)]
    return len(limits) <= min(limits)


def place_of(run: str) -> str:
    """A run's key in `Lock.line`; the line break keeps it apart from askers, which have none."""
    return f"{run}\n"


def token_json(key: str, token: int, expires_us: int) -> bytes:
    """`{"key":…,"token":…,"expires_at":…}`."""
    return encode(
        {"key": key, "token": token, "expires_at": rfc3339(expires_us) if expires_us else None}
    )
