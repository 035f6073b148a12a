"""What a person sees at a terminal: a pseudo-terminal of 100 by 30 cells."""

from __future__ import annotations

import re
import signal
from typing import Any

import pytest

from cli.conftest import Shell
from cli.fake_daemon import FakeDaemon, log_line, record, run_id, run_object
from cli.fake_state import change_object, event_object
from cli.render.conftest import Terminal, ended, plain

ERROR = {"type": "TimeoutError", "message": "PUT timed out", "traceback": ""}


def finished_run(daemon: FakeDaemon) -> dict[str, Any]:
    """A run with two steps, one of which was tried twice."""
    avatar = {"job": "resizeAvatar", "queue": "media", "result": {"é": "\x1b[2J"}}
    run = daemon.add(run_object(1, **avatar, created_at="2026-05-06T09:00:00.000000Z"))
    upload = {"step": "upload", "duration_ms": 2000, "attempt": 1}
    retry_at = "2026-05-06T09:00:07.000000Z"
    daemon.append(
        record(0, "run.created", run["id"]),
        record(1, "attempt.started", run["id"], attempt=1, code="abc", worker="gpu-1/w3"),
        record(3, "step.completed", run["id"], step="download", duration_ms=2000, attempt=1),
        record(5, "step.failed", run["id"], **upload, error=ERROR, retry_at=retry_at),
        record(9, "step.completed", run["id"], **upload),
        record(10, "run.completed", run["id"]) | {"at": "2026-05-06T09:00:09.000000Z"},
    )
    return run


def test_show_draws_the_timeline(terminal: Terminal, daemon: FakeDaemon) -> None:
    """Header, axis, a row per step to scale, the failed try, the result; escapes stay text."""
    finished_run(daemon)
    text, code = ended(terminal("runs", "show", "@last"))
    assert code == 0
    lines = [line.rstrip() for line in plain(text).splitlines()]
    spent = "(active 6.0s · backoff 2.0s · waiting 1.0s)"
    assert lines[0] == f"✓ run_…000001  resizeAvatar  completed in 9.0s  {spent}"
    assert lines[1] == "  queue media · attempt 1/3 · code abc · on gpu-1/w3"
    assert lines[2].startswith("  created 06 May 09:00")
    assert lines[4].split() == ["STEP", "0s", "2s", "4s", "6s", "8s", "9.0s"]
    marks = [line.split()[:2] for line in lines[5:8]]
    assert marks == [["✓", "queued"], ["✓", "download"], ["✓", "upload"]]
    assert re.search(r"▓+·+█+ +6\.0s  try 2$", lines[7])
    assert lines[8] == "  └ 1 TimeoutError: PUT timed out (2.0s), retried after 2.0s"
    assert lines[9] == '  result {"é": "\\u001b[2J"}'
    assert len(lines) == 10


def test_compact_is_the_bars_alone(terminal: Terminal, daemon: FakeDaemon) -> None:
    """Only the bars: no tries, no result."""
    finished_run(daemon)
    text, _ = ended(terminal("runs", "show", "@last", "--compact"))
    assert "TimeoutError" not in text
    assert "result" not in text
    assert "█" in text


def test_ascii_where_the_locale_is_not_utf8(terminal: Terminal, daemon: FakeDaemon) -> None:
    """Every character is one that the terminal can show."""
    finished_run(daemon)
    text, code = ended(terminal("runs", "show", "@last", LC_ALL="C"))
    assert (text.isascii(), code) == (True, 0)
    assert "+ upload" in plain(text)
    assert re.search(r"x+\.+#+", plain(text))


@pytest.mark.parametrize(
    ("argv", "env", "colored"),
    [
        ([], {}, True),
        (["--color", "never"], {}, False),
        ([], {"NO_COLOR": "1"}, False),
        (["--color", "always"], {"NO_COLOR": "1"}, True),
        ([], {"TERM": "dumb"}, False),
    ],
)
def test_colour_is_what_was_asked_for(
    terminal: Terminal, daemon: FakeDaemon, argv: list[str], env: dict[str, str], colored: bool
) -> None:
    """The option outranks the variables; without colour there is no escape sequence."""
    finished_run(daemon)
    text, _ = ended(terminal("runs", "show", "@last", *argv, **env))
    assert ("\x1b[" in text) is colored


