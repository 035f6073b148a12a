"""Retrying and forking finished runs, and which recorded steps that reuses and repeats."""

from __future__ import annotations

import difflib
from typing import Final, NamedTuple

import msgspec
from msgspec import Raw

from stackshift_jobs.errors import Conflict, NotFound, Usage
from stackshift_jobs.values.durations import rfc3339
from stackshift_jobs.values.identities import undone_by
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.decide.unique import check_free
from stackshiftd.core.effects import Decision, Rerun
from stackshiftd.core.fold.fold import rebuild
from stackshiftd.core.fold.locks import released_since
from stackshiftd.core.state.state import (
    PENDING,
    Call,
    CallKind,
    Phase,
    Run,
    State,
    Status,
    Tries,
)


class Plan(NamedTuple):
    """Names of recorded steps, each in journal order."""

    reused: list[str]
    repeated: list[str]


def plan(state: State, run: Run, from_step: str | None, replaced: frozenset[str]) -> Plan:
    """Which recorded steps a retry or fork of `run` reuses, and which it repeats.

    With `from_step`, that step (of a `map`, given by its name, the first item on record) and
    everything recorded after it (in journal order) are repeated, under the locks that they ran
    under. These are always repeated: waits for events, for locks, and for runs that are no longer
    under way; and what ended the run, whether it is named or not. A lock is acquired again if its
    block was left after a step that is repeated or replaced. Steps that were undone are repeated
    too, and what undid them is forgotten. Raises `NotFound` if `from_step` is not recorded.
    """
    ended = run.failed_step if run.status is not Status.COMPLETED else None
    if from_step is not None:
        from_step = _recorded(run, from_step, ended)
    # What ended the run is no longer among its calls, and nothing was recorded after it.
    since = run.calls[from_step].seq if from_step in run.calls else None
    earliest = min(
        (run.calls[name].seq for name in (*replaced, from_step) if name in run.calls), default=None
    )
    entered = released_since(run, earliest) if earliest is not None else []
    made = [
        name
        for name, call in run.calls.items()
        if call.phase is not Phase.WITHDRAWN and not undone_by(name)
    ]
    in_order = sorted(made, key=lambda name: run.calls[name].seq)
    repeated = [
        name
        for name in in_order
        if name not in replaced and (name in entered or _repeats(state, run.calls[name], since))
    ]
    again = frozenset(repeated)
    reused = [name for name in in_order if name not in again and name not in replaced]
    if (
        ended is not None
        and not undone_by(ended)
        and ended not in run.calls
        and ended not in replaced
    ):
        repeated.append(ended)
    return Plan(reused, repeated)


_MOST_NAMED: Final = 20
"""So many steps are named to who has named none of them."""


def _recorded(run: Run, name: str, ended: str | None) -> str:
    """The recorded step of `run` that `name` stands for: the step itself, the one that ended the
    run, or of a `map` the item that was recorded first. Raises `NotFound`."""
    if name in run.calls or name == ended:
        return name
    items = [step for step in run.calls if _is_item(step, name)]
    if items:
        return min(items, key=lambda step: run.calls[step].seq)
    if ended is not None and _is_item(ended, name):
        return ended
    in_order = sorted(run.calls, key=lambda step: run.calls[step].seq)
    steps = [*in_order, *([ended] if ended is not None else [])]
    raise NotFound(f"{run.id} has no recorded step {name!r}", hint=_names(steps, name))


def _is_item(step: str, name: str) -> bool:
    """Is `step` an item of the `map` called `name`: `total[3]` of `total`?"""
    return step.startswith(f"{name}[")


