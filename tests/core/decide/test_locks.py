"""Locks: one holder, tokens that only grow, first come first served, and no lock kept by a dead
holder (guarantee: locks)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from core.histories.state_histories import Stored
from core.story import ONCE, START_US
from stackshift_jobs.errors import LockHeld, LockLost, NotFound, Usage
from stackshift_jobs.values.durations import rfc3339
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.effects import Resolve
from stackshiftd.core.state.state import CallKind, Phase, Status


def begun(story: Stored, many: int = 1, **options: Any) -> list[str]:
    """Runs whose handlers execute."""
    runs = [story.start("index", **options) for _ in range(many)]
    assert story.fill() == runs
    return runs


def phase(story: Stored, run: str, step: str = "[lock k]") -> Phase | None:
    """The phase of the call by which the run acquired the lock; None if it is not recorded."""
    found = story.run(run).calls.get(step)
    return found.phase if found is not None else None


# --- Taking and letting go -----------------------------------------------------------------


def test_free_lock_is_held_at_once_and_its_token_is_the_records_number() -> None:
    """It takes one record, for handlers and clients alike."""
    story = Stored()
    (run,) = begun(story)
    assert story.takes(run, "k") == {"key": "k", "token": story.state.seq, "expires_at": None}
    assert story.recorded() == ["lock.acquired"]
    held = story.acquires("c1", "other", ttl="1s")
    until = rfc3339(START_US + 1_000_000)
    assert held == {"key": "other", "token": story.state.seq, "expires_at": until}
    assert (story.owner("k"), story.owner("other")) == (run, "c1")
    assert story.run(run).locks == ("k",)
    story.folds_alike()


def test_lock_that_is_held_is_refused_to_who_does_not_wait() -> None:
    """The refusal names the holder and the expiry: a run by its id, a client by its description."""
    story = Stored()
    first, second = begun(story, 2)
    story.takes(first, "k")
    story.acquires("c1", "other")
    for ask in (partial(story.acquires, "c2", "k"), partial(story.takes, second, "k", wait="0s")):
        with pytest.raises(LockHeld) as refused:
            ask()
        told = refused.value.fields
        assert (told["owner"], told["holder"], told["expires_at"]) == (first, "", None)
    with pytest.raises(LockHeld) as refused:
        story.acquires("c2", "other")
    told = refused.value.fields
    assert (told["owner"], told["holder"]) == (None, "c1@host")
    assert told["expires_at"] == rfc3339(START_US + 30_000_000)
    assert story.steps(second)["[lock k]"]["code"] == "lock_held"
    assert (story.line("k"), story.line("other")) == ([], [])
    story.folds_alike()


def test_lock_goes_to_who_waits_in_the_order_in_which_they_came() -> None:
    """Runs and clients wait in one line; the append that releases the lock gives it to the next."""
    story = Stored()
    first, second, third = begun(story, 3)
    story.takes(first, "k")
    assert story.acquires("c1", "k", wait="1h") is None
    assert story.takes(second, "k") is None
    assert story.acquires("c2", "k", wait=None) is None
    assert story.takes(third, "k", ttl="5s") is None
    assert story.line("k") == ["c1", second, "c2", third]
    assert story.leaves(first, "k")
    assert story.recorded() == ["lock.released", "lock.acquired"]
    assert story.granted()["c1"]["token"] == story.fence("k")
    story.releases("k", story.fence("k"))
    assert (story.owner("k"), story.granted()) == (second, {})
    assert [effect.run for effect in story.effects(Resolve)] == [second]
    story.leaves(second, "k")
    assert story.owner("k") == "c2"
    story.releases("k", story.fence("k"))
    assert story.owner("k") == third
    assert story.got(third, "[lock k]")["expires_at"] == rfc3339(START_US + 5_000_000)
    story.leaves(third, "k")
    assert "k" not in story.state.locks
    story.folds_alike()


def test_tokens_only_grow() -> None:
    """From holder to holder, over losses, attempts, snapshots and restarts."""
    story = Stored()
    first, second = begun(story, 2)
    seen = [story.takes(first, "k")["token"]]
    story.takes(second, "k")
    story.lose(first, ours=True)
    seen.append(story.fence("k"))
    story.assign()
    assert story.got(first, "[lock k]")["token"] == seen[-1]
    story.claim()
    seen.append(story.fence("k"))
    assert story.got(first, "[lock k]")["token"] == seen[-1]
    story.fill()
    story.state = story.via_snapshot(story.state.seq)
    story.leaves(first, "k")
    seen.append(story.fence("k"))
    story.leaves(second, "k")
    seen.append(story.acquires("c1", "k")["token"])
    assert seen == sorted(set(seen))
    story.folds_alike()


def test_suspension_keeps_lock_and_token() -> None:
    """A suspension does not leave the block; a resumed execution fences only itself."""
    story = Stored()
    (run,) = begun(story)
    token = story.takes(run, "k")["token"]
    story.sleeps(run, "nap", "1h")
    story.suspends(run)
    story.tick(to="1h")
    assert story.assign() == run
    assert (story.owner("k"), story.fence("k")) == (run, token)


def test_new_attempt_that_still_holds_a_lock_has_a_new_token() -> None:
    """What the previous attempt wrote with its token may arrive late."""
    story = Stored()
    (run,) = begun(story, timeout="10s")
    token = story.takes(run, "k")["token"]
    story.tick(to="10s")
    assert story.status(run) is Status.RETRYING
    assert story.fence("k") == token, "its handler still executes"
    story.stops(run)
    assert story.owner("k") == run
    story.tick(to="1m")
    assert story.assign() == run
    assert story.fence("k") > token
    assert story.got(run, "[lock k]")["token"] == story.fence("k")
    story.folds_alike()


def test_waiting_for_a_lock_holds_no_slot() -> None:
    """The handler leaves memory; it resumes when it is its turn, and not before."""
    story = Stored()
    first, second = begun(story, 2)
    story.takes(first, "k")
    story.takes(second, "k")
    story.suspends(second)
    assert story.status(second) is Status.WAITING
    story.tick(to="30d")
    assert story.status(second) is Status.WAITING
    story.leaves(first, "k")
    assert story.recorded() == ["lock.released", "lock.acquired"]
    assert story.status(second) is Status.QUEUED
    assert story.assign() == second
    assert phase(story, second) is Phase.COMPLETED
    story.folds_alike()


def test_handler_that_suspends_as_it_is_given_the_lock_goes_on_at_once() -> None:
    """The suspension and the grant cross."""
    story = Stored()
    first, second = begun(story, 2)
    story.takes(first, "k")
    story.takes(second, "k")
    story.leaves(first, "k")
    story.suspends(second, "[lock k]")
    assert story.recorded() == ["attempt.suspended", "run.queued"]


def test_block_that_is_left_is_left_for_good() -> None:
    """A replay finds it so; leaving it again changes nothing."""
    story = Stored()
    (run,) = begun(story)
    story.takes(run, "k")
    assert story.leaves(run, "k")
    assert phase(story, run) is Phase.RELEASED
    seq = story.state.seq
    assert not story.leaves(run, "k")
    assert story.state.seq == seq
    assert story.takes(run, "k") is not None
    assert story.leaves(run, "k", lock="[lock k]#2")
    assert [record.reason for record in story.records(r.LockReleased)] == ["left", "left"]


def test_taking_a_lock_twice_in_one_run_is_an_error() -> None:
    """Whether it is held or waited for: the run would wait for itself forever."""
    story = Stored()
    first, second = begun(story, 2)
    story.takes(first, "k")
    story.takes(second, "k")
    for run in (first, second):
        with pytest.raises(Usage, match="already"):
            story.takes(run, "k")
    assert (story.owner("k"), story.line("k")) == (first, [second])
    assert story.steps(first)["[lock k]#2"]["code"] == "usage"


# --- Given on, however a run ends ----------------------------------------------------------


def test_locks_pass_on_in_the_append_of_run_completed() -> None:
    """Also those whose block was never left."""
    story = Stored()
    first, second = begun(story, 2)
    for key in ("k", "l"):
        story.takes(first, key)
        story.takes(second, key)
    story.completes(first)
    assert story.recorded() == [
        "lock.released",
        "lock.acquired",
        "lock.released",
        "lock.acquired",
        "run.completed",
    ]
    assert story.run(second).locks == ("k", "l")
    assert story.got(second, "[lock l]")["token"] == story.fence("l")
    story.folds_alike()


def test_locks_pass_on_in_the_append_of_run_failed() -> None:
    """But not if the attempt is followed by another."""
    story = Stored()
    first, second = begun(story, 2, retry=r.RetryTerms(max_attempts=2, backoff_ms=1, jitter=0.0))
    story.takes(first, "k")
    story.takes(second, "k")
    story.fails(first)
    assert story.owner("k") == first
    story.tick(to="1s")
    story.assign()
    story.fails(first)
    assert story.recorded() == ["lock.released", "lock.acquired", "attempt.failed", "run.failed"]
    assert story.owner("k") == second
    story.folds_alike()


def test_locks_of_a_waiting_run_pass_on_when_it_is_cancelled() -> None:
    """Nothing executes for it: in the append of run.cancelled."""
    story = Stored()
    first, second = begun(story, 2)
    story.takes(first, "k")
    story.takes(second, "k")
    story.sleeps(first, "nap", "1h")
    story.suspends(first)
    story.cancel(first)
    assert story.recorded() == ["lock.released", "lock.acquired", "run.cancelled"]
    assert story.owner("k") == second
    story.folds_alike()


def test_locks_of_an_executing_run_pass_on_when_its_handler_has_stopped() -> None:
    """Until then it may be writing to what the lock protects, whatever was decided."""
    story = Stored()
    first, second = begun(story, 2)
    story.takes(first, "k")
    story.takes(second, "k")
    story.cancel(first)
    assert story.recorded() == ["run.cancelled"]
    assert story.owner("k") == first
    story.stops(first)
    assert story.recorded() == ["lock.released", "lock.acquired", "attempt.stopped"]
    assert story.owner("k") == second
    story.folds_alike()


End = Callable[[Stored, str], object]


@pytest.mark.parametrize(
    "end",
    [
        lambda story, run: story.lose(run),
        lambda story, run: story.completes(run),
        lambda story, run: story.fails(run),
        lambda story, _run: story.claim(),
    ],
    ids=["its worker dies", "it returns", "it raises", "the daemon goes"],
)
def test_locks_of_a_cancelled_run_pass_on_however_its_handler_ends(end: End) -> None:
    """Any command that means nothing executes any more releases them."""
    story = Stored()
    first, second = begun(story, 2)
    story.takes(first, "k")
    story.takes(second, "k")
    story.cancel(first)
    end(story, first)
    assert story.owner("k") == second
    assert first not in story.state.runs
    story.folds_alike()


def test_locks_of_a_run_out_of_time_for_good_pass_on_when_its_handler_has_stopped() -> None:
    """It has failed, and its handler may still be in the block."""
    story = Stored()
    first, second = begun(story, 2, retry=ONCE, timeout="10s")
    story.takes(first, "k")
    story.takes(second, "k")
    story.suspends(second)
    story.tick(to="10s")
    assert story.status(first) is Status.FAILED
    assert story.owner("k") == first
    story.stops(first)
    assert story.owner("k") == second
    story.folds_alike()


def test_lost_worker_keeps_its_runs_locks() -> None:
    """The run resumes where it was; no other holder comes between."""
    story = Stored()
    first, second = begun(story, 2)
    story.takes(first, "k")
    story.takes(second, "k")
    story.lose(first)
    assert (story.owner("k"), story.line("k")) == (first, [second])
    assert phase(story, first) is Phase.COMPLETED


def test_poisonous_run_gives_its_locks_back() -> None:
    """It fails because its workers died."""
    story = Stored()
    first, second = begun(story, 2)
    story.takes(first, "k")
    story.takes(second, "k")
    story.suspends(second)
    for _ in range(10):
        if story.status(first) is Status.FAILED:
            break
        story.lose(first)
        story.assign(alone=True)
    assert story.status(first) is Status.FAILED
    assert story.owner("k") == second
    story.folds_alike()


def test_cancelled_family_gives_nothing_to_its_own() -> None:
    """A lock that the parent holds and its child waits for goes to the next run outside the
    family."""
    story = Stored()
    parent, other = begun(story, 2)
    child = story.calls(parent, "child")
    story.assign()
    story.takes(parent, "k")
    story.takes(child, "k")
    story.takes(other, "k")
    story.suspends(child)
    story.suspends(parent)
    story.cancel(parent)
    assert story.owner("k") == other
    assert story.recorded().count("lock.acquired") == 1
    story.folds_alike()


def test_run_that_ends_leaves_every_line() -> None:
    """It is given no lock after that."""
    story = Stored()
    first, second, third = begun(story, 3)
    story.takes(first, "k")
    story.takes(second, "k")
    story.takes(third, "k")
    story.cancel(second)
    assert story.line("k") == [third]
    story.leaves(first, "k")
    assert story.owner("k") == third


# --- Waiting only so long ------------------------------------------------------------------


def test_wait_that_is_over_is_refused_with_who_holds_it() -> None:
    """To the microsecond; the refusal is recorded and replays."""
    story = Stored()
    first, second = begun(story, 2)
    story.takes(first, "k")
    story.takes(second, "k", wait="10s")
    story.suspends(second)
    story.wall_us += 9_999_999
    story.do(c.Tick())
    assert story.status(second) is Status.WAITING
    story.wall_us += 1
    story.do(c.Tick())
    assert story.recorded() == ["wait.ended"]
    assert story.status(second) is Status.QUEUED
    assert phase(story, second) is Phase.FAILED
    told = story.got(second, "[lock k]")
    assert (told["code"], told["owner"]) == ("lock_held", first)
    assert story.line("k") == []
    story.folds_alike()


def test_lock_is_not_given_to_who_would_not_wait_so_long() -> None:
    """Its timer is late, and it is already the next one's turn."""
    story = Stored()
    first, second, third = begun(story, 3)
    story.takes(first, "k")
    story.takes(second, "k", wait="10s")
    story.takes(third, "k")
    story.wall_us += 10_000_000
    story.leaves(first, "k")
    assert story.owner("k") == third
    story.tick()
    assert phase(story, second) is Phase.FAILED
    story.folds_alike()


