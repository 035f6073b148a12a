"""Rows of what a handler gave up, of asyncio's timers, and of decisions."""

from __future__ import annotations

from typing import Any

from cli.timeline.test_build import TIMEOUT, Log, rows, run_log, spans, waits

TIMER = "index#2/[timer 5.0s]"


def sleeps(log: Log, seconds: float, step: str) -> Log:
    """A wait for a time begins."""
    return log.add(seconds, "wait.started", step=step, wait="sleep")


def withdrawn(log: Log, seconds: float, step: str) -> Log:
    """The handler gives the call up."""
    return log.add(seconds, "call.withdrawn", attempt=1, step=step)


def test_wait_that_was_given_up_is_cancelled_and_has_not_failed() -> None:
    """Its bar ends there, and nothing changes when the run ends, however it does."""
    log = withdrawn(sleeps(run_log(), 1, "index#2/rest"), 3, "index#2/rest")
    row = rows(log.timeline(9))["index#2/rest"]
    assert (row.status, row.tries, spans(row)) == ("cancelled", [], [("wait", 1, 3)])
    row = rows(log.add(9, "run.failed", attempt=1, error=TIMEOUT).timeline())["index#2/rest"]
    assert (row.status, row.tries, spans(row)) == ("cancelled", [], [("wait", 1, 3)])


def test_step_that_was_given_up_is_drawn_for_as_long_as_it_ran() -> None:
    """A step that had not been recorded as started has a mark."""
    log = run_log().add(1, "step.started", step="long")
    told = rows(withdrawn(withdrawn(log, 4, "long"), 4, "brief").timeline(9))
    assert (told["long"].status, spans(told["long"])) == ("cancelled", [("work", 0.75, 4)])
    assert (told["brief"].status, spans(told["brief"])) == ("cancelled", [("work", 3.75, 4)])


def test_backoff_that_was_given_up_keeps_its_failed_tries() -> None:
    """They happened; only the next try does not."""
    row = rows(withdrawn(run_log().failed(1, "a", 1000, retry=9), 2, "a").timeline(5))["a"]
    assert (row.status, len(row.tries)) == ("cancelled", 1)
    assert spans(row) == [("failed", 0, 1), ("backoff", 1, 2)]


def test_call_that_is_made_again_begins_anew() -> None:
    """Nothing is left of the one that was given up, in another attempt or after `runs retry`."""
    log = withdrawn(sleeps(run_log(), 1, "rest"), 3, "rest")
    log = sleeps(log.started(5, 2), 6, "rest")
    row = rows(log.timeline(8))["rest"]
    assert (row.status, spans(row)) == ("waiting", [("wait", 6, 8)])
    row = rows(log.add(9, "wait.ended", step="rest").end(9))["rest"]
    assert (row.status, spans(row)) == ("completed", [("wait", 6, 9)])


def test_lock_that_was_given_up_is_held_no_longer() -> None:
    """It was acquired for a call that nobody waited for any more."""
    log = run_log().add(1, "wait.started", step="[lock k]", wait="lock", lock="k")
    log.add(2, "wait.ended", step="[lock k]", status="")
    log.add(2, "lock.acquired", step="[lock k]", key="k")
    log.add(4, "lock.released", key="k", reason="withdrawn", step="[lock k]")
    row = rows(withdrawn(log, 4, "[lock k]").timeline(9))["lock k"]
    assert (row.status, spans(row)) == ("cancelled", [("wait", 1, 2), ("hold", 2, 4)])


def test_event_that_was_given_back_is_said_to_be() -> None:
    """The wait is cancelled, and its note says where the event went."""
    paid = {"event": "evt_1", "name": "paid", "correlation_key": "o:1"}
    log = waits(run_log(), 1, "pay", ("paid", "o:1")).add(2, "wait.ended", step="pay", **paid)
    log = withdrawn(log, 3, "pay").add(3, "event.returned", step="pay", place=4, **paid)
    row = rows(log.end(9))["pay"]
    assert (row.status, row.note) == ("cancelled", "event paid [o:1], returned")
    assert spans(row) == [("wait", 1, 2)]


def test_child_that_was_given_up_is_cancelled() -> None:
    """Its row still names it."""
    log = run_log().add(1, "child.started", step="pay", child="run_y", job="pay")
    log.add(1, "wait.started", step="pay", wait="child", child="run_y")
    row = rows(withdrawn(log, 3, "pay").timeline(9))["pay"]
    assert (row.status, spans(row)[-1]) == ("cancelled", ("wait", 1, 3))
    assert row.child is not None and (row.child.job, row.child.id) == ("pay", "run_y")


# --- Timers --------------------------------------------------------------------------------


def test_timer_of_asyncio_has_a_readable_row() -> None:
    """While it is pending, and when it has run out."""
    log = sleeps(run_log(), 1, TIMER)
    row = rows(log.timeline(2))["index#2/timer 5.0s"]
    assert (row.status, row.note, spans(row)) == ("waiting", "asyncio", [("wait", 1, 2)])
    row = rows(log.add(6, "wait.ended", step=TIMER).end(6))["index#2/timer 5.0s"]
    assert (row.status, row.note, spans(row)) == ("completed", "asyncio", [("wait", 1, 6)])


def test_timer_that_never_ran_out_has_no_row() -> None:
    """`asyncio.timeout` around a step that is in time clutters nothing; a sleep stays."""
    log = withdrawn(sleeps(sleeps(run_log(), 1, TIMER), 1, "rest"), 2, TIMER)
    log = withdrawn(log, 2, "rest").done(3, "a", 3000)
    assert list(rows(log.timeline(3))) == ["a", "rest"]
    again = rows(sleeps(log, 4, TIMER).timeline(5))["index#2/timer 5.0s"]
    assert spans(again) == [("wait", 4, 5)]


def test_wait_that_was_pending_when_its_run_ended_has_not_failed() -> None:
    """Something else failed, or the handler returned and left it behind."""
    log = sleeps(sleeps(run_log(), 1, TIMER), 1, "rest")
    told = rows(log.add(3, "run.failed", attempt=1, error=TIMEOUT).timeline())
    statuses = (told["index#2/timer 5.0s"].status, told["rest"].status)
    assert statuses == ("cancelled", "cancelled")
    assert rows(sleeps(run_log(), 1, "rest").end(3))["rest"].status == "cancelled"


# --- Decisions -----------------------------------------------------------------------------


def value(log: Log, step: str, recorded: Any) -> Log:
    """A value is recorded at 2 s."""
    return log.add(2, "value.recorded", attempt=1, step=step, value=recorded)


def test_decision_says_which_call_was_first() -> None:
    """Its row is a mark with the name of the winner; in a branch too."""
    told = rows(value(value(run_log(), "decision", "paid"), "index/decision", "late").timeline(3))
    assert (told["decision"].status, told["decision"].note) == ("completed", "paid")
    assert spans(told["decision"]) == [("work", 2, 2)]
    assert told["index/decision"].note == "late"


def test_reads_have_no_rows_in_any_branch() -> None:
    """What `ctx.now()` and its like returned is no news."""
    log = run_log(steps=[{"name": "index/[now]", "status": "completed", "kind": "event"}])
    log = value(value(value(log, "[now]", 1), "index/[uuid]#2", "x"), "in/leaf#2/[state.get k]", {})
    assert list(rows(log.done(3, "a", 3000).end(3))) == ["a"]
