"""Events: none is lost, none is consumed twice, and a wait that has timed out stays so (guarantee:
events)."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from core.histories.state_histories import Stored
from core.story import ONCE, START_US
from stackshift_jobs.errors import Conflict, PayloadRefused
from stackshift_jobs.values.durations import rfc3339
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.decide import events as event_decisions
from stackshiftd.core.effects import Acknowledge, Resolve, Stop
from stackshiftd.core.fold.fold import fold
from stackshiftd.core.snapshot import load
from stackshiftd.core.state.events import Events, Kept
from stackshiftd.core.state.state import Spilled, State, Status
from stackshiftd.shell.views.bodies import Bodies

VERIFIED = "email.verified"


def begun(story: Stored, many: int = 1, **options: Any) -> list[str]:
    """Runs whose handlers execute."""
    runs = [story.start("onboard", **options) for _ in range(many)]
    assert set(runs) <= set(story.fill())
    return runs


def waiting(story: Stored, *events: Any, **options: Any) -> str:
    """A run that waits for one of `events`, out of memory."""
    (run,) = begun(story)
    assert story.waits(run, *(events or (VERIFIED,)), **options) is None
    story.suspends(run)
    return run


def test_event_too_large_for_all_who_wait_is_refused_and_nothing_is_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The size of one append is bounded; the runs keep waiting for an event that is not too
    large."""
    monkeypatch.setattr(event_decisions, "MAX_RESUMED_BYTES", 12)
    story = Stored()
    runs = [waiting(story), waiting(story)]
    before = story.state.seq
    with pytest.raises(PayloadRefused, match="2 waits"):
        story.send(VERIFIED, "12345")
    assert story.state.seq == before
    assert story.send(VERIFIED, "1234")["resumed"] == runs


# --- Before and after the wait -------------------------------------------------------------


def test_event_resumes_the_runs_that_wait_and_says_so() -> None:
    """The event and the end of the wait are one append; it is not kept."""
    story = Stored()
    run = waiting(story)
    sent = story.send(VERIFIED, {"user": 1})
    assert story.recorded() == ["event.received", "wait.ended"]
    assert (sent["resumed"], sent["kept_until"], sent["reused"]) == ([run], None, False)
    assert story.status(run) is Status.QUEUED
    assert story.got(run, VERIFIED) == {
        "id": sent["id"],
        "name": VERIFIED,
        "correlation_key": None,
        "payload": {"user": 1},
        "received_at": rfc3339(story.now_us),
        "timed_out": False,
    }
    assert story.kept() == []
    story.folds_alike()


def test_event_that_comes_before_the_wait_makes_no_difference() -> None:
    """What the handler gets is the same, with the time at which the event came."""
    story = Stored()
    sent = story.send(VERIFIED, {"user": 1}, "user:1")
    assert sent["resumed"] == []
    assert sent["kept_until"] == rfc3339(START_US + 7 * 86_400_000_000)
    story.tick(to="1h")
    (run,) = begun(story)
    got = story.waits(run, (VERIFIED, "user:1"))
    assert story.recorded() == ["wait.started", "wait.ended"]
    assert [effect.step for effect in story.effects(Resolve)] == [VERIFIED]
    assert got["id"] == sent["id"]
    assert (got["payload"], got["correlation_key"]) == ({"user": 1}, "user:1")
    assert got["received_at"] == rfc3339(START_US)
    assert story.kept() == []
    story.folds_alike()


def test_matching_is_by_name_and_correlation_key() -> None:
    """No correlation key matches none, and nothing that only looks alike."""
    story = Stored()
    addresses = (("a", ""), ("a", "k"), ("b", "k"), ("a", "k2"))
    runs = [waiting(story, address) for address in addresses]
    assert story.send("a")["resumed"] == [runs[0]]
    assert story.send("a", key="k")["resumed"] == [runs[1]]
    assert story.send("c", key="k")["resumed"] == []
    assert story.send("ak")["resumed"] == []
    assert story.send("b", key="k")["resumed"] == [runs[2]]
    assert story.status(runs[3]) is Status.WAITING
    story.folds_alike()


