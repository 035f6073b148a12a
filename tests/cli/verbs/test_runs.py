"""Transcripts of `runs list|show|why|logs|cancel|move|retry|fork|rm`."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import Shell
from cli.fake_daemon import T0, FakeDaemon, log_line, record, run_id, run_object
from stackshift_jobs.errors import Conflict, NotFound
from stackshift_jobs.values.durations import from_rfc3339


def test_list_off_a_terminal_is_tab_separated_without_a_header(
    shell: Shell, daemon: FakeDaemon
) -> None:
    """`id status job queue attempt created_at duration_ms`, newest first, nothing cut."""
    daemon.add(run_object(1, job="a" * 100))
    daemon.add(run_object(2, status="running", duration_ms=None, attempt=2))
    assert shell("runs", "list") == (
        f"{run_id(2)}\trunning\thello\tdefault\t2\t{T0}\t\n"
        f"{run_id(1)}\tcompleted\t{'a' * 100}\tdefault\t1\t{T0}\t12\n",
        "",
        0,
    )


def test_list_json_is_an_array_of_run_objects(shell: Shell, daemon: FakeDaemon) -> None:
    """`--json` prints whole run objects."""
    run = daemon.add(run_object(1))
    assert json.loads(shell("runs", "list", "--json").stdout) == [run]


@pytest.mark.parametrize("name", ["parent", "forked_from"])
def test_list_of_what_came_of_a_run_names_it(shell: Shell, daemon: FakeDaemon, name: str) -> None:
    """It is passed on as it was written: the daemon knows what it stands for."""
    daemon.add(run_object(1))
    assert shell("runs", "list", f"--{name.replace('_', '-')}", "@last").code == 0
    assert daemon.params("run.list")[name] == "@last"


def test_list_of_several_statuses(shell: Shell, daemon: FakeDaemon) -> None:
    """With commas in between; a single one is sent as it is."""
    assert shell("runs", "list", "--status", "queued,running").code == 0
    assert daemon.params("run.list")["status"] == ["queued", "running"]
    assert shell("runs", "list", "--status", "failed").code == 0
    assert daemon.params("run.list")["status"] == "failed"


def test_list_until_a_time_or_a_duration_ago(shell: Shell, daemon: FakeDaemon) -> None:
    """As for `--since`; anything else is refused before a request is made."""
    assert shell("runs", "list", "--until", "2026-05-06T09:00:00+02:00").code == 0
    assert daemon.params("run.list")["until"] == "2026-05-06T07:00:00.000000Z"
    assert shell("runs", "list", "--since", "2d", "--until", "1d").code == 0
    sent = daemon.params("run.list")
    assert from_rfc3339(sent["until"]) - from_rfc3339(sent["since"]) >= 86_400_000_000
    told = shell("runs", "list", "--until", "soon")
    assert told.code == 2
    assert told.stderr.splitlines() == [
        "error[usage]: --until: 'soon' is not a time",
        "hint: write 30m, 7d (ago) or 2026-05-06T09:00:00Z",
    ]


def test_show_asks_for_page_after_page(shell: Shell, daemon: FakeDaemon) -> None:
    """A run whose records do not fit into one answer is shown with all of them."""
    run = daemon.add(run_object(1))
    records = [record(seq, "progress.reported", run["id"]) for seq in range(1, 8)]
    daemon.records += records
    daemon.page_records = 3
    shown = json.loads(shell("runs", "show", "@last", "--json").stdout)
    assert shown["timeline"] == records
    assert "cursor" not in shown
    assert daemon.asked("run.get") == 3
    assert daemon.params("run.get")["run"] == run["id"]


def test_schedules_queues_and_jobs_are_listed_page_after_page(
    shell: Shell, daemon: FakeDaemon
) -> None:
    """Each page's cursor is sent for the next."""

    def page(params: dict[str, Any]) -> Any:
        at = int(params.get("cursor", 0))
        job = {"name": f"j{at}", "module": "jobs.a", "queue": "q", "max_attempts": 1}
        cursor = str(at + 1) if at < 2 else None
        return {"jobs": [job], "failed_modules": [], "cursor": cursor}

    daemon.answers["job.list"] = page
    listed = json.loads(shell("jobs", "list", "--json").stdout)
    assert [job["name"] for job in listed] == ["j0", "j1", "j2"]


