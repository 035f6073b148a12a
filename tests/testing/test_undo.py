"""Sagas: what a run has done is undone, the last step first, if it does not come to a good end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stackshift_jobs import (
    AsyncJobContext,
    Cancelling,
    CancelRun,
    JobContext,
    NonRetryable,
    Retry,
    StepFailed,
    Undo,
    Usage,
)
from stackshift_jobs.testing import Run, Stackshift

Context = JobContext[Any]
AsyncContext = AsyncJobContext[Any]
ONCE = Retry(max_attempts=1)
BOTH = pytest.mark.parametrize("job", ["trip", "tripAwaited"])
DONE = ["flight", "hotel", "undo hotel 'hotel-1'", "undo flight 'flight-1'"]


def steps(run: Run) -> list[tuple[str, str]]:
    """The names and statuses of its steps."""
    return [(name, step.status) for name, step in run.steps.items()]


class World:
    """What the steps have done, and what fails."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.fails: list[str] = []

    def book(self, what: str) -> str:
        """Book something."""
        self._act(what)
        return f"{what}-1"

    def cancel(self, what: str) -> Any:
        """What cancels a booking."""

        def cancelled(booking: str) -> None:
            self._act(f"undo {what} {booking!r}")

        return cancelled

    def _act(self, what: str) -> None:
        self.done.append(what)
        for each in self.fails:
            if what.startswith(each):
                raise ConnectionError(f"{each} is down")


@pytest.fixture(autouse=True)
def world(stackshift: Stackshift) -> World:
    """`trip` books a flight and a hotel, waits, and pays."""
    world = World()

    @stackshift.job("trip", retry=ONCE)
    def trip(ctx: Context) -> str:
        ctx.step.run("flight", world.book, "flight", undo=world.cancel("flight"))
        ctx.step.run("look", lambda: "nothing to undo")
        ctx.step.run("hotel", world.book, "hotel", undo=world.cancel("hotel"))
        if ctx.payload.get("wait"):
            ctx.step.wait_for_event("paid", timeout="1h")
        ctx.step.run("pay", world.book, "pay", undo=world.cancel("pay"))
        return "booked"

    @stackshift.job("tripAwaited", retry=ONCE)
    async def trip_awaited(ctx: AsyncContext) -> str:
        await ctx.step.run("flight", world.book, "flight", undo=world.cancel("flight"))
        await ctx.step.run("look", lambda: "nothing to undo")
        await ctx.step.run("hotel", world.book, "hotel", undo=world.cancel("hotel"))
        if ctx.payload.get("wait"):
            await ctx.step.wait_for_event("paid", timeout="1h")
        await ctx.step.run("pay", world.book, "pay", undo=world.cancel("pay"))
        return "booked"

    return world


@BOTH
def test_failed_run_is_undone_in_reverse_order(
    stackshift: Stackshift, world: World, job: str
) -> None:
    """By recorded steps of their own; then it has failed, with the error that it had."""
    world.fails = ["pay"]
    run = stackshift.start(job).finish()
    assert run.status == "failed"
    assert run.error is not None
    assert (run.error["type"], run.error["message"]) == ("ConnectionError", "pay is down")
    assert [each for each in world.done if each != "pay"] == DONE
    stackshift.assert_replays(run)
    assert steps(run) == [
        ("flight", "completed"),
        ("look", "completed"),
        ("hotel", "completed"),
        ("pay", "failed"),
        ("undo hotel", "completed"),
        ("undo flight", "completed"),
    ]
    undone = {step["name"]: step["undone"] for step in run.json["steps"]}
    assert (undone["flight"], undone["hotel"], undone["look"]) == (True, True, None)
    assert run.json["dead"]
    assert run.attempt == 1


@BOTH
def test_run_that_completes_is_not_undone(stackshift: Stackshift, world: World, job: str) -> None:
    """Nor is one that is tried again."""
    run = stackshift.start(job).finish()
    assert run.result == "booked"
    assert world.done == ["flight", "hotel", "pay"]
    undone = {step["name"]: step["undone"] for step in run.json["steps"]}
    assert undone == {"flight": False, "look": None, "hotel": False, "pay": False}