def test_lock_that_only_the_late_wait_for_is_free() -> None:
    """A new request acquires it."""
    story = Stored()
    first, second, third = begun(story, 3)
    story.takes(first, "k")
    story.takes(second, "k", wait="10s")
    story.wall_us += 10_000_000
    story.leaves(first, "k")
    assert (story.owner("k"), story.line("k")) == ("", [second])
    assert story.takes(third, "k") is not None
    story.tick()
    assert story.line("k") == []
    story.folds_alike()


# --- What runs out -------------------------------------------------------------------------


def test_lock_runs_out_by_a_record_at_its_time_and_goes_to_the_next() -> None:
    """The next in line holds it then, with its own ttl."""
    story = Stored()
    story.acquires("c1", "k", ttl="10s")
    assert story.acquires("c2", "k", ttl="5s", wait="1h") is None
    assert story.tick(to="9s") == 0
    assert story.owner("k") == "c1"
    assert story.tick(to="1s") == 1
    assert story.recorded() == ["lock.released", "lock.acquired"]
    assert story.granted()["c2"]["expires_at"] == rfc3339(START_US + 15_000_000)
    assert story.tick(to="5s") == 1
    assert "k" not in story.state.locks
    story.folds_alike()


def test_lock_whose_time_has_passed_is_held_by_nobody_whatever_is_on_record() -> None:
    """To the microsecond; the request that acquires it writes both records."""
    story = Stored()
    token = story.acquires("c1", "k", ttl="10s")["token"]
    story.wall_us += 9_999_999
    with pytest.raises(LockHeld):
        story.acquires("c2", "k")
    story.wall_us += 1
    for late in (partial(story.prolongs, "k", token, "1m"), partial(story.releases, "k", token)):
        with pytest.raises(NotFound):
            late()
    assert story.acquires("c2", "k")["token"] > token
    assert story.recorded() == ["lock.released", "lock.acquired"]
    with pytest.raises(LockHeld):
        story.releases("k", token)
    story.folds_alike()