def test_names_of_others_make_no_columns_and_no_lines(shell: Shell, daemon: FakeDaemon) -> None:
    """A tab or a line break in a name is escaped."""
    daemon.add(run_object(1, job="a\tb\nc\x1b\u202e"))
    told = shell("runs", "list").stdout
    assert told.split("\t")[2] == r"a\tb\nc\x1b\u202e"
    assert told.count("\n") == 1


def test_list_filters_are_sent(shell: Shell, daemon: FakeDaemon) -> None:
    """Every filter is sent to the daemon under its name."""
    told = shell.run(
        """run list --job j --status failed --queue q --label a=b --label c=d
        --since 2026-05-06T09:00:00Z --limit 7 --dead"""
    )
    assert told.code == 0
    assert daemon.params("run.list") == {
        "job": "j",
        "status": "failed",
        "queue": "q",
        "labels": {"a": "b", "c": "d"},
        "since": "2026-05-06T09:00:00.000000Z",
        "limit": 7,
        "dead": True,
    }


def test_since_may_be_a_duration(shell: Shell, daemon: FakeDaemon) -> None:
    """`--since 1h` is sent as a time, an hour ago."""
    assert shell("runs", "list", "--since", "1h").code == 0
    assert daemon.params("run.list")["since"].endswith("Z")


def test_list_goes_on_from_page_to_page(shell: Shell, daemon: FakeDaemon) -> None:
    """A long list takes several requests; `--cursor` continues it later."""
    for number in range(1, 1206):
        daemon.add(run_object(number))
    told = shell("runs", "list", "--limit", "1200")
    assert len(set(told.stdout.splitlines())) == 1200
    assert [params["limit"] for _, params in daemon.requests] == [1000, 200]
    told = shell("runs", "list", "--cursor", run_id(6))
    assert [line.split("\t")[0] for line in told.stdout.splitlines()] == [
        run_id(n) for n in (5, 4, 3, 2, 1)
    ]


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize("argv", [["--limit", "0"], ["--limit", "x"], ["--label", "a"]])
def test_wrong_filters_are_usage(shell: Shell, argv: list[str]) -> None:
    """A filter that is not valid: exit 2."""
    assert shell("runs", "list", *argv).code == 2


def _told_run(daemon: FakeDaemon) -> dict[str, Any]:
    run = daemon.add(
        run_object(1, status="retrying", finished_at=None, why="retry 2/3 at 12:41:20")
    )
    error = {"type": "E", "message": "x\ty", "traceback": ""}
    daemon.append(
        record(1, "run.created", run["id"], job="hello"),
        record(2, "step.failed", run["id"], attempt=1, step="a", error=error),
    )
    daemon.logs.append(log_line("half\x1b way"))
    return run


def test_show_in_a_pipe_is_one_line_an_entry_and_why(shell: Shell, daemon: FakeDaemon) -> None:
    """A line per record; the last line says why the run is not progressing."""
    run = _told_run(daemon)
    assert shell("runs", "show", "@last").stdout.splitlines() == [
        f"1\t2026-05-06T09:00:01.000000Z\trun.created\t{run['id']}\t\t\tjob=hello",
        f"2\t2026-05-06T09:00:02.000000Z\tstep.failed\t{run['id']}\t1\ta\tE: x\\ty",
        f"\t\twhy\t{run['id']}\t1\t\tretry 2/3 at 12:41:20",
    ]


def test_show_with_logs_puts_lines_where_they_were_printed(
    shell: Shell, daemon: FakeDaemon
) -> None:
    """Log lines are sorted among the records by time."""
    run = _told_run(daemon)
    kinds = [
        line.split("\t")[2] for line in shell("runs", "show", "@last", "--logs").stdout.splitlines()
    ]
    assert kinds == ["run.created", "log.stdout", "step.failed", "why"]
    told = json.loads(shell("runs", "show", run["id"], "--logs", "--json").stdout)
    assert told["logs"] == daemon.logs


