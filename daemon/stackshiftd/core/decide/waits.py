"""Decisions about sleeps, children, and handlers that are suspended."""

from __future__ import annotations

from stackshift_jobs.errors import Conflict
from stackshift_jobs.values.durations import from_rfc3339, rfc3339
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.decide.ends import cancel, cancel_called, end_wait, fail_wait
from stackshiftd.core.decide.gentle import may_be_told
from stackshiftd.core.decide.replies import refusal_json
from stackshiftd.core.decide.runs import start
from stackshiftd.core.decide.steps import refuse_call
from stackshiftd.core.decide.unique import would_end_itself
from stackshiftd.core.effects import Acknowledge, Decision, Resolve, Started
from stackshiftd.core.state.state import PENDING, Run, State


def begin_sleep(_state: State, run: Run, command: c.BeginSleep, now_us: int) -> Decision:
    """Begin a sleep; one whose time has passed already ends at once."""
    until_us = command.until_us
    if until_us is None:
        until_us = now_us + (command.delay_ms or 0) * 1000
    # A time that has passed is due at once, through the same timer as all others.
    due_us = max(until_us, now_us)
    record = r.WaitStarted(run.id, run.attempt, command.step, "sleep", rfc3339(due_us))
    return Decision((record,), (Acknowledge(command.call, due_us),))


def start_child(state: State, run: Run, command: c.StartChild, now_us: int) -> Decision:
    """Start a run for a handler, and wait for it if the command says so. A start whose key is taken
    is refused with `Conflict`."""
    try:
        if (mistake := would_end_itself(state, run, command)) is not None:
            raise mistake
        started = start(state, command.start, now_us)
    except Conflict as conflict:
        error = refusal_json(conflict, final=True)
        refused = c.RefuseCall(command.run, command.token, command.call, command.step, error)
        return refuse_call(state, run, refused, now_us)
    assert isinstance(started.reply, Started)
    child = started.reply.run
    records = tuple(
        _adopted(record, run, command) if isinstance(record, r.RunCreated) else record
        for record in started.records
    )
    due_us = _due_us(command, now_us)
    effects = (Acknowledge(command.call, due_us, child), *started.effects)
    if not command.wait:
        record = r.ChildStarted(run.id, run.attempt, command.step, child, command.start.job)
        return Decision((*records, record), effects)
    waits = r.WaitStarted(
        run.id,
        run.attempt,
        command.step,
        "child",
        rfc3339(due_us) if due_us else None,
        child,
        on_timeout=command.on_timeout if due_us else "",
        job=command.start.job,
    )
    return Decision((*records, waits), effects)


def _adopted(record: r.RunCreated, parent: Run, command: c.StartChild) -> r.RunCreated:
    """The child's `run.created`, with its parent added. If it ends with its parent, it has to have
    ended by the parent's deadline."""
    fields = {name: getattr(record, name) for name in record.__struct_fields__}
    fields |= {
        "parent": parent.id,
        "parent_step": command.step,
        "cancel_with_parent": command.wait
        or command.cancel_with_parent
        or command.ends_with_parent,
        "ends_with_parent": command.ends_with_parent,
    }
    if fields["cancel_with_parent"] and parent.deadline_us:
        own_us = from_rfc3339(record.deadline_at) if record.deadline_at else parent.deadline_us
        fields["deadline_at"] = rfc3339(min(own_us, parent.deadline_us))
    return r.RunCreated(**fields)


def _due_us(command: c.StartChild | c.AwaitRun, now_us: int) -> int:
    """When the wait for a run times out; 0 for never."""
    return now_us + command.timeout_ms * 1000 if command.timeout_ms is not None else 0


def await_run(state: State, run: Run, command: c.AwaitRun, now_us: int) -> Decision:
    """Wait for a run, or for the one as which it continues by now. The wait ends at once if that
    has finished, and fails if it does not exist."""
    child = state.latest(command.child)
    chain = child.chain or "" if child is not None else ""
    due_us = _due_us(command, now_us)
    waits = r.WaitStarted(
        run.id,
        run.attempt,
        command.step,
        "child",
        rfc3339(due_us) if due_us else None,
        command.child,
        on_timeout=command.on_timeout if due_us else "",
        chain=chain,
    )
    acknowledge = Acknowledge(command.call, due_us)
    if child is not None and not child.finished:
        return Decision((waits,), (acknowledge,))
    if child is not None:
        ended = r.WaitEnded(run.id, command.step, child.status, r.NULL, child.error)
    elif command.status:
        ended = r.WaitEnded(run.id, command.step, command.status, command.result, command.error)
    else:
        error = r.Error("NotFound", f"there is no run {command.child}")
        ended = r.WaitEnded(run.id, command.step, "failed", r.NULL, error)
    return Decision((waits, ended), (acknowledge, Resolve(run.id, command.token, command.step)))


def child_is_late(state: State, run: Run, name: str, now_us: int) -> Decision:
    """Time out the wait for a run: the waiting run continues, fails or is cancelled, as the wait's
    terms say. A run that this same call has started is cancelled."""
    call = run.calls[name]
    assert call.wait is not None
    ended = r.WaitEnded(run.id, name, "timed_out")
    if call.wait.on_timeout == "cancel":
        cancelled = cancel(state, (run,), "timeout", now_us, before=1)
        return Decision((ended, *cancelled.records), cancelled.effects)
    if call.wait.on_timeout == "fail":
        late = f"{name!r} waited for {call.child}, which had not ended in time"
        return fail_wait(state, run, name, ended, late, now_us)
    over = end_wait(run, ended)
    cancelled = cancel_called(state, run, name, now_us, len(over.records))
    return Decision((*over.records, *cancelled.records), (*over.effects, *cancelled.effects))


def suspend(state: State, run: Run, command: c.Suspend, _now_us: int) -> Decision:
    """Suspend the run, or queue it again at once if one of its waits has ended meanwhile."""
    suspended = r.AttemptSuspended(run.id, run.attempt)
    steps = run.calls
    if may_be_told(state, run):
        return Decision((suspended, r.RunQueued(run.id, "cancel")))
    if all(name in steps and steps[name].phase in PENDING for name in command.pending):
        return Decision((suspended,))
    # A wait ended while the handler was leaving memory: the run resumes at once.
    return Decision((suspended, r.RunQueued(run.id, "wait")))