def test_event_resumes_everybody_who_waits_for_it() -> None:
    """Suspended or in memory, in order of arrival; a run with two waits is named once."""
    story = Stored()
    first, second, third = begun(story, 3)
    story.waits(first, "go")
    story.suspends(first)
    story.waits(second, "go")
    story.waits(third, "go")
    story.waits(third, "go", named="again")
    sent = story.send("go", 7)
    assert sent["resumed"] == [first, second, third]
    assert [effect.step for effect in story.effects(Resolve)] == ["go", "go", "again"]
    assert [story.got(run, "go")["payload"] for run in (first, second, third)] == [7, 7, 7]
    assert story.got(third, "again")["id"] == sent["id"]
    assert story.kept() == []
    story.folds_alike()


def test_kept_events_are_consumed_oldest_first_and_once() -> None:
    """One by each wait; a later wait waits."""
    story = Stored()
    sent = [story.send("tick", i)["id"] for i in range(3)]
    (run,) = begun(story)
    assert [story.waits(run, "tick")["id"] for _ in range(2)] == sent[:2]
    assert story.kept() == sent[2:]
    story.state = story.via_snapshot(story.state.seq)
    assert story.waits(run, "tick")["payload"] == 2
    assert story.waits(run, "tick") is None
    story.folds_alike()


def test_wait_for_any_takes_the_first_and_leaves_the_others() -> None:
    """Of kept events the oldest, whichever name it has; otherwise the first that arrives."""
    story = Stored()
    later = story.send("rejected", 2, "k")["id"]
    first = story.send("approved", 1, "k")["id"]
    (run,) = begun(story)
    pair = (("approved", "k"), ("rejected", "k"))
    got = story.waits(run, *pair, named="decision")
    assert (got["id"], got["name"]) == (later, "rejected")
    assert story.kept() == [first]
    assert story.waits(run, *pair, named="decision")["id"] == first
    assert story.waits(run, *pair, named="decision") is None
    story.suspends(run)
    assert story.send("rejected", 3, "k")["resumed"] == [run]
    assert story.got(run, "decision#3")["name"] == "rejected"
    left = story.send("approved", 4, "k")
    assert (left["resumed"], story.kept()) == ([], [left["id"]])
    story.folds_alike()


def test_event_of_a_handler_and_the_fact_that_it_sent_it_are_one_record() -> None:
    """It resumes others and may resume another branch of the same run."""
    story = Stored()
    (run,) = begun(story)
    other = waiting(story, "ready")
    story.waits(run, "ready", named="mine")
    sent = story.send("ready", 1, run=run)
    assert story.recorded() == ["event.received", "wait.ended", "wait.ended"]
    assert sent["resumed"] == [other, run]
    assert story.steps(run)["[event.send ready]"] == sent
    assert story.got(run, "mine")["id"] == sent["id"]
    story.lose(run)
    story.assign()
    assert story.steps(run)["[event.send ready]"] == sent
    story.folds_alike()


def test_event_sent_within_a_step_is_not_remembered() -> None:
    """It acts at once, and may be sent again with the step."""
    story = Stored()
    (run,) = begun(story)
    for _ in range(2):
        story.send("ready", 1, run=run, inside=True)
    assert story.run(run).calls == {}
    assert len(story.kept()) == 2


def test_event_of_a_lost_execution_is_not_sent() -> None:
    """Nor does it wait for one (guarantee: late results)."""
    story = Stored()
    (run,) = begun(story)
    token = story.token(run)
    story.lose(run)
    story.assign()
    who: dict[str, Any] = {"run": run, "token": token, "call": 7, "step": "s"}
    for late in (
        c.SendEvent(**who, event="evt_late", name="a", payload=b"1"),
        c.AwaitEvent(**who, events=[("a", "")]),
    ):
        told = story.do(late)
        assert (told.records, told.effects) == ((), ())
    assert (story.kept(), story.state.events.listening) == ([], {})


# --- Expiry --------------------------------------------------------------------------------


