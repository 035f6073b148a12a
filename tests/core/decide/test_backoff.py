"""Trying again: how often, how soon, and what is forgotten in between."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.story import ONCE, STEADY, Story
from stackshiftd.core import records as r
from stackshiftd.core.decide.backoff import admits, delay_ms
from stackshiftd.core.effects import Acknowledge
from stackshiftd.core.state.state import Phase, Status

TERMS = st.builds(
    r.RetryTerms,
    max_attempts=st.integers(1, 10),
    backoff_ms=st.integers(0, 3_600_000),
    factor=st.floats(1, 100),
    max_backoff_ms=st.integers(0, 86_400_000),
    jitter=st.floats(0, 1),
)


@given(TERMS, st.integers(1, 1_000_000), st.text())
def test_backoff_is_bounded_and_the_same_at_every_replay(
    terms: r.RetryTerms, failed: int, seed: str
) -> None:
    """However often it failed: never below 0, never above the longest backoff plus its jitter."""
    delay = delay_ms(terms, failed, seed)
    assert 0 <= delay <= terms.max_backoff_ms * (1 + terms.jitter) + 1
    assert delay == delay_ms(terms, failed, seed)


def test_backoff_doubles_up_to_its_bound() -> None:
    """Without jitter the delays are exactly those of the terms."""
    terms = r.RetryTerms(backoff_ms=1000, factor=2.0, max_backoff_ms=5000, jitter=0.0)
    assert [delay_ms(terms, n, "run") for n in range(1, 6)] == [1000, 2000, 4000, 5000, 5000]


def test_jitter_spreads_runs_that_failed_together() -> None:
    """The items of a map that failed together are tried again over the whole range of the
    jitter."""
    delays = [delay_ms(r.RetryTerms(), 1, f"run_1/resize[{n}]") for n in range(100)]
    assert all(900 <= delay <= 1100 for delay in delays)
    assert len(set(delays)) > 50
    assert max(delays) - min(delays) > 150


def test_run_is_tried_as_often_as_its_budget_says_then_is_dead() -> None:
    """Three attempts, 1 s and 2 s apart; after the third the run has failed, and its error is
    kept."""
    story = Story()
    run = story.start(retry=STEADY)
    waits = []
    for attempt in (1, 2, 3):
        assert story.assign() == run
        assert story.run(run).attempt == attempt
        story.fails(run)
        if attempt < 3:
            assert story.status(run) is Status.RETRYING
            waits.append((story.run(run).retry_us - story.now_us) // 1000)
            assert story.tick(to=waits[-1] / 1000) == 1
    assert waits == [1000, 2000]
    assert story.recorded() == ["attempt.failed", "run.failed"]
    assert story.finished() == {run: "failed"}
    assert (story.state.dead, story.assign()) == (1, None)


def test_run_is_not_tried_again_before_its_time() -> None:
    """A millisecond early there is nothing to do."""
    story = Story()
    run = story.start()
    story.assign()
    story.fails(run)
    assert story.tick(to="999ms") == 0
    assert story.assign() is None
    assert story.tick(to="1ms") == 1
    assert story.assign() == run


def test_failure_that_is_not_retryable_ends_the_run_at_once() -> None:
    """`NonRetryable` leaves the rest of the budget unused."""
    story = Story()
    run = story.start(retry=STEADY)
    story.assign()
    story.fails(run, retryable=False)
    assert story.status(run) is Status.FAILED
    last = story.entries[-1].record
    assert isinstance(last, r.RunFailed)
    assert last.reason == "non_retryable"


def test_handler_may_choose_when_it_is_tried_again() -> None:
    """`RetryAfter` replaces the backoff, and counts as an attempt like any other."""
    story = Story()
    run = story.start(retry=r.RetryTerms(max_attempts=2))
    story.assign()
    story.fails(run, after="90s")
    assert story.run(run).retry_us == story.now_us + 90_000_000
    story.tick(to="90s")
    story.assign()
    story.fails(run, after="90s")
    assert story.status(run) is Status.FAILED


def test_step_with_terms_of_its_own_is_tried_again_within_the_attempt() -> None:
    """The failed try, its backoff and the next try are recorded; the attempt continues."""
    story = Story()
    run = story.start(retry=ONCE)
    story.assign()
    story.step_fails(run, "a", retry=STEADY)
    due_us = story.now_us + 1_000_000
    assert story.effects(Acknowledge) == [Acknowledge(7, due_us)]
    assert story.run(run).calls["a"].phase is Phase.RETRYING
    assert story.tick(to="1s") == 1
    assert story.run(run).calls["a"].phase is Phase.OPEN
    story.step_fails(run, "a", retry=STEADY)
    story.tick(to="2s")
    story.step_fails(run, "a", retry=STEADY)
    assert story.effects(Acknowledge) == [Acknowledge(7, 0)]
    assert story.run(run).calls["a"].phase is Phase.FAILED
    assert story.run(run).calls["a"].tried == 3
    assert story.run(run).attempt == 1


def test_step_obeys_what_its_function_asks_for() -> None:
    """A failure that is not retryable ends it on the first try; `RetryAfter` sets the time of the
    next."""
    story = Story()
    run = story.start()
    story.assign()
    story.step_fails(run, "a", retry=STEADY, retryable=False)
    assert story.run(run).calls["a"].phase is Phase.FAILED
    story.step_fails(run, "b", retry=STEADY, after="1h")
    assert story.run(run).calls["b"].due_us == story.now_us + 3_600_000_000


def test_suspended_run_resumes_for_the_next_try_of_a_step() -> None:
    """A long backoff of a step holds no slot."""
    story = Story()
    run = story.start()
    story.assign()
    story.step_fails(run, "a", retry=STEADY, after="1h")
    story.suspends(run)
    assert not story.token(run)
    story.tick(to="1h")
    assert story.assign() == run
    assert story.recorded() == ["attempt.resumed"]
    assert story.run(run).calls["a"].tried == 1


def test_step_failure_that_was_not_caught_forgets_that_step_alone() -> None:
    """The next attempt runs that step again, and no other."""
    story = Story()
    run = story.start()
    story.assign()
    story.step_done(run, "a", 1)
    story.step_fails(run, "b")
    story.step_fails(run, "c")
    story.fails(run, step="b")
    assert story.steps(run) == {"a": 1, "c": "failed"}


def test_step_has_at_most_one_recorded_result() -> None:
    """A timeout that is reported after the result changes nothing, nor does a result after the
    timeout."""
    story = Story()
    run = story.start()
    story.assign()
    story.step_done(run, "a", 1)
    story.step_fails(run, "b")
    assert story.step_fails(run, "a").records == ()
    assert story.step_done(run, "a", 2).records == ()
    assert story.step_done(run, "b", 2).records == ()
    assert story.steps(run) == {"a": 1, "b": "failed"}


def test_note_that_a_step_runs_does_not_undo_its_result() -> None:
    """Nothing waits for the note: the result may overtake it."""
    story = Story()
    run = story.start()
    story.assign()
    assert story.step_opens(run, "a").records
    story.step_done(run, "a", 1)
    assert story.step_opens(run, "a").records == ()
    assert story.steps(run) == {"a": 1}


def test_run_that_records_more_than_its_limit_fails_and_says_so() -> None:
    """The limit on calls ends the run for good, and its handler is stopped."""
    story = Story()
    run = story.start(limits=r.RunLimits(steps=2))
    story.assign()
    story.step_done(run, "a")
    story.sleeps(run, "nap", "1h")
    story.step_done(run, "a#2")
    assert story.status(run) is Status.FAILED
    failed = story.run(run).error
    assert failed is not None
    assert failed.type == "LimitExceeded"
    assert story.token(run), "its handler still executes"
    story.stops(run)
    assert not story.token(run)


def test_bytes_of_forgotten_results_do_not_count_against_a_retried_run() -> None:
    """Repeated steps replace what was recorded; it is not counted twice."""
    story = Story()
    run = story.start(limits=r.RunLimits(bytes=100))
    story.assign()
    story.step_done(run, "a", "x" * 60)
    story.fails(run, retryable=False)
    story.retry(run, from_step="a")
    story.assign()
    story.step_done(run, "a", "x" * 60)
    assert story.status(run) is Status.RUNNING


# --- By the class of the error ------------------------------------------------------------------

REFUSED = [["urllib.error.URLError", "builtins.OSError", "builtins.Exception"]]
BROKEN = [["builtins.ValueError", "builtins.Exception"]]


@pytest.mark.parametrize(
    ("on", "not_on", "kinds", "admitted"),
    [
        ([], [], BROKEN, True),
        (["OSError"], [], REFUSED, True),
        (["builtins.OSError"], [], REFUSED, True),
        (["urllib.error.URLError"], [], REFUSED, True),
        (["socket.OSError"], [], REFUSED, False),
        (["OSError"], [], BROKEN, False),
        ([], ["ValueError"], BROKEN, False),
        ([], ["ValueError"], REFUSED, True),
        (["OSError"], ["URLError"], REFUSED, False),
        (["OSError"], [], [*REFUSED, *BROKEN], False),
        (["OSError"], [], [], True),
    ],
)
def test_policy_admits_by_class(
    on: list[str], not_on: list[str], kinds: list[list[str]], admitted: bool
) -> None:
    """By a type's name, or that with its module; subclasses count, `not_on` goes first, and each
    part of a group has to be admitted."""
    assert admits(r.RetryTerms(on=on, not_on=not_on), kinds) is admitted


def test_error_that_is_not_to_be_retried_fails_the_run_at_once() -> None:
    """It is in the dead letter after one attempt of three; another error is retried."""
    terms = msgspec.structs.replace(STEADY, not_on=["ValueError"])
    story = Story()
    run = story.start(retry=terms)
    story.assign()
    story.fails(run, kinds=REFUSED)
    assert story.status(run) is Status.RETRYING
    story.tick(to="1s")
    story.assign()
    story.fails(run, kinds=BROKEN)
    last = story.entries_of(run)[-1].record
    assert isinstance(last, r.RunFailed)
    assert (last.reason, story.run(run).attempt) == ("non_retryable", 2)


@pytest.mark.parametrize("by_step", [True, False])
def test_step_that_is_not_to_be_retried_fails_its_run_at_once(by_step: bool) -> None:
    """Whether its own policy or that of the run excludes the error; the record of the step says so,
    for passes that know no more than that."""
    picky = msgspec.structs.replace(STEADY, on=["OSError"])
    story = Story()
    run = story.start(retry=STEADY if by_step else picky)
    story.assign()
    story.step_fails(run, "a", retry=picky if by_step else None, kinds=BROKEN)
    failed = story.run(run).calls["a"].error
    assert failed is not None
    assert not failed.retryable
    story.fails(run, step="a")
    assert story.status(run) is Status.FAILED


def test_own_policy_of_a_step_decides_about_its_tries() -> None:
    """The run's policy, which excludes the error, only counts when the step is out of tries."""
    story = Story()
    run = story.start(retry=msgspec.structs.replace(STEADY, not_on=["ValueError"]))
    story.assign()
    story.step_fails(run, "a", retry=STEADY, kinds=BROKEN)
    assert story.run(run).calls["a"].phase is Phase.RETRYING
    for _ in range(2):
        story.tick(to="10s")
        story.step_fails(run, "a", retry=STEADY, kinds=BROKEN)
    story.fails(run, step="a")
    assert story.status(run) is Status.FAILED


