"""Transcripts of `daemon install|uninstall` on a machine that has only cron."""

from __future__ import annotations

import json
import sys

import pytest

from cli.conftest import Shell

pytestmark = pytest.mark.usefixtures("only_cron")


@pytest.fixture
def only_cron(shell: Shell) -> None:
    """A `crontab` that keeps the user's table in a file, and no systemd."""
    folder = shell.directory.parent / "programs"
    folder.mkdir()
    table = folder / "table"
    program = folder / "crontab"
    program.write_text(
        f'#!/bin/sh\nif [ "$1" = -l ]; then cat {table} 2>/dev/null; else cat >{table}; fi\n'
    )
    program.chmod(0o755)
    (folder / "sitecustomize.py").write_text(
        "import stackshift_cli.daemon.boot as boot\n"
        "import shutil\n"
        "boot.ways = lambda project: iter(\n"
        "    [boot.Crontab(boot.service_of(project))] if shutil.which('crontab') else [])\n"
    )
    shell.env["PYTHONPATH"] = f"{folder}:{shell.env['PYTHONPATH']}"
    shell.env["PATH"] = f"{folder}:/usr/bin:/bin"
    table.write_text("5 6 * * * backup\n")


def line(shell: Shell) -> str:
    """The line that starts the daemon of the project."""
    command = f"{sys.executable} -P -m stackshift_cli -C {shell.directory} daemon start"
    return f"@reboot env TZ=UTC {command}\n"


def table(shell: Shell) -> str:
    """The user's crontab."""
    return (shell.directory.parent / "programs" / "table").read_text()


def test_print_shows_the_line_and_installs_nothing(shell: Shell) -> None:
    """The line is data; where it belongs is said beside it."""
    assert shell("daemon", "install", "--print") == (line(shell), "for crontab: crontab\n", 0)
    assert table(shell) == "5 6 * * * backup\n"


def test_install_adds_one_line_and_uninstall_removes_it(shell: Shell) -> None:
    """Twice is once; other lines stay; without a line `uninstall` finds nothing: exit 4."""
    for _ in range(2):
        told = shell("daemon", "install")
        assert (told.stdout, told.code) == ("crontab\n", 0)
        assert table(shell) == "5 6 * * * backup\n" + line(shell)
    assert told.stderr.endswith("hint: stackshift daemon start\n")
    answer = json.loads(shell("daemon", "uninstall", "--json").stdout)
    assert answer == {"kind": "crontab", "place": "crontab", "installed": False}
    assert table(shell) == "5 6 * * * backup\n"
    told = shell("daemon", "uninstall")
    assert (told.stdout, told.code) == ("", 4)
    assert "hint: stackshift daemon install" in told.stderr


def test_line_that_a_person_wrote_is_not_removed(shell: Shell) -> None:
    """`uninstall` says so, and leaves it: exit 78."""
    (shell.directory.parent / "programs" / "table").write_text("@reboot my-stackshift-script\n")
    told = shell("daemon", "uninstall")
    assert (told.stdout, told.code) == ("", 78)
    assert "hint: crontab -e" in told.stderr
    assert table(shell) == "@reboot my-stackshift-script\n"


def test_install_without_any_way_says_what_to_run(shell: Shell) -> None:
    """In a container something else starts programs: exit 78; `--print` shows a unit, and says that
    it is for another machine. No hint names a command that would be refused."""
    (shell.directory.parent / "programs" / "crontab").unlink()
    shell.env["PATH"] = str(shell.directory)
    told = shell("daemon", "install")
    assert (told.stdout, told.code) == ("", 78)
    assert " can start it: stackshift daemon run" in told.stderr
    told = shell("daemon", "install", "--print")
    assert (told.stdout.startswith("[Unit]\n"), told.code) == (True, 0)
    assert told.stderr.startswith("note: this machine has neither systemd nor launchd nor cron")
    told = shell("daemon", "uninstall")
    assert (told.code, "daemon install" in told.stderr) == (4, False)
