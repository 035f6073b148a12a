"""Locks in memory: who holds each one, and who waits for it in what order.

Laws:

- A lock has one holder at any sequence number. Runs and clients wait in one line, first come, first
  served.
- A lock is in memory while it has a holder or a line. If it has a line but no holder, every wait in
  the line has timed out: the append that releases a lock also gives it to the next in line.
- The fencing token is the sequence number of the record by which the lock was acquired, or by which
  its token was renewed. A later holder, and a later execution of the same run after a loss, has a
  greater one.
- A run holds a lock by one call (`step`), whose phase says whether the lock is still held.
"""

from __future__ import annotations

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


class Waiting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A run or client in the line, which will hold the lock for `ttl_ms`. Its wait times out at
    `until_us`; 0 for never."""

    seq: int
    ttl_ms: int
    until_us: int
    run: str = ""
    step: str = ""
    asker: str = ""
    holder: str = ""


class Lock(msgspec.Struct):
    """One lock. The keys of `line` are `place_of(run)` for a run, which is in it at most once, and
    the asker for a client."""

    holding: Holding | None = None
    line: dict[str, Waiting] = {}

    def held(self, now_us: int) -> Holding | None:
        """The holder at `now_us`; None if there is none, or if its time has passed and only the
        record of that is missing."""
        holding = self.holding
        return holding if holding is not None and not 0 < holding.expires_us <= now_us else None

    def next(self, now_us: int, gone: frozenset[str] = frozenset()) -> Waiting | None:
        """The first in line whose wait has not timed out, except for the runs in `gone`."""
        for waiting in self.line.values():
            if waiting.run not in gone and not 0 < waiting.until_us <= now_us:
                return waiting
        return None


def place_of(run: str) -> str:
    """A run's key in `Lock.line`; the line break keeps it apart from askers, which have none."""
    return f"{run}\n"


def token_json(key: str, token: int, expires_us: int) -> bytes:
    """`{"key":…,"token":…,"expires_at":…}`."""
    return encode(
        {"key": key, "token": token, "expires_at": rfc3339(expires_us) if expires_us else None}
    )
