"""Decisions about daemon time itself.

It never runs backwards, so that nothing that was seen to pass is ever seen to come again. If the
system clock was ahead for a while, daemon time stands still until the clock has caught up. The only
way out is a person's: one record sets it back, and leaves what had passed by then as it is.
"""

from __future__ import annotations

from stackshift_jobs.errors import Busy
from stackshift_jobs.values.durations import rfc3339
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.effects import Changed, Decision
from stackshiftd.core.state.state import State

CLOCK = "clock"


def set_back(state: State, command: c.SetClockBack, now_us: int) -> Decision:
    """Set daemon time back to that of the system clock; nothing follows if it is not ahead. Raises
    `Busy` while something that is due has not been acted on: it would be due again."""
    if command.to_us >= state.now_us:
        return Decision(reply=Changed(CLOCK, False))
    due_us = state.next_due_us()
    if due_us is not None and due_us <= now_us:
        raise Busy("what is due has not all been acted on yet", hint="try again")
    return Decision((r.ClockSetBack(rfc3339(state.now_us)),), (), Changed(CLOCK, True))
