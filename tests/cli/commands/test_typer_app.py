"""Which command Typer takes from a command line, and what it says of one that is wrong."""

from __future__ import annotations

import gc

import pytest

from stackshift_cli.commands import typer_app
from stackshift_cli.commands.small_parser import Values
from stackshift_cli.commands.spec import Command
from stackshift_jobs.errors import Usage


def parsed(argv: list[str]) -> tuple[str, Values]:
    """The command of `argv` and the global options."""
    seen: list[tuple[str, Values]] = []

    def run(command: Command, globals_: Values, _values: Values) -> int:
        seen.append((" ".join(command.path), globals_))
        return 0

    assert typer_app.parse(argv, run) == 0
    return seen[0]


@pytest.mark.parametrize("directory", ["state", "run", "queues", "elsewhere"])
def test_value_of_an_option_may_be_the_name_of_a_group(directory: str) -> None:
    """A project directory that is named like a group does not hide the command."""
    command, globals_ = parsed(["-C", directory, "runs", "list"])
    assert (command, globals_["project"]) == ("runs list", directory)


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["-C", "state", "runs", "list", "--nope"], "stackshift runs list --help"),
        (["start", "--nope", "run_1"], "stackshift start --help"),
        (["--nope"], "stackshift --help"),
    ],
)
def test_hint_names_the_command_that_was_called(argv: list[str], hint: str) -> None:
    """The hint of a usage error leads to the help of the command, whatever its values are."""
    with pytest.raises(Usage) as refused:
        parsed(argv)
    assert refused.value.hint == hint


def test_garbage_is_collected_while_a_verb_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector, which is off while the command line loads, works for the verb."""
    seen: list[bool] = []

    def verb(_session: object, _given: object) -> int:
        seen.append(gc.isenabled())
        return 0

    monkeypatch.setattr("stackshift_cli.verbs.jobs.list_", verb)
    gc.disable()
    try:
        assert typer_app.run(["jobs", "list"]) == 0
    finally:
        gc.enable()
    assert seen == [True]