@BOTH
@pytest.mark.parametrize("step", ["undo hotel", "undo flight"])
@pytest.mark.parametrize("when", ["before_step", "before_record", "after_record"])
def test_undo_survives_the_death_of_the_worker(
    stackshift: Stackshift, world: World, job: str, step: str, when: str
) -> None:
    """What is undone is not undone again, and nothing else is executed."""
    world.fails = ["pay"]
    with stackshift.crashing(step, when):
        run = stackshift.start(job).finish()
    assert run.status == "failed"
    repeated = [DONE[2 if step == "undo hotel" else 3]] if when == "before_record" else []
    assert sorted(each for each in world.done if each != "pay") == sorted(DONE + repeated)
    assert world.done.count("pay") == 1
    assert steps(run)[-2:] == [("undo hotel", "completed"), ("undo flight", "completed")]


@BOTH
def test_undo_survives_a_restart_of_the_daemon(
    stackshift: Stackshift, world: World, job: str
) -> None:
    """Also while it waits for its next try."""
    world.fails = ["pay", "undo hotel"]
    run = stackshift.start(job)
    assert run.status == "retrying"
    assert run.why_code == "undoing"
    assert "undoing what was done, hotel (and 1 more) is next" in run.why
    stackshift.restart()
    world.fails = []
    run.finish()
    assert run.status == "failed"
    assert [each for each in world.done if each.startswith("undo")] == [DONE[2], *DONE[2:]]


@BOTH
def test_gently_cancelled_run_is_undone_and_then_cancelled(
    stackshift: Stackshift, world: World, job: str
) -> None:
    """Its handler need not know of it."""
    run = stackshift.start(job, {"wait": True})
    run.cancel(gently=True)
    assert run.finish().status == "cancelled"
    assert run.why == "cancelled: its handler ended within the grace"
    assert world.done == DONE
    stackshift.assert_replays(run)


@BOTH
def test_run_that_is_cancelled_at_once_is_not_undone(
    stackshift: Stackshift, world: World, job: str
) -> None:
    """That is what gently is for."""
    run = stackshift.start(job, {"wait": True})
    run.cancel()
    assert run.status == "cancelled"
    assert world.done == ["flight", "hotel"]


@BOTH
def test_wait_that_fails_the_run_has_it_undone(
    stackshift: Stackshift, world: World, job: str
) -> None:
    """The handler does not learn of that failure, and need not."""
    run = stackshift.start(job, {"wait": True})
    stackshift.advance("1h")
    run.finish()
    assert run.status == "failed"
    assert run.error is not None
    assert run.error["type"] == "TimeoutError"
    assert world.done == DONE


@BOTH
def test_deadline_has_it_undone(stackshift: Stackshift, world: World, job: str) -> None:
    """However long that takes."""
    world.fails = ["undo flight"]
    run = stackshift.start(job, {"wait": True}, deadline="10m")
    stackshift.advance("10m")
    assert run.why_code == "undoing"
    world.fails = []
    run.finish()
    assert run.error is not None
    assert run.error["type"] == "DeadlineExceeded"
    assert ("undo flight", "completed") in steps(run)


@BOTH
def test_undo_that_fails_says_what_is_still_done(
    stackshift: Stackshift, world: World, job: str
) -> None:
    """The run is in the dead letter, and the earlier steps stay done."""
    world.fails = ["pay", "undo hotel"]
    run = stackshift.start(job).finish()
    assert run.status == "failed"
    assert run.json["dead"]
    assert run.error is not None
    assert run.error["type"] == "UndoFailed"
    assert run.error["message"] == (
        "undo hotel: ConnectionError: undo hotel is down; still done: hotel, flight "
        "(the run was failed before that: ConnectionError: pay is down)"
    )
    assert world.done.count("undo hotel 'hotel-1'") == 10
    assert "undo flight 'flight-1'" not in world.done
    undone = {step["name"]: step["undone"] for step in run.json["steps"]}
    assert (undone["flight"], undone["hotel"]) == (False, False)


