"""Why a run is not progressing, as one sentence and one stable code.

Pure: what it needs to know about the workers is passed in. Times are UTC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from stackshift_jobs.errors import error_text
from stackshift_jobs.values.durations import format_ms, rfc3339
from stackshift_jobs.values.identities import is_timer, timer_delay
from stackshiftd.core.decide.dead_letter import is_dead
from stackshiftd.core.decide.gentle import unfinished
from stackshiftd.core.records import RunCancelled
from stackshiftd.core.state.state import (
    CLEARED_US,
    PENDING,
    Call,
    CallKind,
    Cancelling,
    Phase,
    Run,
    State,
    Status,
    WaitTerms,
)


class Beat(NamedTuple):
    """When the function of a step was last known to be alive, and how long it may be silent, in
    milliseconds; 0 for ever."""

    step: str
    at_us: int
    heartbeat_ms: int = 0


class Fleet(NamedTuple):
    """The ready workers of one pool: how many they are, their total slots, and how many runs they
    are executing; and the names of those that are silent, because a call in them keeps the
    interpreter. `no_room` says why nothing can be recorded, if that is so, and `unreachable` why
    hosts of these workers have none. `beats` are those of the steps of runs."""

    workers: int
    slots: int
    executing: int
    silent: frozenset[str] = frozenset()
    no_room: str = ""
    unreachable: str = ""
    beats: Mapping[str, Sequence[Beat]] = {}


NOBODY: Final = Fleet(0, 0, 0)
"""The workers of a pool of which nothing is asked."""

NOTICED_US: Final = 1_000_000
"""By how much daemon time must be ahead of the system clock to be worth a word; corrections by a
time server are smaller."""
WAITS_FOR: Final = ("sleep", "event", "lock", "child", "retry", "rate", "unique", "run")
"""The values of `Why.kind` if the run waits for something."""


_ENDED: Final = (Status.COMPLETED, Status.FAILED, Status.CANCELLED)


class Why(NamedTuple):
    """An answer: `code` is stable, `text` is the sentence. `kind`, `step`, `until_us`, `run`,
    `wait` and `owner` describe what the run waits for, if anything."""

    code: str
    text: str
    kind: str = ""
    step: str = ""
    until_us: int = 0
    run: str = ""
    wait: WaitTerms | None = None
    owner: str = ""


def why(state: State, run: Run, fleet: Fleet, now_us: int) -> Why:
    """Why `run` is where it is at `now_us`, and what becomes of it if it stays there."""
    reason = _why(state, run, fleet, now_us)
    if run.late_us and not run.finished:
        late = f"; late: it should have ended {format_ms(run.max_runtime_ms)} after it began"
        reason = reason._replace(text=reason.text + late)
    if run.undoing is not None and not run.finished:
        left = run.still_done
        what = f"{left[0]}{_more(len(left))} is next" if left else "nothing is left"
        reason = reason._replace(
            code="undoing", text=f"undoing what was done, {what}: {reason.text}"
        )
    elif run.cancelling is not None and not run.finished:
        reason = _cancelling(state, run.cancelling, reason, now_us)
    limits = [
        f"; {what} {_at(us, now_us)}"
        for what, us in (("expires at", run.expires_us), ("its deadline is", run.deadline_us))
        if us and not run.finished
    ]
    return reason._replace(text=reason.text + "".join(limits)) if limits else reason


def _cancelling(state: State, cancelling: Cancelling, reason: Why, now_us: int) -> Why:
    """The answer for a run that is cancelled gently, and is where it is for `reason`."""
    text = f"cancelling, grace ends at {_at(cancelling.grace_us, now_us)}: "
    left = unfinished(state, cancelling.first)
    if left and not cancelling.raised_seq:
        text += f"{left[0]}{_more(len(left))} ends first; "
    return reason._replace(code="cancelling", text=text + reason.text)


def _why(state: State, run: Run, fleet: Fleet, now_us: int) -> Why:
    if fleet.no_room and run.status not in _ENDED:
        return Why("disk_full", f"{run.status.value}; nothing can be recorded: {fleet.no_room}")
    match run.status:
        case Status.SCHEDULED:
            return Why("scheduled", f"scheduled for {_at(run.scheduled_us, now_us)}")
        case Status.QUEUED:
            return _queued(state, run, fleet, now_us)
        case Status.RUNNING:
            since = format_ms((now_us - run.since_us) // 1000)
            silent = ", where a call keeps the interpreter" if run.worker in fleet.silent else ""
            text = f"running for {since} in worker {run.worker}{silent}"
            if run.suspect and not run.progressed and now_us - run.since_us < CLEARED_US:
                died = f"{run.deaths} workers died while executing it"
                return Why("running_alone", f"{text}, which executes nothing else: {died}")
            return Why("running", text + _beats(run, fleet, now_us))
        case Status.RETRYING:
            attempt = f"{run.attempts_used + 1}/{run.retry.max_attempts}"
            if run.token:
                return Why("stopping", f"retry {attempt} once the previous attempt has stopped")
            return Why("retrying", f"retry {attempt} at {_at(run.retry_us, now_us)}")
        case Status.WAITING:
            return _waiting(state, run, now_us)
        case Status.FAILED:
            error = run.error
            reason = f": {error_text(error.type, error.message)}" if error is not None else ""
            dead = f"; in the dead letter of queue {run.queue}" if is_dead(state, run) else ""
            return Why("failed", f"failed{reason}{dead}")
        case Status.COMPLETED if run.continued_as is not None:
            return Why("completed", f"continued as {run.continued_as}")
        case Status.CANCELLED if run.cancelled is not None:
            return Why(cancelled_code(run.cancelled), cancelled_text(run.cancelled))
        case _:
            return Why(run.status.value, run.status.value)


_MOST_BEATS: Final = 3
"""So many steps that beat are named."""


def _beats(run: Run, fleet: Fleet, now_us: int) -> str:
    """`; step load: last beat 40s ago, of 1m0s`, the most silent first; nothing of a run without
    steps that beat."""
    beats = sorted(fleet.beats.get(run.id, ()), key=lambda beat: beat.at_us)
    shown = [
        f"; step {beat.step}: last beat {format_ms(max(0, now_us - beat.at_us) // 1000)} ago"
        + (f", of {format_ms(beat.heartbeat_ms)}" if beat.heartbeat_ms else "")
        for beat in beats[:_MOST_BEATS]
    ]
    return "".join(shown) + (
        f" (and {len(beats) - len(shown)} more)" if beats[_MOST_BEATS:] else ""
    )


def cancelled_code(record: RunCancelled) -> str:
    """The code of why a run was cancelled: `expired` if it had not begun in time."""
    return "expired" if record.reason == "expired" else "cancelled"


def cancelled_text(record: RunCancelled) -> str:
    """That and why a run was cancelled, in words: `cancelled: its wait timed out`."""
    words = record.message or _CANCELLED.get(record.reason)
    return f"cancelled: {words}" if words else "cancelled"


_CANCELLED: Final = {
    "parent": "its parent was cancelled",
    "parent_ended": "its parent has ended",
    "given_up": "its parent waits for it no more",
    "timeout": "its wait timed out",
    "replaced": "replaced by a start with its unique key",
    "overlap": "the next tick of its schedule came",
    "expired": "it had not begun within its ttl",
    "gently": "its handler ended within the grace",
    "grace": "its handler did not end within the grace",
}


def standing_still(reason: Why, ahead_us: int) -> Why:
    """The answer, with what keeps its time from coming if daemon time is `ahead_us` ahead of the
    system clock, and so stands still."""
    if ahead_us < NOTICED_US or not (reason.until_us or reason.code == "scheduled"):
        return reason
    still = f"daemon time stands still for {format_ms(ahead_us // 1000)}, until the system clock"
    return reason._replace(text=f"{reason.text}; {still} has caught up (stackshift daemon clock)")


def _queued(state: State, run: Run, fleet: Fleet, now_us: int) -> Why:
    queued = f"queued {format_ms(max(0, now_us - run.place_us) // 1000)}"
    if run.token:
        return Why("stopping", f"{queued}: its earlier attempt has not stopped yet")
    if state.is_blocked(run):
        return _blocked(state, run, queued)
    held = _held_by_queue(state, run, now_us)
    if held is not None:
        return Why(held.code, f"{queued}: {held.text}", held.kind, "", held.until_us, held.run)
    if run.suspect:
        return Why(
            "suspect",
            f"{queued}: {run.deaths} workers died while executing it; it waits for a worker of its "
            "own",
        )
    if not fleet.workers and fleet.silent:
        names = ", ".join(sorted(fleet.silent))
        return Why("worker_silent", f"{queued}: a call keeps the interpreter of {names}")
    if not fleet.workers:
        if fleet.unreachable:
            return Why("host_unreachable", f"{queued}: {fleet.unreachable}")
        return Why("no_worker", f"{queued}: no worker is ready yet")
    if fleet.executing >= fleet.slots:
        others = _others(state.queues[run.queue].depth - 1)
        return Why(
            "slots_busy",
            f"{queued}: {fleet.executing}/{fleet.slots} worker slots busy, {others} queued "
            f"in {run.queue}",
        )
    return Why("starting", f"{queued}: about to start")


def _blocked(state: State, run: Run, queued: str) -> Why:
    owner = state.runs[state.unique.turn(run.unique)]
    stops = ", and has not stopped yet" if owner.finished else ""
    text = f"{queued}: unique key {run.unique} belongs to {owner.id} ({owner.status.value}{stops})"
    return Why("unique_busy", text, "unique", run=owner.id)


def _held_by_queue(state: State, run: Run, now_us: int) -> Why | None:
    """Why its queue does not let the run start; None if it does."""
    queue = state.queues[run.queue]
    limits = queue.limits
    if limits.paused:
        since = f"{rfc3339(queue.paused_us)[:19]}Z"
        return Why("queue_paused", f"queue {run.queue} has been paused since {since}")
    if not queue.has_slot:
        text = f"{run.queue} {queue.executing}/{limits.concurrency} busy"
        return Why("queue_busy", text + _oldest(state, run.queue, "", now_us))
    key = run.concurrency_key
    if not queue.has_room(key):
        text = f"{key} {queue.busy[key]}/{limits.key_concurrency} busy in {run.queue}"
        return Why("key_busy", text + _oldest(state, run.queue, key, now_us))
    if run.next_is_new and queue.permit_us > now_us:
        until = _at(queue.permit_us, now_us)
        text = (
            f"{run.queue} starts {limits.rate_text}, the next at {until}, "
            f"{_others(queue.depth - 1)} queued"
        )
        return Why("rate_limited", text, "rate", "", queue.permit_us)
    return None


def _oldest(state: State, queue: str, key: str, now_us: int) -> str:
    """`, oldest run_… 11m`: the run that has held a slot of the queue longest. `key` limits that to
    runs with this concurrency key; "" does not."""
    holding = [
        run
        for executing in state.executions.values()
        for run in map(state.runs.__getitem__, executing)
        if run.queue == queue and key in ("", run.concurrency_key)
    ]
    if not holding:
        return ""
    oldest = min(holding, key=lambda run: run.since_us)
    return f", oldest {oldest.id} {format_ms((now_us - oldest.since_us) // 1000)}"


def _waiting(state: State, run: Run, now_us: int) -> Why:
    if run.id in state.held.get(run.job, ()):
        return Why(
            "job_missing",
            f"no worker has a job {run.job!r}: it was removed, or its module does not import "
            "(stackshift jobs check)",
        )
    if run.after:
        return _behind(state, run)
    pending = [(name, step) for name, step in run.calls.items() if step.phase in PENDING]
    if not pending:
        return Why("waiting", "waiting")
    # A timer of asyncio's is mostly the limit of another wait, which says more.
    timers = sorted((call.due_us, name) for name, call in pending if is_timer(name))
    others = [(name, step) for name, step in pending if not is_timer(name)]
    if not others:
        due_us, name = timers[0]
        until = f"sleeping until {_at(due_us, now_us)}, by asyncio's timer of {timer_delay(name)}"
        return Why("sleeping", until + _more(len(timers)), "sleep", name, due_us)
    what = _call(state, *min(others, key=_soonest), _more(len(others)), now_us)
    if timers:
        return what._replace(text=f"{what.text}; {_due(timers[0], now_us)}")
    return what


def _behind(state: State, run: Run) -> Why:
    """Why a run that begins after others has not begun."""
    first = state.latest(run.after[0])
    predecessor = first.id if first is not None else run.after[0]
    status = f" ({first.shown_status.value})" if first is not None else ""
    text = f"begins after {predecessor}{status}{_more(len(run.after))}"
    return Why("waiting_run", text, "run", run=predecessor)


def _due(timer: tuple[int, str], now_us: int) -> str:
    due_us, name = timer
    return f"asyncio's timer of {timer_delay(name)} ends at {_at(due_us, now_us)}"


def _more(count: int) -> str:
    return f" (and {count - 1} more)" if count > 1 else ""


def _call(state: State, name: str, step: Call, more: str, now_us: int) -> Why:
    """Why the pending call `name` is where it is; `more` counts the others."""
    if step.phase is Phase.RETRYING:
        text = f"step {name} is tried again at {_at(step.due_us, now_us)}{more}"
        return Why("retrying", text, "retry", name, step.due_us)
    if step.kind is CallKind.CHILD:
        child = state.latest(step.awaited)
        status = f" ({child.shown_status.value})" if child is not None else ""
        awaited = child.id if child is not None else step.child or ""
        until = f" until {_at(step.due_us, now_us)}" if step.due_us else ""
        text = f"waiting for {awaited}{status}{until}{more}"
        return Why("waiting_child", text, "child", name, step.due_us, awaited)
    if step.kind is CallKind.EVENT and step.wait is not None:
        until = f" until {_at(step.due_us, now_us)}" if step.due_us else ""
        text = f"waiting for {events_text(step.wait.events)}{until}{more}"
        return Why("waiting_event", text, "event", name, step.due_us, wait=step.wait)
    if step.kind is CallKind.LOCK and step.wait is not None:
        return _locked(state, name, step, more, now_us)
    text = f"sleeping until {_at(step.due_us, now_us)}{more}"
    return Why("sleeping", text, "sleep", name, step.due_us)


def events_text(events: list[tuple[str, str]]) -> str:
    """`event email.verified [user:1]`, or `event approved [k] or rejected [k]`."""
    return "event " + " or ".join(f"{name} [{key}]" if key else name for name, key in events)


def _locked(state: State, name: str, step: Call, more: str, now_us: int) -> Why:
    assert step.wait is not None
    key = step.wait.lock
    lock = state.locks.get(key)
    holding = lock.held(now_us) if lock is not None else None
    owner = (holding.run or holding.holder or "a client") if holding is not None else ""
    more_holders = len(lock.live(now_us)) - 1 if lock is not None else 0
    held = f"is held by {owner}" if holding is not None else "is about to change hands"
    if more_holders > 0:
        held += f" and {_others(more_holders)}"
    others = len(lock.line) - 1 if lock is not None else 0
    text = f"lock {key} {held}" + (f", {_others(others)} waiting" if others > 0 else "")
    if step.due_us:
        text += f"; gives up at {_at(step.due_us, now_us)}"
    run_id = holding.run if holding is not None else ""
    return Why("waiting_lock", text + more, "lock", name, step.due_us, run_id, step.wait, owner)


def _others(count: int) -> str:
    return "1 other" if count == 1 else f"{count} others"


def _soonest(pending: tuple[str, Call]) -> int:
    return pending[1].due_us or 1 << 62


def _at(us: int, now_us: int) -> str:
    """`2026-11-22T06:57:11Z (23h00m left)`."""
    left = max(0, us - now_us) // 1000
    return f"{rfc3339(us)[:19]}Z ({format_ms(left)} left)"
