"""`daemon.clock`: daemon time, where it stands still, and the way out.

Daemon time is the later of the system clock and the newest record's time. So if the system clock
was ahead for a while, daemon time stands still until it has caught up: no timer fires meanwhile.
That is said in the log, by `daemon status` and by `runs why`, and a person can have it set back.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from stackshift_jobs.errors import StackshiftError
from stackshift_jobs.values.durations import format_ms, rfc3339
from stackshiftd.core import commands as c
from stackshiftd.core.why import NOTICED_US
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.params import Answer, Params, Table
from stackshiftd.shell.work import Work

log = logging.getLogger("stackshiftd.clock")

TICKS: Final = 16
"""Timers that are fired in one part of the work."""


class ClockParams(Params):
    """`set_back`: set daemon time back to the system clock."""

    set_back: bool = False


class Clock:
    """Shows daemon time, watches it, and sets it back. `remember_ms` is how long the core remembers
    the versions of expired state entries."""

    def __init__(self, engine: Engine, remember_ms: int) -> None:
        self._engine = engine
        self._tick = c.Tick(remember_ms)
        self._is_ahead = False
        self.table: Table = {"daemon.clock": (ClockParams, self.clock)}

    def clock(self, params: ClockParams, answer: Answer) -> Work | None:
        """Answer `{time, system_time, ahead_ms, changed}`, after `time` was set back if that was
        asked for and it was ahead."""
        if params.set_back:
            return self._set_back(answer)
        self._engine.when_durable(answer, self._shown(False))
        return None

    def _shown(self, changed: bool) -> dict[str, Any]:
        engine = self._engine
        return {
            "time": rfc3339(engine.now_us()),
            "system_time": rfc3339(engine.wall_us),
            "ahead_ms": engine.ahead_us // 1000,
            "changed": changed,
        }

    def _set_back(self, answer: Answer) -> Work:
        engine = self._engine
        fired = 0
        while (due_us := engine.state.next_due_us()) is not None and due_us <= engine.now_us():
            before = engine.state.seq
            engine.submit(self._tick)
            if engine.state.seq == before:
                break  # Nothing can be recorded now; the core refuses what follows.
            fired += 1
            if fired % TICKS == 0:
                yield None

        def done(reply: Any) -> None:
            failed = isinstance(reply, StackshiftError)
            answer(reply if failed else self._shown(reply.changed))
            if not failed and reply.changed:
                self._is_ahead = False
                log.warning("daemon time was set back to the system clock")

        engine.submit(c.SetClockBack(engine.wall_us), done)

    def watch(self) -> None:
        """Log that daemon time stands still, or goes on. Called once a second."""
        ahead_us = self._engine.ahead_us
        is_ahead = ahead_us >= NOTICED_US
        if is_ahead and not self._is_ahead:
            log.warning(
                "daemon time is %s ahead of the system clock and stands still until then: no timer "
                "fires; see stackshift daemon clock",
                format_ms(ahead_us // 1000),
            )
        elif self._is_ahead and not is_ahead:
            log.info("the system clock has caught up with daemon time")
        self._is_ahead = is_ahead
