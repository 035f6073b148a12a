"""Transcripts of `jobs list|show|check|schema`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cli.conftest import Shell
from cli.fake_daemon import FakeDaemon, schedule_object
from stackshift_cli.output.messages import failed_module

BROKEN = {
    "module": "jobs.media",
    "file": "jobs/media.py",
    "line": 3,
    "type": "SyntaxError",
    "message": "invalid\x1b syntax",
}


@pytest.mark.parametrize(
    ("type", "line"),
    [
        ("Usage", "jobs/a.py:3: the timeout of job 'x': 'fast' is not a duration"),
        ("HeaderError", "jobs/a.py:3: the timeout of job 'x': 'fast' is not a duration"),
        ("ValueError", "jobs/a.py:3: ValueError: the timeout of job 'x': 'fast' is not a duration"),
    ],
)
def test_errors_of_ours_are_shown_without_their_class(type: str, line: str) -> None:
    """They are sentences about the module; of others the class is part of the message."""
    message = "the timeout of job 'x': 'fast' is not a duration"
    failed = {"file": "jobs/a.py", "line": 3, "type": type, "message": message}
    assert failed_module(failed) == line


@pytest.mark.usefixtures("daemon")
def test_list_is_a_line_a_job(shell: Shell) -> None:
    """`name queue max_attempts timeout_ms module code cron`."""
    line = "hello\tdefault\t3\t60000\tjobs.hello\t3f9c2a1d\t\n"
    assert shell("jobs", "list") == (line, "", 0)
    assert json.loads(shell("job", "list", "--json").stdout)[0]["name"] == "hello"


def test_list_says_which_modules_do_not_import(shell: Shell, daemon: FakeDaemon) -> None:
    """Broken modules are named on stderr; the jobs of the others are listed."""
    daemon.answers["job.list"] = lambda _: {
        "jobs": [],
        "failed_modules": [BROKEN],
        "cursor": None,
    }
    told = shell("jobs", "list")
    assert told.stderr == "failed to import: jobs/media.py:3: SyntaxError: invalid\\x1b syntax\n"
    assert (told.stdout, told.code) == ("", 0)


@pytest.mark.usefixtures("daemon")
def test_show_is_a_line_a_field(shell: Shell) -> None:
    """Everything that is known about a job."""
    told = shell("jobs", "show", "hello")
    assert "doc\tGreet somebody.\n" in told.stdout
    assert json.loads(shell("jobs", "show", "hello", "--json").stdout)["name"] == "hello"


@pytest.mark.usefixtures("daemon")
def test_schema_is_json(shell: Shell) -> None:
    """The JSON Schema of the payload."""
    assert json.loads(shell("jobs", "schema", "hello").stdout) == {"type": "object"}


def test_schema_of_a_job_without_a_payload_type_says_so(shell: Shell, daemon: FakeDaemon) -> None:
    """On standard error; standard output stays JSON."""
    daemon.answers["job.get"] = lambda _: {"name": "hello", "schema": None}
    told = shell("jobs", "schema", "hello")
    assert told == ("null\n", "hello has no payload type, so it accepts any JSON\n", 0)
    assert shell("-q", "jobs", "schema", "hello").stderr == ""


@pytest.mark.usefixtures("daemon")
def test_unknown_job_is_exit_4_with_near_names(shell: Shell) -> None:
    """The hint names the nearest job."""
    told = shell("jobs", "show", "helo")
    assert (told.stdout, told.code) == ("", 4)
    assert "hint: did you mean hello?" in told.stderr


@pytest.fixture
def faked(shell: Shell) -> None:
    """The check is `programs/stackshiftd/worker`, which the shell's environment leads to."""
    (shell.directory / "stackshift.toml").write_text('[workers]\ninherit_env = ["*"]\n')


def check(*modules: dict[str, Any]) -> str:
    """Run `jobs check` with this report of the worker."""
    return json.dumps({"modules": modules})


@pytest.mark.usefixtures("faked")
def test_check_names_each_module_with_its_jobs(shell: Shell) -> None:
    """If all import: exit 0, and no daemon was started."""
    good = {"module": "jobs.hello", "file": "jobs/hello.py", "jobs": ["a", "b"], "error": None}
    told = shell("jobs", "check", FAKE_CHECK=check(good))
    assert told == ("ok\tjobs.hello\ta, b\n", "", 0)
    assert not (shell.directory / ".stackshift").exists()


@pytest.mark.usefixtures("faked")
def test_check_hints_at_a_start_at_boot_where_there_are_schedules(shell: Shell) -> None:
    """As `schedules list` does, except with `-q` or `--json`, and after a failure."""
    good = {
        "module": "jobs.hello",
        "file": "jobs/hello.py",
        "jobs": ["a"],
        "schedules": ["a"],
        "error": None,
    }
    shell.env["PATH"] = "/nowhere"  # neither a crontab to look into, nor one to write
    told = shell("jobs", "check", FAKE_CHECK=check(good))
    assert told.stderr.startswith("hint: nothing starts the daemon at boot; ")
    assert told.stderr.endswith(" can start it: stackshift daemon run\n")
    (shell.directory / "crontab").write_text("#!/bin/sh\nexit 1\n")
    (shell.directory / "crontab").chmod(0o755)
    shell.env["PATH"] = str(shell.directory)
    told = shell("jobs", "check", FAKE_CHECK=check(good))
    assert told.stderr == "hint: stackshift daemon install starts the daemon at boot\n"
    assert shell("jobs", "check", "-q", FAKE_CHECK=check(good)).stderr == ""
    assert shell("jobs", "check", "--json", FAKE_CHECK=check(good)).stderr == ""
    bad = {"module": "jobs.media", "file": "jobs/media.py", "jobs": [], "error": BROKEN}
    told = shell("jobs", "check", FAKE_CHECK=check(good, bad), FAKE_CHECK_STATUS="78")
    assert "boot" not in told.stderr


