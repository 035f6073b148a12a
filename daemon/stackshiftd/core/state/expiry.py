"""What ends by itself at a time: state entries, locks, kept events.

An end is a record, written when the time has come, so that a replay ends the same. What is due and
not on record yet counts as ended for everybody who asks: an expired entry is never read.
"""

from __future__ import annotations

from typing import Final

import msgspec

STATE: Final = "state"
LOCK: Final = "lock"
EVENT: Final = "event"


class Expiry(msgspec.Struct, frozen=True, order=True, gc=False):
    """`what` (`STATE`, `LOCK`, `EVENT`) of the name `key` (an event's is its id) ends at
    `due_us`."""

    due_us: int
    what: str
    key: str
