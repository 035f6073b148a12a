"""`ctx.state` and `ctx.events`: requested once, then answered from the record; within a step's
function they act at once. The same for `def` and `async def` handlers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from sdk.handler.passes import Ended, Record, play, play_async, play_either
from stackshift_jobs import (
    AsyncJobContext,
    Conflict,
    JobContext,
    PayloadRefused,
    ReplayError,
    Retry,
    SentEvent,
    StateChange,
    StateEntry,
    StepFailed,
    Usage,
)
from stackshift_jobs.handler.ops import Ask, Recorded, RecordedCall, RecordFailure, Tell
from stackshift_jobs.handler.scope import current_step
from stackshift_jobs.handler.steps import Limits

KINDS = pytest.mark.parametrize("kind", ["def", "async def"])
AT = datetime(2026, 11, 22, 6, 57, 11, tzinfo=UTC)
TIME = "2026-11-22T06:57:11.000000Z"
ENTRY: dict[str, Any] = {"key": "k", "value": [1], "version": 3}
ENTRY |= {"expires_at": None, "updated_at": TIME, "updated_by": "run_1"}
STATE_ENTRY = StateEntry("k", [1], 3, None, AT, "run_1")
CHANGE: dict[str, Any] = {"seq": 9, "at": TIME, "kind": "set", "version": 3, "value": 1}
CHANGE |= {"expires_at": None, "by": "client"}
SENT: dict[str, Any] = {"id": "evt_1", "name": "paid", "correlation_key": None}
SENT |= {"resumed": ["run_2"], "kept_until": None, "reused": False}


@dataclass
class Case:
    """A call, its identity and request, the daemon's reply, and the result of the call."""

    step: str
    params: dict[str, Any]
    body: Any
    gives: Any
    call: Callable[[Any], Any]

    @property
    def method(self) -> str:
        """`state.get` of `[state.get k]`."""
        return self.step[1:].partition(" ")[0]


GET = "[state.get k]"
K: dict[str, Any] = {"key": "k"}
CASES = {
    "get": Case(GET, K, ENTRY, [1], lambda ctx: ctx.state.get("k")),
    "get nothing": Case(GET, K, None, "none", lambda ctx: ctx.state.get("k", "none")),
    "entry": Case(GET, K, ENTRY, STATE_ENTRY, lambda ctx: ctx.state.entry("k")),
    "entry of nothing": Case(GET, K, None, None, lambda ctx: ctx.state.entry("k")),
    "set": Case(
        "[state.set k]",
        K | {"value": [1, None], "ttl_ms": 3_600_000, "if_version": 2},
        {"version": 3},
        3,
        lambda ctx: ctx.state.set("k", (1, None), ttl="1h", if_version=2),
    ),
    "set until": Case(
        "[state.set k]",
        K | {"value": None, "expires_at": TIME, "if_absent": True},
        {"version": 1},
        1,
        lambda ctx: ctx.state.set("k", None, expires_at=AT, if_absent=True),
    ),
    "delete": Case(
        "[state.delete k]",
        K | {"if_version": 3},
        {"deleted": True, "version": 4},
        True,
        lambda ctx: ctx.state.delete("k", if_version=3),
    ),
    "increment": Case(
        "[state.increment k]",
        K | {"by": 2**70, "ttl_ms": 1000},
        {"value": 2**70 + 1, "version": 2},
        2**70 + 1,
        lambda ctx: ctx.state.increment("k", 2**70, ttl=1),
    ),
    "list": Case(
        "[state.list u:]",
        {"prefix": "u:", "limit": 1000},
        {"entries": [ENTRY], "next": None},
        [STATE_ENTRY],
        lambda ctx: ctx.state.list("u:"),
    ),
    "history": Case(
        "[state.history k]",
        K | {"limit": 5},
        {"history": [CHANGE], "next": None},
        [StateChange(9, AT, "set", 3, 1, None, "client")],
        lambda ctx: ctx.state.history("k", limit=5),
    ),
    "named": Case(
        "[state.increment k].left",
        K | {"by": 1},
        {"value": 1, "version": 1},
        1,
        lambda ctx: ctx.state.increment("k", name="left"),
    ),
    "send": Case(
        "[event.send paid [user:1]]",
        {"name": "paid", "payload": {"id": 1}, "correlation_key": "user:1", "ttl_ms": 86_400_000},
        SENT,
        SentEvent("evt_1", "paid", None, ["run_2"], None, False),
        lambda ctx: ctx.events.send("paid", {"id": 1}, correlation_key="user:1", ttl="1d"),
    ),
}
EVERY = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@KINDS
@EVERY
def test_call_is_made_once_and_then_answered_from_the_record(kind: str, case: Case) -> None:
    """The second pass asks for nothing, and the result is the same."""
    record = Record()
    record.answers[case.step] = case.body
    assert play_either(kind, case.call, record) == Ended(case.gives)
    assert record.asked() == [(case.step, case.method, case.params)]
    del record.answers[case.step]
    assert play_either(kind, case.call, record) == Ended(case.gives)
    assert len(record.told) == 1
    assert set(record.recorded_calls) == {case.step}


