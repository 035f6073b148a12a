"""`step.map`: one step per item, in parallel, results in order, for both kinds of handlers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from sdk.handler.passes import Ended, Record, play, play_async
from stackshift_jobs import NonRetryable, Retry, StepFailed
from stackshift_jobs.errors import ReplayError, Usage

Mapped = Callable[..., Ended]


def threads(record: Record, fn: Any, items: Iterable[Any], **options: Any) -> Ended:
    """One pass of a `def` handler that maps `fn` over `items`."""
    return play(lambda ctx: ctx.step.map("resize", fn, items, **options), record)


def tasks(record: Record, fn: Any, items: Iterable[Any], **options: Any) -> Ended:
    """One pass of an `async def` handler that maps `fn` over `items`."""

    async def handler(ctx: Any) -> Any:
        return await ctx.step.map("resize", fn, items, **options)

    return play_async(handler, record)


both = pytest.mark.parametrize("mapped", [threads, tasks])


def double(n: int) -> int:
    """The function that most of the maps apply."""
    return 2 * n


@both
def test_items_are_steps_and_results_come_in_order(mapped: Mapped) -> None:
    """They are named `resize[0]` and so on; nothing is recorded for the map itself."""
    record = Record()
    items = list(range(20))
    assert mapped(record, double, items) == Ended([2 * n for n in items])
    assert sorted(record.recorded_calls) == sorted(f"resize[{n}]" for n in items)
    assert mapped(record, double, items) == Ended([2 * n for n in items])
    assert len(record.calls()) == 20


@both
@pytest.mark.parametrize("items", [[], [1]])
def test_few_items_are_fine(mapped: Mapped, items: list[int]) -> None:
    """Also none at all."""
    assert mapped(Record(), double, items) == Ended([2 * n for n in items])


@both
def test_crash_runs_again_only_items_that_are_not_recorded(mapped: Mapped) -> None:
    """The recorded results stay."""
    record = Record()
    mapped(record, double, [1, 2, 3])
    del record.recorded_calls["resize[1]"]
    assert mapped(record, double, [1, 2, 3]) == Ended([2, 4, 6])
    assert sorted(record.calls()) == ["resize[0]", "resize[1]", "resize[1]", "resize[2]"]


@both
def test_items_that_fail_let_the_others_finish_then_the_lowest_raises(mapped: Mapped) -> None:
    """Whichever item failed first."""

    def picky(n: int) -> int:
        if n in (1, 3):
            raise ValueError(f"not {n}")
        return n

    record = Record()
    for _ in range(2):
        failed = mapped(record, picky, range(6)).error
        assert isinstance(failed, StepFailed)
        assert (failed.step, failed.message) == ("resize[1]", "not 1")
    assert len(record.recorded_calls) == 6
    assert len(record.calls()) == 6


@both
def test_items_that_changed_are_refused(mapped: Mapped) -> None:
    """The recorded result would be that of another item."""
    record = Record()
    mapped(record, double, [1, 2])
    ended = mapped(record, double, [1, 3])
    assert isinstance(ended.error, ReplayError)
    assert "resize[1]" in str(ended.error)
    assert mapped(record, double, [1.0, 2]) == Ended([2, 4]), "equal as JSON is the same item"


@both
def test_items_that_were_added_at_the_end_are_run(mapped: Mapped) -> None:
    """The recorded indexes keep their items."""
    record = Record()
    mapped(record, double, [1, 2])
    assert mapped(record, double, [1, 2, 3]) == Ended([2, 4, 6])
    assert len(record.calls()) == 3


@both
def test_second_map_of_the_name_has_items_of_its_own(mapped: Mapped) -> None:
    """They are distinguished by occurrence, as for any step."""
    record = Record()
    if mapped is threads:
        play(lambda ctx: [ctx.step.map("m", double, [n]) for n in (1, 2)], record)
    else:

        async def handler(ctx: Any) -> Any:
            return [await ctx.step.map("m", double, [n]) for n in (1, 2)]

        play_async(handler, record)
    assert sorted(record.recorded_calls) == ["m#2[0]", "m[0]"]


@both
def test_item_that_waits_for_its_next_try_leaves_the_pass(mapped: Mapped) -> None:
    """The others are recorded; the wait outranks a failure, because its outcome is not known
    yet."""

    def flaky(n: int) -> int:
        if n == 1 and not opened:
            raise OSError("later")
        return n

    opened: list[int] = []
    record = Record()
    ended = mapped(record, flaky, [0, 1], concurrency=1, retry=Retry(max_attempts=2))
    assert ended == Ended(parked=("resize[1]",))
    opened.append(1)
    record.ends("resize[1]")
    assert mapped(record, flaky, [0, 1], retry=Retry(max_attempts=2)) == Ended([0, 1])
    assert record.calls() == ["resize[0]", "resize[1]", "resize[1]"]


@both
def test_item_that_waits_outranks_one_that_failed(mapped: Mapped) -> None:
    """The map raises only when the outcome of every item is known."""

    def act(n: int) -> int:
        if n == 0:
            raise NonRetryable("declined")
        if not opened:
            raise OSError("later")
        return n

    opened: list[int] = []
    record = Record()
    options: dict[str, Any] = {"concurrency": 1, "retry": Retry(max_attempts=2)}
    assert mapped(record, act, [0, 1], **options) == Ended(parked=("resize[1]",))
    opened.append(1)
    record.ends("resize[1]")
    failed = mapped(record, act, [0, 1], **options).error
    assert isinstance(failed, StepFailed)
    assert failed.step == "resize[0]"


@both
@pytest.mark.parametrize("concurrency", [0, -1])
def test_map_of_no_lanes_is_refused(mapped: Mapped, concurrency: int) -> None:
    """It would never run an item."""
    record = Record()
    assert isinstance(mapped(record, double, [1], concurrency=concurrency).error, Usage)
    assert record.told == []
