"""Frames of `top`: golden ones, and what must hold at any size."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from rich.cells import cell_len

from cli.fake_daemon import run_id
from cli.top.scenes import ACTIVITY, DEAD, NOW, RUNS, STATUS, queue
from cli.top.test_model import after, opened
from stackshift_cli.output.clock import Clock
from stackshift_cli.render.console import ASCII, UNICODE, Glyphs
from stackshift_cli.render.top import frame
from stackshift_cli.top.model import Model, answered, refused, unreachable
from stackshift_jobs.values.durations import from_rfc3339

AT_80 = """\
stackshift top  0.1.0, up 2h14m · 2 workers, 2/32 slots             09:41:07 UTC
/srv/shop
● 2 running  ↻ 1 retrying  ◌ 2 waiting  ○ 1 queued  ○ 1 scheduled  ✗ 1 dead
12.1 starts/s  48.3 steps/s  11.9 ends/s  0.3 failed/s

QUEUE        QUEUED  OLDEST  RUNNING     SLOW STEP            N   MEAN  MAX
media        1       7.0s    1/1         resizeAvatar upload  31  9.1s  1m01s
default      0               1           nightlyReport query  2   4.2s  4.3s
mail paused  0               0

    ID      JOB             STATUS     FOR  WHY
●>  000001  resizeAvatar    running    12s  in upload on gpu-1/w3
●   000002  nightlyReport   running    4s   running for 4.0s in worker w2
↻   000003  syncCustomer    retrying   2m   retry 3/5 at 09:41:20 (13.0s left)
◌   000004  userOnboarding  waiting    1h   waiting for event email.verified [u…
◌   000005  index\\x1b[2J    waiting    21m  lock index:c_1 is held by 000002
○   000006  resizeAvatar    queued     7s   queued 7.0s: media 1/1 busy
○   000007  cleanUp         scheduled  41m  scheduled for 12:00:00 (2h18m left)
"""
ASCII_AT_120 = """\
stackshift top  0.1.0, up 2h14m - 2 workers, 2/32 slots                                                     09:41:07 UTC
/srv/shop
* 2 running  ~ 1 retrying  - 2 waiting  o 1 queued  o 1 scheduled  x 1 dead
12.1 starts/s  48.3 steps/s  11.9 ends/s  0.3 failed/s

QUEUE        QUEUED  OLDEST  RUNNING                         SLOW STEP            N   MEAN  MAX
media        1       7.0s    1/1                             resizeAvatar upload  31  9.1s  1m01s
default      0               1                               nightlyReport query  2   4.2s  4.3s
mail paused  0               0

    ID      JOB             QUEUE    STATUS     ATTEMPT  FOR  WHY
*>  000001  resizeAvatar    media    running    1/3      12s  in upload on gpu-1/w3
*   000002  nightlyReport   default  running    1/3      4s   running for 4.0s in worker w2
~   000003  syncCustomer    default  retrying   2/3      2m   retry 3/5 at 09:41:20 (13.0s left)
-   000004  userOnboarding  default  waiting    1/3      1h   waiting for event email.verified [user:123] until 07 Ma...
-   000005  index\\x1b[2J    default  waiting    1/3      21m  lock index:c_1 is held by 000002
o   000006  resizeAvatar    media    queued     1/3      7s   queued 7.0s: media 1/1 busy
o   000007  cleanUp         default  scheduled  1/3      41m  scheduled for 12:00:00 (2h18m left)
"""  # noqa: E501 - as wide as the terminal


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The zone of the frames."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def drawn(model: Model, width: int = 80, height: int = 24, marks: Glyphs = UNICODE) -> list[str]:
    """The lines of a frame, without what is blank at their ends."""
    lines = frame(model, Clock(from_rfc3339(NOW)), width, height, marks)
    return [line.plain.rstrip() for line in lines]


@pytest.mark.parametrize(
    ("width", "height", "marks", "golden"),
    [(80, 24, UNICODE, AT_80), (120, 40, ASCII, ASCII_AT_120)],
    ids=["80x24", "120x40-ascii"],
)
def test_frame_shows_all_that_is_going_on(
    width: int, height: int, marks: Glyphs, golden: str
) -> None:
    """Daemon, counts, rates, queues, slow steps, runs with reasons, keys; one clock, short ids."""
    lines = drawn(opened(), width, height, marks)
    head = golden.rstrip("\n").splitlines()
    assert lines[: len(head)] == head
    assert set(lines[len(head) : -1]) <= {""}
    keys = "enter open  d dead letter  / filter  r retry  c cancel  ? keys  q quit"
    assert lines[-1] == f"{marks.up_down} move  {keys}"
    assert len(lines) == height
    assert marks is UNICODE or all(line.isascii() for line in lines)


@pytest.mark.parametrize("width", [1, 10, 20, 39, 60, 80, 200])
@pytest.mark.parametrize("height", [2, 5, 12, 24, 60])
@pytest.mark.parametrize(
    "keys",
    [["up"], ["end"], ["/"], ["c"], ["enter"], ["d"], ["?"]],
    ids=lambda keys: "key-" + keys[0],
)
def test_frame_fits_any_screen(width: int, height: int, keys: list[str]) -> None:
    """As many lines as the screen, none too wide, none that could move the terminal."""
    wide = RUNS[0] | {"job": "報告書を作る" * 5, "queue": "列" * 30, "step": "歩" * 50}
    model, _ = answered(opened(), "activity", ACTIVITY | {"runs": [wide, *RUNS]})
    model, _ = after(model, *keys)
    for shown in (model, unreachable(model, "gone"), refused(model, "no" * 200)):
        lines = frame(shown, Clock(from_rfc3339(NOW)), width, height, UNICODE)
        assert len(lines) == height
        assert all(cell_len(line.plain) <= width for line in lines)
        assert not any("\x1b" in line.plain for line in lines)


def test_selected_run_is_always_in_the_frame() -> None:
    """The list scrolls with it, and says how many runs it does not show."""
    many = [{**RUNS[0], "id": run_id(n)} for n in range(100, 200)]
    model, _ = answered(opened(), "activity", ACTIVITY | {"runs": many, "matches": 250})
    for pressed in ([], ["page down"] * 4, ["end"]):
        chosen, _ = after(model, *pressed)
        lines = frame(chosen, Clock(from_rfc3339(NOW)), 80, 24, UNICODE)
        reverse = [line.plain for line in lines if any(s.style == "reverse" for s in line.spans)]
        selected = chosen.selected or run_id(100)
        assert [line.split()[0] for line in reverse] == ["●>"]
        assert [line.split()[1] for line in reverse] == [selected[-6:]]
        assert lines[-2].plain.startswith("… and 2")


def test_workers_that_do_not_serve_are_named() -> None:
    """By their status, beside the number of all."""
    workers = [
        each | {"status": status}
        for each, status in zip(
            STATUS["workers"] * 2, ("serving", "silent", "starting", "silent"), strict=True
        )
    ]
    model, _ = answered(opened(), "status", STATUS | {"workers": workers})
    assert "4 workers (2 silent, 1 starting), 4/64 slots" in drawn(model, 120)[0]


def test_many_queues_are_counted() -> None:
    """The busiest are shown."""
    queues = [queue(f"q{n:02d}", n, 0) for n in range(30)]
    model, _ = answered(opened(), "status", STATUS | {"queues": queues})
    lines = drawn(model)
    assert lines[6].startswith("q29")
    assert any(line.startswith("… and 26 more") for line in lines)


def test_last_line_is_what_keys_do_now() -> None:
    """The list that is shown, the filter, the question, and what came of it."""
    model, _ = after(opened(), "d")
    model, _ = answered(model, "activity", ACTIVITY | {"runs": DEAD, "matches": 1})
    lines = drawn(model)
    assert any("chargeCard" in line and "CardDeclined: 402" in line for line in lines)
    assert lines[-1].startswith("dead letter  ↑↓ move  enter open  d unfinished")
    assert drawn(after(model, "r")[0])[-1] == "retry chargeCard 000008? [y/N]"
    filtered, _ = after(opened(), "/", "x")
    assert drawn(filtered)[-1] == "filter: x_"
    none = ACTIVITY | {"runs": [], "matches": 0}
    empty, _ = answered(after(filtered, "enter")[0], "activity", none)
    assert "no run is unfinished and matches 'x'" in drawn(empty)
    assert drawn(empty)[-1].startswith("filter x, esc clears it")
    assert drawn(unreachable(model, "the daemon is gone"))[1] == "the daemon is gone"


@pytest.mark.parametrize("width", [24, 40, 60, 80])
def test_key_that_leaves_is_always_named(width: int) -> None:
    """However long the filter is: other keys give way, and `?` explains them all."""
    model, _ = after(opened(), "/", *("x" * 50), "enter", "d")
    for shown in (opened(), model, after(opened(), "enter")[0]):
        keys = drawn(shown, width)[-1]
        assert keys.endswith("  q quit")
        assert keys.endswith("? keys  q quit") or width < 80
    assert drawn(opened(), width)[-1].endswith("? keys  q quit")
    helped, asks = after(model, "?")
    assert asks == []
    assert drawn(helped)[-1] == "any key goes back  q quit"
    assert any(line.split()[:1] == ["d"] for line in drawn(helped))
    assert after(helped, "x")[0] == model
    assert after(helped, "q")[0].is_over


def test_open_run_is_its_picture() -> None:
    """It scrolls, but not beyond its end; its reason is on the screen's clock."""
    records = [{"seq": 1, "at": NOW, "kind": "run.created", "run": run_id(1)}]
    run: dict[str, Any] = {
        "id": run_id(1),
        "job": "resizeAvatar",
        "queue": "media",
        "status": "waiting",
    }
    why = f"lock a is held by {run_id(2)}; gives up at 2026-05-06T10:00:00Z (19m left)"
    run |= {"why": why, "timeline": records}
    run |= {"attempt": 1, "max_attempts": 3, "created_at": NOW, "started_at": NOW}
    run |= {"finished_at": None, "duration_ms": None, "labels": {}, "parent": None, "result": None}
    model, _ = after(opened(), "enter")
    assert "asking for 000001…" in drawn(model)
    model, _ = answered(model, "run", run)
    lines = drawn(model)
    assert any("resizeAvatar" in line for line in lines)
    assert "  lock a is held by 000002; gives up at 10:00:00 (19m left)" in lines
    assert lines[-1] == "esc back  ↑↓ scroll  c cancel  r retry  ? keys  q quit"
    assert drawn(after(model, *["page down"] * 9)[0]) == lines