@BOTH
def test_retry_of_a_failed_undo_goes_on_undoing(
    stackshift: Stackshift, world: World, job: str
) -> None:
    """And the run ends as it would have."""
    world.fails = ["pay", "undo flight"]
    run = stackshift.start(job).finish()
    assert run.error is not None
    assert "still done: flight" in run.error["message"]
    world.fails, world.done[:] = [], []
    run.retry().finish()
    assert world.done == ["undo flight 'flight-1'"]
    assert run.status == "failed"
    assert run.error is not None
    assert run.error["message"] == "pay is down"


@BOTH
def test_retry_of_an_undone_run_does_again_what_was_undone(
    stackshift: Stackshift, world: World, job: str
) -> None:
    """And nothing else of what is on record; it may be undone again."""
    world.fails = ["pay"]
    run = stackshift.start(job).finish()
    world.done.clear()
    run.retry().finish()
    assert [each for each in world.done if each != "pay"] == DONE
    world.fails = []
    world.done.clear()
    run.retry().finish()
    assert world.done == ["flight", "hotel", "pay"]
    assert run.result == "booked"
    assert "undo hotel" not in run.steps


@BOTH
def test_retry_from_a_step_goes_forward_again(
    stackshift: Stackshift, world: World, job: str
) -> None:
    """Of a partly undone run: what was undone is done again, what is still done is reused."""
    world.fails = ["pay", "undo flight"]
    run = stackshift.start(job).finish()
    world.fails = []
    world.done.clear()
    run.retry(from_step="hotel").finish()
    assert world.done == ["hotel", "pay"]
    assert run.result == "booked"


@BOTH
def test_fork_does_not_undo_what_its_source_has_done(
    stackshift: Stackshift, world: World, job: str
) -> None:
    """It is the source's; what the fork does itself is undone."""
    run = stackshift.start(job).finish()
    assert run.status == "completed"
    world.fails = ["pay"]
    world.done.clear()
    answer = stackshift.call("run.fork", run=run.id, from_step="hotel")
    fork = stackshift.run(answer["id"]).finish()
    assert fork.status == "failed"
    assert [each for each in world.done if each != "pay"] == ["hotel", "undo hotel 'hotel-1'"]


@BOTH
def test_cancel_within_the_undo_ends_it_at_once(
    stackshift: Stackshift, world: World, job: str
) -> None:
    """A gentle one changes nothing: it ends by itself."""
    world.fails = ["pay", "undo hotel"]
    run = stackshift.start(job)
    assert not run.cancel(gently=True)
    assert run.cancel()
    assert run.status == "cancelled"
    undone = {step["name"]: step["undone"] for step in run.json["steps"]}
    assert (undone["flight"], undone["hotel"]) == (False, False)


@pytest.mark.parametrize("is_async", [False, True])
def test_handler_that_cleans_up_by_itself_is_undone_after_that(
    stackshift: Stackshift, world: World, is_async: bool
) -> None:
    """Steps of its clean-up that can be undone are, too."""
    if is_async:

        @stackshift.job("own")
        async def own_awaited(ctx: AsyncContext) -> None:
            await ctx.step.run("flight", world.book, "flight", undo=world.cancel("flight"))
            try:
                await ctx.step.sleep("long", "1d")
            except Cancelling:
                await ctx.step.run("note", world.book, "note")
                raise
    else:

        @stackshift.job("own")
        def own(ctx: Context) -> None:
            ctx.step.run("flight", world.book, "flight", undo=world.cancel("flight"))
            try:
                ctx.step.sleep("long", "1d")
            except Cancelling:
                ctx.step.run("note", world.book, "note")
                raise

    run = stackshift.start("own")
    run.cancel(gently=True)
    assert run.finish().status == "cancelled"
    assert world.done == ["flight", "note", "undo flight 'flight-1'"]


