"""What state and events look like to a program: an entry, a change of one, an event, a sending.

Values only: who reads them off the wire is `state_calls` and `event_calls`. They are the same for
applications and for handlers. Times are aware, in UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class StateEntry:
    """An entry of the project's state, as it was when it was read.

    `version` grows with every write of the key, also across deletion. `updated_by` is the run that
    wrote it, or `client`.
    """

    key: str
    value: Any
    version: int
    expires_at: datetime | None
    updated_at: datetime
    updated_by: str


@dataclass(frozen=True, slots=True)
class StateChange:
    """One change of an entry. `kind`: `set`, `incremented`, `deleted` or `expired`; `seq` is the
    number of its record in the journal. `value` is None where the entry went."""

    seq: int
    at: datetime
    kind: str
    version: int
    value: Any
    expires_at: datetime | None
    by: str | None


@dataclass(frozen=True, slots=True)
class SentEvent:
    """What became of an event that was sent.

    `resumed`: the runs that waited for it. `kept_until`: until when the first later wait can have
    it; None where it is not kept. `reused`: its idempotency key had been used for it before.
    """

    id: str
    name: str
    correlation_key: str | None
    resumed: list[str]
    kept_until: datetime | None
    reused: bool


@dataclass(frozen=True, slots=True)
class Event:
    """What a wait for an event gave. One that timed out (`on_timeout="continue"`) is falsy: it has
    the name that was waited for (of several: none), and nothing else."""

    name: str
    payload: Any = None
    correlation_key: str | None = None
    id: str | None = None
    received_at: datetime | None = None
    timed_out: bool = False

    def __bool__(self) -> bool:
        return not self.timed_out
