"""An execution that its worker does not know of is found; no other is taken for one."""

from __future__ import annotations

from stackshiftd.shell.workers.watch import Watch
from stackshiftd.worker.frames import Beat

RUN, OTHER = ("run_1", 7), ("run_2", 9)
BOTH = dict([RUN, OTHER])
DURABLE = 100


def watched() -> Watch:
    """A worker that was ordered to execute both runs."""
    watch = Watch()
    watch.ordered(*RUN)
    watch.ordered(*OTHER)
    return watch


def test_execution_that_two_beats_do_not_name_is_lost() -> None:
    """One alone may have missed it."""
    watch = watched()
    assert watch.lost(BOTH, Beat(2, [OTHER]), DURABLE) == []
    assert watch.lost(BOTH, Beat(2, [OTHER]), DURABLE) == [RUN]


def test_execution_that_is_named_between_is_not_lost() -> None:
    """The beats must follow each other."""
    watch = watched()
    for _ in range(3):
        assert watch.lost(BOTH, Beat(2, [OTHER]), DURABLE) == []
        assert watch.lost(BOTH, Beat(2, [RUN, OTHER]), DURABLE) == []


def test_order_that_was_not_read_yet_is_not_lost() -> None:
    """A handler may block the loop that reads orders; the thread that beats goes on."""
    watch = watched()
    for _ in range(3):
        assert watch.lost(BOTH, Beat(1, [RUN]), DURABLE) == []
    assert watch.lost(BOTH, Beat(2, [RUN]), DURABLE) == []
    assert watch.lost(BOTH, Beat(2, [RUN]), DURABLE) == [OTHER]


def test_execution_that_was_never_ordered_is_lost_once_it_is_durable() -> None:
    """Until then, the order waits for the disk."""
    watch = Watch()
    for _ in range(3):
        assert watch.lost(dict([RUN]), Beat(), 6) == []
    assert watch.lost(dict([RUN]), Beat(), 7) == []
    assert watch.lost(dict([RUN]), Beat(), 7) == [RUN]


def test_beats_that_come_faster_must_be_more() -> None:
    """A crowded machine may not have got to an execution by then."""
    watch = Watch(beat_seconds=0.5)
    watch.ordered(*RUN)
    for _ in range(5):
        assert watch.lost(dict([RUN]), Beat(1, []), DURABLE) == []
    assert watch.lost(dict([RUN]), Beat(1, []), DURABLE) == [RUN]


def test_another_token_is_another_execution() -> None:
    """What the worker knows under an earlier token does not count for the present one."""
    watch = watched()
    watch.lost({"run_1": 20}, Beat(2, [RUN]), DURABLE)
    assert watch.lost({"run_1": 20}, Beat(2, [RUN]), DURABLE) == [("run_1", 20)]
    watch.ordered("run_1", 30)
    assert watch.lost({"run_1": 30}, Beat(2, []), DURABLE) == []
    assert watch.lost({"run_1": 30}, Beat(2, []), DURABLE) == []
    assert watch.lost({"run_1": 30}, Beat(3, [("run_1", 30)]), DURABLE) == []


def test_ended_executions_are_forgotten() -> None:
    """What the worker no longer has to execute is not asked for."""
    watch = watched()
    watch.lost(BOTH, Beat(2, []), DURABLE)
    assert watch.lost({}, Beat(2, []), DURABLE) == []
    assert watch.lost(BOTH, Beat(2, []), DURABLE) == []
