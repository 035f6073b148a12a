"""Transcripts of `start`: command, stdout, stderr, exit status."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import Shell
from cli.fake_daemon import FakeDaemon, record, run_id, run_object
from stackshift_jobs.errors import (
    BadConfiguration,
    Busy,
    Conflict,
    DiskFull,
    NotFound,
    PayloadRefused,
    StackshiftError,
    Usage,
)

ERROR = {"type": "ValueError", "message": "no", "traceback": "Traceback…"}


def test_ttl_of_no_key_is_a_mistake(shell: Shell, daemon: FakeDaemon) -> None:
    """It would have no effect: exit 2, nothing sent."""
    told = shell("start", "hello", "--idempotency-ttl", "1d")
    assert (told.stdout, told.code) == ("", 2)
    assert "--idempotency-key" in told.stderr
    assert daemon.requests == []


@pytest.mark.parametrize("given", ["", " \n"])
def test_empty_standard_input_is_no_payload(shell: Shell, daemon: FakeDaemon, given: str) -> None:
    """The program that should have written it probably failed: an error, with what to pass
    instead."""
    told = shell("start", "hello", "-p", "-", stdin=given)
    assert (told.stdout, told.code) == ("", 6)
    assert told.stderr == (
        "error[payload_refused]: cannot read the payload from standard input: it is empty\n"
        "hint: pass {}, or remove -p if there is no payload\n"
    )
    assert daemon.requests == []


@pytest.mark.parametrize(
    ("given", "told"), [("", "the payload is empty"), ("@empty.json", "empty.json is empty")]
)
def test_empty_text_or_file_is_no_payload(
    shell: Shell, daemon: FakeDaemon, given: str, told: str
) -> None:
    """Such as `-p "$PAYLOAD"` without that variable."""
    (shell.directory / "empty.json").write_bytes(b"\xef\xbb\xbf\r\n")
    assert shell("start", "hello", "-p", given).stderr == (
        f"error[payload_refused]: {told}\nhint: pass {{}}, or remove -p if there is no payload\n"
    )
    assert daemon.requests == []


def test_payload_behind_an_equals_sign_is_told_how_it_is_written(shell: Shell) -> None:
    """Only long options take one."""
    told = shell("start", "hello", "-p={}")
    assert (told.code, told.stderr) == (
        2,
        "error[usage]: -p takes JSON, not '={}'\nhint: without =: -p JSON, or --payload=JSON\n",
    )


def test_refusal_names_the_option(shell: Shell, daemon: FakeDaemon) -> None:
    """On the fast path, and on the other."""
    refuse(daemon, Usage("on_duplicate must be refuse, not 'x'"))
    for more in ([], ["--wait"]):
        told = shell("start", "hello", "--on-duplicate", "x", *more)
        assert told.stderr == "error[usage]: --on-duplicate must be refuse, not 'x'\n"


def test_prints_the_id_and_nothing_else(shell: Shell, daemon: FakeDaemon) -> None:
    """`ID=$(stackshift start JOB)` works."""
    assert shell("start", "hello") == (f"{run_id(1)}\n", "", 0)
    assert daemon.params("run.start") == {"job": "hello"}


def refuse(daemon: FakeDaemon, error: StackshiftError) -> None:
    """Let the daemon answer every start with `error`."""

    def answer(_: object) -> None:
        raise error

    daemon.answers["run.start"] = answer


def module(shell: Shell, name: str, text: str = 'job("report")', age_s: int = 0) -> Path:
    """A file in the project's `jobs`; loaded by the daemon unless `age_s` is 0."""
    file = shell.directory / "jobs" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    info = shell.directory / ".stackshift" / "daemon.json"
    started = file.stat().st_ctime - 1 + 2 * bool(age_s)
    os.utime(info, (started, started))
    return file


@pytest.mark.not_via("ssh", why="the project's files are looked at on their machine alone")
def test_job_in_a_file_that_is_never_loaded_names_the_file(
    shell: Shell, daemon: FakeDaemon
) -> None:
    """A file whose name begins with _ is not a job module, except the one of a package."""
    refuse(daemon, NotFound("no job is named 'report'"))
    file = module(shell, "_report.py")
    told = shell("start", "report")
    assert "jobs/_report.py is not loaded, because its name begins with _\n" in told.stderr
    assert told.code == 4
    file.rename(file.with_name("__init__.py"))
    assert "is not loaded" not in shell("start", "report").stderr


