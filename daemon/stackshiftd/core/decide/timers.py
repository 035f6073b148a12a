"""Decisions at a time that has come: the first timer or expiry that is due."""

from __future__ import annotations

from typing import Final

from stackshift_jobs.values.durations import short_ms
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.decide import deadlines, entries, events, locks, predecessors, waits
from stackshiftd.core.decide.ends import attempt_failed, cancel, end_wait
from stackshiftd.core.decide.monitoring import alerts, expectations
from stackshiftd.core.effects import NOTHING, Decision, Stop
from stackshiftd.core.state.expiry import EVENT, EXPECTATION, GROUP, LOCK
from stackshiftd.core.state.state import (
    AFTER,
    GRACE,
    LATE,
    TTL,
    CallKind,
    Phase,
    Run,
    State,
    Status,
)

_TOO_LONG: Final = c.Verdict(kinds=[[f"builtins.{cls.__name__}" for cls in TimeoutError.mro()]])


def tick(state: State, command: c.Tick, now_us: int) -> Decision:
    """Act on the first expiry that is due, or else the first timer; nothing follows if neither
    is."""
    if state.expiries and state.expiries[0].due_us <= now_us:
        return _expire(state, command, now_us)
    if not state.timers or state.timers[0].due_us > now_us:
        return NOTHING
    timer = state.timers[0]
    run = state.runs[timer.run]
    if timer.limit == AFTER:
        return predecessors.proceed(state, run, now_us)
    if timer.limit == LATE:
        return alerts.late(state, run, now_us)
    if timer.limit == GRACE:
        return cancel(state, (run,), "grace", now_us)
    if timer.limit:
        over = deadlines.expire if timer.limit == TTL else deadlines.exceed
        return over(state, run, now_us)
    if timer.step:
        return _wait_is_over(state, run, timer.step, now_us)
    if timer.token:
        error = r.Error("TimeoutError", f"the attempt ran longer than {short_ms(run.timeout_ms)}")
        failed = attempt_failed(state, run, error, now_us, verdict=_TOO_LONG, stopped=False)
        return Decision(failed.records, (*failed.effects, Stop(run.id, timer.token, "timeout")))
    reason = "due" if run.status is Status.SCHEDULED else "retry"
    return Decision((r.RunQueued(run.id, reason),))


def _wait_is_over(state: State, run: Run, name: str, now_us: int) -> Decision:
    step = run.calls[name]
    if step.phase is Phase.WAITING and step.kind is CallKind.EVENT:
        return events.wait_is_over(state, run, name, now_us)
    if step.phase is Phase.WAITING and step.kind is CallKind.LOCK:
        return locks.wait_is_over(state, run, name, now_us)
    if step.phase is Phase.WAITING and step.kind is CallKind.CHILD:
        return waits.child_is_late(state, run, name, now_us)
    return end_wait(run, r.WaitEnded(run.id, name))


def _expire(state: State, command: c.Tick, now_us: int) -> Decision:
    expiry = state.expiries[0]
    if expiry.what == EVENT:
        return events.expire(state, expiry.key)
    if expiry.what == LOCK:
        return locks.expire(state, expiry.key, now_us)
    if expiry.what == GROUP:
        return alerts.group_is_over(state, expiry.key, now_us)
    if expiry.what == EXPECTATION:
        return expectations.judge(state, expiry.key, now_us)
    return entries.expire(state, expiry.key, now_us, command.remember_ms)
