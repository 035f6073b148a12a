"""How busy the daemon is, from what was noted."""

from __future__ import annotations

from stackshiftd.shell.load import LAG_SECONDS, RECENT, Histogram, Load


def test_histogram_counts_a_value_with_the_first_bound_that_it_does_not_exceed() -> None:
    """A bound counts itself; what is beyond the last one has a place of its own."""
    made = Histogram((1, 2, 4))
    for value in (0.5, 1, 1.5, 4, 4.1, 100):
        made.note(value)
    assert made.counts == [2, 1, 1, 2]
    assert (made.count, made.sum) == (6, 111.1)


def test_commits_shown_are_the_last_ones() -> None:
    """The count is of all; duration and size are of the last thousand."""
    load = Load()
    assert load.commits_shown() == {"count": 0, "records": None, "p50_ms": None, "p99_ms": None}
    load.committed(9.0, 500)
    for _ in range(RECENT - 20):
        load.committed(0.002, 3)
    for _ in range(20):
        load.committed(0.05, 1)
    shown = load.commits_shown()
    assert shown == {"count": RECENT + 1, "records": 3.0, "p50_ms": 2.0, "p99_ms": 50.0}
    assert load.seconds.count == load.records.count == RECENT + 1


def test_lag_is_the_most_of_the_last_minute() -> None:
    """A loop that was early was not late; what is a minute ago is forgotten."""
    load = Load()
    assert load.lag == 0.0
    load.turned(2.5)
    load.turned(-0.001)
    assert load.lag == 2.5
    for _ in range(LAG_SECONDS):
        load.turned(0.01)
    assert load.lag == 0.01
