"""Decisions about steps and values: results, failures, tries, checkpoints, refusals, progress."""

from __future__ import annotations

import msgspec

from stackshift_jobs.values.durations import rfc3339
from stackshift_jobs.values.strict_json import json_size
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.decide.backoff import admits, next_try_us
from stackshiftd.core.decide.ends import over_limit
from stackshiftd.core.effects import NOTHING, Acknowledge, Decision
from stackshiftd.core.state.state import Phase, Run, State


def complete_step(state: State, run: Run, command: c.CompleteStep, now_us: int) -> Decision:
    """Record the result of a step, or fail the run if that exceeds its limits."""
    over = over_limit(state, run, command.step, json_size(bytes(command.result)), now_us)
    if over is not None:
        return over
    record = r.StepCompleted(
        run.id,
        run.attempt,
        command.step,
        command.result,
        command.duration_ms,
        command.tried,
        command.input,
        command.undo,
    )
    return Decision((record,), (Acknowledge(command.call),))


def fail_step(_state: State, run: Run, command: c.FailStep, now_us: int) -> Decision:
    """Record a failed try, and when the step is tried again, if it is. What the policy of the step
    or of the run excludes is final, for the attempt too."""
    error, verdict = command.error, command.verdict
    known = run.calls.get(command.step)
    snoozes = known.snoozes if known is not None else 0
    due_us = None
    if command.retry is not None:
        seed = f"{run.id}/{command.step}"
        due_us = next_try_us(command.retry, command.tried - snoozes, verdict, seed, now_us)
    if due_us is None and error.retryable:
        own = command.retry is None or admits(command.retry, verdict.kinds)
        if not own or not admits(run.retry, verdict.kinds):
            error = msgspec.structs.replace(error, retryable=False)
    record = r.StepFailed(
        run.id,
        run.attempt,
        command.step,
        error,
        command.duration_ms,
        command.tried,
        rfc3339(due_us) if due_us is not None else None,
        command.input,
        verdict.counts,
        command.undo,
    )
    return Decision((record,), (Acknowledge(command.call, due_us or 0),))


def open_step(_state: State, run: Run, command: c.OpenStep, _now_us: int) -> Decision:
    """Record that a step is executing, and which program, unless it has an outcome already."""
    step = run.calls.get(command.step)
    # Its outcome may have overtaken this command, unless its function waits for the answer.
    if step is not None and step.phase is not Phase.OPEN and not command.call:
        return NOTHING
    started = r.StepStarted(
        run.id, run.attempt, command.step, command.tried, command.program, command.undo
    )
    return Decision((started,), (Acknowledge(command.call),) if command.call else ())


def checkpoint_step(_state: State, run: Run, command: c.CheckpointStep, _now_us: int) -> Decision:
    """Record how far the function of a step has come. Its size does not count towards the limits of
    the run: of each step only the last one is kept, and the worker bounds how often one comes.

    Nothing is recorded if it has come no further. So one that dies at the same place each time does
    not look as if it progressed, with or without the records that later ones have replaced."""
    tries = run.tries.get(command.step)
    last = tries.checkpoint if tries is not None else None
    if last is not None and last.body == bytes(command.value):
        return Decision((), (Acknowledge(command.call),))
    record = r.StepCheckpointed(run.id, run.attempt, command.step, command.value, command.tried)
    return Decision((record,), (Acknowledge(command.call),))


def record_value(state: State, run: Run, command: c.RecordValue, now_us: int) -> Decision:
    """Record the result of a read, or fail the run if that exceeds its limits."""
    over = over_limit(state, run, command.step, json_size(bytes(command.value)), now_us)
    if over is not None:
        return over
    record = r.ValueRecorded(run.id, run.attempt, command.step, command.value)
    body = command.value if command.told else r.NULL
    return Decision((record,), (Acknowledge(command.call, body=body),))


def refuse_call(_state: State, run: Run, command: c.RefuseCall, _now_us: int) -> Decision:
    """Refuse a handler's call; the refusal is recorded if the call has a `step`."""
    acknowledge = Acknowledge(command.call, error=command.error)
    if not command.step:
        return Decision((), (acknowledge,))
    refused = r.CallRefused(run.id, run.attempt, command.step, command.error)
    return Decision((refused,), (acknowledge,))


def report_progress(_state: State, run: Run, command: c.ReportProgress, _now_us: int) -> Decision:
    """Record the progress of a handler. There is no answer."""
    return Decision(
        (r.ProgressReported(run.id, run.attempt, command.done, command.total, command.message),)
    )
