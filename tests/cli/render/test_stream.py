"""Records as lines on a terminal: golden lines at 80 and 120 cells, in UTF-8 and ASCII."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from cli.fake_daemon import T0, FakeDaemon, record, run_id, run_object
from cli.render.conftest import Terminal, ended, plain
from stackshift_cli.arguments import Globals
from stackshift_cli.output.clock import Clock
from stackshift_cli.render.stream import Stream
from stackshift_cli.timeline.happenings import Facts
from stackshift_jobs.values.durations import from_rfc3339

ERROR = {"type": "TimeoutError", "message": "PUT https://cdn.example.com/avatars/img_123 timed out"}
AT_80 = """
Wed 06 May 2026, UTC
09:00:01  ○ resizeAvatar  000001  created in queue media
09:00:02  ● resizeAvatar  000001  attempt 1 started in worker w1
09:00:03  ✓ resizeAvatar  000001  download  completed                       2.0s
09:00:05  ↻ resizeAvatar  000001  upload  TimeoutError: PUT https://cdn…    1.8s
09:00:06  ◌ resizeAvatar  000001  waits for event avatar.approved [img_123]
09:00:07  ✓                       event avatar.approved [img_123] received; res…
09:00:09  ✓ resizeAvatar  000001  run completed {"sizes":[64]}              8.0s
"""
ASCII_AT_120 = """
Wed 06 May 2026, UTC
09:00:01  o resizeAvatar  000001  created in queue media
09:00:02  * resizeAvatar  000001  attempt 1 started in worker w1
09:00:03  + resizeAvatar  000001  download  completed                                                               2.0s
09:00:05  ~ resizeAvatar  000001  upload    TimeoutError: PUT https://cdn.example.com/avatars/img_123 timed o...    1.8s
09:00:06  - resizeAvatar  000001            waits for event avatar.approved [img_123]
09:00:07  +                                 event avatar.approved [img_123] received; resumed 000001
09:00:09  + resizeAvatar  000001            run completed {"sizes":[64]}                                            8.0s
"""  # noqa: E501 - as wide as the terminal


def avatar(daemon: FakeDaemon) -> None:
    """The records of a run from its beginning to its end."""
    run = daemon.add(run_object(1, job="resizeAvatar"))
    approved = {"name": "avatar.approved", "correlation_key": "img_123"}
    pair = list(approved.values())
    failed = {"error": ERROR, "retry_at": "2026-05-06T09:00:07.000000Z", "duration_ms": 1800}
    daemon.append(
        record(1, "run.created", run["id"], job="resizeAvatar", queue="media"),
        record(2, "attempt.started", run["id"], attempt=1, worker="w1"),
        record(3, "step.completed", run["id"], step="download", duration_ms=2000),
        record(5, "step.failed", run["id"], step="upload", **failed),
        record(6, "wait.started", run["id"], step="avatar.approved", wait="event", events=[pair]),
        record(7, "event.received", event="evt_1", **approved, resumed=[run["id"]]),
        record(9, "run.completed", run["id"], result={"sizes": [64]}),
    )


@pytest.mark.parametrize(
    ("cells", "locale", "golden"),
    [(80, "C.UTF-8", AT_80), (120, "C", ASCII_AT_120)],
    ids=["80", "120-ascii"],
)
def test_tail_on_a_terminal_is_a_line_for_each_record(
    terminal: Terminal, daemon: FakeDaemon, cells: int, locale: str, golden: str
) -> None:
    """Aligned, in words, none wider than the screen; what was cut keeps how long it took."""
    avatar(daemon)
    text, code = ended(
        terminal("runs", "tail", "--no-follow", "-n", "20", cells=cells, LC_ALL=locale)
    )
    assert [line.rstrip() for line in plain(text).splitlines()] == golden.strip().splitlines()
    assert (code, max(map(len, plain(text).splitlines())) <= cells) == (0, True)
    assert "\x1b[" in text
    assert daemon.asked("run.get") == 0


@pytest.mark.parametrize("width", [1, 12, 30, 40, 80, 99, 100, 200])
@pytest.mark.parametrize("marks", ["C.UTF-8", "C"])
def test_no_line_is_wider_than_the_screen(
    width: int, marks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever names and messages there are: wide ones, long ones, and ones with escapes."""
    monkeypatch.setenv("LC_ALL", marks)
    names = ["報告書を作る" * 9, "a", "x\x1b[2J" * 40]
    stream = Stream(Globals(), lambda run: Facts(names[int(run[-1])], T0))
    clock = Clock(from_rfc3339(T0))
    for number, name in enumerate(names):
        told = {"step": name, "error": {"type": "E", "message": name}, "duration_ms": 3_600_000}
        line = stream.line(record(1, "step.failed", run_id(number), **told), clock, width)
        assert (cell_len(line.plain) <= width, "\x1b" in line.plain) == (True, False)
        assert line.plain.endswith("1h00m") is (width >= 40)


def test_run_that_began_before_the_tail_is_looked_up_once(
    terminal: Terminal, daemon: FakeDaemon
) -> None:
    """Its job is on each of its lines; a run that was removed has none."""
    daemon.add(run_object(1, job="hello"))
    daemon.append(*(record(n, "step.completed", run_id(1), step="a") for n in (1, 2, 3)))
    daemon.append(record(4, "run.removed", run_id(9)))
    text, _ = ended(terminal("runs", "tail", "--no-follow"))
    told = [line.split()[1:5] for line in plain(text).splitlines()[1:]]
    assert told[:3] == [["✓", "hello", "000001", "a"]] * 3
    assert told[3] == ["000009", "run", "removed", "from"]
    assert daemon.asked("run.get") == 2


def test_event_tail_on_a_terminal_is_in_words(terminal: Terminal, daemon: FakeDaemon) -> None:
    """Names are escaped, and times are those of the screen's clock."""
    kept = "2026-05-13T09:00:00.000000Z"
    paid = {"event": "evt_1", "name": "paid\x1b[2J", "correlation_key": "o:1", "kept_until": kept}
    daemon.append(record(1, "event.received", **paid), record(2, "event.expired", **paid))
    text, _ = ended(terminal("event", "tail", "--no-follow", TZ="Asia/Tokyo"))
    day, first, second = plain(text).splitlines()
    assert day == "Wed 06 May 2026, JST"
    assert first.startswith("18:00:01  ○ event paid\\x1b[2J [o:1] received; kept until ")
    assert second == "18:00:02  ⊘ event paid\\x1b[2J [o:1] expired: no run took it"
    assert T0[:10] not in text
