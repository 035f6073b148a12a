"""Whole pictures at the sizes of real terminals, as golden files: `pytest --rewrite` updates them.

After an intended change, read the difference before it is committed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cli.fake_daemon import record, run_id, run_object
from cli.render.pictured import (
    drawn,
    failed_run,
    framed,
    parent_run,
    tall_run,
    told,
    without_timelines,
)
from stackshift_cli.daemon.run_detail import Shown
from stackshift_cli.render.console import ASCII, UNICODE, Glyphs
from stackshift_cli.render.picture import Frame

GOLDEN = Path(__file__).parent / "golden"
RUNS: dict[str, tuple[Callable[[], Shown], float]] = {
    "failed": (failed_run, 25),
    "tall": (tall_run, 41),
    "parent": (lambda: without_timelines(parent_run()), 9),
    "tree": (parent_run, 9),
}


@pytest.mark.parametrize("marks", [UNICODE, ASCII], ids=["utf8", "ascii"])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40)], ids=["80x24", "120x40"])
@pytest.mark.parametrize("name", list(RUNS))
def test_picture_is_the_golden_one(
    request: pytest.FixtureRequest, name: str, width: int, height: int, marks: Glyphs
) -> None:
    """Each run at each size: the same frame, no wider and no higher than the terminal."""
    run, seconds = RUNS[name]
    text = drawn(run(), seconds, marks, width, height - 1)
    file = GOLDEN / f"{name}-{width}x{height}-{'ascii' if marks is ASCII else 'utf8'}.txt"
    if request.config.getoption("--rewrite"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")
    lines = text.splitlines()
    assert len(lines) <= height - 1
    assert max(map(len, lines)) <= width
    assert "\x1b" not in text
    assert text.isascii() or marks is UNICODE


@pytest.mark.parametrize("height", range(8, 60, 3))
def test_picture_fits_whatever_the_height(height: int) -> None:
    """What runs, what fails, the reason and the newest line of the log are in it at any height."""
    lines = drawn(tall_run(), 41, UNICODE, 80, height).splitlines()
    assert len(lines) <= max(height, 12)
    assert lines[-2:] == [
        "  running for 41.0s in worker w1",
        "  09:00:40.500 publish | 3 of 9 files",
    ]
    assert any(line.startswith("● publish") for line in lines)


@pytest.mark.parametrize(
    ("status", "fields", "last"),
    [
        ("cancelled", {"why": "cancelled: the order is gone"}, "  cancelled: the order is gone"),
        ("completed", {"continued_as": run_id(2), "why": f"continued as {run_id(2)}"}, None),
        ("cancelled", {"why": "cancelled"}, ""),
    ],
)
def test_end_that_needs_a_word_has_it(
    status: str, fields: dict[str, str], last: str | None
) -> None:
    """Why a handler has cancelled its run, and as which run it goes on instead of a result."""
    linked = {"continues": run_id(3), "follow_up": run_id(4)}
    run = run_object(1, status=status, result=None, **linked) | fields
    shown = told(run, record(0, "run.created", run["id"]), record(1, f"run.{status}", run["id"]))
    lines = drawn(shown, 1, UNICODE, 80, None).splitlines()
    if last is None:
        last = "  continued as run_…000002"
    assert (lines[-1] == last) is bool(last)
    assert "continues run_…000003" in lines[1]
    assert "follow-up run_…000004" in lines[2]
    assert not any("result" in line for line in lines)


def test_everything_is_every_row() -> None:
    """`--all`: no map and no stretch is folded."""
    text = framed(tall_run(), 41, Frame(80, None, UNICODE, everything=True))
    assert text.count("resize-picture[") == 40
    assert text.count("✓ page-") == 60


def test_without_a_height_only_maps_are_folded() -> None:
    """In a pipe nothing is left out but the items of large maps, which are counted."""
    text = drawn(tall_run(), 41, UNICODE, 100, None)
    assert text.count("✓ page-") == 60
    assert "40/40, p50 500ms, max 1.0s" in text
    assert "resize-picture[" not in text


def test_compact_is_at_most_ten_rows() -> None:
    """A header, the axis and ten rows, whatever the run has done: no tries, errors or logs."""
    text = framed(tall_run(), 41, Frame(80, None, UNICODE, compact=True))
    rows = text.split("STEP")[1].splitlines()[1:]
    assert len(rows) <= 11
    assert any(row.startswith("● publish") for row in rows)
    assert "ConnectionError" not in text


def test_whole_traceback_is_shown_if_it_is_wanted() -> None:
    """`-v` and `--logs`: as Python printed it, and still nothing of it controls the terminal."""
    text = framed(failed_run(), 25, Frame(100, None, UNICODE, verbose=True))
    assert "The above exception was the direct cause" in text
    assert "site-packages/requests/adapters.py" in text
    assert "\x1b" not in text
    assert "conn = self.get_connection()" not in drawn(failed_run(), 25, UNICODE, 100, None)


def test_cut_message_keeps_what_came_of_the_try() -> None:
    """The error's text gives way; how long the try took, when it was retried and where stay."""
    lines = drawn(failed_run(), 25, UNICODE, 80, None).splitlines()
    first, last = (line for line in lines if line[2:3] in ("├", "└"))
    assert first.endswith("… (1.5s), retried after 2.0s")
    assert last.endswith("… (900ms)   media.py:48")


def test_names_use_the_width_there_is() -> None:
    """A long name is cut at 80 cells, and whole where the bars have room to spare."""
    shown = failed_run()
    name = "a-step-with-a-name-of-more-than-forty-cells"
    for entry in shown.run["timeline"]:
        entry.update({"step": name} if entry.get("step") == "download" else {})
    assert name not in drawn(shown, 25, UNICODE, 80, None)
    assert name in drawn(shown, 25, UNICODE, 160, None)