def test_kept_event_expires_by_a_record_at_its_time() -> None:
    """To the microsecond; a wait that comes later waits."""
    story = Stored()
    sent = story.send("a", ttl="1h")
    story.send("a", ttl="2h")
    assert story.tick(to="59m") == 0
    assert story.tick(to="1m") == 1
    assert story.entries[-1].at_us == START_US + 3_600_000_000
    assert story.records(r.EventExpired) == [r.EventExpired(sent["id"], "a")]
    assert len(story.kept()) == 1
    story.tick(to="1h")
    (run,) = begun(story)
    assert story.waits(run, "a") is None
    story.folds_alike()


def test_expired_event_is_consumed_by_nobody_though_its_timer_is_late() -> None:
    """Just before its time it is; at its time the next one is."""
    story = Stored()
    story.send("a", 1, ttl="1h")
    other = story.send("a", 2, ttl="1h")
    long = story.send("a", 3, ttl="2h")
    (run,) = begun(story)
    story.wall_us += 3_599_999_999
    assert story.waits(run, "a")["payload"] == 1
    story.wall_us += 1
    assert story.waits(run, "a")["id"] == long["id"]
    assert story.kept() == [other["id"]]
    assert story.tick() == 1
    assert story.kept() == []
    story.folds_alike()


def test_event_without_a_time_is_only_for_who_waits_now() -> None:
    """ttl 0: it resumes the runs that wait, and is not kept."""
    story = Stored()
    run = waiting(story, "a")
    assert story.send("a", ttl="0s")["resumed"] == [run]
    sent = story.send("a", ttl="0s")
    assert (sent["resumed"], sent["kept_until"]) == ([], None)
    assert story.kept() == []
    assert story.state.next_due_us() is None
    story.folds_alike()


def test_memory_holds_what_is_unexpired_and_unconsumed_and_nothing_else() -> None:
    """Distinct keys that were consumed or have expired leave nothing behind."""
    story = Stored()
    for at in range(40):
        story.send("a", "x" * 10, f"user:{at}", ttl="1h")
    assert story.state.events.bytes == 40 * 14 + sum(len(f"user:{at}") for at in range(40))
    (run,) = begun(story)
    for at in range(20):
        assert story.waits(run, ("a", f"user:{at}"), named=f"w{at}") is not None
    story.tick(to="1h")
    events = story.state.events
    assert (events.kept, events._at, events.bytes, events.listening) == ({}, {}, 0, {})
    assert len(story.state.expiries) == 0
    story.folds_alike()


# --- Timeouts ------------------------------------------------------------------------------


def test_timeout_that_continues_gives_an_event_that_says_so() -> None:
    """The first of the events that were waited for, without a payload."""
    story = Stored()
    run = waiting(story, ("a", "k"), "b", named="w", timeout="24h", on_timeout="continue")
    assert story.tick(to="23h") == 0
    assert story.tick(to="1h") == 1
    assert story.recorded() == ["wait.ended"]
    nothing = dict.fromkeys(("id", "payload", "received_at"))
    timeout = {"name": "a", "correlation_key": "k", "timed_out": True}
    assert story.got(run, "w") == nothing | timeout
    assert story.assign() == run
    assert story.send("a", key="k")["resumed"] == []
    story.folds_alike()


@pytest.mark.parametrize("in_memory", [False, True])
def test_timeout_that_fails_fails_the_run_for_good(in_memory: bool) -> None:
    """It is not retried; a handler in memory is stopped, and its slot is free once it has."""
    story = Stored()
    (run,) = begun(story)
    story.waits(run, VERIFIED, timeout="24h")
    if not in_memory:
        story.suspends(run)
    story.tick(to="24h")
    assert story.status(run) is Status.FAILED
    assert story.finished() == {run: "failed"}
    found = story.run(run).error
    assert found is not None
    assert (found.type, found.retryable) == ("TimeoutError", False)
    assert VERIFIED in found.message
    assert story.recorded()[-1] == "run.failed"
    assert len(story.effects(Stop)) == in_memory
    if in_memory:
        assert story.token(run)
        story.stops(run)
    assert not story.token(run)
    assert story.send(VERIFIED)["resumed"] == []
    story.folds_alike()


