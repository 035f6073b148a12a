"""Decisions about calls that a handler gives up: it has cancelled the tasks that made them.

What such a call waited for goes to whoever is next: an event to the next wait, a lock to the next
in its line. A child that it called is cancelled with it.
"""

from __future__ import annotations

from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.decide.ends import cancel_called
from stackshiftd.core.decide.events import give_back
from stackshiftd.core.decide.lock_release import LockRelease
from stackshiftd.core.effects import NOTHING, Decision
from stackshiftd.core.state.state import PENDING, CallKind, Phase, Run, State


def withdraw(state: State, run: Run, command: c.WithdrawCall, now_us: int) -> Decision:
    """Withdraw a call. One whose outcome is recorded stays as it is, except that a lock or an event
    of which the handler has not learnt goes to whoever is next."""
    call = run.calls.get(command.step)
    withdrawn = r.CallWithdrawn(run.id, run.attempt, command.step)
    if call is None or call.phase is Phase.OPEN:
        return Decision((withdrawn,))
    if call.phase in PENDING:
        cancelled = cancel_called(state, run, command.step, now_us, 1)
        return Decision((withdrawn, *cancelled.records), cancelled.effects)
    if call.kind is CallKind.LOCK and call.phase is Phase.COMPLETED:
        return _with_lock(state, run, withdrawn, now_us)
    body = bytes(command.body)
    if call.kind is CallKind.EVENT and call.phase is Phase.COMPLETED and body != b"null":
        return give_back(state, run, call, withdrawn, body, now_us)
    return NOTHING


def _with_lock(state: State, run: Run, withdrawn: r.CallWithdrawn, now_us: int) -> Decision:
    release = LockRelease(state, now_us)
    for key in run.locks:
        holding = state.locks[key].of_run(run.id)
        if holding is not None and holding.step == withdrawn.step:
            release.release(key, holding, "withdrawn")
    return Decision((*release.records, withdrawn), tuple(release.effects))
