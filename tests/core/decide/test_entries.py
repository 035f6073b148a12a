"""State entries: versions, conditions, expiry by recorded time, and writes of handlers that happen
once (guarantee: handler writes)."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from core.histories.state_histories import Stored
from core.story import error
from stackshift_jobs.errors import Conflict, PayloadRefused
from stackshift_jobs.values.durations import rfc3339
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.effects import Acknowledge
from stackshiftd.core.snapshot import load, state_hash
from stackshiftd.core.state.state import CallKind, Phase, Spilled, Status

HUGE = 10**1000


def begun(story: Stored, job: str = "count") -> str:
    """A run whose handler executes."""
    run = story.start(job)
    assert story.assign() == run
    return run


# --- What a client reads and writes --------------------------------------------------------


def test_entry_has_all_that_is_known_about_it() -> None:
    """Value, version, times and writer; reading changes nothing."""
    story = Stored()
    told = story.set("seen", {"a": [1, None]}, ttl="1h")
    assert told == {
        "key": "seen",
        "value": {"a": [1, None]},
        "version": 1,
        "expires_at": rfc3339(story.now_us + 3_600_000_000),
        "updated_at": rfc3339(story.now_us),
        "updated_by": "client",
    }
    seq = story.state.seq
    assert story.get("seen") == told
    assert story.get("other") is None
    assert story.state.seq == seq


def test_version_grows_by_one_with_every_write() -> None:
    """Sets, increments and deletes alike; for each key separately."""
    story = Stored()
    assert [story.set("n", i)["version"] for i in range(3)] == [1, 2, 3]
    story.increment("n")
    assert story.get("n")["version"] == 4
    assert story.delete("n") == {"deleted": True, "version": 5}
    assert story.set("n", 0)["version"] == 6
    assert story.set("m", 0)["version"] == 1
    story.folds_alike()


def test_set_without_ttl_takes_the_expiry_away() -> None:
    """An entry with an expiry that is written again without one does not expire."""
    story = Stored()
    story.set("k", 1, ttl="1s")
    assert story.set("k", 2)["expires_at"] is None
    story.tick(to="1h")
    assert story.value("k") == 2


def test_expires_at_is_taken_as_it_is() -> None:
    """A time in the past makes an entry that is never read."""
    story = Stored()
    story.set("k", 1, expires_us=story.now_us + 1)
    assert story.value("k") == 1
    story.set("k", 2, expires_us=story.now_us)
    assert story.get("k") is None
    assert story.tick() == 1
    assert story.recorded() == ["state.expired"]


def test_if_version_writes_over_that_version_alone() -> None:
    """Any other version is a conflict that names it; nothing is recorded."""
    story = Stored()
    story.set("k", "a")
    story.set("k", "b", if_version=1)
    seq = story.state.seq
    for write in (partial(story.set, "k", "c"), partial(story.delete, "k")):
        for wrong in (1, 3):
            with pytest.raises(Conflict) as refused:
                write(if_version=wrong)
            assert refused.value.fields["version"] == 2
    assert story.state.seq == seq
    assert story.delete("k", if_version=2)["deleted"]


@pytest.mark.parametrize("condition", [{"if_version": 0}, {"if_absent": True}])
def test_if_version_0_and_if_absent_write_over_nothing_alone(condition: dict[str, Any]) -> None:
    """One of many racing writes succeeds; after a delete or expiry the key is absent again."""
    story = Stored()
    assert story.set("k", 1, ttl="1s", **condition)["version"] == 1
    with pytest.raises(Conflict) as refused:
        story.set("k", 2, **condition)
    assert refused.value.fields["version"] == 1
    story.tick(to="1s")
    assert story.set("k", 3, **condition)["version"] == 2
    story.delete("k")
    assert story.set("k", 4, **condition)["version"] == 4


def test_condition_on_an_absent_entry_says_that_it_does_not_exist() -> None:
    """A remembered version is not an entry."""
    story = Stored()
    story.set("k", 1)
    story.delete("k")
    for version in (1, 2, 7):
        with pytest.raises(Conflict) as refused:
            story.set("k", 2, if_version=version)
        assert refused.value.fields["version"] is None


def test_deleting_nothing_records_nothing() -> None:
    """It says so, and with `if_version=0` it is no conflict."""
    story = Stored()
    assert story.delete("k") == {"deleted": False, "version": None}
    assert story.delete("k", if_version=0) == {"deleted": False, "version": None}
    with pytest.raises(Conflict):
        story.delete("k", if_version=1)
    assert story.state.seq == 0


def test_list_is_in_order_of_keys_and_comes_in_pages() -> None:
    """`next` is the last key of a page; expired entries take no place on it."""
    story = Stored()
    for key in ("b:2", "a:1", "b:10", "b:1", "c"):
        story.set(key, key)
    story.set("b:0", "gone", ttl="0s")
    page = story.list("b:", limit=2)
    assert [entry["key"] for entry in page["entries"]] == ["b:1", "b:10"]
    assert page["next"] == "b:10"
    rest = story.list("b:", after="b:10", limit=2)
    assert [entry["key"] for entry in rest["entries"]] == ["b:2"]
    assert rest["next"] is None
    assert [entry["key"] for entry in story.list()["entries"]] == ["a:1", "b:1", "b:10", "b:2", "c"]
    assert story.list("b:", limit=3)["next"] is None


# --- Numbers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "by", "sum_"),
    [
        (None, 1, 1),
        (0, 0, 0),
        (2**53, 1, 2**53 + 1),
        (HUGE, -1, HUGE - 1),
        (-HUGE, HUGE, 0),
        (0.5, 1, 1.5),
        (1, 0.25, 1.25),
        (1.0, 1, 2.0),
    ],
)
def test_increment_adds_numbers_of_any_size_exactly(first: Any, by: Any, sum_: Any) -> None:
    """Whole numbers stay whole and exact; an absent entry counts from 0."""
    story = Stored()
    if first is not None:
        story.set("n", first)
    told = story.increment("n", by)
    assert (told, type(told)) == (sum_, type(sum_))
    assert story.value("n") == sum_
    story.folds_alike()


@pytest.mark.parametrize("other", ["1", True, None, [], {}])
def test_increment_of_something_else_than_a_number_is_a_conflict(other: Any) -> None:
    """Neither `true` nor `"1"` counts as 1."""
    story = Stored()
    story.set("n", other)
    with pytest.raises(Conflict, match="not a number"):
        story.increment("n")
    assert story.get("n")["version"] == 1


@pytest.mark.parametrize(
    ("first", "by"),
    [(1e308, 1e308), (10**400, 0.5), (10**4299, 10**4299 * 9), (1, True), (1, "1"), (1, None)],
    ids=range(6),
)
def test_sum_that_is_no_number_is_refused(first: Any, by: Any) -> None:
    """Infinity, a number too long to write, and operands that cannot be added: the entry stays."""
    story = Stored()
    story.set("n", first)
    with pytest.raises(PayloadRefused):
        story.increment("n", by)
    assert (story.value("n"), story.get("n")["version"]) == (first, 1)


def test_number_too_long_to_be_read_is_refused_and_harms_nothing() -> None:
    """Python reads no number of over 4300 digits: writing one is refused, and so is adding to
    one."""
    story = Stored()
    run = begun(story)
    long = b"1" * 5000
    story.do(c.SetState(key="n", value=long))
    with pytest.raises(PayloadRefused):
        story.increment("n")
    with pytest.raises(PayloadRefused):
        story.increment("n", run=run)
    with pytest.raises(PayloadRefused):
        story.do(c.IncrementState(key="m", by=long))
    assert story.get("m") is None


def test_increment_keeps_the_expiry_unless_it_gives_one() -> None:
    """A window of a minute that is counted in stays a minute long."""
    story = Stored()
    story.increment("hits", ttl="1m")
    story.tick(to="30s")
    story.increment("hits")
    story.tick(to="29s")
    assert story.increment("hits") == 3
    story.increment("hits", ttl="1m")
    story.tick(to="59s")
    assert story.increment("hits") == 5
    story.tick(to="1s")
    assert story.get("hits") is None
    assert story.increment("hits") == 1
    assert story.get("hits")["expires_at"] is None


# --- Expiry --------------------------------------------------------------------------------


def test_expired_entry_is_never_read_to_the_microsecond() -> None:
    """At its time it is gone for every reader, recorded or not; just before, it is not."""
    story = Stored()
    story.set("k", 5, ttl="1s")
    story.wall_us += 999_999
    assert story.value("k") == 5
    story.wall_us += 1
    seq = story.state.seq
    assert story.get("k") is None
    assert story.list("k")["entries"] == []
    assert story.delete("k") == {"deleted": False, "version": None}
    assert story.state.seq == seq, "only its timer writes that it expired"
    with pytest.raises(Conflict):
        story.set("k", 1, if_version=1)
    assert story.increment("k", 2) == 2
    assert story.get("k")["version"] == 2
    story.folds_alike()


def test_expiry_is_a_record_at_its_time() -> None:
    """It names the version that expires, and fires once."""
    story = Stored()
    story.set("k", 1, ttl="1s")
    due_us = story.state.next_due_us()
    assert due_us == story.now_us + 1_000_000
    assert story.tick(to="10s") == 1
    (expired,) = story.records(r.StateExpired)
    assert (expired.key, expired.version) == ("k", 1)
    assert story.entries[-1].at_us == due_us
    assert story.state.next_due_us() is None
    story.folds_alike()


def test_entry_written_again_does_not_expire_at_its_old_time() -> None:
    """Neither the old time nor a delete leaves anything that fires."""
    story = Stored()
    story.set("k", 1, ttl="1s")
    story.set("k", 2, ttl="10s")
    story.set("gone", 1, ttl="1s")
    story.delete("gone")
    assert story.tick(to="9s") == 0
    assert story.value("k") == 2
    assert story.tick(to="1s") == 1
    assert story.get("k") is None


def test_clock_set_back_brings_no_expired_entry_back() -> None:
    """An expiry that is recorded stays, whatever the wall clock says."""
    story = Stored()
    story.set("k", 1, ttl="1m")
    story.tick(to="1m")
    story.wall_us -= 120_000_000
    assert story.get("k") is None
    assert story.get("k", begun(story)) is None
    story.folds_alike()


# --- Versions of what is gone --------------------------------------------------------------


def test_version_of_a_deleted_key_is_remembered_for_a_time() -> None:
    """Nobody mistakes an entry that was created again for the one they read; later it is
    forgotten."""
    story = Stored()
    story.set("k", 1)
    story.set("k", 2)
    story.delete("k", remember="1h")
    story.tick(to="59m")
    assert story.set("k", 3)["version"] == 4
    story.delete("k", remember="1h")
    story.tick(to="1h")
    assert story.set("k", 4)["version"] == 1
    story.folds_alike()


def test_version_of_an_expired_key_is_remembered_too() -> None:
    """From when its expiry was recorded, which may be late."""
    story = Stored()
    story.set("k", 1, ttl="1s")
    story.wall_us += 3_600_000_000
    story.do(c.Tick(remember_ms=60_000))
    story.wall_us += 59_999_999
    assert story.set("k", 2)["version"] == 2
    story.set("k", 3, ttl="1s")
    story.wall_us += 1_000_000
    story.do(c.Tick(remember_ms=60_000))
    story.wall_us += 60_000_000
    assert story.set("k", 4)["version"] == 1


def test_versions_that_are_forgotten_leave_memory_and_snapshots() -> None:
    """A million keys that were created and deleted cost nothing once their time has passed."""
    story = Stored()
    for at in range(50):
        story.set(f"k{at}", at)
        story.delete(f"k{at}", remember="1m")
    story.tick(to="1m")
    assert len(story.state.values.by_key) == 50
    for _ in range(25):
        story.set("other", 1)
    assert list(story.state.values.by_key) == ["other"]
    lines = [json.loads(line) for line in story.snapshot(story.state.seq)]
    assert [line["key"] for line in lines if line["line"] == "state"] == ["other"]
    story.folds_alike()


def test_key_that_comes_and_goes_costs_memory_once() -> None:
    """A version is remembered for a month; a key that is set and deleted each second is one key."""
    story = Stored()
    for _ in range(500):
        story.do(c.SetState(key="k", value=b"1"))
        story.do(c.DeleteState(key="k", remember_ms=86_400_000))
    assert len(story.state.values.by_key) == 1
    assert len(story.state.values._forgotten) < 200
    assert story.set("k", 1)["version"] == 1001


def test_snapshot_holds_values_of_every_kind() -> None:
    """Text of any alphabet, big numbers, nested objects; the loaded state is the same."""
    story = Stored()
    for at, value in enumerate(("Zoë\n\u2028", HUGE, {"ключ": [1.5, None]}, "x" * 10_000, "")):
        story.set(f"ключ:{at}", value, ttl="1h" if at % 2 else None)
    story.delete("ключ:0")
    state = load(story.snapshot(story.state.seq)).state
    assert state_hash(state) == state_hash(story.state)
    assert state.values.bytes == story.state.values.bytes
    assert state.next_due_us() == story.state.next_due_us()


# --- A handler -----------------------------------------------------------------------------


def test_handlers_write_and_the_fact_that_it_made_it_are_one_record() -> None:
    """No crash can come between them."""
    story = Stored()
    run = begun(story)
    assert story.set("k", {"a": 1}, run) == {"version": 1}
    assert story.recorded() == ["state.set"]
    assert story.run(run).calls["[state.set k]"].kind is CallKind.VALUE
    assert story.increment("n", 2, run) == 2
    assert story.increment("n", 2, run) == 4
    assert story.delete("k", run) == {"deleted": True, "version": 2}
    assert story.steps(run) == {
        "[state.set k]": {"version": 1},
        "[state.increment n]": {"value": 2, "version": 1},
        "[state.increment n]#2": {"value": 4, "version": 2},
        "[state.delete k]": {"deleted": True, "version": 2},
    }
    assert story.get("n")["updated_by"] == run
    story.folds_alike()


def test_handlers_reads_are_recorded_and_answered_again() -> None:
    """Whatever is written meanwhile, a later pass reads what the first one read."""
    story = Stored()
    run = begun(story)
    assert story.get("k", run) is None
    story.set("k", 1)
    assert story.get("k", run)["value"] == 1
    assert story.delete("none", run) == {"deleted": False, "version": None}
    story.lose(run)
    story.assign()
    assert story.steps(run)["[state.get k]"] is None
    assert story.steps(run)["[state.get k]#2"]["value"] == 1
    assert story.steps(run)["[state.delete none]"] == {"deleted": False, "version": None}


def test_refusal_of_a_handlers_write_replays_as_that_refusal() -> None:
    """A conflict is recorded like an answer: later passes take the same branch."""
    story = Stored()
    run = begun(story)
    story.set("k", 1)
    with pytest.raises(Conflict) as refused:
        story.set("k", 2, run, if_absent=True)
    assert refused.value.fields["version"] == 1
    step = story.run(run).calls["[state.set k]"]
    assert (step.kind, step.phase) == (CallKind.REFUSED, Phase.FAILED)
    assert story.steps(run)["[state.set k]"]["code"] == "conflict"
    assert story.recorded() == ["call.refused"]
    assert story.value("k") == 1
    story.folds_alike()


def test_refusal_that_ends_an_attempt_is_tried_again_by_the_next() -> None:
    """Uncaught, it is the step that failed; it alone is forgotten."""
    story = Stored()
    run = begun(story)
    story.set("k", 1)
    story.increment("n", 1, run)
    with pytest.raises(Conflict):
        story.set("k", 2, run, if_absent=True)
    story.fails(run, step="[state.set k]")
    assert list(story.run(run).calls) == ["[state.increment n]"]
    story.delete("k")
    story.tick(to="1s")
    story.assign()
    assert story.set("k", 2, run, if_absent=True) == {"version": 3}


def test_write_of_a_lost_execution_changes_nothing() -> None:
    """Its worker may still be alive and send commands (guarantee: late results)."""
    story = Stored()
    run = begun(story)
    token = story.token(run)
    story.lose(run)
    story.assign()
    for late in (
        c.SetState(run=run, token=token, call=7, step="[state.set k]", key="k", value=b"1"),
        c.IncrementState(run=run, token=token, call=7, step="", key="k"),
        c.DeleteState(run=run, token=token, call=7, step="x", key="k", remember_ms=1),
        c.ReadState(run=run, token=token, call=7, step="[state.get k]", key="k"),
        c.ListState(run=run, token=token, call=7, step="[state.list ]"),
    ):
        told = story.do(late)
        assert (told.records, told.effects) == ((), ())
    assert story.state.values.by_key == {}


def test_write_within_a_step_acts_at_once_and_is_not_remembered() -> None:
    """It may happen again with the step; the record names the run, and no call."""
    story = Stored()
    run = begun(story)
    assert story.increment("n", 1, run, inside=True) == 1
    assert story.increment("n", 1, run, inside=True) == 2
    assert story.get("n", run, inside=True)["updated_by"] == run
    with pytest.raises(Conflict):
        story.set("n", 0, run, inside=True, if_absent=True)
    assert story.run(run).calls == {}
    assert [record.step for record in story.records(r.StateSet)] == ["", ""]
    story.folds_alike()


def test_write_survives_the_loss_of_every_worker_and_daemon_once() -> None:
    """Whatever is lost, a recorded increment stays and is not made again."""
    story = Stored()
    run = begun(story)
    story.increment("n", 1, run)
    for _ in range(3):
        story.lose(run, ours=True)
        story.assign()
        story.claim()
        story.assign()
        assert story.steps(run) == {"[state.increment n]": {"value": 1, "version": 1}}
    story.completes(run)
    assert story.value("n") == 1
    assert story.get("n")["updated_by"] == run
    story.folds_alike()


def test_increments_of_many_runs_are_each_counted_once() -> None:
    """One after the other, in order of arrival."""
    story = Stored()
    runs = [story.start("count") for _ in range(20)]
    for run in story.fill():
        story.increment("n", 1, run)
    for run in runs:
        story.completes(run)
    assert (story.value("n"), story.get("n")["version"]) == (20, 20)


def test_writes_of_a_run_beyond_its_limit_do_not_happen() -> None:
    """The write that exceeds the limit of calls ends the run and leaves the entry alone."""
    story = Stored()
    run = story.start(limits=r.RunLimits(steps=2))
    story.assign()
    story.increment("n", 1, run)
    story.increment("n", 1, run)
    story.do(c.IncrementState(run=run, token=story.token(run), call=7, step="third", key="n"))
    assert story.status(run) is Status.FAILED
    assert story.effects(Acknowledge) == []
    assert story.value("n") == 2


# --- Sent on -------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", [False, True])
def test_retry_from_a_step_makes_the_writes_after_it_happen_again(gone: bool) -> None:
    """And none before it, whether the run was still in memory or not."""
    story = Stored()
    run = begun(story)
    story.increment("before", 1, run)
    story.step_done(run, "a")
    story.increment("after", 1, run)
    story.get("before", run)
    if gone:
        story.cancel(run)
        story.stops(run)
    else:
        story.fails(run, retryable=False)
    sent = story.retry(run, from_step="a")
    assert sent.reused == ["[state.increment before]"]
    assert sent.repeated == ["a", "[state.increment after]", "[state.get before]"]
    story.assign()
    assert story.steps(run) == {"[state.increment before]": {"value": 1, "version": 1}}
    story.increment("after", 1, run)
    assert (story.value("before"), story.value("after")) == (1, 2)
    story.folds_alike()


def test_fork_reuses_writes_without_making_them() -> None:
    """Its steps have the answers of the source; the entries stay as they were."""
    story = Stored()
    run = begun(story)
    story.increment("n", 1, run)
    story.step_done(run, "a")
    story.increment("n", 1, run)
    story.completes(run)
    fork = story.fork(run, from_step="a").run
    assert story.steps(fork) == {"[state.increment n]": {"value": 1, "version": 1}}
    assert story.value("n") == 2
    story.assign()
    story.increment("n", 1, fork)
    assert story.value("n") == 3
    story.folds_alike()


def test_large_value_of_a_read_is_kept_in_the_journal_alone() -> None:
    """Memory keeps the place of the answer; the entry itself is in memory whole."""
    story = Stored()
    run = begun(story)
    story.set("k", "x" * 5000)
    story.get("k", run)
    body = story.run(run).calls["[state.get k]"].body
    assert isinstance(body, Spilled)
    assert body.seq == story.state.seq
    story.folds_alike()


def test_write_by_a_run_that_is_cancelled_meanwhile_does_not_happen() -> None:
    """Cancelled is final from its record on, although the handler still executes."""
    story = Stored()
    run = begun(story)
    story.cancel(run)
    told = story.do(c.IncrementState(run=run, token=story.token(run), call=7, step="s", key="n"))
    assert (told.records, told.effects) == ((), ())
    story.stops(run)
    assert story.get("n") is None


def test_attempts_of_a_run_share_its_writes() -> None:
    """A retry by policy reuses them as it reuses steps."""
    story = Stored()
    run = story.start(retry=r.RetryTerms(max_attempts=3, backoff_ms=1, jitter=0.0))
    for attempt in (1, 2, 3):
        story.tick(to="1s")
        assert story.assign() == run
        if attempt == 1:
            story.increment("n", 1, run)
        assert "[state.increment n]" in story.run(run).calls
        story.do(c.FailAttempt(run, story.token(run), error()))
    assert story.status(run) is Status.FAILED
    assert story.value("n") == 1