@pytest.mark.parametrize("in_memory", [False, True])
def test_timeout_that_cancels_cancels_the_run_and_what_it_called(in_memory: bool) -> None:
    """As `runs cancel` does."""
    story = Stored()
    (run,) = begun(story)
    child = story.calls(run, "child")
    story.waits(run, VERIFIED, timeout="24h", on_timeout="cancel")
    if not in_memory:
        story.suspends(run)
    story.tick(to="24h")
    assert story.finished() == {run: "cancelled", child: "cancelled"}
    assert [record.reason for record in story.records(r.RunCancelled)] == ["timeout", "parent"]
    assert len(story.effects(Stop)) == in_memory
    if in_memory:
        story.stops(run)
    assert run not in story.state.runs
    story.folds_alike()


def test_locks_pass_on_with_the_timeout_that_ends_a_run() -> None:
    """In its append, and the tokens in the answers are right."""
    for on_timeout in ("fail", "cancel"):
        story = Stored()
        (run,) = begun(story)
        story.takes(run, "k")
        assert story.acquires("c1", "k", wait="30d") is None
        story.waits(run, "a", timeout="1h", on_timeout=on_timeout)
        story.suspends(run)
        story.tick(to="1h")
        assert story.owner("k") == "c1"
        assert story.granted()["c1"]["token"] == story.fence("k")
        story.folds_alike()


def test_event_that_comes_when_the_time_has_passed_is_kept() -> None:
    """The wait has timed out even if its timer is late; just before, it has not."""
    story = Stored()
    late = waiting(story, "a", timeout="1h", on_timeout="continue")
    story.wall_us += 3_600_000_000
    sent = story.send("a", 1)
    assert (sent["resumed"], story.kept()) == ([], [sent["id"]])
    story.tick()
    assert story.got(late, "a")["timed_out"]
    intime = waiting(story, "b", timeout="1h", on_timeout="continue")
    story.wall_us += 3_599_999_999
    assert story.send("b", 1)["resumed"] == [intime]
    story.wall_us += 1
    assert story.tick() == 0
    story.folds_alike()


def test_one_waiter_in_time_is_resumed_beside_one_too_late() -> None:
    """Then the event is not kept for another run."""
    story = Stored()
    late = waiting(story, "a", timeout="1h", on_timeout="continue")
    other = waiting(story, "a", timeout="2h")
    story.wall_us += 3_600_000_000
    assert story.send("a")["resumed"] == [other]
    story.tick()
    assert story.got(late, "a")["timed_out"]
    assert story.kept() == []
    story.folds_alike()


def test_wait_without_time_takes_what_is_kept_or_is_over_at_once() -> None:
    """timeout 0 only looks for a kept event."""
    story = Stored()
    (run,) = begun(story)
    assert story.waits(run, "a", timeout="0s", on_timeout="continue") is None
    assert story.tick() == 1
    assert story.got(run, "a")["timed_out"]
    story.send("a", 1)
    assert story.waits(run, "a", timeout="0s", on_timeout="continue")["payload"] == 1
    assert story.tick() == 0
    story.folds_alike()


def test_run_that_waits_between_attempts_gets_its_event() -> None:
    """One branch failed, another waited: the next attempt finds the event that arrived."""
    story = Stored()
    (run,) = begun(story)
    story.waits(run, "a")
    story.fails(run)
    assert story.status(run) is Status.RETRYING
    assert story.send("a", 1)["resumed"] == [run]
    story.tick(to="1s")
    story.assign()
    assert story.got(run, "a")["payload"] == 1
    story.folds_alike()


@pytest.mark.parametrize("on_timeout", ["fail", "cancel"])
def test_timeout_ends_a_run_whatever_it_is_doing(on_timeout: str) -> None:
    """In its backoff, ready to start, or out of time and not stopped yet."""
    for begin in ("backoff", "ready", "stopping"):
        story = Stored()
        (run,) = begun(story, timeout="30m" if begin == "stopping" else None)
        story.waits(run, "a", timeout="1h", on_timeout=on_timeout)
        if begin == "backoff":
            story.fails(run, after="2h")
        elif begin == "ready":
            story.lose(run)
        story.tick(to="1h")
        ended = Status.FAILED if on_timeout == "fail" else Status.CANCELLED
        assert story.status(run) is ended, begin
        if begin == "stopping":
            story.stops(run)
        assert not story.token(run)
        story.folds_alike()