def test_show_of_a_run_without_records_says_that_they_are_gone(
    shell: Shell, daemon: FakeDaemon
) -> None:
    """The run's own duration, and why there is nothing else."""
    run = daemon.add(run_object(1, duration_ms=2000))
    assert shell("runs", "show", "@last").stdout == (
        f"\t{T0}\tend\t{run['id']}\t1\t\t"
        "completed in 2.0s; its records are no longer in the journal\n"
    )


def test_show_json_has_the_detail(shell: Shell, daemon: FakeDaemon) -> None:
    """`--json`: the run object with steps, attempts and timeline."""
    _told_run(daemon)
    told = json.loads(shell("runs", "show", "@last", "--json").stdout)
    assert [entry["kind"] for entry in told["timeline"]] == ["run.created", "step.failed"]
    assert {"steps", "attempts"} <= told.keys()


@pytest.mark.parametrize("form", ["svg", "html"])
def test_show_writes_a_picture_that_needs_nothing_from_elsewhere(
    shell: Shell, daemon: FakeDaemon, tmp_path: Path, form: str
) -> None:
    """The file holds the picture, with its texts escaped, and loads no font."""
    run = _told_run(daemon)
    run["job"] = "<script>x"
    file = tmp_path / "run"
    told = shell("runs", "show", "@last", f"--{form}", str(file), "--logs")
    assert told == ("", f"wrote {file}\n", 0)
    text = file.read_text()
    assert "retrying" in text
    assert "url(" not in text.replace("url(#", "")
    assert "<script>" not in text


@pytest.mark.parametrize("form", ["svg", "html"])
def test_show_writes_a_picture_to_standard_output(
    shell: Shell, daemon: FakeDaemon, form: str
) -> None:
    """`-` is no file of that name; the two forms cannot share a stream."""
    _told_run(daemon)
    told = shell("runs", "show", "@last", f"--{form}", "-")
    assert (told.stderr, told.code) == ("", 0)
    assert told.stdout.rstrip().endswith(f"</{form}>")
    assert not (shell.directory / "-").exists()
    assert shell("runs", "show", "@last", "--svg", "-", "--html", "-").code == 2


def test_show_cannot_write_is_usage(shell: Shell, daemon: FakeDaemon) -> None:
    """A file that cannot be written: exit 2 and the reason."""
    _told_run(daemon)
    told = shell("runs", "show", "@last", "--svg", "/no/such/dir/x.svg")
    assert (told.stdout, told.code) == ("", 2)


@pytest.mark.usefixtures("daemon")
def test_unknown_run_is_exit_4(shell: Shell) -> None:
    """Nothing on stdout, the error and its hint on stderr."""
    assert shell("runs", "show", "9x2q") == (
        "",
        "error[not_found]: no run ends in 9x2q\nhint: stackshift runs list\n",
        4,
    )


def test_why_is_one_sentence(shell: Shell, daemon: FakeDaemon) -> None:
    """`runs why` prints the sentence, `--json` also the code."""
    daemon.add(
        run_object(1, status="queued", why="queued 4m: media 4/4 busy", why_code="queue_full")
    )
    assert shell("runs", "why", "@last") == ("queued 4m: media 4/4 busy\n", "", 0)
    assert json.loads(shell("runs", "why", "@last", "--json").stdout)["why_code"] == "queue_full"
    daemon.add(run_object(2))
    assert shell("runs", "why", "@last").stdout == "it is completed\n"


