"""Lines that stand for many: nothing is lost, and what matters is kept."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stackshift_cli.timeline.branches import Line, lines
from stackshift_cli.timeline.folding import fit, height, maps_folded
from stackshift_cli.timeline.intervals import Interval, Kind
from stackshift_cli.timeline.model import Row, Try

STATUSES = ("completed", "failed", "cancelled", "running", "waiting", "retrying", "queued")


def row(key: str, status: str = "completed", at: int = 0, tries: int = 0) -> Row:
    """A row that began `at` seconds after the start, and took 100 ms."""
    span = Interval(Kind.WORK, at * 1_000_000, at * 1_000_000 + 100_000)
    failed = [Try(n + 1, "ValueError", "no", 1, None) for n in range(tries)]
    return Row(key, status, [span], failed)


def heights(drawn: list[Line]) -> int:
    """How many lines of a picture they take."""
    return sum(map(height, drawn))


NAMES = st.sampled_from([*(f"m[{n}]" for n in range(9)), *"abc", "in/x", "in/y", "in#2/x", "\0q"])
ROWS = st.lists(
    st.tuples(NAMES, st.sampled_from(STATUSES), st.integers(0, 30), st.integers(0, 4)),
    max_size=60,
    unique_by=lambda each: each[0],
)


@given(ROWS, st.integers(3, 40), st.booleans())
def test_every_row_is_drawn_or_counted_once(
    drawn: list[tuple[str, str, int, int]], room: int, compact: bool
) -> None:
    """Whatever the room, no row is lost, and the lines fit."""
    made = [row(*each) for each in sorted(drawn, key=lambda each: each[2])]
    fitted = fit(lines(made), room, compact)
    assert heights(fitted) <= room
    shown = {id(each) for line in fitted for each in line.rows}
    assert shown == {id(each) for each in made}


@given(ROWS, st.integers(3, 40))
def test_what_runs_or_fails_goes_last(drawn: list[tuple[str, str, int, int]], room: int) -> None:
    """If a line of something that is done is kept, no line of what runs or fails is folded into a
    stretch."""
    made = [
        row(key, status, at) for key, status, at, _ in drawn if "[" not in key and "/" not in key
    ]
    fitted = fit(lines(made), room)
    single = {line.rows[0].status for line in fitted if len(line.rows) == 1}
    folded = {each.status for line in fitted if len(line.rows) > 1 for each in line.rows}
    if single & {"completed", "cancelled"}:
        assert not folded & {"running", "failed", "retrying"}


def test_map_is_a_line_with_a_count_and_a_spread() -> None:
    """What failed of it stays a line of its own."""
    items = [row(f"resize[{n}]", "failed" if n == 7 else "completed", n) for n in range(50)]
    first, second = maps_folded(lines(items))
    assert (first.label, first.row.note) == ("resize", "49/50, 1 failed, p50 100ms, max 100ms")
    assert (second.label, len(first.rows)) == ("resize[7]", 50)
    assert maps_folded(lines(items[:12])) == lines(items[:12])


def test_maps_of_one_name_in_two_branches_are_two() -> None:
    """Items belong to the line that they are below."""
    keys = [f"in{branch}/m[{n}]" for branch in ("", "#2") for n in range(20)]
    folded = maps_folded(lines([row(key, at=n) for n, key in enumerate(keys)]))
    assert [(line.label, len(line.rows)) for line in folded] == [
        ("in", 0),
        ("m", 20),
        ("in#2", 0),
        ("m", 20),
    ]


def test_newest_rows_are_kept() -> None:
    """Of what is done, the oldest is folded first, into one line."""
    folded = fit(lines([row(f"s{n}", at=n) for n in range(100)]), 10)
    assert [line.label for line in folded] == ["91 done", *(f"s{n}" for n in range(91, 100))]
    assert folded[0].row.note == "p50 100ms, max 100ms"


def test_where_there_is_room_nothing_is_folded() -> None:
    """Nor are the tries of what is done left out."""
    made = lines([row(f"s{n}", at=n, tries=3) for n in range(5)])
    assert fit(made, 20) == made
    assert fit(made, None) == made
    assert heights(fit(made, 19)) <= 19