@KINDS
@EVERY
def test_call_in_a_step_acts_at_once_and_leaves_no_record(kind: str, case: Case) -> None:
    """It is part of the step: a replay returns the step's result, and asks for nothing."""
    record = Record()
    record.answers[case.method] = case.body
    given: list[Any] = []

    def in_def(ctx: JobContext[Any]) -> None:
        ctx.step.run("s", lambda: given.append(case.call(ctx)))

    async def in_async(ctx: AsyncJobContext[Any]) -> None:
        async def work() -> None:
            given.append(await case.call(ctx))

        await ctx.step.run("s", work)

    for _ in range(2):
        ended = play(in_def, record) if kind == "def" else play_async(in_async, record)
        assert ended == Ended()
    assert given == [case.gives]
    assert record.asked() == [("", case.method, case.params)]
    assert set(record.recorded_calls) == {"s"}


@KINDS
@EVERY
def test_refusal_is_recorded_and_raised_again_on_every_pass(kind: str, case: Case) -> None:
    """It has its class and its fields, and names the call that it belongs to."""
    record = Record()
    record.refusals[case.step] = Conflict("another version", hint="read it", version=7)
    first = play_either(kind, case.call, record).error
    record.refusals.clear()
    again = play_either(kind, case.call, record).error
    for error in (first, again):
        assert type(error) is Conflict
        assert (error.message, error.hint) == ("another version", "read it")
        assert error.fields == {"version": 7, "step": case.step}
    assert len(record.told) == 1


@KINDS
def test_refusal_in_a_step_is_raised_into_its_function(kind: str) -> None:
    """It is not recorded, and the function can handle it."""
    record = Record()
    record.refusals["state.set"] = Conflict("another version", version=7)

    def handler(ctx: JobContext[Any]) -> Any:
        def work() -> str:
            try:
                ctx.state.set("k", 1, if_version=6)
            except Conflict as conflict:
                return str(conflict.fields)
            return "set"

        return ctx.step.run("s", work)

    async def awaited(ctx: AsyncJobContext[Any]) -> Any:
        async def work() -> str:
            try:
                await ctx.state.set("k", 1, if_version=6)
            except Conflict as conflict:
                return str(conflict.fields)
            return "set"

        return await ctx.step.run("s", work)

    ended = play(handler, record) if kind == "def" else play_async(awaited, record)
    assert ended == Ended("{'version': 7}")
    assert set(record.recorded_calls) == {"s"}


def test_caught_refusal_takes_the_same_branch_on_every_pass() -> None:
    """What was refused once stays refused, whatever has changed by then."""
    record = Record()
    record.refusals["[state.set k]"] = Conflict("taken")
    record.answers["[state.set k#2]"] = {"version": 1}

    def handler(ctx: JobContext[Any]) -> str:
        try:
            ctx.state.set("k", 1, if_absent=True)
        except Conflict:
            return ctx.step.run("other", lambda: "taken")
        return "free"

    assert play(handler, record) == Ended("taken")
    record.refusals.clear()
    assert play(handler, record) == Ended("taken")
    assert record.calls() == ["other"]


