"""Locks as they are in the state: who holds one, and who waits for it in what order.

Laws:

- One holder at any sequence number. Whoever waits stands in one line, runs and clients alike, in
  the order in which they came.
- A lock is here while somebody holds it or waits for it. When it is free, nobody in its line may
  have it (the time of each has passed): the record that frees it gives it to the next.
- The fencing token is the sequence number of the record by which it was given, or given anew: a
  later holder, and a later execution of the same run after a loss, has a greater one.
- A run holds a lock by one call (`step`), whose phase tells how it stands.
"""

from __future__ import annotations

from typing import Final

import msgspec

from stackshift_jobs.values.durations import rfc3339

encode: Final = msgspec.json.Encoder().encode


class Holding(msgspec.Struct):
    """Who holds a lock: a run by its call `step`, or the client `asker`. `expires_us` is 0 for
    never."""

    token: int
    expires_us: int
    since_us: int
    run: str = ""
    step: str = ""
    asker: str = ""
    holder: str = ""
    """Who that client is, for people."""


class Waiting(msgspec.Struct, frozen=True):
    """Somebody in the line, to hold it for `ttl_ms`. Nobody after `until_us` (0: for ever)."""

    seq: int
    ttl_ms: int
    until_us: int
    run: str = ""
    step: str = ""
    asker: str = ""
    holder: str = ""


class Lock(msgspec.Struct):
    """One lock; `line` by run (which stands in it once at most) or asker, as `place_of` says."""

    holding: Holding | None = None
    line: dict[str, Waiting] = {}

    def held(self, now_us: int) -> Holding | None:
        """Who holds it at `now_us`: its time has not passed, whatever is on record."""
        found = self.holding
        return found if found is not None and not 0 < found.expires_us <= now_us else None

    def next(self, now_us: int, gone: frozenset[str] = frozenset()) -> Waiting | None:
        """Whose turn it is, runs that are `gone` aside."""
        for waiting in self.line.values():
            if waiting.run not in gone and not 0 < waiting.until_us <= now_us:
                return waiting
        return None


def place_of(run: str) -> str:
    """Where a run stands in the line: no asker's name has a line break."""
    return f"{run}\n"


def token_json(key: str, token: int, expires_us: int) -> bytes:
    """`{"key":…,"token":…,"expires_at":…}`."""
    return encode(
        {"key": key, "token": token, "expires_at": rfc3339(expires_us) if expires_us else None}
    )