@pytest.mark.usefixtures("daemon")
def test_list_that_finds_nothing_says_so(terminal: Terminal) -> None:
    """An empty list says so, except with `--quiet`."""
    assert ended(terminal("runs", "list")) == ("no runs\n", 0)
    assert ended(terminal("-q", "runs", "list")) == ("", 0)
    assert ended(terminal("runs", "list", "--job", "hello")) == ("no matching runs\n", 0)
    assert ended(terminal("dead", "list")) == ("the dead letter is empty\n", 0)
    none = "no matching runs in the dead letter\n"
    assert ended(terminal("dead", "list", "--job", "hello")) == (none, 0)


def test_settings_are_a_table(terminal: Terminal) -> None:
    """As other lists; what is not set is a dash, with what that means."""
    text, code = ended(terminal("config", "show", "--origin"))
    lines = [line.split() for line in plain(text).splitlines()]
    assert lines[0] == ["SETTING", "VALUE", "ORIGIN"]
    assert ["workers.slots", "16", "default"] in lines
    assert ["workers.processes", "-", "(one", "per", "CPU)", "default"] in lines
    assert ["hooks.on_failed", "-", "default"] in lines
    assert code == 0


def test_lists_are_tables(terminal: Terminal, daemon: FakeDaemon) -> None:
    """Lists have a header and no box."""
    daemon.add(run_object(1, status="failed", error={**ERROR, "message": "\x1b[31m"}))
    daemon.add(run_object(2, status="queued", why=f"queued 4m: media 4/4 busy, oldest {run_id(9)}"))
    text, code = ended(terminal("runs", "list"))
    header, first, second = (line.rstrip() for line in plain(text).splitlines())
    assert header.split() == ["ID", "JOB", "QUEUE", "STATUS", "ATTEMPT", "AGE", "TOOK", "WHY"]
    assert first.startswith("○  000002  hello  default  queued")
    assert first.endswith("queued 4m: media 4/4 busy, oldest 000009")
    assert second.startswith("✗  000001  hello  default  failed")
    assert code == 0
    for argv in (["jobs", "list"], ["daemon", "status"]):
        text, code = ended(terminal(*argv))
        assert (code, "default" in text) == (0, True)


def test_status_says_what_stands_still_and_what_is_left_out(
    terminal: Terminal, daemon: FakeDaemon
) -> None:
    """Daemon time that is ahead of the system clock, and queues beyond the first thousand; neither
    is worth a word where there is none."""
    printed, _ = ended(terminal("daemon", "status", cells=160))
    assert "daemon time" not in printed
    assert "more queues" not in printed
    usual = daemon.on_daemon_status({})
    daemon.answers["daemon.status"] = lambda _: (
        usual
        | {
            "clock_ahead_ms": 3_600_000,
            "more_queues": 7,
        }
    )
    printed, status = ended(terminal("daemon", "status", cells=160))
    assert status == 0
    assert re.search(r"daemon time.*1h00m ahead of the system clock, and stands still", printed)
    assert "and 7 more queues (stackshift queues list)" in printed


@pytest.mark.parametrize(
    ("cells", "header"),
    [
        (100, ["ID", "JOB", "QUEUE", "STATUS", "ATTEMPT", "AGE", "TOOK", "WHY"]),
        (80, ["ID", "JOB", "QUEUE", "STATUS", "AGE", "TOOK", "WHY"]),
        (67, ["ID", "JOB", "STATUS", "AGE", "TOOK", "WHY"]),
        (45, ["ID", "JOB", "STATUS", "WHY"]),
        (30, ["ID", "JOB", "STATUS"]),
    ],
)
def test_narrow_list_keeps_mark_and_status(
    terminal: Terminal, daemon: FakeDaemon, cells: int, header: list[str]
) -> None:
    """WHY is cut, then columns are dropped, and WHY has what is left; no line is too long."""
    daemon.add(run_object(1, status="failed", error={**ERROR, "message": "m" * 200}))
    text, code = ended(terminal("runs", "list", cells=cells))
    first, second = plain(text).splitlines()
    assert (first.split(), code) == (header, 0)
    assert second.startswith("✗  000001  hello")
    assert "  failed" in second
    assert second.endswith("…") is ("WHY" in header)
    assert max(len(first), len(second)) <= cells