REFUSED = RecordedCall(
    "refused", "failed", b'{"code":"lock_lost","message":"gone","hint":"","key":"k"}'
)
OTHER_CALLS: dict[str, Callable[[Any], Any]] = {
    "run": lambda ctx: ctx.step.run("s", int),
    "sleep": lambda ctx: ctx.step.sleep("s", 1),
    "start": lambda ctx: ctx.step.start("job", name="s"),
    "call": lambda ctx: ctx.step.call("job", name="s"),
    "result": lambda ctx: ctx.step.result("run_2", name="s"),
    "event": lambda ctx: ctx.step.wait_for_event("paid", name="s"),
    "any": lambda ctx: ctx.step.wait_for_any([("paid", None)], name="s"),
}


@KINDS
@pytest.mark.parametrize("call", OTHER_CALLS)
def test_refusal_can_be_recorded_for_any_call(kind: str, call: str) -> None:
    """A call that was refused because a lock was lost raises the same error again."""
    record = Record()
    record.recorded_calls["s"] = REFUSED
    error = play_either(kind, OTHER_CALLS[call], record).error
    assert (type(error).__name__, str(error)) == ("LockLost", "gone")
    assert record.told == []


def test_refused_call_of_an_async_handler_raises_when_it_is_awaited() -> None:
    """It does not raise when it is called: the code in between runs on every pass."""
    record = Record()
    record.refusals["[state.set k]"] = Conflict("taken")
    between: list[int] = []

    async def handler(ctx: AsyncJobContext[Any]) -> None:
        call = ctx.state.set("k", 1)
        between.append(1)
        await call

    for _ in range(2):
        assert isinstance(play_async(handler, record).error, Conflict)
    assert between == [1, 1]


def test_calls_for_one_key_are_distinguished_by_occurrence_and_method() -> None:
    """`state.set k` twice is two calls; `state.get k` is another."""
    record = Record()
    record.answers = {
        "[state.set k]": {"version": 1},
        "[state.get k]": ENTRY,
        "[state.set k]#2": {"version": 2},
    }

    def handler(ctx: JobContext[Any]) -> list[Any]:
        return [ctx.state.set("k", 1), ctx.state.get("k"), ctx.state.set("k", 2)]

    assert play(handler, record) == play(handler, record) == Ended([1, [1], 2])
    assert [step for step, _, _ in record.asked()] == list(record.answers)


def test_keys_that_look_like_identities_are_distinguished() -> None:
    """A key may contain brackets and `#`; a step's name cannot look like a call."""
    record = Record()
    keys = ["k", "k]#2", "k]", "k]@1", "[k"]
    record.answers = {f"[state.set {key}]": {"version": n} for n, key in enumerate(keys)}
    record.answers["[state.set k]#2"] = {"version": 9}

    def handler(ctx: JobContext[Any]) -> list[int]:
        return [*(ctx.state.set(key, 0) for key in keys), ctx.state.set("k", 0)]

    assert play(handler, record) == play(handler, record) == Ended([0, 1, 2, 3, 4, 9])
    assert len(record.told) == 6
    named = play(lambda ctx: ctx.step.run("[state.set k]", int), record)
    assert isinstance(named.error, Usage)


@KINDS
def test_every_page_of_a_list_is_a_call_of_its_own(kind: str) -> None:
    """So each has a limited size, and all of them replay."""
    record = Record()
    pages = ["[state.list ]", "[state.list ]@1", "[state.list ]@2"]
    for n, page in enumerate(pages):
        entry = {**ENTRY, "key": f"k{n}"}
        record.answers[page] = {"entries": [entry], "next": f"k{n}" if n < 2 else None}

    def keys(entries: list[StateEntry]) -> list[str]:
        return [entry.key for entry in entries]

    for _ in range(2):
        ended = play_either(kind, lambda ctx: ctx.state.list(), record)
        assert keys(ended.value) == ["k0", "k1", "k2"]
    assert [(step, params.get("after")) for step, _, params in record.asked()] == [
        (pages[0], None),
        (pages[1], "k0"),
        (pages[2], "k1"),
    ]
    passing = record.passing
    assert passing is not None
    assert passing.calls == len(record.recorded_calls) == 3


def test_gathered_lists_of_one_prefix_keep_their_pages_apart() -> None:
    """Pages belong to their list, whichever task asks for them first."""
    record = Record()
    for call in ("[state.list ]", "[state.list ]#2"):
        record.answers[call] = {"entries": [{**ENTRY, "key": "a"}], "next": "a"}
        record.answers[f"{call}@1"] = {"entries": [{**ENTRY, "key": call}], "next": None}

    async def handler(ctx: AsyncJobContext[Any]) -> list[list[str]]:
        found = await asyncio.gather(ctx.state.list(), ctx.state.list())
        return [[entry.key for entry in each] for each in found]

    expected = Ended([["a", "[state.list ]"], ["a", "[state.list ]#2"]])
    assert play_async(handler, record) == play_async(handler, record) == expected