def test_why_says_how_far_and_what_a_child_waits_for(shell: Shell, daemon: FakeDaemon) -> None:
    """A running run has its progress; one that waits for a child, the child's reason too, also
    where the child is gone."""
    run = daemon.add(run_object(1, status="running", why="running for 4.0s in worker w1"))
    daemon.append(
        record(1, "attempt.started", run["id"], attempt=1),
        record(1, "progress.reported", run["id"], done=20, total=100, message="rows"),
        record(3, "progress.reported", run["id"], done=40, total=100, message="rows"),
    )
    told = "running for 4.0s in worker w1; 40/100 rows, 40%, 10/s, 6.0s left\n"
    assert shell("runs", "why", "@last") == (told, "", 0)
    waits = {"kind": "child", "step": "call", "until": None}
    for number, child in ((2, 3), (4, 5)):
        waiting_for = {**waits, "run": run_id(child)}
        why = f"waiting for {run_id(child)} (waiting)"
        daemon.add(run_object(number, status="waiting", waiting_for=waiting_for, why=why))
    daemon.add(run_object(3, status="waiting", why="sleeping \x1b"))
    told = f"waiting for {run_id(3)} (waiting): sleeping \\x1b\n"
    assert shell("runs", "why", run_id(2)) == (told, "", 0)
    assert shell("runs", "why", run_id(4)).stdout == f"waiting for {run_id(5)} (waiting)\n"


def test_picture_is_drawn_where_it_is_asked_for(shell: Shell, daemon: FakeDaemon) -> None:
    """`--picture` draws in a pipe, as wide as COLUMNS says, and `--color always` in colour."""
    _told_run(daemon)
    for argv, colored in (["--picture"], False), (["--color", "always"], True):
        told = shell("runs", "show", "@last", *argv, COLUMNS="60")
        assert (told.code, "STEP" in told.stdout) == (0, True)
        assert ("\x1b[" in told.stdout) is colored
        plain = re.sub(r"\x1b\[[0-9;]*m", "", told.stdout)
        assert max(map(len, plain.splitlines())) <= 60
    told = shell("runs", "show", "@last", "--picture", COLUMNS="")
    assert max(map(len, told.stdout.splitlines())) <= 100


def test_last_lines_of_a_failing_step_stand_below_its_row(shell: Shell, daemon: FakeDaemon) -> None:
    """The last three that the step printed, without those of others; all are there with
    `--logs`."""
    run = _told_run(daemon)
    run["steps"] = [{"name": "a", "status": "retrying"}]
    daemon.logs = [*(log_line(f"line {n}") for n in range(9)), {**log_line("other"), "step": "b"}]
    told = shell("runs", "show", "@last", "--picture").stdout
    assert re.findall(r"\| (.+)", told) == ["line 6", "line 7", "line 8"]
    told = shell("runs", "show", "@last", "--picture", "--logs").stdout
    assert re.findall(r"\| (.+)", told) == [*(f"line {n}" for n in range(9)), "other"]


def test_children_are_asked_for_once_and_with_tree_in_whole(
    shell: Shell, daemon: FakeDaemon
) -> None:
    """A run that awaits itself through its children is drawn, not followed for ever."""
    mother = daemon.add(run_object(1, status="waiting"))
    child = daemon.add(run_object(2, job="other", status="waiting", why="sleeping"))
    for this, that in (mother, child), (child, mother):
        waits = {"wait": "child", "child": that["id"], "step": "call", "attempt": 1}
        daemon.append(
            record(1, "run.created", this["id"]), record(1, "wait.started", this["id"], **waits)
        )
    told = shell("runs", "show", mother["id"], "--picture").stdout
    assert "run_…000002 other waiting" in told
    assert told.count("call") == 1
    opened = shell("runs", "show", mother["id"], "--picture", "--tree")
    assert (opened.code, opened.stdout.count("call") > 1) == (0, True)


def test_logs_are_lines_of_columns(shell: Shell, daemon: FakeDaemon) -> None:
    """`at attempt step stream message`; `--step` filters; `--json` gives an object a line."""
    _told_run(daemon)
    line = "2026-05-06T09:00:01.500000Z\t1\ta\tstdout\thalf\\x1b way\n"
    assert shell("runs", "logs", "@last") == (line, "", 0)
    assert shell("runs", "logs", "@last", "--step", "b").stdout == ""
    assert json.loads(shell("runs", "logs", "@last", "--json").stdout) == daemon.logs[0]


