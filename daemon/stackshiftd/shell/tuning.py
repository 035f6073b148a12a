"""Times that users have no need to set and tests do."""

from __future__ import annotations

from typing import NamedTuple


class Tuning(NamedTuple):
    """Seconds. A worker silent for `heartbeat` is lost; `kill_delay` puts off its kill, so that a
    test can let it speak once more; `ready` bounds the wait for the first worker at start;
    `hook_seconds` is the time that a hook has. How many hooks run at once, and how many wait."""

    heartbeat: float = 15.0
    kill_delay: float = 0.0
    ready: float = 20.0
    respawn_first: float = 0.1
    respawn_most: float = 5.0
    hook_seconds: float = 60.0
    hooks_at_once: int = 4
    hooks_waiting: int = 1000