def test_field_that_names_a_file_is_text_and_a_note_says_so(
    shell: Shell, daemon: FakeDaemon
) -> None:
    """Other programs read the file. The note is only for a file that exists."""
    (shell.directory / "a b").touch()
    told = shell("start", "hello", "-F", "name=@a b", "-F", "to=@me")
    assert daemon.params("run.start")["payload"] == {"name": "@a b", "to": "@me"}
    assert told == (
        f"{run_id(1)}\n",
        "note: the field name is the text '@a b'; for what is in the file:"
        " -F name=\"$(cat 'a b')\"\n",
        0,
    )


@pytest.mark.usefixtures("daemon")
def test_json_prints_the_run_and_whether_it_was_reused(shell: Shell) -> None:
    """`--json`, before or after the verb, prints the run object with `reused`."""
    for argv in (("--json", "start", "hello"), ("start", "hello", "--json")):
        told = shell(*argv)
        run = json.loads(told.stdout)
        assert (run["job"], run["reused"], told.stderr, told.code) == ("hello", False, "", 0)
        assert run.keys() == run_object().keys() | {"reused"}


def test_both_parsers_send_the_same(shell: Shell, daemon: FakeDaemon) -> None:
    """An attached value, which only Typer reads, means the same as the plain spelling."""
    plain = ["start", "hello", "-p", '{"a":1}', "--queue", "q", "--label", "x=y", "-q"]
    only_typer = ["start", "hello", '-p{"a":1}', "--queue=q", "--label", "x=y", "-q"]
    for argv in (plain, only_typer):
        assert shell(*argv).code == 0
    (_, first), (_, second) = [r for r in daemon.requests if r[0] == "run.start"]
    assert (
        first
        == second
        == {
            "job": "hello",
            "payload": {"a": 1},
            "queue": "q",
            "labels": {"x": "y"},
        }
    )


def test_payload_comes_from_standard_input(shell: Shell, daemon: FakeDaemon) -> None:
    """`-p -` reads the payload from a pipe."""
    assert shell("start", "hello", "-p", "-", stdin='{"n": [1, 2.5]}').code == 0
    assert daemon.params("run.start")["payload"] == {"n": [1, 2.5]}


def test_reused_failed_run_is_said_with_a_hint(shell: Shell, daemon: FakeDaemon) -> None:
    """The id is data; that it is an old, failed run is a message."""
    daemon.answers["run.start"] = lambda _: {"id": run_id(7), "reused": True, "status": "failed"}
    told = shell("start", "hello", "--idempotency-key", "k")
    assert told.stdout == f"{run_id(7)}\n"
    assert told.stderr.splitlines()[-1] == f"hint: stackshift runs retry {run_id(7)}"
    assert f"reused {run_id(7)} (failed)" in told.stderr
    assert told.code == 0


def test_retried_run_is_said(shell: Shell, daemon: FakeDaemon) -> None:
    """The id is that of the run which had failed."""
    answer = {"id": run_id(7), "reused": True, "status": "queued", "retried": True}
    daemon.answers["run.start"] = lambda _: answer
    told = shell("start", "hello", "--idempotency-key", "k", "--retry-failed")
    said = f"retried {run_id(7)}, which has this idempotency key and had failed\n"
    assert told == (f"{run_id(7)}\n", said, 0)
    told = shell("start", "hello", "--retry-failed")
    assert (told.code, told.stderr.splitlines()[0]) == (
        2,
        "error[usage]: --retry-failed requires --idempotency-key",
    )


def test_attached_and_replaced_runs_are_said(shell: Shell, daemon: FakeDaemon) -> None:
    """The id that is printed is that of a run which somebody else has started; and runs that were
    cancelled are named, each on a line. Neither is said by `--quiet`."""
    answer = {"id": run_id(7), "reused": True, "status": "failed", "attached": True}
    daemon.answers["run.start"] = lambda _: answer
    told = shell("start", "hello", "--unique", "u", "--on-duplicate", "attach")
    assert told.stdout == f"{run_id(7)}\n"
    assert told.stderr == f"attached to {run_id(7)} (failed), which has this unique key\n"
    gone = [run_id(3), run_id(4)]
    answer = {"id": run_id(8), "reused": False, "status": "queued", "replaced": gone}
    told = shell("start", "hello", "--unique", "u", "--on-duplicate", "replace")
    assert told.stdout == f"{run_id(8)}\n"
    assert told.stderr.splitlines() == [
        f"cancelled {run}, which has this unique key" for run in gone
    ]
    assert shell("-q", "start", "hello", "--unique", "u") == (f"{run_id(8)}\n", "", 0)


