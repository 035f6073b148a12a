"""Statuses move by the table `fold.MOVES`: every row of it can be reached, and no other is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from core.story import ONCE, Story, error, kind
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.fold import attempts, runs, transitions
from stackshiftd.core.fold.fold import fold
from stackshiftd.core.fold.transitions import MOVES
from stackshiftd.core.state.state import Run, State, Status

S = Status


def queued(story: Story) -> str:
    """A run that is queued."""
    return story.start()


def scheduled(story: Story) -> str:
    """A run that is due in an hour."""
    return story.start(delay="1h")


def running(story: Story) -> str:
    """A run that executes in w1."""
    run = story.start()
    story.assign()
    return run


def waiting(story: Story) -> str:
    """A run that is suspended in a sleep."""
    run = running(story)
    story.sleeps(run, "nap", "1h")
    story.suspends(run)
    return run


def retrying(story: Story) -> str:
    """A run whose first attempt failed."""
    run = running(story)
    story.fails(run)
    return run


def failed(story: Story) -> str:
    """A run that failed for good."""
    run = running(story)
    story.fails(run, retryable=False)
    return run


def lost(story: Story) -> str:
    """A run that is queued again because its worker was stopped."""
    run = running(story)
    story.lose(run, ours=True)
    return run


def dying(story: Story) -> str:
    """A run under which three workers died, tried alone in a fourth."""
    run = running(story)
    for _ in range(3):
        story.lose(run)
        story.assign(alone=True)
    return run


def completed(story: Story) -> str:
    """A run that completed with one recorded step."""
    run = running(story)
    story.step_done(run, "a")
    story.completes(run)
    return run


def cancelled(story: Story) -> str:
    """A run that was cancelled."""
    run = queued(story)
    story.cancel(run)
    return run


Begin = Callable[[Story], str]
Act = Callable[[Story, str], object]

WAYS: list[tuple[Begin, Act, tuple[Status, str]]] = [
    (scheduled, lambda s, _run: s.tick(to="1h"), (S.SCHEDULED, "run.queued")),
    (scheduled, lambda s, run: s.cancel(run), (S.SCHEDULED, "run.cancelled")),
    (queued, lambda s, run: s.move(run, delay="1h"), (S.QUEUED, "run.moved")),
    (queued, lambda s, _run: s.assign(), (S.QUEUED, "attempt.started")),
    (lost, lambda s, _run: s.assign(), (S.QUEUED, "attempt.resumed")),
    (queued, lambda s, _run: s.assign(without="resize"), (S.QUEUED, "run.held")),
    (queued, lambda s, run: s.cancel(run), (S.QUEUED, "run.cancelled")),
    (dying, lambda s, run: s.lose(run), (S.QUEUED, "run.failed")),
    (running, lambda s, run: s.sleeps(run, "nap", "1h"), (S.RUNNING, "wait.started")),
    (dying, lambda s, run: s.lose(run), (S.RUNNING, "attempt.lost")),
    (running, lambda s, run: s.fails(run), (S.RUNNING, "attempt.failed")),
    (running, lambda s, run: s.completes(run), (S.RUNNING, "run.completed")),
    (running, lambda s, run: s.cancel(run), (S.RUNNING, "run.cancelled")),
    (waiting, lambda s, _run: s.tick(to="1h"), (S.WAITING, "run.queued")),
    (waiting, lambda s, run: s.cancel(run), (S.WAITING, "run.cancelled")),
    (retrying, lambda s, _run: s.tick(to="1h"), (S.RETRYING, "run.queued")),
    (running, lambda s, run: s.fails(run, retryable=False), (S.RETRYING, "run.failed")),
    (retrying, lambda s, run: s.cancel(run), (S.RETRYING, "run.cancelled")),
    (failed, lambda s, run: s.retry(run), (S.FAILED, "run.retried")),
    (cancelled, lambda s, run: s.retry(run), (S.CANCELLED, "run.retried")),
    (completed, lambda s, run: s.retry(run, from_step="a"), (S.COMPLETED, "run.retried")),
]


def suspended(story: Story, run: str) -> None:
    """Suspend the run in a sleep."""
    story.sleeps(run, "nap", "1h")
    story.suspends(run)


def late_child(story: Story) -> str:
    """A run that is due after the deadline of the run that has called it."""
    parent = story.start(deadline="10m")
    story.assign()
    due_us = story.now_us + 3_600_000_000
    child = c.StartRun(story.new_id(), "child", "media", b"{}", due_us=due_us)
    story.do(c.StartChild(parent, story.token(parent), 7, "child", child, True))
    return child.run


def waiting_until_too_late(story: Story) -> str:
    """A run that sleeps until after its deadline."""
    run = story.start(deadline="10m")
    story.assign()
    suspended(story, run)
    return run


def booked(story: Story) -> str:
    """A run that executes, and has done what can be undone; its deadline is near."""
    run = story.start(deadline="10m")
    story.assign()
    story.step_done(run, "flight", undo=True)
    return run


def booked_and_lost(story: Story) -> str:
    """The same, queued again because its worker was stopped."""
    run = booked(story)
    story.lose(run, ours=True)
    return run


def booked_and_waiting(story: Story) -> str:
    """The same, suspended in a sleep that ends after the deadline."""
    run = booked(story)
    suspended(story, run)
    return run


def undoing(story: Story) -> str:
    """A run that has failed and is being undone."""
    run = booked(story)
    story.fails(run, retryable=False)
    story.assign()
    story.undoes(run)
    return run


def ended_gently(story: Story, run: str) -> None:
    """Cancel the run gently; its handler ends by that."""
    story.cancel(run, gently=True)
    story.told(run)
    story.ends_told(run)


WAYS += [
    (booked, ended_gently, (S.RUNNING, "undo.started")),
    (booked_and_lost, lambda s, _run: s.tick(to="10m"), (S.QUEUED, "undo.started")),
    (booked_and_waiting, lambda s, _run: s.tick(to="10m"), (S.WAITING, "undo.started")),
    (booked, lambda s, run: s.fails(run, retryable=False), (S.RETRYING, "undo.started")),
    (undoing, lambda s, run: s.ends_undone(run), (S.RUNNING, "run.failed")),
]
WAYS.append((running, suspended, (S.RUNNING, "attempt.suspended")))
for late, status in ((late_child, S.SCHEDULED), (waiting_until_too_late, S.WAITING)):
    WAYS.append((late, lambda s, _run: s.tick(to="10m"), (status, "run.failed")))
NAMES = [f"{begin.__name__}-{kind}" for begin, _, (_, kind) in WAYS]


@pytest.mark.parametrize(("begin", "act", "move"), WAYS, ids=NAMES)
def test_statuses_move_as_the_table_says(
    begin: Begin, act: Act, move: tuple[Status, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row of the table is used by some command, and leads to the status it names."""
    seen: list[tuple[Status, str, Status]] = []
    original = transitions.move

    def watched(state: State, run: Run, kind: str) -> None:
        before = run.status
        original(state, run, kind)
        seen.append((before, kind, run.status))

    for module in (attempts, runs, transitions):
        monkeypatch.setattr(module, "move", watched)
    story = Story()
    run = begin(story)
    act(story, run)
    for before, kind_, after in seen:
        assert MOVES[before, kind_] is after
    if move in MOVES:
        assert (*move, MOVES[move]) in seen
    else:
        # Recorded, and moved nothing: the handler goes on beside its wait.
        assert story.kinds(run)[-1] == move[1]
        assert story.status(run) is move[0]