def test_logs_of_a_step_that_there_is_not_say_so(shell: Shell, daemon: FakeDaemon) -> None:
    """A step that has printed nothing is another thing than a name that was misspelled."""
    run = daemon.add(run_object(1))
    run["steps"] = [{"name": "charge", "status": "completed"}]
    charged = shell("runs", "logs", run["id"], "--step", "charge")
    assert charged == ("", "", 0)
    note = f"note: {run['id']} has not reached a step "
    for typed, hint in (("chrage", "did you mean charge?"), ("mail", "its steps: charge")):
        told = shell("runs", "logs", run["id"], "--step", typed)
        assert told == ("", f"{note}'{typed}'\nhint: {hint}\n", 0)


def test_logs_on_a_terminal_mark_what_is_not_standard_output(
    shell: Shell, daemon: FakeDaemon
) -> None:
    """In the picture of the run, and in its page."""
    _told_run(daemon)
    daemon.logs.append({**daemon.logs[0], "stream": "stderr", "message": "oh"})
    told = shell("runs", "show", "@last", "--picture", "--logs").stdout
    assert "| half" in told
    assert "stderr | oh" in told
    file = shell.directory / "a.html"
    shell("runs", "show", "@last", "--html", str(file), "--logs")
    assert "stderr | oh" in file.read_text()


def test_logs_follow_until_the_run_ends(shell: Shell, daemon: FakeDaemon) -> None:
    """`-f` prints lines as they are written and ends with the run; no line is lost or repeated."""
    run = _told_run(daemon)
    following = shell.popen("runs", "logs", "@last", "-f")
    daemon.wait_for("run.logs", 2)
    daemon.logs.append({**daemon.logs[0], "message": "all the way"})
    daemon.finish(run, 3)
    out, _ = following.communicate(timeout=60)
    messages = [line.split("\t")[4] for line in out.decode().splitlines()]
    assert messages == ["half\\x1b way", "all the way"]
    assert following.returncode == 0


def test_cancel_prints_ids_and_says_what_was_over(shell: Shell, daemon: FakeDaemon) -> None:
    """A finished run is not an error: exit 0, with a message."""
    daemon.add(run_object(1))
    daemon.add(run_object(2, status="running"))
    told = shell("runs", "cancel", run_id(1), run_id(2))
    assert told == (f"{run_id(1)}\n{run_id(2)}\n", f"{run_id(1)} has already completed\n", 0)


def test_move_prints_ids_and_says_where_runs_are_now(shell: Shell, daemon: FakeDaemon) -> None:
    """Each run is a request of its own; the first that cannot be moved decides the exit status."""
    at = "2026-05-06T10:00:00.000000Z"

    def moved(params: dict[str, Any]) -> Any:
        if params["run"] == run_id(2):
            raise Conflict(f"{run_id(2)} is running; only …", hint="stackshift runs why")
        changed = params["run"] == run_id(1)
        status = "scheduled" if changed else "queued"
        shown = {"id": params["run"], "changed": changed, "status": status}
        return shown | {"scheduled_at": at if changed else None}

    daemon.answers["run.move"] = moved
    told = shell("runs", "move", run_id(1), run_id(2), run_id(3), "--at", at, "--priority", "7")
    assert told.stdout == f"{run_id(1)}\n{run_id(3)}\n"
    assert told.stderr.splitlines() == [
        f"{run_id(1)} is now scheduled, due {at}",
        f"error[conflict]: {run_id(2)} is running; only …",
        "hint: stackshift runs why",
        f"{run_id(3)} is already queued",
    ]
    assert told.code == 5
    sent = {"run": run_id(3), "scheduled_at": at, "priority": 7}
    assert daemon.params("run.move") == sent


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "where to move the run is missing"),
        ("--now --delay 1h", "only one of --now, --delay and --at can be given"),
        ("--delay 1h --at 2026-05-06T10:00:00Z", "--delay and --at cannot be used together"),
        ("--priority high", "--priority takes a whole number, not 'high'"),
    ],
)
def test_move_to_nowhere_or_to_two_times_is_refused(
    shell: Shell, options: str, message: str
) -> None:
    """Before anything is sent."""
    told = shell("runs", "move", run_id(1), *options.split())
    assert (told.stdout, told.code) == ("", 2)
    assert told.stderr.startswith(f"error[usage]: {message}\n")