def test_quiet_leaves_out_the_talk(shell: Shell, daemon: FakeDaemon) -> None:
    """With `-q` only errors are on stderr."""
    daemon.answers["run.start"] = lambda _: {"id": run_id(7), "reused": True, "status": "completed"}
    assert shell("start", "hello", "-q") == (f"{run_id(7)}\n", "", 0)


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_quiet_leaves_in_that_nothing_was_started_in_place_of_what_failed(
    shell: Shell, daemon: FakeDaemon, status: str
) -> None:
    """The exit status is 0, so nothing else would show it."""
    daemon.answers["run.start"] = lambda _: {"id": run_id(7), "reused": True, "status": status}
    for argv in (["start", "hello", "-q"], ["--quiet", "start", "hello"]):
        told = shell(*argv)
        assert (told.stdout, told.code) == (f"{run_id(7)}\n", 0)
        assert told.stderr.splitlines() == [
            f"reused {run_id(7)} ({status}), which has this idempotency key",
            f"hint: stackshift runs retry {run_id(7)}",
        ]


def test_dry_run_starts_nothing(shell: Shell, daemon: FakeDaemon) -> None:
    """`--dry-run` prints no id, since there is none, and says what would be started."""
    told = shell("start", "hello", "--dry-run")
    assert told == ("", "dry run: would start hello in queue default (queued)\n", 0)
    assert daemon.params("run.start")["dry_run"] is True
    assert daemon.runs == {}


def test_wait_prints_the_result_as_one_line(shell: Shell, daemon: FakeDaemon) -> None:
    """`--wait`: the result on stdout; id and progress on stderr."""
    run = daemon.add(run_object(1, status="running", result=None))
    daemon.answers["run.start"] = lambda _: {"id": run["id"], "reused": False, "status": "queued"}
    daemon.append(
        record(1, "run.created", run["id"]),
        record(2, "progress.reported", run["id"], attempt=1, done=1, total=2, message="half"),
        record(3, "step.failed", run["id"], step="a", error=ERROR, retry_at="2026-05-06T09:01:00Z"),
    )
    daemon.finish(run, 4, result={"a": [1, "é\x1b"]})
    told = shell("start", "hello", "--wait")
    assert told.stdout == '{"a":[1,"\\u00e9\\u001b"]}\n'
    assert told.stderr.splitlines() == [
        run["id"],
        "1/2 half",
        "a, try 1: ValueError: no; retrying at 2026-05-06T09:01:00Z",
    ]
    assert told.code == 0


@pytest.mark.parametrize(
    ("changed", "code", "word"),
    [
        ({"status": "failed", "error": ERROR}, 1, "run_failed"),
        ({"status": "cancelled"}, 7, "run_cancelled"),
    ],
)
def test_wait_ends_with_what_became_of_the_run(
    shell: Shell, daemon: FakeDaemon, changed: dict[str, Any], code: int, word: str
) -> None:
    """A failed run is exit 1, a cancelled one 7; no result is printed."""
    run = daemon.add(run_object(1, **changed))
    daemon.answers["run.start"] = lambda _: {"id": run["id"], "reused": False, "status": "queued"}
    told = shell("start", "hello", "--wait")
    assert (told.stdout, told.code) == ("", code)
    assert f"error[{word}]: {run['id']}" in told.stderr
    told = shell("start", "hello", "--wait", "--json")
    assert json.loads(told.stdout)["status"] == changed["status"]
    assert json.loads(told.stderr.splitlines()[-1])["error"]["code"] == word


def test_timeout_passes_and_the_run_goes_on(shell: Shell, daemon: FakeDaemon) -> None:
    """`--timeout` ends the waiting with 124 and cancels nothing."""
    told = shell("start", "hello", "--wait", "--timeout", "50ms")
    assert (told.stdout, told.code) == ("", 124)
    assert f"error[timeout]: {run_id(1)} has not ended within 50ms; it goes on" in told.stderr
    assert daemon.asked("run.cancel") == 0


def test_ctrl_c_detaches(shell: Shell, daemon: FakeDaemon) -> None:
    """Ctrl-C while waiting leaves the run alone, says so and exits with 130."""
    waiting = shell.popen("start", "hello", "--wait")
    daemon.wait_for_feeds()
    waiting.send_signal(signal.SIGINT)
    out, err = waiting.communicate(timeout=60)
    assert (out, waiting.returncode) == (b"", 130)
    assert err.decode().splitlines() == [
        run_id(1),
        f"Detached; {run_id(1)} continues",
        f"hint: stackshift runs tail {run_id(1)}",
    ]
    assert daemon.asked("run.cancel") == 0


