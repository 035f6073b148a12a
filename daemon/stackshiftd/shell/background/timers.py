"""Waking when something is due.

The core knows what is due when, in daemon time; here is only the alarm. It is set for at most a
second, and then looked again: so it is right also when the wall clock jumps or the machine has
slept.
"""

from __future__ import annotations

import asyncio
from typing import Final

from stackshiftd.core.commands import Tick
from stackshiftd.shell.engine import Engine

MAX_SLEEP_SECONDS: Final = 1.0
MAX_TICKS: Final = 512
"""Timers fired in one turn of the loop, so that a great many due at once do not keep all else
waiting."""


class Timers:
    """Submits a `Tick` for each timer that is due."""

    def __init__(self, engine: Engine, remember_ms: int) -> None:
        self._engine = engine
        self._tick = Tick(remember_ms)
        self._loop = asyncio.get_running_loop()
        self._alarm: asyncio.TimerHandle | None = None
        self._armed_us = 0

    def rearm(self) -> None:
        """Fire what is due, and set the alarm for what is next."""
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
        """Until a timer is due, or a queue's rate lets its next run go."""
        permit_us = self._engine.state.next_permit_us(now_us)
        next_us = min((us for us in (due_us, permit_us) if us is not None), default=None)
        if next_us is None:
            self._cancel()
        else:
            self._set(next_us, (next_us - now_us) / 1e6)

    def _set(self, due_us: int, seconds: float) -> None:
        if self._alarm is not None and self._armed_us == due_us and due_us:
            return
        self._cancel()
        self._armed_us = due_us
        self._alarm = self._loop.call_later(min(seconds, MAX_SLEEP_SECONDS), self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._armed_us = 0
        self._engine.poke()  # a rate may let a run go
        self.rearm()

    def _cancel(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
            self._armed_us = 0

    def stop(self) -> None:
        """Ring no more."""
        self._cancel()
