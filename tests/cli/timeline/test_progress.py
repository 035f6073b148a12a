"""How far a run is, at which pace, and how long the rest takes."""

from __future__ import annotations

from stackshift_cli.timeline.progress import Progress, Reports, words


def reports(*given: tuple[float, float], total: float | None = 100) -> Reports:
    """What was reported: pairs of seconds and how much was done."""
    made = Reports()
    for seconds, done in given:
        made.add({"done": done, "total": total, "message": "rows"}, round(seconds * 1e6))
    return made


def test_pace_is_that_of_this_execution() -> None:
    """A wait or a retry is no work: the pace counts from when the handler executes again."""
    told = reports((0, 0), (10, 40))
    assert told.progress() == Progress(40, 100, "rows", 4.0, 15_000)
    told.restart()
    told.add({"done": 40, "total": 100, "message": ""}, 1_000_000_000)
    assert told.progress() == Progress(40, 100, "", None, None)
    told.add({"done": 50, "total": 100, "message": ""}, 1_001_000_000)
    assert told.progress() == Progress(50, 100, "", 10.0, 5000)


def test_handler_that_begins_again_has_a_new_pace() -> None:
    """Less than before was done: it counts from there."""
    assert reports((0, 50), (5, 0), (7, 20)).progress() == Progress(20, 100, "rows", 10.0, 8000)


def test_nothing_is_guessed() -> None:
    """No pace from one report or a moment, no rest without a total, nor at the end."""
    assert Reports().progress() is None
    assert reports((1, 5)).progress() == Progress(5, 100, "rows")
    assert reports((1, 5), (1.1, 6)).progress() == Progress(6, 100, "rows")
    assert reports((0, 0), (2, 4), total=None).progress() == Progress(4, None, "rows", 2.0, None)
    assert reports((0, 0), (2, 100)).progress() == Progress(100, 100, "rows", 50.0, None)


def test_words_for_people() -> None:
    """Count, share, pace and what is left."""
    assert words(Progress(120, 200, "rows", 4.0, 20_000)) == "120/200 rows, 60%, 4/s, 20.0s left"
    assert words(Progress(3, None, "", 1234.6)) == "3, 1235/s"
    assert words(Progress(0, 10, "")) == "0/10, 0%"
