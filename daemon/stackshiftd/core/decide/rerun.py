"""Sending a finished run on: `runs retry` and `runs fork`, and what they reuse and repeat."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from msgspec import Raw

from stackshift_jobs.errors import Conflict, NotFound, Usage
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.effects import Decision, Rerun
from stackshiftd.core.fold.fold import rebuild
from stackshiftd.core.fold.locks import released_since
from stackshiftd.core.state.state import PENDING, Call, CallKind, Phase, Run, State, Status


class Plan(NamedTuple):
    """Names of recorded steps, each in journal order."""

    reused: list[str]
    repeated: list[str]


def plan(state: State, run: Run, from_step: str | None, replaced: frozenset[str]) -> Plan:
    """What a retry or fork of `run` reuses and what happens again.

    With `from_step`, that step and all recorded after it (in journal order) happen again, under the
    locks that it happened under. Waits for events, locks, and runs that are not under way any more
    always begin anew, and what ended the run is tried anew whether it is named or not. A lock is
    taken anew if its block was left after what happens again, or gets another result. Raises
    `NotFound` for a step that is not recorded.
    """
    ended = run.failed_step if run.status is not Status.COMPLETED else None
    if from_step is not None and from_step not in run.calls and from_step != ended:
        raise NotFound(
            f"{run.id} has no recorded step {from_step!r}",
            hint="its steps: " + (", ".join(run.calls) or "none"),
        )
    # What ended the run is not among its steps any more, and nothing was recorded after it.
    since = run.calls[from_step].seq if from_step in run.calls else None
    earliest = min(
        (run.calls[name].seq for name in (*replaced, from_step) if name in run.calls), default=None
    )
    entered = released_since(run, earliest) if earliest is not None else []
    in_order = sorted(run.calls, key=lambda name: run.calls[name].seq)
    repeated = [
        name
        for name in in_order
        if name not in replaced and (name in entered or _repeats(state, run.calls[name], since))
    ]
    again = frozenset(repeated)
    reused = [name for name in in_order if name not in again and name not in replaced]
    if ended is not None and ended not in run.calls and ended not in replaced:
        repeated.append(ended)
    return Plan(reused, repeated)


def fork_plan(state: State, source: Run, from_step: str | None, new_payload: bool) -> Plan:
    """What a fork of `source` reuses. With a new payload and no step to begin from that is nothing:
    what was recorded came of another payload."""
    made = plan(state, source, from_step, frozenset())
    if new_payload and from_step is None:
        return Plan([], [*made.reused, *made.repeated])
    # A wait under way belongs to the source; the fork begins its own.
    pending = [
        name for name in made.reused if name in source.calls and source.calls[name].phase in PENDING
    ]
    reused = [name for name in made.reused if name not in pending]
    return Plan(reused, [*made.repeated, *pending])


def _repeats(state: State, step: Call, since: int | None) -> bool:
    if since is not None and max(step.seq, step.released_seq) >= since:
        return True
    if step.phase in (Phase.OPEN, Phase.GONE):
        return True
    if step.kind is CallKind.LOCK and step.phase in (Phase.WAITING, Phase.COMPLETED):
        return True
    if step.kind is CallKind.EVENT and step.phase in PENDING:
        return True  # what came meanwhile is kept: only a wait that begins now can get it
    if step.kind is CallKind.EVENT and step.child_status and step.wait is not None:
        return step.wait.on_timeout == "cancel"  # its time has passed, which ended the run
    if step.kind is CallKind.CHILD and step.phase in PENDING:
        child = state.runs.get(step.child or "")
        return child is None or child.finished
    return False


def retry(state: State, command: c.RetryRun, _now_us: int) -> Decision:
    """Send a failed or cancelled run on, from its recorded steps, with a new budget of attempts.

    A completed run only goes on with a step to repeat or replace. Raises `NotFound`, `Conflict`,
    and `Usage` for the replacement of a sleep or a wait: replay would refuse a result there.
    """
    run = state.runs.get(command.run)
    if run is None:
        if not command.restored:
            raise NotFound(f"there is no run {command.run}", hint="stackshift runs list")
        run = rebuild([Raw(line) for line in command.restored])
    if not run.finished:
        raise Conflict(
            f"{run.id} is {run.status}; only a finished run can be retried",
            hint=f"stackshift runs why {run.id}",
            owner=run.id,
        )
    if run.status is Status.COMPLETED and command.from_step is None and not command.replaced:
        raise Conflict(
            f"{run.id} has completed",
            hint=f"name a step: stackshift runs retry {run.id} --from STEP; or runs fork {run.id}",
            owner=run.id,
        )
    for name in command.replaced:
        step = run.calls.get(name)
        if step is not None and step.kind is not CallKind.RUN:
            raise Usage(
                f"{name!r} is not a step with a function: its result cannot be replaced",
                hint=f"stackshift runs retry {run.id} --from {name} does it again",
            )
    made = plan(state, run, command.from_step, frozenset(command.replaced))
    record = r.RunRetried(
        run=run.id,
        forgotten=made.repeated,
        replaced={name: Raw(value) for name, value in command.replaced.items()},
        restored=[] if run.id in state.runs else _each_once(command.restored),
    )
    return Decision((record,), (), Rerun(run.id, made.reused, made.repeated))


def _each_once(lines: tuple[bytes, ...]) -> list[Raw]:
    """A run's records; a retry among them does not repeat what stands before it, or they would
    double each time that the run is sent on."""
    found: list[Raw] = []
    for line in lines:
        entry = r.entry_from_json(line)
        if isinstance(entry.record, r.RunRetried) and entry.record.restored:
            told = msgspec.structs.replace(entry.record, restored=[])
            line = r.entry_json(r.Entry(entry.seq, entry.at_us, told))
        found.append(Raw(line))
    return found


def fork(state: State, command: c.ForkRun, _now_us: int) -> Decision:
    """Make a new run that reuses what another has recorded. Raises `NotFound`."""
    source = rebuild([Raw(line) for line in command.restored])
    made = fork_plan(state, source, command.from_step, command.payload is not None)
    assert isinstance(source.payload, bytes)
    record = r.RunCreated(
        run=command.run,
        job=source.job,
        queue=source.queue,
        payload=Raw(command.payload if command.payload is not None else source.payload),
        retry=source.retry,
        limits=source.limits,
        timeout_ms=source.timeout_ms,
        priority=source.priority,
        concurrency_key=source.concurrency_key
        if command.concurrency_key is None
        else command.concurrency_key,
        labels=source.labels,
        forked_from=source.id,
        restored=_each_once(command.restored),
        forgotten=made.repeated,
    )
    return Decision((record,), (), Rerun(command.run, made.reused, made.repeated))
