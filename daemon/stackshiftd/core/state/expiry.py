"""What expires at a fixed time: state entries, locks, kept events; groups of alerts and
expectations, about which something is decided then.

Expiry is a record, written when the time has come, so that a replay expires the same things. What
is due but not recorded yet already counts as expired for every reader: an expired entry is never
read.
"""

from __future__ import annotations

from typing import Final

import msgspec

STATE: Final = "state"
LOCK: Final = "lock"
EVENT: Final = "event"
GROUP: Final = "group"
EXPECTATION: Final = "expectation"


class Expiry(msgspec.Struct, frozen=True, order=True, gc=False):
    """The entry, lock or event (`what` is `STATE`, `LOCK` or `EVENT`) that `key` names expires at
    `due_us`. The key of an event is its id, that of a `GROUP` as `alerts.group_id` makes it, and
    that of an `EXPECTATION` its job."""

    due_us: int
    what: str
    key: str