def test_line_is_kept_when_somebody_comes_before_the_timer() -> None:
    """The lock has expired: the first in line gets it, not the new request."""
    story = Stored()
    story.acquires("c1", "k", ttl="10s")
    (run,) = begun(story)
    story.takes(run, "k")
    story.suspends(run)
    story.wall_us += 10_000_000
    with pytest.raises(LockHeld):
        story.acquires("c3", "k")
    assert story.acquires("c4", "k", wait="1m") is None
    assert (story.owner("k"), story.line("k")) == (run, ["c4"])
    assert story.status(run) is Status.QUEUED
    story.folds_alike()


def test_handler_without_its_lock_learns_that_at_its_next_call() -> None:
    """While the lock is still held the call proceeds, and nothing is recorded for the check."""
    story = Stored()
    (run,) = begun(story)
    story.takes(run, "k", ttl="10s")
    seq = story.state.seq
    assert story.checks(run, "k", "write") is True
    assert story.state.seq == seq
    story.tick(to="10s")
    assert [effect.step for effect in story.effects(Resolve)] == ["[lock k]"]
    assert phase(story, run) is Phase.GONE
    with pytest.raises(LockLost):
        story.checks(run, "k", "write")
    assert story.run(run).calls["write"].kind is CallKind.REFUSED
    story.folds_alike()