def test_cancel_goes_on_after_one_that_does_not_exist(shell: Shell, daemon: FakeDaemon) -> None:
    """The others are cancelled; the exit status says that one was not found."""
    run = daemon.add(run_object(2, status="running"))
    told = shell("runs", "cancel", "nope", run_id(2), "--json")
    assert (json.loads(told.stdout)[0]["id"], told.code) == (run_id(2), 4)
    assert run["status"] == "cancelled"


def test_list_of_a_job_or_queue_that_does_not_exist_says_so(
    shell: Shell, daemon: FakeDaemon
) -> None:
    """A note on stderr, whatever stdout is: the list is empty, and that is no error."""

    def missing(_: dict[str, Any]) -> Any:
        raise NotFound("there is no queue 'mdia'", hint="did you mean media?")

    daemon.answers["queue.show"] = missing
    told = shell("runs", "list", "--job", "helo")
    assert told == ("", "note: no job 'helo'\nhint: did you mean hello?\n", 0)
    note = "note: there is no queue 'mdia'\nhint: did you mean media?\n"
    assert shell("runs", "list", "--queue", "mdia", "--json") == ("[]\n", note, 0)
    assert shell("dead", "list", "--queue", "mdia") == ("", note, 0)
    told = shell("dead", "retry", "--all", "-y", "--queue", "mdia")
    assert told.stderr == note + "no matching runs in the dead letter\n"


def test_list_of_a_job_without_runs_says_nothing(shell: Shell, daemon: FakeDaemon) -> None:
    """The job exists. Of one that has runs and is defined no longer, nobody asks."""
    daemon.add(run_object(1, job="gone"))
    assert shell("runs", "list", "--job", "hello") == ("", "", 0)
    assert shell("runs", "list", "--job", "gone").stderr == ""


def test_retry_prints_the_id_and_says_what_is_reused(shell: Shell, daemon: FakeDaemon) -> None:
    """`--from` and `--set` are sent to the daemon; steps are counted on stderr."""
    daemon.add(run_object(1, status="failed", steps=[{"name": "a"}, {"name": "b"}]))
    told = shell("runs", "retry", "@failed", "--from", "b", "--set", 'a={"x":1}')
    assert told == (f"{run_id(1)}\n", "2 recorded steps reused, 1 repeated\n", 0)
    asked = daemon.params("run.retry")
    assert asked == {"run": "@failed", "from_step": "b", "set": {"a": {"x": 1}}}


def test_retry_warns_of_a_step_that_is_not_recorded(shell: Shell, daemon: FakeDaemon) -> None:
    """A result for a misspelled step is reported on stderr, with the names of the recorded
    steps."""
    daemon.add(run_object(1, status="failed", steps=[{"name": "a"}, {"name": "b"}]))
    told = shell("runs", "retry", "@failed", "--set", "aa=1", "--set", "b=2")
    assert (told.stdout, told.code) == (f"{run_id(1)}\n", 0)
    assert told.stderr.splitlines()[0] == (
        f"warning: {run_id(1)} has not recorded a step 'aa' (recorded: a, b);"
        " the result is kept in case it reaches that step"
    )
    assert "'b'" not in told.stderr


def test_retry_takes_one_result_for_a_step(shell: Shell, daemon: FakeDaemon) -> None:
    """Two are a mistake, and nothing is retried."""
    daemon.add(run_object(1, status="failed", steps=[{"name": "a"}]))
    told = shell("runs", "retry", "@failed", "--set", "a=1", "--set", "a=2")
    assert (told.stderr.splitlines()[0], told.code) == (
        "error[usage]: --set is given more than once for 'a'",
        2,
    )


