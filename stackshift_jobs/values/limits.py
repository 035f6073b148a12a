"""Limits and defaults that both ends know: the daemon, which enforces them, and its clients.

Short commands load this module, so it imports nothing that takes time.
"""

from __future__ import annotations

TYPE_CHECKING = False  # See `errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    from typing import Final

DAY_MS: Final = 86_400_000

MAX_PAYLOAD_BYTES: Final = 16 << 20
"""The most that `[limits] payload` can allow for a payload, result, event or state value. Their
size is that of their JSON in UTF-8, without white space between its parts, however they are sent
and stored."""
PAYLOAD_BYTES: Final = 1 << 20
"""The default of `[limits] payload`."""
MAX_DIGITS: Final = 4300
"""Digits of an integer in a value: as many as Python reads and writes unless it is told to do more
or less. Up to that, integers are kept exactly."""
LINE_MARGIN: Final = 64 << 10
"""How much longer than the payload in it a line of the protocol may be."""

MAX_ATTEMPTS: Final = 1_000_000
"""Attempts of a run, or tries of a step."""
MAX_FACTOR: Final = 1000
"""How many times longer each delay of a retry may be than the last."""
MAX_PRIORITY: Final = 1_000_000
"""The highest priority; its negative is the lowest."""

EVENT_TTL_MS: Final = 7 * DAY_MS
"""How long an event that no run waits for is kept, by default."""
KEY_TTL_MS: Final = 30 * DAY_MS
"""How long an idempotency key is remembered, by default."""
VERSION_MEMORY_MS: Final = 30 * DAY_MS
"""How long the version of a deleted state entry is remembered, by default (`retention`)."""

MAX_EVENTS: Final = 32
"""Events that one wait may name."""
CANCEL_GRACE_MS: Final = 30_000
"""How long the handler of a run that is cancelled gently may go on, unless it is said."""
ON_TIMEOUT: Final = ("fail", "continue", "cancel")
WHEN_PARENT_ENDS: Final = ("cancel", "leave")
"""What can happen to a run whose wait for events times out."""
ON_DUPLICATE: Final = ("refuse", "attach", "replace", "queue")
"""What can become of a start while an unfinished run has its unique key: it is refused, it is given
that run, it cancels that run first, or its run waits until that run is over."""
MAX_HOLDER: Final = 128
"""Characters of the text that describes the holder of a lock to people."""
MAX_HOLDERS: Final = 1000
"""Holders of a lock at a time, where it is asked for among several."""

FINISHED: Final = frozenset(("completed", "failed", "cancelled"))
"""The statuses of a run that has ended."""
MAX_SCHEDULE_PAYLOAD: Final = 64 << 10
"""Bytes of a schedule's payload, which the daemon keeps in memory."""