def test_check_before_the_timer_finds_what_its_clock_says() -> None:
    """The lock has expired by daemon time, and from then on that is recorded."""
    story = Stored()
    first, second = begun(story, 2)
    story.takes(first, "k", ttl="10s")
    story.takes(second, "k")
    story.wall_us += 10_000_000
    with pytest.raises(LockLost) as lost:
        story.checks(first, "k", "write")
    assert lost.value.fields["key"] == "k"
    assert story.recorded() == ["lock.released", "lock.acquired", "call.refused"]
    assert (story.owner("k"), phase(story, first)) == (second, Phase.GONE)
    story.folds_alike()


def test_leaving_a_block_whose_lock_ran_out_is_on_record_as_lost() -> None:
    """Every later pass gets the answer that the handler got then, even if the clock is set back."""
    story = Stored()
    first, second = begun(story, 2)
    story.takes(first, "k", ttl="10s")
    story.takes(second, "k")
    story.wall_us += 10_000_000
    assert not story.leaves(first, "k")
    assert story.recorded() == ["lock.released", "lock.acquired"]
    assert (phase(story, first), story.owner("k")) == (Phase.GONE, second)
    story.wall_us -= 60_000_000
    story.claim()
    assert phase(story, first) is Phase.GONE
    story.folds_alike()


