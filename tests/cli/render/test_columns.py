"""How the columns of a list give way where there is no room."""

from __future__ import annotations

import pytest

from stackshift_cli.render.columns import column, excess, fitted
from stackshift_cli.render.console import UNICODE

GIVES = (("WHY", 12), ("QUEUE", 6), ("TOOK", 0), ("JOB", 6), ("WHY", 0))


@pytest.mark.parametrize(
    ("room", "shown"),
    [
        (70, ["JOB 12", "QUEUE 12", "TOOK 4", "WHY 30"]),
        (60, ["JOB 12", "QUEUE 12", "TOOK 4", "WHY 26"]),
        (44, ["JOB 12", "QUEUE 10", "TOOK 4", "WHY 12"]),
        (40, ["JOB 12", "QUEUE 6", "TOOK 4", "WHY 12"]),
        (39, ["JOB 12", "QUEUE 6", "WHY 17"]),
        (30, ["JOB 8", "QUEUE 6", "WHY 12"]),
        (20, ["JOB 6", "QUEUE 12"]),
    ],
)
def test_columns_give_way_in_their_order(room: int, shown: list[str]) -> None:
    """They are cut before they are dropped, and what is left over goes to what was cut."""
    widths = {"job": 12, "queue": 12, "took": 4, "why": 30}
    columns = [column(name, ["x" * width]) for name, width in widths.items()]
    kept = fitted(columns, GIVES, room, UNICODE)
    assert [f"{each.header} {each.width}" for each in kept] == shown
    assert excess(kept, room) <= 0


def test_no_column_is_cut_below_its_header() -> None:
    """A list whose headers are cut says nothing about its columns."""
    columns = [column("concurrency", ["1234567890123"]), column("name", ["n" * 40])]
    kept = fitted(columns, (("CONCURRENCY", 2), ("NAME", 1)), 10, UNICODE)
    assert [each.header for each in kept] == ["CONCURRENCY", "NAME"]
    assert [each.width for each in kept] == [11, 4]