@pytest.mark.parametrize("cells", [60, 120])
@pytest.mark.parametrize("name", ["dumb", "unknown"])
def test_dumb_terminal_has_a_width_too(
    terminal: Terminal, daemon: FakeDaemon, cells: int, name: str
) -> None:
    """What is too long is cut there, and neither sooner nor later."""
    daemon.add(run_object(1, status="failed", error={**ERROR, "message": "m" * 200}))
    text, code = ended(terminal("runs", "list", cells=cells, TERM=name))
    assert (max(map(len, plain(text).splitlines())), code) == (cells, 0)


def test_what_is_cut_ends_in_dots_where_the_locale_is_not_utf8(
    terminal: Terminal, daemon: FakeDaemon
) -> None:
    """Cut text ends in three dots, not in an escape."""
    long = {**ERROR, "message": "m" * 200}
    daemon.add(run_object(1, status="failed", error=long, job="j" * 200))
    for argv in (["runs", "list"], ["runs", "show", "@last"]):
        text, code = ended(terminal(*argv, LC_ALL="C"))
        assert ("\\u" in text, text.isascii(), code) == (False, True, 0)
        lines = plain(text).splitlines()
        assert any(line.endswith("...") for line in lines)
        assert max(map(len, lines)) <= 100


def test_show_of_a_run_without_records_draws_what_it_knows(
    terminal: Terminal, daemon: FakeDaemon
) -> None:
    """Its duration is that of the run object, not the time since then."""
    daemon.add(run_object(1, duration_ms=2000))
    text, code = ended(terminal("runs", "show", "@last"))
    lines = plain(text).splitlines()
    assert (lines[0], code) == ("✓ run_…000001  hello  completed in 2.0s", 0)
    assert lines[-1] == "  its records are no longer in the journal"


def test_tail_of_a_run_redraws_in_place_and_leaves_the_last_frame(
    terminal: Terminal, daemon: FakeDaemon
) -> None:
    """No alternate screen; the last frame is the whole picture of the ended run."""
    run = daemon.add(run_object(1, status="running", result=None, why="running in worker w1"))
    daemon.append(record(0, "run.created", run["id"]), record(1, "attempt.started", run["id"]))
    child = terminal("runs", "tail", "@last")
    child.expect("running in worker w1")
    daemon.append(record(2, "step.completed", run["id"], step="download", duration_ms=500))
    child.expect(r"✓ \x1b\[0mdownload")
    daemon.finish(run, 3, result={"ok": 1})
    text, code = ended(child)
    assert code == 0
    assert "\x1b[?1049h" not in text
    last = plain(text).rpartition("run_…")[2].splitlines()
    assert last[0].startswith("000001  hello  completed in 3.0s")
    assert last[-1].strip() == 'result {"ok": 1}'
    assert "✓ download" in "\n".join(last)


def test_follow_draws_and_ends_with_the_runs_status(terminal: Terminal, daemon: FakeDaemon) -> None:
    """`start --follow` on a terminal: a failed run is exit 1."""
    run = daemon.add(run_object(1, status="running"))
    daemon.answers["run.start"] = lambda _: {"id": run["id"], "reused": False, "status": "queued"}
    daemon.append(record(0, "run.created", run["id"]))
    child = terminal("start", "hello", "--follow")
    child.expect(run["id"])
    daemon.finish(run, 2, status="failed", error=ERROR)
    text, code = ended(child)
    assert "error TimeoutError: PUT timed out" in plain(text)
    assert code == 1


def test_ctrl_c_leaves_the_last_frame_and_detaches(terminal: Terminal, daemon: FakeDaemon) -> None:
    """The picture stays, the cursor is back, and the run continues."""
    run = daemon.add(run_object(1, status="waiting", why="sleeping until 09:00"))
    daemon.append(record(0, "run.created", run["id"]))
    child = terminal("runs", "tail", "@last")
    child.expect("sleeping until 09:00")
    daemon.wait_for_feeds()
    child.kill(signal.SIGINT)
    text, code = ended(child)
    assert f"Detached; {run['id']} continues" in text
    assert "\x1b[?25h" in text
    assert plain(text).count("sleeping until 09:00") >= 1
    assert code == 130


def test_live_picture_leaves_room_for_what_is_typed(terminal: Terminal, daemon: FakeDaemon) -> None:
    """`^C` after the last line does not make it wrap."""
    run = daemon.add(run_object(1, status="waiting", why="sleeping " + "x" * 200))
    daemon.append(record(0, "run.created", run["id"]))
    child = terminal("runs", "tail", "@last", cells=60)
    child.expect(r"\n([^\n]*sleeping x+…)")
    assert isinstance(child.match, re.Match)
    assert len(plain(str(child.match[1])).lstrip("\r")) == 58


