"""Transcripts of `doctor`: what it finds, what it says to type, and its exit status."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import Shell
from cli.fake_daemon import FakeDaemon, schedule_object
from helpers.journal_lock import locked
from stackshift_jobs.project.discovery import DaemonInfo, places_elsewhere, write_daemon

GOOD = {"module": "jobs.hello", "file": "jobs/hello.py", "jobs": ["hello"], "schedules": []}


@pytest.fixture(autouse=True)
def healthy(shell: Shell, project: Path, daemon: FakeDaemon) -> None:
    """A project in order: its jobs import, and its daemon serves."""
    # The check is `programs/stackshiftd/worker`, which the shell's environment leads to.
    (project / "stackshift.toml").write_text('[workers]\ninherit_env = ["*"]\n')
    report(shell, GOOD | {"error": None})
    (project / ".stackshift").chmod(0o700)
    status(daemon, workers=[{"id": "w1", "pid": 1, "slots": 1, "running": 0, "status": "serving"}])


def report(shell: Shell, *modules: dict[str, Any]) -> None:
    """Let the check of the modules report `modules`."""
    shell.env["FAKE_CHECK"] = json.dumps({"modules": modules})


def status(daemon: FakeDaemon, **changed: Any) -> None:
    """Let the daemon's status have these fields."""
    before = daemon.answers.get("daemon.status") or daemon.on_daemon_status
    daemon.answers["daemon.status"] = lambda params: {**before(params), "dead": 0, **changed}


def without_crontab(shell: Shell) -> None:
    """Let there be a cron, and no table of this user."""
    programs = shell.directory.parent / "cron"
    programs.mkdir()
    (programs / "crontab").write_text("#!/bin/sh\nexit 1\n")
    (programs / "crontab").chmod(0o755)
    shell.env["PATH"] = str(programs)


def findings(shell: Shell, *but: str) -> dict[str, tuple[str, str, str]]:
    """Subject → status, message and hint; the worst one of a subject."""
    rank = ["ok", "note", "problem"]
    found: dict[str, tuple[str, str, str]] = {}
    for line in shell("doctor").stdout.splitlines():
        subject, status, message, hint = line.split("\t")
        if subject not in found or rank.index(status) > rank.index(found[subject][0]):
            found[subject] = (status, message, hint)
    return {subject: what for subject, what in found.items() if subject not in but}


def test_healthy_project_has_no_problems(shell: Shell) -> None:
    """Every subject has a line, none is a problem, and the exit status is 0."""
    told = shell("doctor")
    assert (told.stderr, told.code) == ("no problems\n", 0)
    subjects = {line.split("\t")[0] for line in told.stdout.splitlines()}
    wanted = "version path project ownership disk clock limits socket daemon modules boot"
    assert set(wanted.split()) <= subjects
    rows = json.loads(shell("doctor", "--json").stdout)
    assert {row["subject"] for row in rows} == subjects
    assert all(row.keys() == {"subject", "status", "message", "hint"} for row in rows)


