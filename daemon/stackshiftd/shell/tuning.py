"""Times that users have no need to set and tests do."""

from __future__ import annotations

from typing import NamedTuple


class Tuning(NamedTuple):
    """Seconds. A worker silent for `heartbeat` is lost; `kill_delay` puts off its kill, so that a
    test can let it speak once more; `ready` bounds the wait for the first worker at start."""

    heartbeat: float = 15.0
    kill_delay: float = 0.0
    ready: float = 20.0
    respawn_first: float = 0.1
    respawn_most: float = 5.0
