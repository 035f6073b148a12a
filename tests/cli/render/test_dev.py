"""What `dev` prints: no daemon, no terminal, no clock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cli.fake_daemon import run_id, run_object
from cli.render.pictured import ERROR, at, tall_run
from stackshift_cli.render.console import ASCII, UNICODE, Glyphs
from stackshift_cli.render.dev import broken, reloaded, under_way
from stackshift_cli.render.picture import Frame
from stackshift_cli.top.model import Model

GONE: dict[str, Any] = {
    "job": "order",
    "kind": "wait_gone",
    "about": "approve",
    "count": 2,
    "runs": [run_id(1), run_id(2)],
}
DONE: dict[str, Any] = {
    "loaded": True,
    "changed": ["jobs/a.py", "jobs/b.py"],
    "jobs": {"added": ["new"], "changed": [], "removed": ["old\x1b[2J"]},
    "failed_modules": [],
    "in_flight": {"in_flight": 3, "go_on": 1, "unchecked": 0, "findings": [GONE]},
}


def told(outcome: dict[str, Any], root: Path) -> list[str]:
    """What is printed of a reload, as plain text."""
    *lines, last = [line.plain for line in reloaded(outcome, root, UNICODE)]
    assert last == ""
    return lines


def test_reload_says_what_it_has_loaded_and_what_becomes_of_runs(tmp_path: Path) -> None:
    """The files, the jobs, and the runs that would not go on; nothing controls the terminal."""
    first, *rest = told(DONE, tmp_path)
    assert first == "↻ reloaded jobs/a.py, jobs/b.py  added new  removed old\\x1b[2J"
    assert rest == [
        "  3 in flight: 1 go on as recorded",
        f"    2 of order wait at 'approve', which the code no longer asks for: {run_id(1)},"
        f" {run_id(2)}",
    ]
    alone = DONE | {"in_flight": None, "changed": []}
    assert told(alone, tmp_path) == ["↻ reloaded the job modules  added new  removed old\\x1b[2J"]
    gone = alone | {"changed": ["jobs/a.py", "jobs/b.py"], "gone": ["jobs/b.py"]}
    assert told(gone, tmp_path)[0].startswith("↻ reloaded jobs/a.py and removed jobs/b.py  added")
    gone = alone | {"changed": ["jobs/b.py"], "gone": ["jobs/b.py"]}
    assert told(gone, tmp_path)[0].startswith("↻ removed jobs/b.py  added new")
    same = alone | {"jobs": {"added": [], "changed": [], "removed": []}}
    assert told(same, tmp_path) == ["↻ nothing had changed: the job modules were loaded again"]


def test_reload_that_was_refused_says_why(tmp_path: Path) -> None:
    """The code from before goes on."""
    failed = {"module": "jobs.a", "file": "jobs/a.py", "line": 0, "type": "E", "message": "no"}
    outcome = DONE | {"loaded": False, "failed_modules": [failed]}
    assert told(outcome, tmp_path) == ["✗ jobs/a.py: E: no", "", "the code from before goes on"]
    outcome = {"error": {"code": "bad_configuration", "message": "no worker can be started"}}
    assert told(outcome, tmp_path) == ["✗ not reloaded: no worker can be started"]


def test_broken_module_is_shown_around_its_line(tmp_path: Path) -> None:
    """With numbers; a file that is gone, or shorter by now, is no reason to say nothing."""
    file = tmp_path / "jobs.py"
    file.write_text("one\n\ttwo\nthree \x1b[2J\nfour\nfive\nsix\n")
    module = {"file": str(file), "line": 3, "type": "SyntaxError", "message": "no"}
    assert [line.plain for line in broken(module, tmp_path, ASCII)] == [
        "x jobs.py:3: SyntaxError: no",
        "       1 | one",
        "       2 |     two",
        "  >    3 | three \\x1b[2J",
        "       4 | four",
        "       5 | five",
        "",
    ]
    assert len(list(broken(module | {"line": 30}, tmp_path, ASCII))) == 2
    file.unlink()
    assert len(list(broken(module, tmp_path, ASCII))) == 2


@pytest.mark.parametrize("height", [4, 12, 24, 60])
@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("marks", [UNICODE, ASCII])
def test_what_is_under_way_fits_the_terminal(height: int, width: int, marks: Glyphs) -> None:
    """Each run has a line at least, where there are as many; one is marked; the keys are last."""
    listed = [run_object(n, status="running", why="running for 4s") for n in range(1, 7)]
    listed.append(run_object(7, status="failed", error=ERROR, duration_ms=5))
    pictures = []
    for run in listed[:4]:
        shown = tall_run()
        shown.run["id"] = run["id"]
        pictures.append(shown)
    activity = {"runs": listed, "counts": {"running": 6, "queued": 0}}
    model = Model(activity=activity, selected=listed[6]["id"])
    lines = list(under_way(model, pictures, at(41), Frame(width, height, marks)))
    assert all(line.cell_len <= width for line in lines)
    assert len(lines) <= max(height, len(listed) + 1)
    text = [line.plain for line in lines]
    assert [line for line in text if line.startswith(marks.select)] == [text[-2]]
    assert text[-1].startswith("6 running")
    assert all(sum(run["id"][-6:] in line for line in text) == 1 for run in listed)
    drawn = sum("STEP" in line for line in text)
    assert {4: drawn == 0, 12: drawn == 0, 24: drawn >= 1, 60: drawn == 4}[height]


def test_nothing_under_way_is_said() -> None:
    """There is one key then."""
    model = Model(activity={"runs": [], "counts": {"running": 0}})
    [line] = under_way(model, [], at(0), Frame(80, 24, UNICODE))
    assert line.plain == "no run is under way   q quit"