# --- Runs that end and go on ---------------------------------------------------------------


def test_run_that_ends_waits_for_nothing_any_more() -> None:
    """An event that arrives then is kept for others."""
    story = Stored()
    for end in (
        lambda run: story.cancel(run),
        lambda run: story.fails(run, retryable=False),
        lambda run: story.completes(run),
    ):
        (run,) = begun(story)
        story.waits(run, "a", "b", named="w")
        end(run)
        if story.token(run):
            story.stops(run)
        assert story.state.events.listening == {}
    assert story.send("a")["resumed"] == []
    story.folds_alike()


def test_retry_waits_again_and_gets_what_came_meanwhile() -> None:
    """A wait under way when the run ended; the event was kept for it."""
    story = Stored()
    run = waiting(story, "a")
    story.cancel(run)
    sent = story.send("a", 1)
    assert story.retry(run).repeated == ["a"]
    story.assign()
    assert story.waits(run, "a")["id"] == sent["id"]
    story.folds_alike()


@pytest.mark.parametrize("on_timeout", ["fail", "cancel"])
@pytest.mark.parametrize("in_memory", [False, True])
def test_retry_waits_again_if_a_timeout_ended_the_run(on_timeout: str, in_memory: bool) -> None:
    """What ended the run is tried again, whether the timeout failed or cancelled it."""
    story = Stored()
    (run,) = begun(story)
    story.step_done(run, "before")
    story.waits(run, "a", timeout="1h", on_timeout=on_timeout)
    if not in_memory:
        story.suspends(run)
    story.tick(to="1h")
    if in_memory:
        story.stops(run)
    sent = story.retry(run)
    assert (sent.reused, sent.repeated) == (["before"], ["a"])
    story.assign()
    assert story.waits(run, "a", timeout="1h", on_timeout=on_timeout) is None
    assert story.send("a")["resumed"] == [run]
    story.folds_alike()


def test_retry_reuses_a_timeout_that_was_reported() -> None:
    """The handler continued with it: what is recorded after it depends on it."""
    story = Stored()
    run = waiting(story, "a", timeout="1h", on_timeout="continue")
    story.tick(to="1h")
    story.assign()
    story.step_done(run, "reminded")
    story.fails(run, retryable=False)
    assert story.retry(run).reused == ["a", "reminded"]


def test_retry_from_a_wait_leaves_the_consumed_event_consumed() -> None:
    """The wait begins again; an event that is sent from then on, or is kept, ends it."""
    story = Stored()
    (run,) = begun(story)
    story.send("a", 1)
    story.waits(run, "a")
    story.send("b", 1, run=run)
    story.completes(run)
    assert story.retry(run, from_step="a").repeated == ["a", "[event.send b]"]
    story.assign()
    assert story.waits(run, "a") is None
    story.send("b", 2, run=run)
    assert len(story.kept()) == 2, "a send that is forgotten happens again"
    story.folds_alike()


def test_fork_begins_waits_of_its_own() -> None:
    """The source keeps waiting; the fork has the events that the source received."""
    story = Stored()
    story.send("a", 1)
    (run,) = begun(story)
    story.waits(run, "a")
    story.waits(run, "b")
    story.suspends(run)
    fork = story.fork(run).run
    assert list(story.run(fork).calls) == ["a"]
    assert story.send("b")["resumed"] == [run]
    story.assign()
    story.folds_alike()


def test_run_that_left_memory_is_rebuilt_with_all_its_events() -> None:
    """Sent, waited for, consumed, timed out: its records alone are enough."""
    story = Stored()
    story.send("kept", 1)
    (run,) = begun(story)
    story.waits(run, "kept")
    story.send("out", 2, run=run, once="k")
    story.send("out", 2, run=run, once="k")
    story.waits(run, "never", timeout="1s", on_timeout="continue")
    story.tick(to="1s")
    story.waits(run, "later", "other", named="any")
    story.suspends(run)
    story.send("other", 3)
    story.assign()
    steps = story.steps(run)
    kept = story.kept()
    story.completes(run)
    story.step_done(story.start("last"), "none")
    fork = story.fork(run).run
    assert story.steps(fork) == steps
    story.retry(run, from_step="any")
    assert story.kept() == kept
    assert "any" not in story.steps(run)
    story.folds_alike()