@pytest.mark.usefixtures("faked")
def test_check_hints_at_a_start_at_boot_for_schedules_of_a_command(
    shell: Shell, daemon: FakeDaemon
) -> None:
    """The modules know nothing of them; a daemon that is running does."""
    good = {"module": "jobs.a", "file": "jobs/a.py", "jobs": ["a"], "error": None}
    shell.env["PATH"] = "/nowhere"
    assert shell("jobs", "check", FAKE_CHECK=check(good)).stderr == ""
    daemon.schedules["backup"] = schedule_object("backup")
    assert (
        "nothing starts the daemon at boot" in shell("jobs", "check", FAKE_CHECK=check(good)).stderr
    )


@pytest.mark.usefixtures("faked")
def test_check_names_patterns_of_notify_that_match_no_job(shell: Shell) -> None:
    """With the job that was meant, if one is like it; jobs, built-in ones and schedules in the file
    are known, and a program is only known when it runs."""
    (shell.directory / "stackshift.toml").write_text("""
[workers]
inherit_env = ["*"]
[notify.ops]
command = ["true"]
jobs = ["improt", "shop.*", "pg_dump", "exec", "nightly", "imp*"]
[schedules.nightly]
cron = "@daily"
command = "true"
""")
    good = {"module": "jobs.a", "file": "jobs/a.py", "jobs": ["import"], "error": None}
    told = shell("jobs", "check", FAKE_CHECK=check(good))
    assert told.code == 0
    assert [line for line in told.stderr.splitlines() if not line.startswith("hint: ")] == [
        "notify.ops.jobs: no job matches improt: did you mean import?",
        "notify.ops.jobs: no job matches shop.*: only a program could be called so",
        "notify.ops.jobs: no job matches pg_dump: only a program could be called so",
    ]


@pytest.mark.usefixtures("faked")
def test_check_fails_with_78_and_the_place(shell: Shell) -> None:
    """A module that fails to import is named with file, line and error."""
    bad = {"module": "jobs.media", "file": "jobs/media.py", "jobs": [], "error": BROKEN}
    told = shell("jobs", "check", FAKE_CHECK=check(bad), FAKE_CHECK_STATUS="78")
    assert told == (
        "failed\tjobs.media\tjobs/media.py:3: SyntaxError: invalid\\x1b syntax\n",
        "1 of 1 module failed to import\n",
        78,
    )
    told = shell("jobs", "check", "--json", FAKE_CHECK=check(bad), FAKE_CHECK_STATUS="78")
    assert (json.loads(told.stdout)["modules"][0]["module"], told.code) == ("jobs.media", 78)


@pytest.mark.usefixtures("faked")
def test_check_that_breaks_down_is_an_error(shell: Shell) -> None:
    """A check without an answer has not passed."""
    told = shell("jobs", "check", FAKE_CHECK="Killed", FAKE_CHECK_STATUS="9")
    assert (told.stdout, told.code) == ("", 70)
    assert "the check exited with status 9: talk of a module" in told.stderr


def test_check_names_an_interpreter_that_is_not_there(shell: Shell) -> None:
    """It is a setting that is wrong: exit 78."""
    (shell.directory / "stackshift.toml").write_text('[workers]\npython = "py/bin/python"\n')
    told = shell("jobs", "check")
    assert (told.stdout, told.code) == ("", 78)
    python = f"{shell.directory}/py/bin/python"
    assert f"the workers' interpreter {python} cannot be run: No such file" in told.stderr


def test_check_refuses_a_wrong_configuration(shell: Shell) -> None:
    """An unknown setting in `stackshift.toml`: exit 78 and the nearest one."""
    (shell.directory / "stackshift.toml").write_text("[workers]\nslot = 3\n")
    told = shell("jobs", "check")
    assert told.code == 78
    assert "workers.slots" in told.stderr


@pytest.mark.parametrize("place", ["code", "file"])
def test_check_refuses_reboot_where_machines_share_the_journal(shell: Shell, place: str) -> None:
    """Which of them would be meant? Exit 78, and what to do instead."""
    settings = '[journal]\nurl = "postgresql://db-1/shop"\n'
    if place == "file":
        settings += '[schedules.warm]\ncron = "@reboot"\ncommand = "true"\n'
    (shell.directory / "stackshift.toml").write_text(settings)
    (shell.directory / "jobs").mkdir(exist_ok=True)
    (shell.directory / "jobs" / "warm.py").write_text(
        "import stackshift_jobs as stackshift\n"
        f"@stackshift.job('cache', schedule={'@reboot' if place == 'code' else '@daily'!r})\n"
        "def cache(ctx):\n    pass\n"
    )
    told = shell("jobs", "check")
    assert told.code == 78
    assert "@reboot has no ticks where several machines share the journal" in str(told)
    assert "stackshift start JOB" in str(told)