def test_attempt_out_of_time_is_a_timeout_error_to_the_policy() -> None:
    """`not_on = ["TimeoutError"]` fails it at once."""
    story = Story()
    run = story.start(retry=msgspec.structs.replace(STEADY, not_on=["TimeoutError"]), timeout="10s")
    story.assign()
    story.tick(to="10s")
    assert story.status(run) is Status.FAILED


# --- Snoozes ------------------------------------------------------------------------------------


def test_snooze_uses_up_no_attempt_and_leaves_the_backoff() -> None:
    """After ten of them there are still three attempts, and the first backoff is the first."""
    story = Story()
    run = story.start(retry=STEADY)
    for _ in range(10):
        story.assign()
        story.fails(run, after="1h", counts=False)
        assert (story.run(run).retry_us - story.now_us) // 1000 == 3_600_000
        assert story.tick(to="1h") == 1
    story.assign()
    story.fails(run)
    assert (story.run(run).retry_us - story.now_us) // 1000 == STEADY.backoff_ms
    assert (story.run(run).attempt, story.run(run).attempts_used) == (11, 1)
    for _ in range(2):
        story.tick(to="10s")
        story.assign()
        story.fails(run)
    assert story.finished() == {run: "failed"}


def test_snooze_of_a_step_uses_up_none_of_its_tries() -> None:
    """Each of its tries has a number of its own, and its backoff is as if there had been none."""
    story = Story()
    run = story.start(retry=ONCE)
    story.assign()
    for _ in range(5):
        story.step_fails(run, "a", retry=STEADY, after="1m", counts=False)
        story.tick(to="1m")
    story.step_fails(run, "a", retry=STEADY)
    call = story.run(run).calls["a"]
    assert (call.tried, call.phase) == (6, Phase.RETRYING)
    assert (call.due_us - story.now_us) // 1000 == STEADY.backoff_ms


def test_time_that_was_asked_for_is_kept_and_one_that_has_passed_is_now() -> None:
    """Of a time and a delay the later one is taken."""
    story = Story()
    run = story.start(retry=STEADY)
    story.assign()
    at_us = story.now_us + 90_000_000
    story.fails(run, at_us=at_us)
    assert story.run(run).retry_us == at_us
    story.tick(to="90s")
    story.assign()
    story.fails(run, at_us=story.now_us - 1, after="5s")
    assert story.run(run).retry_us == story.now_us + 5_000_000


def test_snooze_to_a_time_that_has_passed_waits_for_the_backoff() -> None:
    """It would go on for ever otherwise, as fast as it can; an attempt that counts ends."""
    story = Story()
    run = story.start(retry=STEADY)
    story.assign()
    story.fails(run, at_us=story.now_us - 1, counts=False)
    assert (story.run(run).retry_us - story.now_us) // 1000 == STEADY.backoff_ms
    story.tick(to="1s")
    story.assign()
    story.fails(run, at_us=story.now_us - 1)
    assert story.run(run).retry_us == story.now_us