def test_rm_asks(terminal: Terminal, daemon: FakeDaemon) -> None:
    """Nothing is removed without a yes."""
    daemon.add(run_object(1))
    child = terminal("runs", "rm", "@last")
    child.expect(re.escape(f"remove {run_id(1)} (hello, completed)? [y/N] "))
    child.sendline("n")
    text, code = ended(child)
    assert (code, daemon.asked("run.remove"), "nothing was changed" in text) == (0, 0, True)
    child = terminal("runs", "rm", "@last")
    child.expect("y/N")
    child.sendline("y")
    text, code = ended(child)
    assert (code, daemon.asked("run.remove"), run_id(1) in text) == (0, 1, True)


def test_logs_show_times_and_steps(terminal: Terminal, daemon: FakeDaemon) -> None:
    """On a terminal, only the time of day is shown, by the local clock."""
    daemon.add(run_object(1))
    daemon.logs.append(log_line("half\x1b[2J"))
    text, _ = ended(terminal("runs", "logs", "@last"))
    assert text == "09:00:01.500 a | half\\x1b[2J\n"
    text, _ = ended(terminal("runs", "logs", "@last", TZ="Asia/Tokyo"))
    assert text.startswith("18:00:01.500 a | ")
    text, _ = ended(terminal("runs", "show", "@last", "--logs"))
    assert "  09:00:01.500 a | half\\x1b[2J" in plain(text)


@pytest.mark.usefixtures("daemon")
def test_batch_counts_on_a_terminal_and_ends_with_a_summary(
    terminal: Terminal, shell: Shell
) -> None:
    """The counts are redrawn in place and erased at the end; bad lines and one summary stay. Ids
    that go elsewhere are not mixed with them."""
    good = '{"job": "a"}\n' * 1200
    (shell.directory / "starts.jsonl").write_text(good + "nonsense\n")
    child = terminal("start", "--batch", "starts.jsonl")
    text, code = ended(child)
    assert code == 6
    assert "\r" in text and "\x1b[K" in text
    *_, summary = [line for line in plain_of_erasure(text).splitlines() if line]
    assert re.fullmatch(r"1,200 started, 1 bad in \d.*", summary)
    assert any(
        line.startswith("line 1201: error[") for line in text.replace("\r", "\n").split("\n")
    )
    quiet, _ = ended(terminal("-q", "start", "--batch", "starts.jsonl"))
    assert "started" not in quiet and "\x1b" not in quiet


def plain_of_erasure(text: str) -> str:
    """`text` without what was drawn and then erased."""
    return re.sub(r"\r[^\r\n]*(?=\r\x1b\[K)", "", text).replace("\r\x1b[K", "")


def test_dry_run_of_a_retry_is_a_table_of_steps(terminal: Terminal, daemon: FakeDaemon) -> None:
    """Each recorded step with what happens to it, and the counts below."""
    daemon.add(run_object(1, status="failed"))
    text, code = ended(terminal("runs", "retry", "@last", "--dry-run"))
    header, *rows, counts = [" ".join(line.split()) for line in plain(text).splitlines()]
    assert (header, code) == ("STEP KIND WAS THEN RUN", 0)
    assert rows == [
        "a run completed reused",
        "b sleep completed reused",
        "c start completed starts a run again 000007",
        "d is tried again",
    ]
    assert counts == "dry run: 2 recorded steps reused, 1 repeated"


def run_with_branches(daemon: FakeDaemon) -> None:
    """A run of two branches `index`, one of which was cancelled, and a decision."""
    run = daemon.add(run_object(1, created_at="2026-05-06T09:00:00.000000Z", result="paid"))
    fetch = {"duration_ms": 1000, "attempt": 1}
    sleep = {"wait": "sleep", "attempt": 1}
    daemon.append(
        record(0, "run.created", run["id"]),
        record(0, "attempt.started", run["id"], attempt=1, code="abc"),
        record(1, "step.completed", run["id"], step="index/fetch", **fetch),
        record(1, "step.completed", run["id"], step="index#2/fetch", **fetch),
        record(1, "wait.started", run["id"], step="index#2/[timer 5.0s]", **sleep),
        record(1, "wait.started", run["id"], step="[timer 1h00m]", **sleep),
        record(3, "step.completed", run["id"], step="index/leaf/a", **fetch),
        record(4, "step.completed", run["id"], step="index/leaf/b", **fetch),
        record(6, "wait.ended", run["id"], step="index#2/[timer 5.0s]"),
        record(6, "call.withdrawn", run["id"], step="[timer 1h00m]"),
        record(6, "wait.started", run["id"], step="index#2/rest", **sleep),
        record(7, "value.recorded", run["id"], step="decision", value="paid"),
        record(8, "call.withdrawn", run["id"], step="index#2/rest"),
        record(8, "run.completed", run["id"]),
    )


