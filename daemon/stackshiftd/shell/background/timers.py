"""The alarm for timers.

The core knows what is due when, in daemon time; only the alarm is here. It does no more than ask
the engine to look for work, and each look sets it again. It is set for at most a second, so that it
stays right when the wall clock jumps or the machine was suspended.
"""

from __future__ import annotations

import asyncio
from typing import Final

from stackshiftd.core.commands import Tick
from stackshiftd.shell.engine import Engine

MAX_SLEEP_SECONDS: Final = 1.0
MAX_TICKS: Final = 512
"""The most timers fired in one turn of the loop, so that very many that are due at once do not
block everything else."""


class Timers:
    """Submits a `Tick` for each timer that is due. `remember_ms` is how long the core remembers
    the versions of expired state entries."""

    def __init__(self, engine: Engine, remember_ms: int) -> None:
        self._engine = engine
        self._tick = Tick(remember_ms)
        self._loop = asyncio.get_running_loop()
        self._alarm: asyncio.TimerHandle | None = None
        self._armed_us = 0

    def rearm(self) -> None:
        """Fire what is due, and set the alarm for what is next; called in each look for work."""
        engine = self._engine
        if engine.room.read_only:
            return
        for _ in range(MAX_TICKS):
            due_us = engine.state.next_due_us()
            now_us = engine.now_us()
            if due_us is None or due_us > now_us:
                self._sleep(due_us, now_us)
                return
            engine.submit(self._tick)
        self._set(0, 0.0)

    def _sleep(self, due_us: int | None, now_us: int) -> None:
        """Set the alarm for the next timer, or for when a queue's rate allows its next run: the
        first permit that this look has not seen, even if its time has come since."""
        permit_us = self._engine.state.next_permit_us(self._engine.looked_us)
        if due_us is None:
            next_us = permit_us
        else:
            next_us = due_us if permit_us is None else min(due_us, permit_us)
        if next_us is None:
            self._cancel()
        else:
            self._set(next_us, max(0, next_us - now_us) / 1e6)

    def _set(self, due_us: int, seconds: float) -> None:
        if self._alarm is not None and self._armed_us == due_us and due_us:
            return
        self._cancel()
        self._armed_us = due_us
        self._alarm = self._loop.call_later(min(seconds, MAX_SLEEP_SECONDS), self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._armed_us = 0
        self._engine.poke()

    def _cancel(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
            self._armed_us = 0

    def stop(self) -> None:
        """Cancel the alarm."""
        self._cancel()
