"""Runs as the daemon tells them, for tests of what is drawn: no daemon, no terminal, no clock."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from cli.fake_daemon import record, run_id, run_object
from stackshift_cli.daemon.run_detail import Shown
from stackshift_cli.render.console import Glyphs
from stackshift_cli.render.picture import Frame, picture
from stackshift_jobs.values.durations import from_rfc3339

ROOT = "/srv/shop"
START = "2026-05-06T09:00:00.000000Z"
TRACEBACK = f"""\
Traceback (most recent call last):
  File "/usr/lib/python3.11/site-packages/requests/adapters.py", line 519, in send
    conn = self.get_connection()
OSError: [Errno 111] Connection refused

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "{ROOT}/jobs/media.py", line 31, in upload
    return put(url, body)
           ^^^^^^^^^^^^^^
  File "{ROOT}/jobs/media.py", line 48, in put
    raise ConnectionError(f"{{url}} answered 503 \\x1b[2J") from bad
  File "/usr/lib/python3.11/site-packages/requests/api.py", line 61, in request
    raise error
ConnectionError: http://127.0.0.1:18999/upload answered 503
"""
ERROR = {
    "type": "ConnectionError",
    "message": "http://127.0.0.1:18999/upload answered 503 Service Unavailable \x1b[2J",
    "traceback": TRACEBACK,
}


def at(seconds: float) -> int:
    """The moment `seconds` after the run was created."""
    return from_rfc3339(START) + round(seconds * 1e6)


def told(run: dict[str, Any], *records: dict[str, Any], **more: Any) -> Shown:
    """The run with these records, as `fetch` would return it."""
    run = {**run, "created_at": START, "timeline": list(records), "attempts": []}
    return Shown({"steps": [], "children": {}, **run}, root=ROOT, **more)


def failed_run() -> Shown:
    """A run whose upload failed twice, after a wait, on changed code."""
    run = run_object(1, job="resizeAvatar", queue="media", status="failed", error=ERROR)
    step: dict[str, Any] = {"run": run["id"], "attempt": 1}
    awaited: dict[str, Any] = {"wait": "event", "events": [["avatar.approved", "img_123"]]}
    printed = {"attempt": 1, "step": "upload", "stream": "stdout", "level": None}
    line = {"at": "2026-05-06T09:00:21.500000Z", **printed, "message": "PUT \x1b[2J 12 kB"}
    upload = {"name": "upload", "kind": "run", "status": "failed", "attempts": 2, "error": ERROR}
    timeline = [
        record(0, "run.created", run["id"]),
        record(1, "attempt.started", **step, code="023452bfe"),
        record(3, "step.completed", **step, step="download", duration_ms=2000),
        record(3, "wait.started", **step, step="avatar.approved", **awaited),
        record(3, "attempt.suspended", **step),
        record(20, "wait.ended", run["id"], step="avatar.approved", name="avatar.approved")
        | {"correlation_key": "img_123"},
        record(20, "attempt.resumed", **step, code="56e2988aa"),
        record(22, "step.failed", **step, step="upload", duration_ms=1500, error=ERROR)
        | {"retry_at": "2026-05-06T09:00:24.000000Z"},
        record(25, "step.failed", **step, step="upload", duration_ms=900, error=ERROR),
        record(25, "attempt.failed", **step, step="upload", error=ERROR),
        record(25, "run.failed", **step, error=ERROR),
    ]
    return told(run | {"steps": [upload]}, *timeline, tails={"upload": [line]})


def tall_run(status: str = "running") -> Shown:
    """A run with a map of 40, 60 steps that are done, one that fails, and one that runs."""
    why = "running for 41.0s in worker w1"
    run = run_object(1, job="nightly", status=status, why=why, result=None)
    step: dict[str, Any] = {"run": run["id"], "attempt": 1}
    timeline = [
        record(0, "run.created", run["id"]),
        record(0, "attempt.started", **step, code="abc"),
    ]
    for item in range(40):
        named = f"resize-picture[{item}]"
        took: dict[str, Any] = {"step": named, "duration_ms": 100 * (item % 10 + 1)}
        timeline.append(record(2 + item // 8, "step.completed", **step, **took))
    for number in range(60):
        took = {"step": f"page-{number:02d}", "duration_ms": 400}
        timeline.append(record(8 + number // 2, "step.completed", **step, **took))
    retry: dict[str, Any] = {"error": ERROR, "retry_at": "2026-05-06T09:00:50.000000Z"}
    timeline += [
        record(39, "step.failed", **step, step="index", duration_ms=500, **retry),
        record(39, "progress.reported", **step, done=100, total=160, message="pages"),
        record(40, "step.started", **step, step="publish"),
    ]
    line = {"at": "2026-05-06T09:00:40.500000Z", "attempt": 1, "step": "publish"}
    return told(run, *timeline, logs=[{**line, "message": "3 of 9 files"}])


def parent_run() -> Shown:
    """A run that waits for its child, and what is known of the child."""
    run = run_object(1, job="parent", status="waiting", why="waiting for a child", result=None)
    step: dict[str, Any] = {"run": run["id"], "attempt": 1}
    timeline = [
        record(0, "run.created", run["id"]),
        record(0, "attempt.started", **step, code="abc"),
        record(2, "step.completed", **step, step="list", duration_ms=2000),
        record(2, "wait.started", **step, step="resize all", wait="child", child=run_id(2))
        | {"job": "resizeAvatar"},
    ]
    why = "waiting for event avatar.approved [img_1]"
    child = run_object(2, job="resizeAvatar", status="waiting", why=why, result=None)
    nested = [
        record(2, "run.created", child["id"]),
        record(3, "attempt.started", child["id"], attempt=1),
        record(5, "step.completed", child["id"], step="fetch", duration_ms=2000, attempt=1),
    ]
    shown = told(run, *timeline)
    steps = [{"name": "fetch", "kind": "run", "status": "completed", "result": {"<b>": "&"}}]
    child |= {"created_at": "2026-05-06T09:00:02.000000Z", "timeline": nested, "steps": steps}
    shown.run["children"] = {child["id"]: child}
    return shown


def without_timelines(shown: Shown) -> Shown:
    """The same without the children's own timelines, as they are not asked for by `runs show`."""
    known = shown.run["children"]
    shown.run["children"] = {id: {**run, "timeline": []} for id, run in known.items()}
    return shown


def drawn(shown: Shown, seconds: float, marks: Glyphs, width: int, height: int | None) -> str:
    """The picture as text, a line for each line of a terminal, `seconds` after the start."""
    return framed(shown, seconds, Frame(width, height, marks))


def framed(shown: Shown, seconds: float, frame: Frame) -> str:
    """The picture as text in `frame`."""
    screen = Console(file=io.StringIO(), width=frame.width, highlight=False, markup=False)
    screen.print(picture(shown, at(seconds), frame))
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()