def test_lock_that_ran_out_in_one_block_can_be_taken_by_the_next() -> None:
    """A handler that lost it, and caught the error, does not hold it."""
    story = Stored()
    (run,) = begun(story)
    story.takes(run, "k", ttl="10s")
    story.wall_us += 10_000_000
    story.leaves(run, "k", raised=True)
    assert story.takes(run, "k", ttl="10s") is not None
    assert phase(story, run, "[lock k]#2") is Phase.COMPLETED
    story.folds_alike()


def test_extended_lock_holds_from_now_on_under_the_same_token() -> None:
    """For handlers and clients; its old expiry has no effect any more."""
    story = Stored()
    (run,) = begun(story)
    mine = story.takes(run, "k", ttl="10s")
    other = story.acquires("c1", "l", ttl="10s")
    story.tick(to="9s")
    until = rfc3339(START_US + 69_000_000)
    assert story.extends(run, "k", "1m") == mine | {"expires_at": until}
    assert story.prolongs("l", other["token"], "1m") == other | {"expires_at": until}
    assert story.tick(to="59s") == 0
    assert story.checks(run, "k", "write") is True
    assert story.tick(to="1s") == 2
    with pytest.raises(LockLost):
        story.extends(run, "k", "1m")
    with pytest.raises(NotFound):
        story.prolongs("l", other["token"], "1m")
    story.folds_alike()