BRANCHES = """
✓ index|4.0s
✓   fetch|1.0s
✓   leaf|2.0s
✓     a|1.0s
✓     b|1.0s
⊘ index#2|8.0s
✓   fetch|1.0s
✓   timer 5.0s|5.0s  asyncio
⊘   rest|2.0s  sleep
✓ decision|0ms  paid
"""


@pytest.mark.parametrize("cells", [60, 80, 120])
def test_branches_are_groups(terminal: Terminal, daemon: FakeDaemon, cells: int) -> None:
    """Calls of a branch are indented below its header; what was given up is cancelled; a timer
    that never ran out has no row; nothing is too wide."""
    run_with_branches(daemon)
    text, code = ended(terminal("runs", "show", "@last", cells=cells))
    lines = plain(text).splitlines()
    assert (code, max(map(len, lines)) <= cells) == (0, True)
    told = [re.sub(" *[░█][ ░█]*", "|", line) for line in lines[-11:-1]]
    assert told == BRANCHES.strip().splitlines()


def test_branches_in_ascii_and_in_an_export(
    terminal: Terminal, shell: Shell, daemon: FakeDaemon
) -> None:
    """The same lines, in characters that the locale can show, and in the picture as a file."""
    run_with_branches(daemon)
    text, code = ended(terminal("runs", "show", "@last", LC_ALL="C"))
    assert (text.isascii(), code) == (True, 0)
    assert re.search(r"^/   rest +-+ +2\.0s  sleep$", plain(text), re.MULTILINE)
    assert shell("runs", "show", "@last", "--html", "a.html", "--svg", "a.svg").code == 0
    for name in ("a.html", "a.svg"):
        page = (shell.directory / name).read_text(encoding="utf-8")
        assert all(f"{word}<" in page for word in ("index#2", "timer 5.0s", "decision")), name


def test_locks_and_events_are_drawn(terminal: Terminal, daemon: FakeDaemon) -> None:
    """Holding a lock looks different from waiting for it and from work."""
    run = daemon.add(run_object(1, created_at="2026-05-06T09:00:00.000000Z"))
    awaited = [["avatar.approved", "img_1"]]
    event = {"name": "avatar.approved", "correlation_key": "img_1"}
    daemon.append(
        record(0, "run.created", run["id"]),
        record(1, "attempt.started", run["id"], attempt=1, code="abc"),
        record(2, "lock.acquired", run["id"], step="[lock index\x1b]", key="index\x1b"),
        record(3, "wait.started", run["id"], step="approve", wait="event", events=awaited),
        record(5, "wait.ended", run["id"], step="approve", **event, event="evt_1"),
        record(7, "step.completed", run["id"], step="publish", duration_ms=2000, attempt=1),
        record(8, "lock.released", run["id"], key="index\x1b", reason="left"),
        record(9, "run.completed", run["id"]),
    )
    text, code = ended(terminal("runs", "show", "@last"))
    assert code == 0
    assert re.search(r"✓ lock index\\x1b +─+ +6\.0s$", plain(text), re.MULTILINE)
    assert re.search(
        r"✓ approve +░+ +2\.0s  event avatar\.approved \[img_1\]$", plain(text), re.MULTILINE
    )
    text, _ = ended(terminal("runs", "show", "@last", LC_ALL="C"))
    assert re.search(r"\+ lock index\\x1b +=+ +6\.0s$", plain(text), re.MULTILINE)