def test_retry_asks_whether_a_step_that_is_not_recorded_is_misspelled(
    shell: Shell, daemon: FakeDaemon
) -> None:
    """The names of at most twenty steps are listed, and those like it after them."""
    steps = [{"name": f"page-{number}"} for number in range(30)] + [{"name": "price"}]
    daemon.add(run_object(1, status="failed", steps=steps))
    told = shell("runs", "retry", "@failed", "--set", "prise=1")
    warning, hint, _ = told.stderr.splitlines()
    assert "page-19, …); the result" in warning
    assert hint == "hint: did you mean price?"


def test_retry_dry_run_lists_steps(shell: Shell, daemon: FakeDaemon) -> None:
    """`--dry-run`: a line per step, with what would be reused and what repeated."""
    daemon.add(run_object(1, status="failed"))
    told = shell("runs", "retry", "@last", "--dry-run", "--set", "a=1")
    assert told.stdout.splitlines() == [
        "set\ta\trun\tcompleted\t",
        "reuse\tb\tsleep\tcompleted\t",
        f"repeat\tc\tstart\tcompleted\t{run_id(7)}",
        "repeat\td\t\t\t",
    ]
    assert told.code == 0
    as_json = shell("--json", "runs", "retry", "@last", "--dry-run")
    actions = [step["action"] for step in json.loads(as_json.stdout)["steps"]]
    assert actions == ["reuse", "reuse", "repeat", "repeat"]


@pytest.mark.parametrize(("given", "code"), [("a", 2), ("=1", 2), ("a={", 6)])
def test_retry_refuses_a_result_that_is_none(
    shell: Shell, daemon: FakeDaemon, given: str, code: int
) -> None:
    """`--set` takes STEP=JSON."""
    told = shell("runs", "retry", "@last", "--set", given)
    assert told.code == code
    assert "--set" in told.stderr
    assert daemon.asked("run.retry") == 0


def test_fork_prints_the_new_id(shell: Shell, daemon: FakeDaemon) -> None:
    """`runs fork` with another payload."""
    daemon.add(run_object(1))
    told = shell("runs", "fork", "@last", "--from", "b", "-p", "null")
    assert told == (f"{run_id(99)}\n", "1 recorded step reused, 0 repeated\n", 0)
    assert daemon.params("run.fork") == {"run": "@last", "from_step": "b", "payload": None}
    shell("runs", "fork", "@last", "--queue", "slow")
    assert daemon.params("run.fork") == {"run": "@last", "queue": "slow"}


def test_fork_dry_run_makes_no_run(shell: Shell, daemon: FakeDaemon) -> None:
    """There is no id to print."""
    daemon.add(run_object(1))
    assert shell("runs", "fork", "@last", "--dry-run") == ("reuse\ta\trun\tcompleted\t\n", "", 0)


def test_rm_needs_a_yes_off_a_terminal(shell: Shell, daemon: FakeDaemon) -> None:
    """Without a terminal to ask on: exit 2 and nothing removed; with `-y` the run is removed."""
    daemon.add(run_object(1))
    told = shell("runs", "rm", "@last")
    assert (told.stdout, told.code) == ("", 2)
    assert "hint: add --yes" in told.stderr
    assert daemon.asked("run.remove") == 0
    assert shell("runs", "rm", "@last", "-y") == (f"{run_id(1)}\n", "", 0)
    assert daemon.params("run.remove") == {"run": run_id(1)}


def test_closed_pipe_ends_quietly(shell: Shell, daemon: FakeDaemon) -> None:
    """`runs list | head -1` prints no error."""
    for number in range(1, 900):
        daemon.add(run_object(number, job="x" * 200))
    script = (
        " ".join(shell.command("runs", "list", "--limit", "900"))
        + ' | head -1; echo "${PIPESTATUS[0]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, cwd=shell.directory, env=shell.env, check=False
    )
    first, status = done.stdout.decode().splitlines()
    assert first.startswith(run_id(899))
    assert (status, done.stderr) == ("0", b"")