def test_grace_that_ends_has_it_undone_by_force(stackshift: Stackshift, world: World) -> None:
    """The handler need not answer for that."""

    @stackshift.job("deaf")
    def deaf(ctx: Context) -> None:
        ctx.step.run("flight", world.book, "flight", undo=world.cancel("flight"))
        try:
            ctx.step.sleep("long", "1d")
        except Cancelling:
            ctx.step.sleep("on and on", "1d")

    run = stackshift.start("deaf")
    run.cancel(gently=True, grace="5s")
    stackshift.advance("5s")
    assert run.finish().status == "cancelled"
    assert run.why == "cancelled: its handler did not end within the grace"
    assert world.done == ["flight", "undo flight 'flight-1'"]


def test_handler_that_cancels_its_run_has_it_undone(stackshift: Stackshift, world: World) -> None:
    """`CancelRun` is an orderly end that is not a good one."""

    @stackshift.job("withdraws")
    def withdraws(ctx: Context) -> None:
        ctx.step.run("flight", world.book, "flight", undo=world.cancel("flight"))
        raise CancelRun("nobody wants it")

    run = stackshift.start("withdraws").finish()
    assert (run.status, run.why) == ("cancelled", "cancelled: nobody wants it")
    assert world.done == ["flight", "undo flight 'flight-1'"]


def test_order_is_that_of_the_outcomes(stackshift: Stackshift, world: World) -> None:
    """And not that in which the code names the steps; items of a map are steps like any other."""

    @stackshift.job("parallel", retry=ONCE)
    async def parallel(ctx: AsyncContext) -> None:
        async def book(what: str, seconds: int) -> None:
            await ctx.step.sleep("later", seconds)
            await ctx.step.run("book", world.book, what, undo=world.cancel(what))

        await asyncio.gather(book("slow", 2), book("fast", 1))
        await ctx.step.map("seat", world.book, ["a", "b"], concurrency=1, undo=world.cancel("seat"))
        raise NonRetryable("no")

    run = stackshift.start("parallel").finish()
    assert run.status == "failed"
    assert world.done[4:] == [
        "undo seat 'b-1'",
        "undo seat 'a-1'",
        "undo slow 'slow-1'",
        "undo fast 'fast-1'",
    ]
    assert [name for name in run.steps if "undo" in name] == [
        "undo seat[1]",
        "undo seat[0]",
        "book/undo book",
        "book#2/undo book",
    ]


def test_undo_has_its_own_retries(stackshift: Stackshift, world: World) -> None:
    """As an `Undo` says; `NonRetryable` is final for it, too."""

    @stackshift.job("tries", retry=ONCE)
    def tries(ctx: Context) -> None:
        terms = Undo(world.cancel("flight"), retry=Retry(max_attempts=2, backoff="1s"))
        ctx.step.run("flight", world.book, "flight", undo=terms)
        raise NonRetryable("no")

    world.fails = ["undo flight"]
    run = stackshift.start("tries").finish()
    assert world.done == ["flight", *["undo flight 'flight-1'"] * 2]
    assert run.error is not None
    assert run.error["type"] == "UndoFailed"


def test_run_that_is_tried_again_is_undone_only_at_last(
    stackshift: Stackshift, world: World
) -> None:
    """The next attempt reuses what is done."""

    @stackshift.job("twice", retry=Retry(max_attempts=2, backoff="1s"))
    def twice(ctx: Context) -> None:
        ctx.step.run("flight", world.book, "flight", undo=world.cancel("flight"))
        ctx.step.run("pay", world.book, "pay")

    world.fails = ["pay"]
    run = stackshift.start("twice").finish()
    assert world.done == ["flight", "pay", "pay", "undo flight 'flight-1'"]
    assert run.attempt == 2


def test_failure_that_the_handler_has_seen_is_seen_again_while_undoing(
    stackshift: Stackshift, world: World
) -> None:
    """Its branch is taken again, so what that has done is undone as well."""

    @stackshift.job("branches", retry=ONCE)
    def branches(ctx: Context) -> None:
        try:
            ctx.step.run("pay", world.book, "pay")
        except StepFailed:
            ctx.step.run("flight", world.book, "flight", undo=world.cancel("flight"))
            raise NonRetryable("no money") from None

    world.fails = ["pay"]
    stackshift.start("branches").finish()
    assert world.done == ["pay", "flight", "undo flight 'flight-1'"]