def test_follow_prints_a_line_a_record_in_a_pipe(shell: Shell, daemon: FakeDaemon) -> None:
    """`--follow` in a pipe: records on stdout, the id on stderr, the run's exit status."""
    run = daemon.add(run_object(1, status="running"))
    daemon.answers["run.start"] = lambda _: {"id": run["id"], "reused": False, "status": "queued"}
    daemon.append(record(1, "run.created", run["id"], job="hello"))
    daemon.finish(run, 2, status="failed", error=ERROR)
    told = shell("start", "hello", "--follow")
    assert told.stdout.splitlines() == [
        f"1\t2026-05-06T09:00:01.000000Z\trun.created\t{run['id']}\t\t\tjob=hello",
        f"2\t2026-05-06T09:00:02.000000Z\trun.failed\t{run['id']}\t\t\t",
    ]
    failed = f"error[run_failed]: {run['id']} failed: ValueError: no"
    hint = f"hint: stackshift runs show {run['id']}"
    assert (told.stderr.splitlines(), told.code) == ([run["id"], failed, hint], 1)


@pytest.mark.parametrize("how", ["--wait", "--follow"])
def test_failed_run_says_where_in_the_projects_code(
    shell: Shell, daemon: FakeDaemon, how: str
) -> None:
    """The last frames with their source lines, below the error; with `-v` all that is recorded. No
    character of them can control the terminal."""
    file = shell.directory / "jobs" / "media.py"
    library = "/usr/lib/python3.11/site-packages/requests/api.py"
    traceback = (
        f'  File "{file}", line 3, in resize\n    put("\x1b[2J")\n'
        f'  File "{library}", line 9, in put\n    raise TimeoutError\n'
    )
    run = daemon.add(run_object(1, status="running"))
    daemon.answers["run.start"] = lambda _: {"id": run["id"], "reused": False, "status": "queued"}
    daemon.append(record(1, "run.created", run["id"], job="hello"))
    daemon.finish(run, 2, status="failed", error={**ERROR, "traceback": traceback})
    told = shell("start", "hello", how)
    assert told.stderr.splitlines()[-5:-1] == [
        f"error[run_failed]: {run['id']} failed: ValueError: no",
        "  jobs/media.py:3 in resize",
        '    put("\\x1b[2J")',
        "  requests/api.py:9 in put",
    ]
    assert told.code == 1
    told = shell("-v", "start", "hello", how)
    assert f'  File "{library}", line 9, in put' in told.stderr


@pytest.mark.parametrize(
    "argv",
    [
        ["start"],
        ["start", "hello", "--wait", "--follow"],
        ["start", "hello", "--timeout", "1s"],
        ["start", "hello", "--dry-run", "--wait"],
        ["start", "hello", "--nope"],
        ["start", "hello", "-p"],
        ["start", "hello", "other"],
        ["start", "hello", "--color", "blue"],
        ["start", "hello", "--batch", "-"],
    ],
)
def test_wrong_usage_is_exit_2_and_sends_nothing(
    shell: Shell, daemon: FakeDaemon, argv: list[str]
) -> None:
    """A mistake in the options is one line of error, and nothing is sent."""
    told = shell(*argv)
    assert (told.stdout, told.code) == ("", 2)
    assert told.stderr.startswith("error[usage]: ")
    assert daemon.requests == []


ERRORS: list[tuple[StackshiftError, int, str]] = [
    (NotFound("no job 'helo'", hint="did you mean hello?", near=["hello"]), 4, "not_found"),
    (BadConfiguration("no job 'helo'", hint="stackshift jobs check"), 78, "configuration"),
    (PayloadRefused("at $.n: not a number", path="$.n"), 6, "payload_refused"),
    (Busy("too many connections"), 75, "busy"),
    (DiskFull("no room"), 75, "disk_full"),
    (StackshiftError("we are wrong"), 70, "internal"),
]


@pytest.mark.parametrize(("error", "code", "word"), ERRORS, ids=[e[2] for e in ERRORS])
def test_errors_have_one_form_and_their_status(
    shell: Shell, daemon: FakeDaemon, error: StackshiftError, code: int, word: str
) -> None:
    """One line of error, one of hint; with `--json` the object too; nothing on stdout."""

    def refuse(_: object) -> None:
        raise error

    daemon.answers["run.start"] = refuse
    lines = [f"error[{word}]: {error.message}"] + ([f"hint: {error.hint}"] if error.hint else [])
    told = shell("start", "helo")
    assert (told.stdout, told.stderr.splitlines(), told.code) == ("", lines, code)
    told = shell("start", "helo", "--json")
    *text, last = told.stderr.splitlines()
    assert (told.stdout, text, told.code) == ("", lines, code)
    assert json.loads(last) == {"error": error.as_json()}