def test_event_that_fails_a_run_over_its_limit_is_not_sent() -> None:
    """Nothing of the call is recorded except the end of the run."""
    story = Stored()
    (run,) = begun(story, limits=r.RunLimits(steps=1), retry=ONCE)
    story.send("a", run=run)
    who: dict[str, Any] = {"run": run, "token": story.token(run), "call": 7}
    story.do(c.SendEvent(**who, step="[event.send b]", event="evt_b", name="b", payload=b"1"))
    assert story.status(run) is Status.FAILED
    assert story.effects(Acknowledge) == []
    assert len(story.kept()) == 1


# --- Large ones ----------------------------------------------------------------------------


def test_answer_kept_in_the_journal_alone_is_read_back_as_it_was_given() -> None:
    """For every kind of call, handlers see no difference to an answer that memory holds."""
    story, long = Stored(), "x" * 200
    first = waiting(story, ("größe", "ключ"))
    story.send("größe", {"ключ": long}, "ключ", once="k")
    story.assign()
    (run,) = begun(story)
    story.set("s", long)
    story.get("s", run)
    story.increment("n", 10**300, run)
    story.get("n", run)
    story.list("", run)
    story.delete("n", run)
    story.takes(run, "lock", ttl="1h")
    story.extends(run, "lock", "2h")
    for ask in (
        partial(story.takes, first, "lock", wait="0s"),
        partial(story.send, "größe", 2, "ключ", run, once="k"),
        partial(story.set, "m", 1, run, if_version=7),
    ):
        with pytest.raises(Conflict):
            ask()
    story.takes(first, "lock", wait="1s")
    story.send("größe", {"ключ": long}, "ключ", run, once="k")
    story.send("größe", long, "ключ" * 30, run)
    story.waits(run, ("größe", "ключ" * 30))
    story.waits(run, "never" * 25, timeout="1s", on_timeout="continue")
    story.tick(to="1s")
    small = State(spill_bytes=150)
    for entry in story.entries:
        fold(small, entry)
    bodies = Bodies(story.entries_of)
    by_seq = {entry.seq: entry.record for entry in story.entries}
    read = set()
    for held in (story.run(first), story.run(run)):
        for name, step in small.runs[held.id].calls.items():
            if isinstance(step.body, Spilled):
                assert bodies.of(held, step.body) == held.calls[name].body, name
                read.add(type(by_seq[step.body.seq]))
    assert read == {r.ValueRecorded, r.StateSet, r.CallRefused, r.EventReceived, r.WaitEnded}


def test_kept_events_come_back_from_a_snapshot_in_order() -> None:
    """With their keys, times and sizes."""
    story = Stored()
    ids = [story.send("a", f"ключ {at}", "k" * (at % 2), ttl=f"{9 - at}h")["id"] for at in range(8)]
    state = load(story.snapshot(story.state.seq)).state
    assert list(state.events.kept) == ids
    assert state.events.bytes == story.state.events.bytes
    assert state.next_due_us() == START_US + 2 * 3_600_000_000
    assert [event.id for event in state.events.at("a\n")] == ids[::2][::-1]


class Compared(str):
    """An id that counts how often it is compared."""

    compared = 0
    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Compared.compared += 1
        return str.__eq__(self, other)


def test_event_that_expires_is_not_looked_for_among_the_others() -> None:
    """Very many events that are kept longer arrived before it, at the same address."""
    events = Events()
    ids = [Compared(f"evt_{at}") for at in range(1000)]
    for at, event in enumerate(ids):
        events.keep(Kept(event, at, "a\n", b"1", 1, 2, None))
    Compared.compared = 0
    for event in ids[500:]:
        assert events.drop(event) is not None
    assert Compared.compared < 1000
    assert [kept.id for kept in events.at("a\n")] == ids[499::-1]