def test_every_problem_says_what_to_type(
    shell: Shell, project: Path, daemon: FakeDaemon, tmp_path: Path
) -> None:
    """A foreign `stackshift` on PATH, a module that hides Python's, a clock behind the journal, a
    module that fails: each is named, and none hides another."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "stackshift").write_text("#!/bin/sh\n")
    (programs / "stackshift").chmod(0o755)
    shell.env["PATH"] = f"{programs}:{shell.env['PATH']}"
    (project / "json.py").touch()
    journal = project / ".stackshift" / "journal"
    journal.mkdir()
    (journal / "1.jsonl").touch()
    os.utime(journal / "1.jsonl", (time.time() + 3600, time.time() + 3600))
    broken = {"type": "SyntaxError", "message": "no", "file": "jobs/hello.py", "line": 3}
    report(shell, GOOD | {"error": broken})
    status(daemon, version="0.0.9", mode="read_only")
    found = findings(shell)
    problems = {name: hint for name, (status, _, hint) in found.items() if status == "problem"}
    assert problems.keys() == {"path", "imports", "clock", "modules", "daemon"}
    assert all(problems.values())
    assert str(programs / "stackshift") in found["path"][1]
    assert found["modules"][1] == "jobs/hello.py:3: SyntaxError: no"
    told = shell("doctor")
    assert (told.stderr, told.code) == ("6 problems\n", 78)


def test_daemon_that_only_reads_is_a_problem_that_says_why(
    shell: Shell, project: Path, daemon: FakeDaemon
) -> None:
    """With the daemon's own reason. One that was started on such a disk listens where it can, and
    has no workers: that is no second problem."""
    why = f"{project}/.stackshift is on a file system that is read-only"
    status(daemon, mode="read_only", read_only_because=why, workers=[])
    [place, *_] = places_elsewhere(project / ".stackshift")
    place.mkdir(mode=0o700)
    try:
        info = DaemonInfo(daemon.pid, str(place / "daemon.sock"), "1", 1, "now")
        write_daemon(project / ".stackshift", info, place)
        with locked(project / ".stackshift"):
            found = findings(shell)
    finally:
        shutil.rmtree(place)
    problems = {name: what for name, (rank, *what) in found.items() if rank == "problem"}
    assert problems == {"daemon": [f"it only reads: {why}", "df -h"]}
    assert found["socket"][1].startswith(f"{place}/daemon.sock, because {project}/.stackshift ")
    assert shell("doctor").code == 1


def test_database_and_its_daemons_are_looked_at(
    shell: Shell, project: Path, daemon: FakeDaemon
) -> None:
    """Whose clock is wrong, whether anybody would take over, and what a failover may lose; a daemon
    that follows needs no workers."""
    with (project / "stackshift.toml").open("a") as file:
        file.write('[journal]\nurl = "postgresql://db-1/shop"\n')
    leader: dict[str, Any] = {
        "host": "app-1",
        "role": "leads",
        "address": "10.0.0.5:7433",
        "version": "0.1.0",
        "clock_ahead_ms": 0,
    }
    found = {
        "server": "15.18",
        "url": "postgresql://db-1/shop",
        "leader": "app-1",
        "synchronous": None,
        "members": [leader],
    }
    daemon.answers["cluster.status"] = lambda _: found
    seen = findings(shell)
    assert seen["database"][:2] == (
        "note",
        "no synchronous standby is set there: a failover may lose acknowledged work",
    )
    assert seen["cluster"][1].startswith("no daemon follows")
    behind = leader | {"host": "app-2", "role": "follows", "clock_ahead_ms": -2000}
    found |= {"synchronous": "db_2", "members": [leader, behind]}
    status(daemon, role="follows", leader="app-1", workers=[])
    seen = findings(shell)
    assert seen["database"][:2] == ("ok", "PostgreSQL 15.18 at postgresql://db-1/shop")
    assert seen["cluster"][:2] == (
        "note",
        "app-2: its clock is 2.0 s behind the database's",
    )
    assert "workers" not in seen


def test_code_that_others_can_change_is_not_imported(shell: Shell, project: Path) -> None:
    """It is refused as by every command, and whatever needs none of it was looked at; nothing of a
    project is read whose settings or data others can reach."""
    jobs = project / "jobs"
    jobs.mkdir()
    jobs.chmod(0o777)
    found = findings(shell)
    assert found["ownership"][0] == "problem"
    assert (str(jobs) in found["ownership"][1], bool(found["ownership"][2])) == (True, True)
    assert ("modules" in found, found["disk"][0]) == (False, "ok")
    jobs.chmod(0o700)
    (project / ".stackshift").chmod(0o755)
    found = findings(shell)
    assert found["ownership"][::2] == ("problem", f"chmod -R go= {project}/.stackshift")
    assert found.keys() <= {"version", "path", "ownership"}
    assert shell("doctor").code == 78


def test_absent_daemon_is_a_note_and_a_killed_one_a_problem(
    shell: Shell, daemon: FakeDaemon, project: Path
) -> None:
    """The next command starts a daemon; that one was killed is worth knowing: exit 3."""
    info = (project / ".stackshift" / "daemon.json").read_text()
    daemon.stop()
    assert findings(shell)["daemon"][::2] == ("note", "stackshift daemon start")
    assert shell("doctor").code == 0
    (project / ".stackshift" / "daemon.json").write_text(info)
    (project / ".stackshift" / "daemon.log").write_text("one\nthe last words\n")
    what = findings(shell)["daemon"]
    assert what[0] == "problem"
    assert what[1].endswith("its log ends: the last words")
    assert shell("doctor").code == 3


def test_schedules_without_a_start_at_boot_are_a_note(shell: Shell) -> None:
    """It names the command that installs one, where that would not be refused."""
    report(shell, GOOD | {"schedules": ["hello"], "error": None})
    without_crontab(shell)
    assert findings(shell)["boot"][::2] == ("note", "stackshift daemon install")
    shell.env["PATH"] = "/nowhere"
    assert findings(shell)["boot"][2].endswith("stackshift daemon run")


def test_schedules_of_a_module_that_does_not_import_are_unknown(
    shell: Shell, daemon: FakeDaemon
) -> None:
    """Nobody is told that no job has one; a daemon that has the code from before knows better."""
    without_crontab(shell)
    report(shell, GOOD | {"error": {"type": "SyntaxError", "message": "no"}})
    assert findings(shell)["boot"][::2] == ("note", "stackshift jobs check")
    assert "is not known" in findings(shell)["boot"][1]
    daemon.schedules["hello"] = schedule_object("hello", retired=True)
    assert "is not known" in findings(shell)["boot"][1]
    daemon.schedules["hello"] = schedule_object("hello")
    assert findings(shell)["boot"][::2] == ("note", "stackshift daemon install")
    daemon.schedules.clear()
    report(shell, GOOD | {"error": None})
    assert findings(shell)["boot"][0] == "ok"


def test_settings_that_are_not_valid_are_one_problem(shell: Shell) -> None:
    """The rest is looked at, as far as it can be without them, and nothing is said twice."""
    (shell.directory / "stackshift.toml").write_text("[schedules.x]\njob = 'hello'\n")
    told = shell("doctor")
    assert (told.code, told.stderr) == (78, "1 problem\n")
    found = findings(shell)
    assert found["project"][0] == "problem"
    assert {subject for subject, what in found.items() if what[0] == "problem"} == {"project"}
    assert "daemon" in found


def test_schedules_that_no_module_has_count(shell: Shell, daemon: FakeDaemon) -> None:
    """Those that a command made are known to the daemon, and those of the settings without it;
    where there is a journal and no daemon, it is said that nobody knows."""
    without_crontab(shell)
    daemon.schedules["backup"] = schedule_object("backup")
    assert findings(shell)["boot"][::2] == ("note", "stackshift daemon install")
    daemon.stop()
    assert findings(shell)["boot"][0] == "ok"
    (shell.directory / ".stackshift" / "journal").mkdir()
    assert findings(shell)["boot"][::2] == ("note", "stackshift schedules list")
    with (shell.directory / "stackshift.toml").open("a") as settings:
        settings.write('[schedules.tick]\ncron = "@daily"\njob = "hello"\n')
    assert findings(shell)["boot"][::2] == ("note", "stackshift daemon install")


def test_daemon_with_the_code_from_before_is_not_said_to_be_without_it(
    shell: Shell, daemon: FakeDaemon
) -> None:
    """What a module that broke later has defined goes on; a module that never was loaded is
    missing."""
    bad = {"module": "jobs.a", "file": "jobs/a.py", "line": 3, "type": "E", "message": "no"}
    status(daemon, failed_modules=[bad], kept_modules=[])
    assert findings(shell)["daemon"][1] == "it has loaded the jobs without jobs/a.py:3: E: no"
    status(daemon, failed_modules=[bad], kept_modules=["jobs.a"])
    assert (
        findings(shell)["daemon"][1] == "the code from before goes on, because jobs/a.py:3: E: no"
    )
    assert shell("doctor").code == 78


def test_outside_of_a_project_it_says_what_is_missing(shell: Shell, tmp_path: Path) -> None:
    """Exit 78, and what can be looked at without a project was looked at."""
    shell.directory = tmp_path
    told = shell("doctor")
    assert told.code == 78
    assert told.stdout.splitlines()[-1].startswith("project\tproblem\tno stackshift.toml in")
    assert told.stdout.startswith("version\tok\t")


def test_cron_runs_the_command_as_cron_does_and_prints_its_line(shell: Shell) -> None:
    """Its environment, directory and exit status are cron's; the line alone is on stdout."""
    program = shell.directory / "show"
    program.write_text("#!/bin/sh\nenv | sort; pwd; tty; cat\n")
    program.chmod(0o755)
    told = shell("doctor", "--cron", "--", str(program), "a b", "5%", SECRET="x")
    user = pwd.getpwuid(os.geteuid())
    assert told.code == 0
    assert told.stdout == f"0 3 * * * {program} 'a b' 5\\%\n"
    said = told.stderr.splitlines()
    for wanted in (
        f"HOME={user.pw_dir}",
        f"LOGNAME={user.pw_name}",
        "PATH=/usr/bin:/bin",
        "SHELL=/bin/sh",
        user.pw_dir,
        "not a tty",
        "exit status 0: cron would run it so",
    ):
        assert wanted in said
    assert not any(line.startswith(("SECRET", "LC_ALL", "PYTHONPATH")) for line in said)


