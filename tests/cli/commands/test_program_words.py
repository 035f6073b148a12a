"""Whose option is it: ours, or the program's that a command runs?"""

from __future__ import annotations

import pytest

from cli.conftest import Shell
from cli.fake_daemon import FakeDaemon
from stackshift_cli.commands.program_words import with_program_words


@pytest.mark.parametrize(
    ("line", "read_as"),
    [
        ("exec ls -v", "exec -- ls -v"),
        ("-C shop exec --retry 2 ls -la --json", "-C shop exec --retry 2 -- ls -la --json"),
        ("step dump pg_dump -Fc -v", "step dump -- pg_dump -Fc -v"),
        ("state lock k --ttl 5s rsync -q", "state lock k --ttl 5s -- rsync -q"),
        ("schedules add n --cron @daily sync -v", "schedules add n --cron @daily -- sync -v"),
        ("schedule add n --cron @daily sync -v", "schedule add n --cron @daily -- sync -v"),
        ("sh deploy.sh -v", "sh -- deploy.sh -v"),
    ],
)
def test_options_after_a_program_are_the_programs(line: str, read_as: str) -> None:
    """As with `env` and `nice`; what we know of them is not taken away from it."""
    assert with_program_words(line.split()) == read_as.split()


@pytest.mark.parametrize(
    "line",
    [
        "exec -- ls -v",
        "exec --retry 2 -- ls",
        "exec --nope ls",
        "exec",
        "state lock k --ttl 5s",
        "state lock --ttl 5s k -- ls -v",
        "state set add 5 --json",
        "runs list --job exec -v",
        "schedules add n --cron @daily --job exec -v",
        "doctor --cron exec -v",
    ],
)
def test_other_command_lines_are_left_alone(line: str) -> None:
    """With `--`, without a program, or of another command."""
    assert with_program_words(line.split()) == line.split()


@pytest.mark.parametrize(
    "argv",
    [
        ["exec", "--", ""],
        ["exec", "", "x"],
        ["state", "lock", "k", "--ttl", "5s", "--", ""],
        ["schedules", "add", "n", "--cron", "@daily", "--", ""],
    ],
    ids=" ".join,
)
def test_empty_name_of_a_program_is_a_mistake(
    shell: Shell, daemon: FakeDaemon, argv: list[str]
) -> None:
    """Such as `exec -- "$COMMAND"` without that variable: nothing is started or added."""
    told = shell(*argv)
    assert (told.code, told.stdout) == (2, "")
    assert told.stderr.startswith("error[usage]: the name of the program is empty\n")
    assert daemon.requests == []