def test_conflict_names_the_owner_and_the_difference(shell: Shell, daemon: FakeDaemon) -> None:
    """The same key with another payload: exit 5, and the difference."""

    def refuse(_: object) -> None:
        raise Conflict(
            f"key k is {run_id(7)}'s", owner=run_id(7), difference=['$.imageId: "a" → "b"']
        )

    daemon.answers["run.start"] = refuse
    told = shell("start", "hello", "--idempotency-key", "k")
    assert told.code == 5
    assert told.stderr.splitlines() == [
        f"error[conflict]: key k is {run_id(7)}'s",
        '  $.imageId: "a" → "b"',
    ]


def test_what_others_wrote_is_escaped(shell: Shell, daemon: FakeDaemon) -> None:
    """An error's text cannot control the terminal."""

    def refuse(_: object) -> None:
        raise NotFound("no job '\x1b[2J\u202e'")

    daemon.answers["run.start"] = refuse
    assert shell("start", "x").stderr == "error[not_found]: no job '\\x1b[2J\\u202e'\n"


def test_no_project_is_exit_78_with_the_way_out(shell: Shell, tmp_path: Path) -> None:
    """Outside of a project the hint is `stackshift init`."""
    shell.directory = tmp_path
    told = shell("start", "hello")
    assert (told.stdout, told.code) == ("", 78)
    assert "hint: stackshift init" in told.stderr


@pytest.mark.usefixtures("daemon")
def test_project_is_found_by_option_variable_and_user_setting(shell: Shell, tmp_path: Path) -> None:
    """`-C`, `STACKSHIFT_PROJECT` and `default_project` find it from anywhere."""
    root, shell.directory = shell.directory, tmp_path
    assert shell("-C", str(root), "start", "hello").code == 0
    assert shell("start", "hello", "-C", str(root)).code == 0
    assert shell("start", "hello", STACKSHIFT_PROJECT=str(root)).code == 0
    assert shell("config", "set", "default_project", str(root)).code == 0
    assert shell("start", "hello") == (f"{run_id(4)}\n", "", 0)


@pytest.mark.usefixtures("daemon")
def test_user_may_prefer_json(shell: Shell) -> None:
    """`output = "json"` in the user's settings means `--json`, also on the fast path."""
    assert shell("config", "set", "output", "json").code == 0
    assert json.loads(shell("start", "hello").stdout)["id"] == run_id(1)
    told = shell("runs", "why", "nope").stderr
    assert json.loads(told.splitlines()[-1])["error"]["code"] == "not_found"


def test_hung_daemon_of_another_protocol_is_said(shell: Shell, daemon: FakeDaemon) -> None:
    """A daemon of another version: exit 3, hint `daemon restart`."""
    daemon.protocol = 99
    daemon.stop()
    daemon.start()
    told = shell("start", "hello")
    assert told.code == 3
    assert "hint: stackshift daemon restart" in told.stderr


def test_time_that_is_past_is_told(shell: Shell, daemon: FakeDaemon) -> None:
    """The run starts at once, which is not what a time is given for; the daemon's clock decides."""
    told = shell("start", "hello", "--at", "2020-01-01T00:00:00Z")
    assert told.stdout == f"{run_id(1)}\n"
    assert told.stderr == "2020-01-01T00:00:00Z is past: the run starts now\n"
    reply = {"id": run_id(2), "reused": False, "status": "scheduled"}
    daemon.answers["run.start"] = lambda _: reply
    assert shell("start", "hello", "--at", "2020-01-01T00:00:00Z").stderr == ""
    assert shell("start", "hello", "--delay", "0s").stderr == ""


@pytest.mark.parametrize("argv", [[], ["--json"], ["--dry-run"]], ids=" ".join)
@pytest.mark.parametrize("quiet", [True, False], ids=["quiet", "not-quiet"])
def test_start_in_a_queue_that_looks_misspelt_says_so(
    shell: Shell, daemon: FakeDaemon, argv: list[str], quiet: bool
) -> None:
    """A note on standard error: the run is started, since a queue exists once it is named."""
    reply = {"id": run_id(1), "reused": False, "status": "queued", "near_queues": ["media\x1b"]}
    daemon.answers["run.start"] = lambda _: reply | {"run": run_object(1)}
    told = shell(*(["-q"] if quiet else []), "start", "hello", "--queue", "medai", *argv)
    note = "queue medai is new; did you mean media\\x1b?\n"
    assert told.stderr.endswith(note) is not quiet
    assert (told.code, "near_queues" in told.stdout) == (0, False)