def test_lock_without_a_time_that_is_extended_gets_one() -> None:
    """A handler may set one."""
    story = Stored()
    (run,) = begun(story)
    story.takes(run, "k")
    story.extends(run, "k", "10s")
    assert story.tick(to="10s") == 1
    assert phase(story, run) is Phase.GONE


def test_extension_that_shortens_holds_no_longer() -> None:
    """The ttl counts from now, whatever it was before."""
    story = Stored()
    token = story.acquires("c1", "k", ttl="1h")["token"]
    story.prolongs("k", token, "1s")
    assert story.tick(to="1s") == 1
    assert "k" not in story.state.locks
    story.folds_alike()


# --- Clients -------------------------------------------------------------------------------


def test_same_asker_finds_the_lock_that_it_holds_already() -> None:
    """It asks again after its connection was lost; nothing is recorded."""
    story = Stored()
    held = story.acquires("c1", "k")
    seq = story.state.seq
    assert story.acquires("c1", "k") == held
    assert story.state.seq == seq
    story.wall_us += 30_000_000
    assert story.acquires("c1", "k")["token"] > held["token"]


def test_same_asker_keeps_its_place_in_the_line() -> None:
    """Asking again neither doubles it nor moves it."""
    story = Stored()
    story.acquires("c1", "k")
    for asker in ("c2", "c3", "c2"):
        assert story.acquires(asker, "k", wait="1m") is None
    assert story.line("k") == ["c2", "c3"]
    assert len(story.records(r.LockRequested)) == 2


def test_client_that_withdraws_is_given_nothing() -> None:
    """Withdrawing twice, or from no line, records nothing."""
    story = Stored()
    token = story.acquires("c1", "k")["token"]
    story.acquires("c2", "k", wait="1m")
    assert story.withdraws("c2", "k").records
    for asker in ("c2", "c1", "nobody"):
        assert not story.withdraws(asker, "k").records
    assert not story.withdraws("c2", "other").records
    story.releases("k", token)
    assert "k" not in story.state.locks
    story.folds_alike()


def test_clients_that_wait_are_forgotten_when_the_daemon_goes_away() -> None:
    """No connection is left to answer on; runs, and a client that holds, stay."""
    story = Stored()
    (run,) = begun(story)
    story.acquires("c1", "k", ttl="1h")
    story.acquires("c2", "k", wait="1h")
    story.takes(run, "k")
    story.acquires("c3", "k", wait="1h")
    story.claim()
    assert (story.owner("k"), story.line("k")) == ("c1", [run])
    story.folds_alike()


def test_clients_lock_is_let_go_by_its_token_alone() -> None:
    """Another token does not release it, and no client releases a run's lock."""
    story = Stored()
    (run,) = begun(story)
    token = story.acquires("c1", "k")["token"]
    story.takes(run, "l")
    for key, wrong in (("k", token + 1), ("k", 0), ("l", story.fence("l"))):
        with pytest.raises(LockHeld):
            story.releases(key, wrong)
        with pytest.raises(LockHeld):
            story.prolongs(key, wrong, "1m")
    assert story.releases("k", token) == {"key": "k", "token": token}
    with pytest.raises(NotFound):
        story.releases("k", token)
    assert story.owner("l") == run


def test_lost_execution_does_nothing_to_locks() -> None:
    """Its token is outdated (guarantee: late results)."""
    story = Stored()
    (run,) = begun(story)
    story.takes(run, "k")
    token = story.token(run)
    story.lose(run)
    story.assign()
    who: dict[str, Any] = {"run": run, "token": token, "call": 7, "step": "s"}
    for late in (
        c.AcquireLock(**who, key="l"),
        c.ExtendLock(**who, key="k", ttl_ms=1),
        c.ReleaseLock(**who, lock="[lock k]"),
        c.CheckLock(**who, lock="[lock k]"),
    ):
        told = story.do(late)
        assert (told.records, told.effects) == ((), ())
    assert story.owner("k") == run