def _names(steps: list[str], wrong: str) -> str:
    """The hint for who has named the step `wrong`: those of `steps` like it, else all of them. A
    `map` is named once, and what replay keeps for itself (`[now]`) is not named."""
    bases = (step.partition("[")[0] for step in steps)
    by_name = dict.fromkeys(base for base in bases if base and not base.endswith("/"))
    if near := difflib.get_close_matches(wrong, steps if "[" in wrong else by_name, 3):
        return f"did you mean {' or '.join(near)}?"
    some = list(by_name)[:_MOST_NAMED]
    more = f" and {len(by_name) - len(some)} more" if len(some) < len(by_name) else ""
    return f"its steps: {', '.join(some) or 'none'}{more}"


def fork_plan(state: State, source: Run, from_step: str | None, new_payload: bool) -> Plan:
    """Which recorded steps a fork of `source` reuses, and which it repeats. A new payload without
    `from_step` reuses nothing: what was recorded resulted from another payload."""
    reused, repeated = plan(state, source, from_step, frozenset())
    if new_payload and from_step is None:
        return Plan([], [*reused, *repeated])
    # A wait that is under way belongs to the source; the fork begins its own.
    pending = [
        name for name in reused if name in source.calls and source.calls[name].phase in PENDING
    ]
    return Plan([name for name in reused if name not in pending], [*repeated, *pending])


def _repeats(state: State, step: Call, since: int | None) -> bool:
    if since is not None and max(step.seq, step.released_seq) >= since:
        return True
    if step.undone:
        return True
    if step.phase in (Phase.OPEN, Phase.GONE):
        return True
    if step.kind is CallKind.LOCK and step.phase in (Phase.WAITING, Phase.COMPLETED):
        return True
    if step.kind is CallKind.EVENT and step.phase in PENDING:
        return True  # an event sent since then is kept: only a new wait can consume it
    if step.child_status == "timed_out" and step.wait is not None:
        return step.wait.on_timeout == "cancel"  # it timed out, which ended the run
    if step.kind is CallKind.CHILD and step.phase in PENDING:
        child = state.latest(step.awaited)
        return child is None or child.finished
    return False


