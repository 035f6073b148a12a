"""`crontab import`, with a real daemon: what the entries become, and that it can be repeated."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import scenery
from helpers.deadline import wait_until
from helpers.project import Json, Project
from helpers.project_factory import Make

PLAIN = """
@stackshift.job("plain")
def plain(ctx):
    return None
"""
CRONTAB = """# of the shop
SHELL=/bin/bash
A=b
15 3 * * * echo $A $0 $PWD $PATH
0 9 * * mon cat%one\\%%two
@weekly /bin/true
5/15 * * * * never
0 0 31 2 * neither
"""


@pytest.fixture
def project(make_project: Make) -> Project:
    """A project whose daemon runs."""
    made = make_project(PLAIN)
    made.start()
    return made


def shell(project: Project, *words: str, stdin: str = "") -> tuple[str, str, int]:
    """What a command of the project prints on both streams, and its exit status."""
    done = subprocess.run(
        [sys.executable, "-m", "stackshift_cli", "-C", str(project.root), *words],
        input=stdin,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
        check=False,
    )
    return done.stdout, done.stderr, done.returncode


def imported(project: Project, text: str, *options: str) -> list[Json]:
    """What `crontab import --json` says of each line."""
    words = ("crontab", "import", "-", "--json", "--timezone", "Europe/Berlin", *options)
    out, err, code = shell(project, *words, stdin=text)
    assert code in (0, 6), err
    found: list[Json] = json.loads(out)
    return found


def states(found: list[Json]) -> list[tuple[int, str, str]]:
    """Line, name and state of each."""
    return [(each["line"], each["name"], each["state"]) for each in found]


def names(project: Project) -> dict[str, Json]:
    """All schedules by name."""
    return {each["name"]: each for each in project.call("schedule.list")["schedules"]}


def test_entries_become_schedules_that_do_what_cron_did(project: Project) -> None:
    """By cron's shell, in the home directory, with its variables and what it reads."""
    found = imported(project, CRONTAB)
    assert states(found) == [
        (4, "echo", "added"),
        (5, "cat", "added"),
        (6, "true", "added"),
        (7, "", "left out"),
        (8, "", "left out"),
    ]
    assert [each["why"] for each in found[3:]] == [
        "cron would refuse it: minute '5/15': a step needs a range or *",
        "the schedule '0 0 31 2 *' never ticks",
    ]
    shown = names(project)["echo"]
    assert (shown["schedule"], shown["timezone"]) == ("15 3 * * *", "Europe/Berlin")
    assert (shown["catch_up"], shown["overlap"]) == ("skip", "allow")
    assert (shown["note"], shown["source"]) == ("# of the shop", "crontab")
    home = pwd.getpwuid(os.geteuid()).pw_dir
    for name, wanted in (
        ("echo", [f"b /bin/bash {home} /usr/bin:/bin"]),
        ("cat", ["one%", "two"]),
    ):
        run = project.finish(project.call("schedule.trigger", name=name)["id"])
        assert run["status"] == "completed"
        lines = project.call("run.logs", run=run["id"])["lines"]
        assert [line["message"] for line in lines] == wanted


@pytest.mark.not_via(why="@reboot is refused where machines share the journal")
def test_entry_for_the_start_of_the_machine_is_imported(project: Project) -> None:
    """And a dry run says so."""
    for options, state in (("--dry-run",), "would be added"), ((), "added"):
        assert states(imported(project, "@reboot /bin/true\n", *options)) == [(1, "true", state)]
    assert names(project)["true"]["schedule"] == "@reboot"


def test_importing_twice_changes_nothing_also_after_a_kill(project: Project) -> None:
    """Not a record; and a dry run says beforehand what would be."""
    dry = imported(project, CRONTAB, "--dry-run")
    assert {each["state"] for each in dry} == {"would be added", "left out"}
    assert names(project) == {}
    first = imported(project, CRONTAB)
    assert [each["next_at"] for each in dry] == [each["next_at"] for each in first]
    project.kill()
    project.start()
    defined = [r for r in project.journal() if r["kind"] == "schedule.defined"]
    for options in ((), ("--dry-run",)):
        again = imported(project, CRONTAB, *options)
        assert {each["state"] for each in again} == {"unchanged", "left out"}
    assert [r for r in project.journal() if r["kind"] == "schedule.defined"] == defined