# --- Branches ------------------------------------------------------------------------------


def test_branches_with_names_of_their_own_can_use_one_key() -> None:
    """As with steps, the name identifies the call, whatever the order on a later pass."""
    record = Record()
    for side in ("left", "right"):
        record.answers[f"[state.increment n].{side}"] = {"value": 1, "version": 1}
        record.answers[f"[event.send done [{side}]]"] = SENT

    async def branch(ctx: AsyncJobContext[Any], side: str) -> None:
        await ctx.step.run(side, int)
        await ctx.state.increment("n", name=side)
        await ctx.events.send("done", correlation_key=side)

    async def handler(ctx: AsyncJobContext[Any]) -> None:
        await asyncio.gather(branch(ctx, "left"), branch(ctx, "right"))

    async def other_way_round(ctx: AsyncJobContext[Any]) -> None:
        await asyncio.gather(branch(ctx, "right"), branch(ctx, "left"))

    assert play_async(handler, record).error is None
    told = len(record.told)
    assert play_async(other_way_round, record).error is None
    assert len(record.told) == told


def test_calls_made_in_one_task_and_gathered_are_distinguished() -> None:
    """They get their identity when they are made."""
    record = Record()
    record.answers = {
        "[state.increment k]": {"value": 1, "version": 1},
        "[state.increment k]#2": {"value": 2, "version": 2},
    }

    async def handler(ctx: AsyncJobContext[Any]) -> Any:
        return await asyncio.gather(ctx.state.increment("k"), ctx.state.increment("k"))

    assert play_async(handler, record) == play_async(handler, record) == Ended([1, 2])


def test_items_of_a_map_may_all_use_one_key() -> None:
    """They are steps: what they write acts at once."""
    record = Record()
    record.answers["state.increment"] = {"value": 1, "version": 1}

    def handler(ctx: JobContext[Any]) -> list[int | float]:
        return ctx.step.map("item", lambda _: ctx.state.increment("k"), range(4))

    assert play(handler, record) == play(handler, record) == Ended([1, 1, 1, 1])
    assert [step for step, _, _ in record.asked()] == [""] * 4


# --- Mistakes ------------------------------------------------------------------------------


MISTAKES: dict[str, Callable[[Any], Any]] = {
    "no key": lambda ctx: ctx.state.get(""),
    "control": lambda ctx: ctx.state.set("a\nb", 1),
    "both": lambda ctx: ctx.state.set("k", 1, ttl=1, expires_at=AT),
    "no number": lambda ctx: ctx.state.increment("k", float("nan")),
    "no name": lambda ctx: ctx.events.send(""),
    "key": lambda ctx: ctx.events.send("paid", correlation_key=""),
    "negative": lambda ctx: ctx.events.send("paid", ttl="-1s"),
    "lock": lambda ctx: ctx.state.lock(""),
    "ttl": lambda ctx: ctx.state.lock("k", ttl=0),
}


@KINDS
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_refused_before_anything_is_asked(kind: str, mistake: str) -> None:
    """It is not retried."""
    record = Record()
    assert isinstance(play_either(kind, MISTAKES[mistake], record).error, Usage)
    assert record.told == []


@KINDS
def test_value_that_json_cannot_hold_is_refused_by_its_path(kind: str) -> None:
    """The path is relative to the value."""
    record = Record()
    ended = play_either(kind, lambda ctx: ctx.state.set("k", {"a": [b"raw"]}), record)
    assert isinstance(ended.error, PayloadRefused)
    assert ended.error.path == "$.a[0]"
    assert record.told == []


