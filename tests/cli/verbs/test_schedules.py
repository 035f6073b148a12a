"""Transcripts of `schedules list|next|pause|resume|trigger`."""

from __future__ import annotations

import json

import pytest

from cli.conftest import Shell
from cli.fake_daemon import FakeDaemon, run_id, schedule_object

LINE = (
    "hello\t0 9 * * *\tEurope/Berlin\t2026-05-07T07:00:00.000000Z\t\tfalse\tfalse\tonce\tskip\t"
    "\thello\t\t0\tcode\t\n"
)


@pytest.fixture
def hello(daemon: FakeDaemon) -> FakeDaemon:
    """A daemon with the schedule of one job."""
    daemon.schedules["hello"] = schedule_object()
    return daemon


def crontab(shell: Shell, text: str) -> None:
    """Put a `crontab` on the PATH that prints `text` as the user's table."""
    folder = shell.directory.parent / "programs"
    folder.mkdir(exist_ok=True)
    program = folder / "crontab"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
    program.chmod(0o755)
    shell.env["PATH"] = f"{folder}:{shell.env['PATH']}"


@pytest.mark.usefixtures("hello")
def test_list_is_a_line_a_schedule(shell: Shell) -> None:
    """`job schedule timezone next_at last_at paused retired catch_up overlap last_run job
    last_status skipped source expected`, of which the first is its name."""
    told = shell("schedules", "list", "-q")
    assert told == (LINE, "", 0)
    assert shell("schedule", "list", "-q") == told


@pytest.mark.usefixtures("hello")
def test_list_as_json_is_one_array(shell: Shell) -> None:
    """The array has the fields that scripts rely on."""
    told = json.loads(shell("schedules", "list", "--json").stdout)
    assert [each["job"] for each in told] == ["hello"]
    wanted = {"job", "schedule", "timezone", "next_at", "last_at", "paused"}
    assert wanted <= told[0].keys()


@pytest.mark.not_via("ssh", why="whether the daemon starts at boot is seen on its machine alone")
def test_list_hints_at_a_start_at_boot_where_nothing_would(shell: Shell, hello: FakeDaemon) -> None:
    """One line on stderr with a command; not with `-q` or `--json`, and not without schedules."""
    crontab(shell, "5 6 * * * stackshift -C /srv/shop start sync")
    hint = "hint: stackshift daemon install starts the daemon at boot\n"
    assert shell("schedules", "list").stderr == hint
    assert shell("schedules", "list", "-q").stderr == ""
    assert shell("schedules", "list", "--json").stderr == ""
    hello.schedules["hello"]["retired"] = True
    assert shell("schedules", "list").stderr == ""
    hello.schedules.clear()
    assert shell("schedules", "list") == ("", "", 0)


@pytest.mark.not_via("ssh", why="whether the daemon starts at boot is seen on its machine alone")
def test_hint_at_a_start_at_boot_fails_nothing(shell: Shell, hello: FakeDaemon) -> None:
    """It reads settings, which may not be valid any more; the list was answered all the same."""
    assert hello.schedules
    (shell.directory / "stackshift.toml").write_text("[workers]\ncolour = 1\n")
    told = shell("schedules", "list")
    assert (told.code, told.stdout.startswith("hello\t"), told.stderr) == (0, True, "")


@pytest.mark.usefixtures("hello")
def test_list_is_silent_where_the_crontab_starts_the_daemon(shell: Shell) -> None:
    """There is no hint for those who have followed it."""
    crontab(shell, "# boot\n@reboot stackshift daemon start -C /srv/shop")
    assert shell("schedules", "list") == (LINE, "", 0)


def test_list_tells_which_schedule_cannot_start(shell: Shell, hello: FakeDaemon) -> None:
    """The problem is on stderr, escaped like all text that others wrote."""
    hello.schedules["hello"]["problem"] = "no worker has\x1b the job"
    told = shell("schedules", "list")
    assert told.stderr.startswith("hello cannot start: no worker has\\x1b the job\n")
    assert told.stdout == LINE


