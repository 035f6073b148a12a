"""What state and events look like to a program: an entry, a change of one, an event, a sent event.

Values only: `calls.state` and `calls.events` read them from the wire. They are the same for
applications and for handlers. Times are aware, in UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class StateEntry:
    """An entry of the project's state, as it was when it was read.

    `version` grows with every write of the key, even if it was deleted in between. `updated_by` is
    the id of the run that wrote it, or `client`.
    """

    key: str
    value: Any
    version: int
    expires_at: datetime | None
    updated_at: datetime
    updated_by: str


@dataclass(frozen=True, slots=True)
class StateChange:
    """One change of an entry. `kind` is `set`, `incremented`, `deleted` or `expired`; `seq` is the
    number of its record in the journal. `value` is None if the change removed the entry."""

    seq: int
    at: datetime
    kind: str
    version: int
    value: Any
    expires_at: datetime | None
    by: str | None


@dataclass(frozen=True, slots=True)
class SentEvent:
    """An event that was sent, and what it did.

    `resumed`: ids of the runs that were waiting for it. `kept_until`: until when the event is kept
    for the first later wait; None if it is not kept. `reused`: it had been sent before, with the
    same idempotency key.
    """

    id: str
    name: str
    correlation_key: str | None
    resumed: list[str]
    kept_until: datetime | None
    reused: bool


@dataclass(frozen=True, slots=True)
class Event:
    """The event that ended a wait. If the wait timed out (`on_timeout="continue"`), it is falsy and
    has only the name that was waited for (empty if there were several)."""

    name: str
    payload: Any = None
    correlation_key: str | None = None
    id: str | None = None
    received_at: datetime | None = None
    timed_out: bool = False

    def __bool__(self) -> bool:
        return not self.timed_out
