"""Transcripts of commands in a project that others can change, and of `config trust`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.conftest import Shell

COMMANDS = (
    """
start hello | state get x | event send e | runs list | runs wait @last | jobs list | jobs check
queues list | schedules list | dead list | state lock k -- true | config get workers.slots
config set workers.slots 3 | config show | daemon run | daemon start | daemon stop | daemon restart
daemon status | daemon logs | journal verify | journal stats | journal cat | journal repair -y
""".replace("\n", "|")
    .strip("|")
    .split("|")
)


@pytest.fixture
def opened(shell: Shell) -> Path:
    """The project's file of settings, which everybody can change."""
    file = shell.directory / "stackshift.toml"
    file.chmod(0o666)
    return file


@pytest.mark.parametrize("line", [line.strip() for line in COMMANDS])
def test_every_command_refuses_a_project_that_others_can_change(
    shell: Shell, opened: Path, line: str
) -> None:
    """78 and the same words, whatever is asked; nothing is read, run or left behind. (guarantee:
    own code)"""
    opened.write_text("not TOML")
    told = shell.run(line)
    assert (told.stdout, told.code) == ("", 78)
    first, hint = told.stderr.splitlines()
    assert first.startswith(f"error[configuration]: {opened} (mode 0666) of ")
    assert first.endswith(" can be changed by other users: whoever changes it can run code as you")
    trust = f"stackshift config trust {shell.directory}"
    assert hint == f"hint: chmod go-w {opened}; or, if you trust everybody who can: {trust}"
    assert [path.name for path in shell.directory.iterdir()] == ["stackshift.toml"]


def test_jobs_that_others_can_change_are_not_imported(shell: Shell) -> None:
    """They are looked at before a worker, or the check, is started."""
    jobs = shell.directory / "jobs"
    jobs.mkdir(mode=0o755)
    (jobs / "one.py").write_text("open('imported', 'w')")
    jobs.chmod(0o777)
    told = shell("jobs", "check")
    assert (told.stdout, told.code) == ("", 78)
    assert told.stderr.startswith(f"error[configuration]: {jobs} (mode 0777) of ")
    assert not (shell.directory / "imported").exists()


def test_trust_is_kept_for_one_project_until_it_is_removed(shell: Shell, opened: Path) -> None:
    """In the user's file, whose other settings and comments stay; said once, listed, removed."""
    file = Path(shell.env["HOME"]) / ".config/stackshift/config.toml"
    root = str(opened.parent)
    assert shell("config", "trust", root) == ("", f"trusted: {root}\n", 0)
    file.write_text("# mine\n" + file.read_text())
    assert shell("config", "get", "workers.slots").stdout == "16\n"
    assert shell("config", "trust", "../shop").code == 0  # Relative, and a second time.
    assert shell("config", "trust", "--list") == (f"{root}\n", "", 0)
    assert json.loads(shell("config", "trust", "--list", "--json").stdout) == [root]
    assert f'trusted\t["{root}"]\t{file}\n' in shell("config", "show", "--origin").stdout
    assert json.loads(shell("config", "get", "trusted").stdout) == [root]
    assert shell("config", "trust", "--remove", ".").stderr == f"no longer trusted: {root}\n"
    assert file.read_text().startswith("# mine\n")
    assert shell("config", "get", "workers.slots").code == 78
    assert shell("config", "trust", "--remove", ".").code == 4


def test_trust_of_a_directory_without_a_project_says_so(shell: Shell, tmp_path: Path) -> None:
    """It may be mounted later; a misspelt name should be noticed."""
    told = shell("config", "trust", str(tmp_path / "later"))
    note = "note: there is no project in that directory yet"
    assert (told.code, told.stderr.splitlines()[1:]) == (0, [note])


def test_trust_says_what_it_needs(shell: Shell) -> None:
    """A directory, or `--list` alone; the list is not set like other settings."""
    assert shell("config", "trust").code == 2
    assert shell("config", "trust", "--list", "x").code == 2
    told = shell("config", "set", "trusted", "[]")
    assert (told.code, told.stderr.splitlines()[1]) == (2, "hint: stackshift config trust DIR")


def test_trust_is_not_kept_where_others_can_change_it(shell: Shell) -> None:
    """They could add to the list."""
    file = Path(shell.env["HOME"]) / ".config/stackshift/config.toml"
    shell("config", "trust", "/srv")
    file.chmod(0o666)
    told = shell("config", "trust", "/srv/other")
    assert (told.stdout, told.code) == ("", 78)
    assert told.stderr.splitlines()[1] == f"hint: chmod go-w {file}"
    assert file.read_text() == 'trusted = ["/srv"]\n'


def test_data_directory_that_cannot_be_made_is_explained(shell: Shell) -> None:
    """As in a project where only others may write: 78 and what to set, not an internal error."""
    (shell.directory / "taken").touch()
    told = shell("start", "hello", STACKSHIFT_DATA_DIR="taken/data")
    assert (told.stdout, told.code) == ("", 78)
    first, hint = told.stderr.splitlines()
    assert first.startswith("error[configuration]: cannot write ")
    assert hint == "hint: set STACKSHIFT_DATA_DIR to a directory where you can write"