@KINDS
def test_value_over_the_limit_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the value counts, not what surrounds it."""
    monkeypatch.setattr(Limits, "value_bytes", 10)
    record = Record()
    record.answers["[event.send paid]"] = SENT
    assert play_either(kind, lambda ctx: ctx.events.send("paid", "x" * 8), record).error is None
    ended = play_either(kind, lambda ctx: ctx.events.send("paid", "x" * 9), Record())
    assert isinstance(ended.error, PayloadRefused)


def test_value_is_sent_as_json_holds_it() -> None:
    """Dataclasses, times and the like are encoded as everywhere else."""
    record = Record()
    record.answers["[state.set k]"] = {"version": 1}
    play(lambda ctx: ctx.state.set("k", {"at": AT, "k": Case}.get("at")), record)
    op = record.told[0]
    assert isinstance(op, Ask)
    assert json.loads(op.params)["value"].startswith("2026-11-22T06:57:11")


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_call_that_a_step_does_not_await_fails_the_step(kind: str) -> None:
    """It would silently have had no effect; the error names it, and what to use on a thread."""
    record = Record()
    record.answers["state.get"] = None

    async def handler(ctx: AsyncJobContext[Any]) -> None:
        def forgets() -> None:
            ctx.state.set("k", 1)  # type: ignore[unused-coroutine]  # the mistake
            ctx.events.send("paid")  # type: ignore[unused-coroutine]  # the mistake

        async def awaits() -> None:
            forgets()
            await ctx.state.get("k")

        await ctx.step.run("s", forgets if kind == "def" else awaits)

    failed = play_async(handler, record).error
    assert isinstance(failed, StepFailed)
    assert (failed.type, failed.retryable) == ("Usage", False)
    assert "ctx.events.send of 'paid', ctx.state.set of 'k'" in failed.message
    assert "state.set" not in [method for _, method, _ in record.asked()]


def test_try_of_a_step_that_awaits_its_calls_is_not_blamed_for_an_earlier_one() -> None:
    """What a failed try forgot is not held against the next one."""

    class Soon(Record):
        def take(self, op: Tell) -> Recorded:
            answer = super().take(op)
            if isinstance(op, RecordFailure):
                self.ends(op.step)  # the backoff is over at once: both tries are of one pass
            return answer

    record = Soon()

    async def handler(ctx: AsyncJobContext[Any]) -> Any:
        async def work() -> Any:
            if len(record.performed) == 1:
                forgotten.append(ctx.state.set("k", 1))
                raise ValueError("first try")
            return await ctx.state.entry("other")

        forgotten: list[Any] = []
        try:
            return await ctx.step.run("s", work, retry=Retry(max_attempts=2))
        finally:
            for call in forgotten:
                call.close()

    record.answers["state.get"] = None
    assert play_async(handler, record) == Ended(None)
    assert record.calls() == ["s", "s"]


def test_call_that_a_def_function_of_a_step_returns_is_awaited() -> None:
    """`lambda: ctx.state.get("k")` is the usual way to poll."""
    record = Record()
    record.answers["state.get"] = ENTRY

    async def handler(ctx: AsyncJobContext[Any]) -> Any:
        return await ctx.step.run("poll", lambda: ctx.state.get("k"))

    assert play_async(handler, record) == play_async(handler, record) == Ended([1])
    assert record.asked() == [("", "state.get", {"key": "k"})]


def test_call_in_another_event_loop_says_what_to_use() -> None:
    """The daemon's answers arrive on the handler's loop."""
    record = Record()

    async def handler(ctx: AsyncJobContext[Any]) -> None:
        async def elsewhere() -> None:
            with pytest.raises(Usage, match="in another event loop") as caught:
                await ctx.state.set("k", 1)
            assert "stackshift.state.set" in caught.value.hint

        def inside(context: Context, work: Callable[[], Any]) -> None:
            context.run(current_step.set, "s")
            context.run(asyncio.run, work())

        assert record.passing is not None
        record.passing.step_loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as thread:
            context = copy_context()
            await ctx.step.run("s", lambda: thread.submit(inside, context, elsewhere).result())

    assert play_async(handler, record) == Ended()
    assert [type(op).__name__ for op in record.told] == ["RecordResult"]


def test_record_of_another_kind_is_an_error_that_says_so() -> None:
    """A call for a key and a wait never use each other's record."""
    record = Record()
    record.recorded_calls["paid"] = RecordedCall("sleep", "completed")
    error = play(lambda ctx: ctx.step.wait_for_event("paid"), record).error
    assert isinstance(error, ReplayError)
    assert "a sleep" in error.message
    assert "a wait for an event" in error.message