def test_cron_line_names_program_and_project(shell: Shell, tmp_path: Path) -> None:
    """A program that cron would not find gets its path; one that nobody finds is an error."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "mine").write_text("#!/bin/sh\necho ran\n")
    (programs / "mine").chmod(0o755)
    told = shell("doctor", "--cron", "--", "mine", PATH=f"{programs}:{shell.env['PATH']}")
    assert (told.stdout, told.code) == (f"0 3 * * * {programs}/mine\n", 0)
    assert f"cron does not find mine: it is in {programs}\n" in told.stderr
    told = shell("doctor", "--cron", "--", "stackshift", "start", "hello")
    assert f" -C {shell.directory} start hello\n" in told.stdout
    told = shell("doctor", "--cron", "--", "nowhere-at-all")
    assert (told.stdout, told.code) == ("", 127)
    assert told.stderr.startswith(
        "error[command_not_found]: there is no program 'nowhere-at-all' on cron's PATH"
    )
    assert shell("doctor", "x").code == 2


def test_one_word_is_a_line_for_the_shell_of_cron(shell: Shell) -> None:
    """What is in it is expanded by that shell; in the crontab, `%` is escaped, and stackshift is
    found by its path wherever it stands."""
    told = shell("doctor", "--cron", "--", 'echo "$(date +%Y)" 1 && echo two >&2')
    assert told.stdout == '0 3 * * * echo "$(date +\\%Y)" 1 && echo two >&2\n'
    assert told.stderr.splitlines()[1:3] == [f"{time.strftime('%Y')} 1", "two"]
    told = shell("doctor", "--cron", "--", "echo 100\\%")
    assert (told.stdout, "100%\n" in told.stderr) == ("0 3 * * * echo 100\\%\n", True)
    start = "stackshift start hello --idempotency-key"
    for line in (f'{start} "hello:$(date +%F)"', f"{start} hello:`date +%F` >/dev/null || exit 3"):
        told = shell("doctor", "--cron", "--", line)
        _, found, rest = told.stdout.partition(f"/stackshift -C {shell.directory} start hello ")
        assert (told.code, bool(found), "warning" in told.stderr) == (0, True, False)
        assert rest == line.partition("start hello ")[2].replace("%", "\\%") + "\n"
    told = shell("doctor", "--cron", "--", "sh", "-c", f'{start} "hello:$(date +%F)"')
    assert (told.code, f"/stackshift -C {shell.directory} start" in told.stdout) == (0, True)


def test_what_fails_under_cron_gets_no_line(shell: Shell) -> None:
    """Nobody is told to add it; in JSON the line is null."""
    told = shell("doctor", "--cron", "--", "nowhere-at-all 2>/dev/null; exit 9")
    assert (told.stdout, told.code, "add the line" in told.stderr) == ("", 9, False)
    assert "exit status 9: it fails under cron" in told.stderr
    told = shell("doctor", "--cron", "--json", "--", "true; nowhere-at-all")
    assert json.loads(told.stdout) == {"line": None, "exit": 127}
    told = shell("doctor", "--cron", "--", "true\ntrue")
    assert (told.stdout, told.code) == ("", 2)


@pytest.mark.parametrize(
    ("key", "form", "changing"),
    [
        ("hello:TODAY", "%Y-%m-%d", "hello:$(date +%F)"),
        ("hello:TODAY-x", "%Y%m%d", "hello:$(date +%Y%m%d)-x"),
        ("hello:$(date +%F)", "", "hello:$(date +%F)"),
        ("hello", "", "hello:$(date +%F)"),
    ],
    ids=["today", "compact", "quoted", "constant"],
)
def test_key_that_never_changes_is_warned_of(
    shell: Shell, key: str, form: str, changing: str
) -> None:
    """The shell that typed the command has made a date of `$(date)`, or none at all: the line would
    start one run, ever. The hint is the command that works."""
    key = key.replace("TODAY", time.strftime(form) if form else "")
    told = shell("doctor", "--cron", "--", "stackshift", "start", "hello", "--idempotency-key", key)
    assert (told.code, "warning: the idempotency key" in told.stderr) == (0, True)
    assert "add the line" not in told.stderr
    hint = told.stderr.splitlines()[-1].partition("doctor --cron -- ")[2]
    assert shlex.split(hint) == [f'stackshift start hello --idempotency-key "{changing}"']