@pytest.mark.usefixtures("hello")
def test_next_is_a_line_a_tick(shell: Shell) -> None:
    """The time in UTC and in the schedule's time zone; five ticks unless `-n` says otherwise."""
    first = "2026-05-07T07:00:00.000000Z\thello\t2026-05-07T09:00:00+02:00\thello"
    first += "\t2026-05-07T07:00:00.000000Z\n"
    assert shell("schedules", "next", "hello", "-n", "1") == (first, "", 0)
    assert len(shell("schedules", "next").stdout.splitlines()) == 5
    told = json.loads(shell("schedules", "next", "-n", "2", "--json").stdout)
    assert [tick["job"] for tick in told] == ["hello", "hello"]
    assert shell("schedules", "next", "-n", "0").code == 2
    assert shell("schedules", "next", "-n", "x").code == 2


def test_next_goes_on_after_a_thousand_ticks(shell: Shell, hello: FakeDaemon) -> None:
    """Asked for in pages, of which none repeats or leaves out a tick."""
    told = shell("schedules", "next", "-n", "2500").stdout.splitlines()
    assert len(told) == len(set(told)) == 2500
    assert told == sorted(told)
    assert hello.asked("schedule.next") == 3
    assert len(shell("schedules", "next", "-n", "1000000").stdout.splitlines()) > 2500


def test_next_of_a_paused_schedule_is_nothing(shell: Shell, hello: FakeDaemon) -> None:
    """Nothing on stdout; on stderr it says why, and how to go on."""
    hello.schedules["hello"]["paused"] = True
    paused = "hello is paused; to resume it: stackshift schedules resume hello\n"
    assert shell("schedules", "next", "hello") == ("", paused, 0)
    assert shell("schedules", "next") == ("", paused, 0)
    hello.schedules["hello"] |= {"retired": True}
    assert shell("schedules", "next", "hello") == ("", "hello has no upcoming ticks\n", 0)
    assert shell("schedules", "next") == ("", "no upcoming ticks\n", 0)


@pytest.mark.usefixtures("hello")
def test_pause_and_resume_print_the_job_and_say_what_was_so_already(shell: Shell) -> None:
    """Both may be repeated: exit 0, with a message."""
    assert shell("schedules", "pause", "hello") == ("hello\n", "", 0)
    again = "the schedule hello is already paused\n"
    assert shell("schedules", "pause", "hello") == ("hello\n", again, 0)
    told = shell("schedules", "resume", "hello")
    assert told == ("hello\n", "next at 2026-05-07T07:00:00.000000Z\n", 0)
    again = "the schedule hello is not paused\n"
    assert shell("schedules", "resume", "hello") == ("hello\n", again, 0)
    told = shell("schedules", "pause", "hello", "--json")
    assert json.loads(told.stdout) == {
        "name": "hello",
        "job": "hello",
        "paused": True,
        "next_at": None,
        "changed": True,
    }


@pytest.mark.usefixtures("hello")
def test_trigger_prints_the_id_of_the_run(shell: Shell) -> None:
    """Nothing else is on stdout."""
    assert shell("schedules", "trigger", "hello") == (f"{run_id(1)}\n", "", 0)
    told = shell("schedules", "trigger", "hello", "--json")
    assert json.loads(told.stdout) == {"id": run_id(2), "job": "hello", "name": "hello"}


@pytest.mark.usefixtures("hello")
@pytest.mark.parametrize("verb", ["pause", "resume", "trigger", "next"])
def test_unknown_job_is_exit_4_with_near_names(shell: Shell, verb: str) -> None:
    """The hint has a similar name; nothing is done."""
    told = shell("schedules", verb, "helo")
    assert (told.stdout, told.code) == ("", 4)
    assert told.stderr.endswith("hint: did you mean hello?\n")


def test_without_a_daemon_it_is_exit_3(shell: Shell) -> None:
    """`--no-start` keeps the list from starting one."""
    told = shell("schedules", "list", "--no-start")
    assert (told.stdout, told.code) == ("", 3)