def retry(state: State, command: c.RetryRun, _now_us: int) -> Decision:
    """Retry a failed or cancelled run, from its recorded steps, with a new budget of attempts.

    A completed run can be retried only with a step to repeat or replace. Raises `NotFound` if there
    is no such run, `Conflict` if it cannot be retried, or if another run has its unique key by now,
    and `Usage` for a replacement of anything
    but a step with a function, because replay would refuse a result there.
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
    if run.continued_as is not None:
        raise Conflict(
            f"{run.id} has continued as {run.continued_as}, so it cannot be retried",
            hint=f"stackshift runs fork {run.id}, or retry the run that it continues as",
            owner=run.continued_as,
        )
    if run.status is Status.COMPLETED and command.from_step is None and not command.replaced:
        raise Conflict(
            f"{run.id} has completed, so there is nothing to retry",
            hint=f"to repeat it from a step: stackshift runs retry {run.id} --from STEP; "
            f"to run it again: stackshift runs fork {run.id}",
            owner=run.id,
        )
    check_free(state, run.unique)
    for name in command.replaced:
        step = run.calls.get(name)
        if step is not None and step.kind is not CallKind.RUN:
            raise Usage(
                f"{name!r} is not a step with a function, so its result cannot be replaced",
                hint=f"to repeat it: stackshift runs retry {run.id} --from {name}",
            )
    replaced = frozenset(command.replaced)
    undoing = goes_on_undoing(run) and command.from_step is None and not replaced
    if undoing:
        repeated = [*([run.failed_step] if run.failed_step else []), *_dead_waits(state, run)]
        reused = [name for name in run.calls if name not in repeated]
    else:
        reused, repeated = plan(state, run, command.from_step, replaced)
    record = r.RunRetried(
        run=run.id,
        forgotten=repeated if undoing else [*repeated, *_undos(run)],
        replaced={name: Raw(value) for name, value in command.replaced.items()},
        restored=[] if run.id in state.runs else _without_copies(command.restored, run),
        afresh=_afresh(run, command.from_step, replaced),
        undoing=undoing,
    )
    return Decision((record,), (), Rerun(run.id, reused, repeated))


def goes_on_undoing(run: Run) -> bool:
    """Did the run end because an undo failed? Then a retry tries that again."""
    return run.undoing is not None and bool(run.still_done) and run.status is Status.FAILED


def _dead_waits(state: State, run: Run) -> list[str]:
    """The waits under way that a retry does not go on with."""
    return [
        name
        for name, call in run.calls.items()
        if call.phase is Phase.WAITING and _repeats(state, call, None)
    ]


def _undos(run: Run) -> list[str]:
    """The recorded steps that have undone others, or tried to."""
    return [name for name in run.calls if undone_by(name)]


def _afresh(run: Run, from_step: str | None, replaced: frozenset[str]) -> list[str]:
    """The steps that begin without their checkpoints: `from_step` and what was recorded after it,
    as for results, and a step whose result a person has set. What is tried again without being
    named goes on from its checkpoint."""
    since, named = None, ""
    if from_step is not None:
        named = _recorded(run, from_step, run.failed_step)
        since = run.calls[named].seq if named in run.calls else None
    return [
        name
        for name, tries in run.tries.items()
        if name in replaced or name == named or (since is not None and _is_after(tries, since))
    ]


def _is_after(tries: Tries, since: int) -> bool:
    return tries.checkpoint is None or tries.checkpoint.seq >= since


def _without_copies(lines: tuple[bytes, ...], run: Run) -> list[Raw]:
    """The records of `run`, without the copies of earlier records that a retry among them contains:
    the records would otherwise double with each retry. And without checkpoints that later ones have
    replaced: a long step has thousands."""
    records: list[Raw] = []
    last = {each.checkpoint.seq for each in run.tries.values() if each.checkpoint is not None}
    for line in lines:
        entry = r.entry_from_json(line)
        if isinstance(entry.record, r.StepCheckpointed) and entry.seq not in last:
            continue
        if isinstance(entry.record, r.RunRetried) and entry.record.restored:
            bare = msgspec.structs.replace(entry.record, restored=[])
            line = r.entry_json(r.Entry(entry.seq, entry.at_us, bare))
        records.append(Raw(line))
    return records


def fork(state: State, command: c.ForkRun, now_us: int) -> Decision:
    """Create a run that reuses what another has recorded. Raises `NotFound` if `from_step` is not
    recorded, and `Conflict` if an unfinished run, such as the source, has its unique key."""
    source = rebuild([Raw(line) for line in command.restored])
    unique = source.unique if command.unique is None else command.unique
    check_free(state, unique)
    reused, repeated = fork_plan(state, source, command.from_step, command.payload is not None)
    afresh = _afresh(source, command.from_step, frozenset())
    if command.payload is not None and command.from_step is None:
        afresh = list(source.tries)
    assert isinstance(source.payload, bytes)
    record = r.RunCreated(
        run=command.run,
        job=source.job,
        queue=source.queue if command.queue is None else command.queue,
        payload=Raw(command.payload if command.payload is not None else source.payload),
        retry=source.retry,
        limits=source.limits,
        timeout_ms=source.timeout_ms,
        priority=source.priority,
        concurrency_key=source.concurrency_key
        if command.concurrency_key is None
        else command.concurrency_key,
        labels=source.labels if reused or source.first_labels is None else source.first_labels,
        unique=unique,
        deadline_at=rfc3339(now_us + source.deadline_span_us) if source.deadline_span_us else None,
        forked_from=source.id,
        restored=_without_copies(command.restored, source),
        forgotten=[*repeated, *_undos(source)],
        afresh=afresh,
        on_failure=source.on_failure,
        on_success=source.on_success,
        max_runtime_ms=source.max_runtime_ms,
        schedule=source.schedule,
    )
    return Decision((record,), (), Rerun(command.run, reused, repeated))
