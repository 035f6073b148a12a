"""Times and bounds that tests need to set, but users do not."""

from __future__ import annotations

from typing import NamedTuple

from stackshiftd.worker.host_frames import GIVEN_UP_SECONDS, SILENCE_SECONDS


class Tuning(NamedTuple):
    """Times are in seconds."""

    kill_delay: float = 0.0
    """Delays the kill of a lost worker, so that a test can let it send once more."""
    ready: float = 20.0
    """The longest wait for the first worker when the daemon starts."""
    respawn_first: float = 0.1
    """The pause after a worker died early; it doubles with each further early death."""
    respawn_most: float = 5.0
    """The longest such pause."""
    host_respawn_most: float = 30.0
    """The longest such pause on another host."""
    host_silence: float = SILENCE_SECONDS
    """After so long without a word from us, a keeper ends."""
    host_given_up: float = GIVEN_UP_SECONDS
    """After so long without a word from a keeper, its worker is given up."""
    host_settles: float = 0.8
    """How long after the end of a connection its worker may still execute something."""
    outdated_seconds: float = 10.0
    """How long a worker with other code than ours is kept, before another is tried there."""
    hook_seconds: float = 60.0
    """The time limit of a hook."""
    hooks_at_once: int = 4
    """The most hooks that run at once."""
    hooks_waiting: int = 1000
    """The most hooks that wait; more are dropped."""