def test_lists_of_state_and_events_are_tables(terminal: Terminal, daemon: FakeDaemon) -> None:
    """They have a header, wide cells are cut, and an empty list says so."""
    assert ended(terminal("state", "list"))[0] == "no entries\n"
    assert ended(terminal("event", "list"))[0] == "no events\n"
    daemon.put("counter", 5)
    daemon.put("long", "x" * 500 + "\x1b")
    daemon.events = [event_object(1, correlation_key="o:1"), event_object(2)]
    daemon.history = [change_object(9, "deleted", 3, None, by=run_id(1))]
    lines = plain(ended(terminal("state", "list"))[0]).splitlines()
    assert lines[0].split() == ["KEY", "VERSION", "VALUE", "UPDATED", "(UTC)", "EXPIRES"]
    assert re.fullmatch(r"counter +1 +5 +(06 May|2026-05-06) 09:00", lines[1])
    assert "…" in lines[2]
    assert max(map(len, lines)) <= 100
    lines = plain(ended(terminal("state", "history", "counter"))[0]).splitlines()
    assert re.fullmatch(r"9 +(06 May|2026-05-06) 09:00 +deleted +3 +0+1", lines[1])
    text = plain(ended(terminal("event", "list", "--limit", "1"))[0])
    assert text.splitlines()[0].split() == ["ID", "NAME", "KEY", "RECEIVED", "(UTC)", "EXPIRES"]
    assert text.splitlines()[2] == "showing the newest 1; use --limit N to see more"


def test_messages_are_on_the_clock_of_the_screen(
    terminal: Terminal, shell: Shell, daemon: FakeDaemon
) -> None:
    """Times in what is said, errors included, are local on a terminal and UTC elsewhere; JSON is
    always UTC."""
    text, code = ended(terminal("state", "lock", "k", "--ttl", "1h", TZ="Asia/Tokyo"))
    assert re.search(r"k is held until (06 May|2026-05-06) 19:00\n", text)
    assert code == 0
    text, code = ended(terminal("--json", "state", "lock", "k", "--ttl", "1h", TZ="Asia/Tokyo"))
    assert re.search(r"error\[lock_held\]: .* until (06 May|2026-05-06) 19:00\n", text)
    assert '"expires_at":"2026-05-06T10:00:00.000000Z"' in text
    assert code == 5
    daemon.locks.clear()
    assert "until 2026-05-06T10:00:00" in shell("state", "lock", "k", "--ttl", "1h").stderr


def test_raw_text_cannot_move_the_terminal(terminal: Terminal, daemon: FakeDaemon) -> None:
    """Line breaks and tabs are kept, everything else is escaped."""
    daemon.put("k", "a\tb\nc\x1b[2J")
    text, code = ended(terminal("state", "get", "k", "--raw"))
    assert (text.replace("\t", " ").split("\n"), code) == (["a b", "c\\x1b[2J", ""], 0)


def test_ctrl_c_reaches_a_command_under_a_lock_once(terminal: Terminal, daemon: FakeDaemon) -> None:
    """The terminal sends it to both processes; the command decides what happens, and the lock is
    released. The command can read from the terminal too."""
    script = "trap 'echo caught' INT; read line; echo \"got $line\"; read line; exit 4"
    child = terminal("state", "lock", "k", "--", "sh", "-c", script)
    child.sendline("typed")
    child.expect("got typed")
    child.sendintr()
    child.expect("caught")
    child.sendline("")
    text, code = ended(child)
    assert "caught" not in text
    assert code == 4
    assert daemon.locks == {}


@pytest.mark.parametrize("cells", [80, 100])
def test_long_name_costs_no_list_a_column(
    terminal: Terminal, daemon: FakeDaemon, cells: int
) -> None:
    """It is cut; one run, or one job, would take the column from all others."""
    long = "recalculateEverythingForAllCustomersAndRegions"
    daemon.add(run_object(1, status="failed", error=ERROR, job=long))
    daemon.add(run_object(2))
    header, *_ = plain(ended(terminal("runs", "list", cells=cells))[0]).splitlines()
    assert {"AGE", "TOOK", "WHY"} <= set(header.split())
    [job] = daemon.on_job_list({})["jobs"]
    jobs = [job | {"cron": None}, job | {"name": long, "module": f"jobs.{long}", "cron": "@daily"}]
    daemon.answers["job.list"] = lambda _: daemon.on_job_list({}) | {"jobs": jobs}
    lines = plain(ended(terminal("jobs", "list", cells=cells))[0]).splitlines()
    assert lines[0].split()[-2:] == ["CODE", "SCHEDULE"]
    assert lines[2].split()[-2:] == ["3f9c2a1", "@daily"]
    assert max(map(len, lines)) <= cells


