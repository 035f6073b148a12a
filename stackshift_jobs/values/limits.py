"""Limits and defaults that both ends know: the daemon, which holds requests to them, and whoever
makes the requests. Loaded by short commands, so it imports nothing that costs time."""

from __future__ import annotations

TYPE_CHECKING = False  # See `errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    from typing import Final

DAY_MS: Final = 86_400_000

MAX_PAYLOAD_BYTES: Final = 16 << 20
"""Of a payload, result, event or state value as JSON, whatever `[limits] payload` says."""
PAYLOAD_BYTES: Final = 1 << 20
"""The default of `[limits] payload`."""
LINE_MARGIN: Final = 64 << 10
"""How much longer than its payload a line of the protocol may be."""

MAX_ATTEMPTS: Final = 1_000_000
"""Attempts of a run, or tries of a step."""
MAX_FACTOR: Final = 1000
"""How many times longer each delay of a retry may be than the last."""
MAX_PRIORITY: Final = 1_000_000
"""And, negative, the least."""

EVENT_TTL_MS: Final = 7 * DAY_MS
"""How long an event is kept that nobody waits for, where its sender does not say."""
KEY_TTL_MS: Final = 30 * DAY_MS
"""How long an idempotency key is remembered, where nobody says."""
VERSION_MEMORY_MS: Final = 30 * DAY_MS
"""How long the version of a deleted state entry is remembered: the default of `retention`."""

MAX_EVENTS: Final = 32
"""Events that one wait may name."""
ON_TIMEOUT: Final = ("fail", "continue", "cancel")
"""What a wait for events may do when its time has passed."""
MAX_HOLDER: Final = 128
"""Characters of the text that tells people who holds a lock."""

FINISHED: Final = frozenset(("completed", "failed", "cancelled"))
"""The statuses of a run that has ended."""
