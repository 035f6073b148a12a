"""The laws of `State`: what its indexes must be, computed from the runs alone."""

from __future__ import annotations

from collections import Counter

from core.histories.index_audit import audit_index
from core.histories.state_audit import audit_lines, audit_stored
from stackshiftd.core.decide.gentle import unfinished
from stackshiftd.core.state.alerts import MOST_NAMED, OVERFLOW, group_id, is_message
from stackshiftd.core.state.queues import Place, Queue, Turn
from stackshiftd.core.state.state import (
    AFTER,
    DEADLINE,
    GRACE,
    LATE,
    PENDING,
    TTL,
    CallKind,
    Phase,
    Run,
    State,
    Status,
    Timer,
)


def audit(state: State) -> None:
    """Every index equals what the runs say. Holds after every record."""
    runs = state.runs.values()
    ready = [run for run in runs if run.status is Status.QUEUED and not run.token]

    assert Counter(run.queue for run in ready) == _counts(state, "depth")
    assert Counter(run.queue for run in runs if run.token) == _counts(state, "executing")
    assert _executions(state) == {(run.worker, run.id, run.token) for run in runs if run.token}
    suspects = [run.id for run in ready if run.suspect and not state.is_blocked(run)]
    assert sorted(state.suspects) == sorted(suspects)
    _audit_queues(state, [run for run in ready if not run.suspect and not state.is_blocked(run)])
    _audit_unique(state)

    due = {timer for run in runs for timer in _timers(run)}
    assert due <= set(state.timers)
    assert not state.timers or state.timers[0] in due, "the first timer must be live"

    audit_index(state)
    audit_stored(state)
    _audit_alerts(state)
    assert state.dead == sum(run.status is Status.FAILED for run in runs)
    for run in runs:
        assert sorted(run.children) == sorted(
            child.id
            for child in runs
            if child.parent == run.id and child.cancel_with_parent and not child.finished
        ), f"{run.id} is the parent of {run.children}"
        _audit_run(run)
    for schedule in state.schedules.values():
        assert schedule.lives or schedule.next_us == schedule.held_us == 0, schedule
        decided_us = max(schedule.held_us, schedule.last_us)
        assert decided_us <= state.now_us, schedule
        assert schedule.next_us == 0 or schedule.next_us > decided_us, schedule
    for job, held in state.held.items():
        assert held
        for run_id in held:
            assert (state.runs[run_id].job, state.runs[run_id].status) == (job, Status.WAITING)


def _audit_alerts(state: State) -> None:
    alerts = state.alerts
    for key, group in alerts.groups.items():
        assert key == group_id(group.target, group.key)
        assert group.target in alerts.targets
        assert group.count or group.key != OVERFLOW, "a group of everything holds something"
        assert sum(group.named.values()) == (group.count if group.key == OVERFLOW else 0)
        assert len(group.named) <= MOST_NAMED + 1
    messages = [run for run in state.runs.values() if is_message(run.job)]
    assert state.undelivered == sum(run.status is Status.FAILED for run in messages)


def audit_waits(state: State) -> None:
    """Who waits is woken by something. Holds after every append."""
    audit_lines(state)
    waits = [
        (step.awaited, (run.id, name))
        for run in state.runs.values()
        if not run.finished
        for name, step in run.calls.items()
        if step.kind is CallKind.CHILD and step.phase is Phase.WAITING
    ]
    waits += [(key, (run.id, "")) for run in state.runs.values() for key in run.after]
    indexed = [(child, waiter) for child, found in state.awaited.items() for waiter in found]
    assert sorted(waits) == sorted(indexed)
    for child, (waiter, step) in waits:
        found = state.latest(child)
        assert found is not None, f"{waiter} waits in {step} for {child}, which has left"
        assert not found.finished, f"{waiter} waits in {step} for {child}, which has finished"
    chains = {run.chain: run.id for run in state.runs.values() if run.chain and not run.finished}
    assert state.chains == chains
    for run in state.runs.values():
        if run.status is Status.WAITING and run.id not in state.held.get(run.job, ()):
            behind = run.after or run.preceded_us
            pending = any(step.phase in PENDING for step in run.calls.values())
            told_later = run.cancelling is not None and unfinished(state, run.cancelling.first)
            assert behind or pending or told_later, f"{run.id} is stuck"


def _counts(state: State, which: str) -> Counter[str]:
    found = {name: getattr(queue, which) for name, queue in state.queues.items()}
    assert all(count >= 0 for count in found.values()), found
    return Counter({name: count for name, count in found.items() if count})


def _executions(state: State) -> set[tuple[str, str, int]]:
    return {
        (worker, run, token)
        for worker, executing in state.executions.items()
        for run, token in executing.items()
    }