def test_every_row_of_the_table_is_gone_through() -> None:
    """The table has no row that nothing can reach."""
    assert {move for _, _, move in WAYS} >= set(MOVES)


RECORDS: list[r.AnyRecord] = [
    r.RunQueued("run_0001", "due"),
    r.RunHeld("run_0001"),
    r.RunCompleted("run_0001", 1, r.NULL),
    r.RunFailed("run_0001", 1, error(), "attempts"),
    r.RunCancelled("run_0001", "requested"),
    r.RunRetried("run_0001"),
    r.AttemptStarted("run_0001", 1, "w1"),
    r.AttemptResumed("run_0001", 1, "w1"),
    r.AttemptSuspended("run_0001", 1),
    r.AttemptFailed("run_0001", 1, error()),
    r.AttemptLost("run_0001", 1, "gone"),
]
STATES: list[Begin] = [queued, scheduled, running, waiting, retrying, failed]


@pytest.mark.parametrize("begin", STATES)
@pytest.mark.parametrize("record", RECORDS, ids=kind)
def test_no_record_moves_a_status_outside_the_table(begin: Begin, record: r.AnyRecord) -> None:
    """A record that the table does not allow fails an assertion: that journal is not ours."""
    story = Story()
    run = story.run(begin(story))
    status = run.status
    entry = r.Entry(story.state.seq + 1, story.now_us, record)
    if (status, kind(record)) in MOVES:
        fold(story.state, entry)
        assert run.status is MOVES[status, kind(record)]
    else:
        with pytest.raises(AssertionError):
            fold(story.state, entry)


def test_sequence_numbers_have_no_gap_and_time_never_runs_back() -> None:
    """`fold` refuses an entry out of its place."""
    story = Story()
    story.start()
    watermark = r.JournalWatermark()
    with pytest.raises(AssertionError, match="gap"):
        fold(story.state, r.Entry(story.state.seq + 2, story.now_us, watermark))
    with pytest.raises(AssertionError, match="backwards"):
        fold(story.state, r.Entry(story.state.seq + 1, story.now_us - 1, watermark))


def test_completed_run_leaves_memory_and_failed_one_stays_in_dead_letter() -> None:
    """Only runs that a person must still look at are kept."""
    story = Story()
    done = completed(story)
    dead = story.start(retry=ONCE)
    story.assign()
    story.fails(dead)
    assert done not in story.state.runs
    assert story.run(dead).error == error()
    assert (story.state.dead, story.state.finished) == (1, 2)
    story.remove(dead)
    assert story.state.runs == {}
    assert story.state.dead == 0