def test_jobs_without_schedules_have_no_column_for_them(
    terminal: Terminal, daemon: FakeDaemon
) -> None:
    """As most have none."""
    assert daemon.on_job_list({})["jobs"]
    assert "SCHEDULE" not in ended(terminal("jobs", "list"))[0]


@pytest.mark.usefixtures("daemon")
def test_errors_are_broken_between_words_on_a_terminal_only(
    terminal: Terminal, shell: Shell
) -> None:
    """No line is too long for it; in a pipe an error is one line, as scripts expect. A hint, which
    has a command in it, is one line in both."""
    argv = ("runs", "list", "--limit", "12 times as many as there are, or whatever fits")
    error, *more = shell(*argv).stderr.splitlines()
    text, code = ended(terminal(*argv, cells=40))
    lines = plain(text).splitlines()
    shown = [line for line in lines if not line.startswith("hint: ")]
    assert code == 2
    assert len(shown) > 1
    assert max(map(len, shown)) <= 40
    assert " ".join(line.strip() for line in shown) == error
    assert lines[len(shown) :] == more


def test_hosts_are_a_table_in_which_the_problem_gives_way(
    terminal: Terminal, daemon: FakeDaemon
) -> None:
    """In `hosts list`, and below the workers in `daemon status`."""
    usual = daemon.on_daemon_status({})
    host = {"name": "gpu-1", "status": "serving", "workers": ["gpu-1/w2"], "version": "0.1.0"}
    far: dict[str, Any] = {"name": "far", "status": "unreachable", "workers": [], "version": None}
    hosts = [
        host | {"round_trip_ms": 0.42, "problem": None},
        far | {"round_trip_ms": None, "problem": "ssh: connect to host far: " + "no route " * 20},
    ]
    for method in ("daemon.status", "leader.status"):
        daemon.answers[method] = lambda _: usual | {"hosts": hosts}
    for argv in (["hosts", "list"], ["daemon", "status"]):
        printed, status = ended(terminal("--color", "never", *argv, cells=80))
        assert status == 0
        rows = [line.split() for line in printed.splitlines()]
        assert ["HOST", "STATUS", "WORKERS", "ROUND", "TRIP", "VERSION", "PROBLEM"] in rows
        assert ["gpu-1", "serving", "gpu-1/w2", "0.4ms", "0.1.0"] in rows
        [row] = [line for line in printed.splitlines() if line.startswith("far ")]
        assert "unreachable" in row
        assert row.endswith("…")
        assert len(row) <= 80


def test_members_of_a_cluster_are_a_table_below_their_journal(
    terminal: Terminal, daemon: FakeDaemon
) -> None:
    """Who leads, who is behind, whose clock is wrong; and that of a follower's daemon says whom it
    follows."""
    member = {"version": "0.1.0", "address": "10.0.0.5:7433", "seen_ms": 300}
    members = [
        member | {"host": "app-1", "role": "leads", "seq": 4_120, "clock_ahead_ms": 0},
        member | {"host": "app-2", "role": "follows", "seq": 4_100, "clock_ahead_ms": -2500},
    ]
    daemon.answers["cluster.status"] = lambda _: {
        "journal": "jrn_1",
        "seq": 4_120,
        "leader": "app-1",
        "url": "postgresql://db-1/shop",
        "answers": True,
        "server": "15.18",
        "synchronous": "db_2",
        "members": members,
    }
    printed, status = ended(terminal("--color", "never", "cluster", "status", cells=100))
    assert status == 0
    lines = printed.splitlines()
    assert "jrn_1 in postgresql://db-1/shop · record 4,120 · app-1 leads" in lines
    assert "PostgreSQL 15.18 · commits wait for db_2" in lines
    rows = [line.split() for line in lines]
    assert "HOST ROLE RECORD BEHIND CLOCK VERSION ADDRESS SEEN".split() in rows
    assert "app-1 leads 4,120 0.1.0 10.0.0.5:7433 300ms ago".split() in rows
    assert "app-2 follows 4,100 20 -2.5s 0.1.0 10.0.0.5:7433 300ms ago".split() in rows
    usual = daemon.on_daemon_status({})
    daemon.answers["daemon.status"] = lambda _: usual | {"role": "follows", "leader": "app-1"}
    printed, _ = ended(terminal("--color", "never", "daemon", "status", cells=100))
    assert "follows the one on app-1" in printed