def _audit_queues(state: State, ready: list[Run]) -> None:
    """A queue takes turns as long as a run of it is ready, and its head is the one to go first."""
    for name, queue in state.queues.items():
        mine = [run for run in ready if run.queue == name]
        assert queue.oldest_us() == min((run.place_us for run in mine), default=None)
        may = [run for run in mine if queue.has_room(run.concurrency_key)]
        resumed = min((_place(run) for run in may if not run.next_is_new), default=None)
        fresh = min((_place(run) for run in may if run.next_is_new), default=None)
        assert (queue.resumed.heads or [None])[0] == resumed
        assert (queue.fresh.heads or [None])[0] == fresh
        for now_us in (state.now_us, queue.permit_us):
            if now_us >= state.now_us:
                goes = [resumed, fresh if queue.permit_us <= now_us else None]
                assert queue.next(now_us) == min(filter(None, goes), default=None)
        _audit_turn(state, name, queue, resumed is not None, fresh is not None)
    assert {state.pool_of(name) for name in state.queues} <= state.lines.keys()
    for name, line in state.lines.items():
        for throttled, heap in ((False, line.turns), (True, line.throttled)):
            if heap:  # the head is live
                number, queue_name = heap[0]
                assert state.queues[queue_name].turn == Turn(bool(name), throttled, number)
                assert state.pool_of(queue_name) == name


def _audit_turn(state: State, name: str, queue: Queue, resumed: bool, fresh: bool) -> None:
    """A queue is in its line as long as one of its runs may start."""
    turn = queue.turn
    assert (turn is not None) == (queue.has_slot and (resumed or fresh))
    assert turn == queue.turn_at(state.now_us)
    if turn is not None:
        line = state.lines[state.pool_of(name)]
        assert turn.own == bool(state.pool_of(name))
        assert (turn.number, name) in (line.throttled if turn.throttled else line.turns)
        assert turn.throttled == (not resumed and queue.permit_us > state.now_us)
        assert turn.number == (queue.permit_us if turn.throttled else queue.served)


def _audit_unique(state: State) -> None:
    """A run has a place under its key until it is over, and only the first executes."""
    for key, found in state.unique.by_key.items():
        assert found.due or found.scheduled, f"nobody has a place under {key}"
        assert all(state.runs[run].unique == key for run in found)
        for run in found.scheduled:
            behind = state.runs[run].status is Status.WAITING and not state.runs[run].attempt
            assert behind or state.runs[run].status is Status.SCHEDULED
        for run in found.due:
            assert state.runs[run].status is not Status.SCHEDULED
            assert run == found.turn or not state.runs[run].token, f"{run} executes out of turn"
    for each in state.runs.values():
        placed = bool(each.unique) and not (each.finished and not each.token)
        assert state.unique.has(each.unique, each.id) == placed, each.id


def _place(run: Run) -> Place:
    return (-run.priority, run.place_us, run.created_seq, run.id, run.concurrency_key)


def _timers(run: Run) -> list[Timer]:
    """All that may come due of a run. (Between `attempt.failed` and `run.failed` nothing is.)"""
    if run.finished:
        return []
    found = [
        Timer(step.due_us, step.seq, run.id, name)
        for name, step in run.calls.items()
        if step.phase in PENDING and step.due_us
    ]
    if run.expires_us:
        assert not run.attempt, f"{run.id} has begun and expires"
        found.append(Timer(run.expires_us, 0, run.id, limit=TTL))
    if run.preceded_us and run.status is Status.WAITING:
        found.append(Timer(run.preceded_us, 0, run.id, limit=AFTER))
    if run.max_runtime_ms and run.begun_us and not run.late_us:
        found.append(Timer(run.begun_us + run.max_runtime_ms * 1000, 0, run.id, limit=LATE))
    if run.cancelling is not None and run.undoing is None:
        found.append(Timer(run.cancelling.grace_us, 0, run.id, limit=GRACE))
    if run.deadline_us:
        found.append(Timer(run.deadline_us, 0, run.id, limit=DEADLINE))
    if run.status is Status.SCHEDULED:
        found.append(Timer(run.scheduled_us, 0, run.id))
    if run.status is Status.RETRYING and run.retry_us:
        found.append(Timer(run.retry_us, 0, run.id))
    if run.status is Status.RUNNING and run.timeout_ms:
        left_us = max(0, run.timeout_ms * 1000 - run.spent_us)
        found.append(Timer(run.since_us + left_us, 0, run.id, token=run.token))
    return found


def _audit_run(run: Run) -> None:
    assert not (run.token and run.status in (Status.SCHEDULED, Status.WAITING))
    assert run.status is not Status.RUNNING or run.token
    assert run.attempts_used >= 0
    # A finished run stays for its handler, or in the dead letter; else it has left.
    assert not run.finished or run.token or run.status is Status.FAILED
