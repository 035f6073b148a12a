"""Random histories of queues: work is conserved, limits are never exceeded, order holds (guarantee:
limits and work).

The short form runs 400 histories, the long one (`STACKSHIFT_LONG=1`) 10,000. A history that fails
is shown with its seed, reduced to the acts that it takes; `STACKSHIFT_SEED=417` runs it alone.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from core.histories.queue_histories import ACTS, Act, History, drawn, run_history, shrunk, tell

LONG = os.environ.get("STACKSHIFT_LONG") == "1"
SEED = os.environ.get("STACKSHIFT_SEED")
SLICES = 10
MANY = 10_000 if LONG else 400


@pytest.mark.parametrize("part", range(SLICES))
def test_limits_hold_and_work_conserves_in_every_history(part: int) -> None:
    """Concurrency, keys, rates, pauses, order, turns and waking, judged at each record."""
    seeds = [int(SEED)] if SEED else range(part, MANY, SLICES)
    for seed in seeds:
        run_history(seed)


def test_histories_are_worth_their_time() -> None:
    """Everything that limits are about happens in them, and often."""
    seen: Counter[str] = Counter()
    for seed in range(40):
        history = tell(drawn(seed), seen.update)
        seen["tried alone"] += history.model.tried_alone
        seen.update(str(entry.record.__struct_config__.tag) for entry in history.entries)
    for kind in (
        "attempt.started",
        "attempt.resumed",
        "attempt.lost",
        "attempt.stopped",
        "run.held",
        "run.retried",
        "queue.changed",
        "journal.opened",
        "waits for concurrency",
        "waits for a key",
        "waits for a unique key",
        "waits for the rate",
        "waits paused",
        "waits in a pool of its own",
        "tried alone",
        "waits for a slot",
    ):
        assert seen[kind] >= 10, f"{kind}: {seen[kind]}"


def test_history_that_fails_is_cut_down() -> None:
    """What a failure does not need is removed before it is shown."""
    acts = drawn(1)
    found = shrunk(acts, lambda left: sum(act.name == "start" for act in left) > 1)
    assert [act.name for act in found] == ["start", "start"]
    assert all(act in acts for act in found)


def test_every_act_can_happen_first() -> None:
    """An act finds nothing to do where there is nothing, so that any part of a history is one."""
    for name in ACTS:
        assert isinstance(tell([Act(name, 5, 5)]), History)