def test_step_that_the_code_does_not_undo_any_more_is_named(stackshift: Stackshift) -> None:
    """The run says so, in the dead letter."""
    code: dict[str, Any] = {"undo": lambda _: None}

    @stackshift.job("edited", retry=ONCE)
    def edited(ctx: Context) -> None:
        ctx.step.run("flight", lambda: 1, undo=code["undo"])
        code["undo"] = None
        raise NonRetryable("no")

    run = stackshift.start("edited").finish()
    assert run.error is not None
    assert run.error["type"] == "UndoFailed"
    assert "step 'flight' cannot be undone" in run.error["message"]
    assert "still done: flight" in run.error["message"]


def test_parent_of_a_run_that_is_undone_waits_for_the_end(
    stackshift: Stackshift, world: World
) -> None:
    """Then it sees the failure; cancelled gently, the child is undone first."""

    @stackshift.job("asks", retry=ONCE)
    def asks(ctx: Context) -> None:
        ctx.step.run("room", world.book, "room", undo=world.cancel("room"))
        ctx.step.call("trip", {"wait": True})

    run = stackshift.start("asks")
    run.cancel(gently=True)
    assert run.finish().status == "cancelled"
    assert world.done == ["room", *DONE, "undo room 'room-1'"]
    world.done.clear()
    world.fails = ["pay"]
    other = stackshift.start("asks")
    stackshift.events.send("paid")
    assert other.finish().status == "failed"
    assert [e for e in world.done if e != "pay"] == ["room", *DONE, "undo room 'room-1'"]


@BOTH
def test_step_that_had_begun_when_its_worker_died_is_finished_and_undone(
    stackshift: Stackshift, world: World, job: str
) -> None:
    """What it had done would stay done otherwise; no step that had not begun is begun."""
    held: list[Run] = []
    book = world.book

    def cancel_and_book(what: str) -> str:
        if what == "hotel" and held:
            held.pop().cancel(gently=True)
        return book(what)

    world.book = cancel_and_book  # type: ignore[method-assign]
    run = stackshift.start(job, delay="1s")
    held.append(run)
    with stackshift.crashing("hotel", "before_record"):
        run.finish()
    assert run.status == "cancelled"
    assert world.done == ["flight", "hotel", *DONE[1:]]


def test_program_is_undone_by_a_program(stackshift: Stackshift, tmp_path: Any) -> None:
    """One that is given, or one that is made of the result."""
    made = tmp_path / "made"

    @stackshift.job("makes", retry=ONCE)
    def makes(ctx: Context) -> None:
        ctx.step.command("make", ["mkdir", made], undo=["rmdir", made])
        ctx.step.command(
            "name",
            ["sh", "-c", f"touch {made}/x; printf {made}/x"],
            undo=lambda result: ["rm", result["stdout"]],
        )
        assert made.is_dir()
        raise NonRetryable("no")

    run = stackshift.start("makes").finish()
    assert run.status == "failed"
    assert not made.exists()
    assert steps(run)[-2:] == [("undo name", "completed"), ("undo make", "completed")]


def test_names_of_undos_are_not_for_other_steps(stackshift: Stackshift) -> None:
    """And what cannot be called is no undo."""
    seen: list[str] = []

    @stackshift.job("wrong", retry=ONCE)
    def wrong(ctx: Context) -> None:
        for name, undo in (("undo flight", None), ("flight", 7)):
            try:
                ctx.step.run(name, lambda: 1, undo=undo)  # type: ignore[arg-type]
            except Usage as refused:
                seen.append(refused.message)

    stackshift.start("wrong").finish()
    assert seen == [
        "'undo flight' cannot name a step: what undoes a step is called so",
        "undo= takes a function of the step's result, not 7",
    ]