def test_importing_twice_changes_nothing_where_payloads_are_redacted(make_project: Make) -> None:
    """What a line does is told from a digest, and not from what the list shows."""
    project = make_project(PLAIN, scenery.CONFIG + '[redact]\npayload = ["env.A", "env.B"]\n')
    project.start()
    text = "A=one\n0 1 * * * x\nA=two\n0 2 * * * x\n"
    assert states(imported(project, text)) == [(2, "x", "added"), (4, "x-2", "added")]
    assert names(project)["x"]["payload"]["env"]["A"] != "one"
    for options in ((), ("--dry-run",)):
        again = imported(project, text, *options)
        assert states(again) == [(2, "x", "unchanged"), (4, "x-2", "unchanged")]


def test_changed_crontab_changes_its_schedules(project: Project) -> None:
    """By what they do, wherever the line stands; a pause stays, and what is gone is named."""
    text = "0 1 * * * /opt/x a\n0 2 * * * /opt/x b\n0 3 * * * /opt/y\n"
    assert [name for _, name, _ in states(imported(project, text))] == ["x", "x-2", "y"]
    project.call("schedule.pause", name="x")
    text = "0 9 * * * /opt/new\n0 2 * * * /opt/x b\n30 1 * * * /opt/x a\n"
    assert states(imported(project, text)) == [
        (1, "new", "added"),
        (2, "x-2", "unchanged"),
        (3, "x", "changed"),
    ]
    shown = names(project)
    assert (shown["x"]["schedule"], shown["x"]["paused"]) == ("30 1 * * *", True)
    _, err, code = shell(
        project, "crontab", "import", "-", "--timezone", "Europe/Berlin", stdin=text
    )
    assert code == 0
    assert "no longer in the crontab, and still schedules: y\n" in err
    assert "hint: stackshift schedules rm y\n" in err


def test_name_of_a_schedule_of_the_code_is_left_to_it(project: Project) -> None:
    """The entry gets another one."""
    project.call("schedule.add", name="x", job="plain", schedule="@daily")
    assert states(imported(project, "0 1 * * * x\n")) == [(1, "x-2", "added")]
    assert names(project)["x"]["job"] == "plain"


def test_system_crontab_gives_only_what_runs_as_this_user(project: Project, tmp_path: Path) -> None:
    """The others are said; they are no mistake."""
    me = pwd.getpwuid(os.geteuid()).pw_name
    file = tmp_path / "system"
    file.write_text(f"0 1 * * * {me} /opt/mine\n0 2 * * * nobody /opt/theirs\n")
    out, err, code = shell(project, "crontab", "import", str(file), "--format", "system")
    assert code == 0
    assert [line.split("\t")[1:3] for line in out.splitlines()] == [
        ["added", "mine"],
        ["left out", ""],
    ]
    assert "it runs as nobody: import it as that user" in err
    assert names(project)["mine"]["options"]["labels"]["crontab"] == str(file)


def test_lines_of_cronie_are_understood(project: Project) -> None:
    """`CRON_TZ` and `RANDOM_DELAY`, and it is said how."""
    text = "CRON_TZ=Asia/Tokyo\nRANDOM_DELAY=30\nMAILTO=me@example.com\n0 1 * * * /opt/x\n"
    _, err, code = shell(project, "crontab", "import", "-", stdin=text)
    assert code == 0
    shown = names(project)["x"]
    assert (shown["timezone"], shown["jitter_ms"]) == ("Asia/Tokyo", 1_800_000)
    for told in ("not mailed to me@example.com", "CRON_TZ is taken", "RANDOM_DELAY is taken"):
        assert told in err


def test_imported_schedule_ticks(project: Project) -> None:
    """As all others do, and the run has the crontab's label."""
    project.call(
        "schedule.add",
        name="soon",
        job="exec",
        schedule="@every 1s",
        payload={"command": ["true"]},
        options={"labels": {"name": "true", "crontab": "me"}},
        source="crontab",
    )
    found = wait_until(
        lambda: project.call("run.list", labels={"crontab": "me"})["runs"], "a run of it"
    )
    assert found[0]["job"] == "exec"


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (("/no/such",), 2, "cannot read"),
        (("-", "--format", "other"), 2, "--format takes user or system"),
        (("-", "--timezone", "Mars/Olympus"), 6, "is not a known time zone"),
    ],
)
def test_what_cannot_be_read_is_an_error(
    project: Project, words: tuple[str, ...], status: int, told: str
) -> None:
    """With what and where; nothing is added."""
    _, err, code = shell(project, "crontab", "import", *words, stdin="0 1 * * * x\n")
    assert (code, told in err) == (status, True), err
    assert names(project) == {}
