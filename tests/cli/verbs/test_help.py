"""Help, version, completion, unknown commands, and the man page."""

from __future__ import annotations

import re
import shlex

import pytest

from cli.conftest import REPOSITORY, Shell
from cli.fake_daemon import FakeDaemon
from stackshift_cli.commands.catalogue import ALIASES, COMMANDS, GROUPS
from stackshift_cli.commands.examples import EXAMPLES
from stackshift_cli.commands.help_topics import TOPICS
from stackshift_cli.commands.spec import GLOBALS, Command, Option
from stackshift_jobs.version import __version__

CRON_LINE = re.compile(r"\s*(?:\.Dl )?(?:(?:[\d*/,-]+)\s+){5}stackshift .*")


def test_every_crontab_example_has_a_date_and_escapes_percent() -> None:
    """Keys are kept for 30 days, so a key without a date would start nothing the next day; and `%`
    ends a command in a crontab."""
    man = (REPOSITORY / "man/stackshift.1").read_text().replace("\\e", "\\")
    texts = {"man": man, **TOPICS}
    for file in (REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")):
        texts[file.name] = file.read_text()
    examples = [
        (name, line)
        for name, text in texts.items()
        for line in text.splitlines()
        if CRON_LINE.fullmatch(line) and "--idempotency-key" in line
    ]
    assert {"man", "cron", "README.md"} <= {name for name, _ in examples}
    for name, line in examples:
        key = line.partition("--idempotency-key")[2]
        assert re.search(r"\\%F|\\%Y-\\%m", key), (name, line)
        assert not re.search(r"(?<!\\)%", line), (name, line)


def test_version(shell: Shell) -> None:
    """`--version` prints one line and needs no project."""
    shell.directory = shell.directory.parent
    assert shell("--version") == (f"stackshift {__version__}\n", "", 0)
    for argv in (["--version", "--json"], ["--json", "--version"]):
        assert shell(*argv) == (f'{{"version":"{__version__}"}}\n', "", 0)


@pytest.mark.parametrize(
    ("argv", "near"),
    [
        (["rns", "list"], "did you mean stackshift runs?"),
        (["runs", "lst"], "list"),
        (["statr", "x"], "start"),
        (["ques", "list"], "queues"),
        (["zzz"], "one of: "),
    ],
)
def test_unknown_command_is_exit_2_with_near_names(
    shell: Shell, argv: list[str], near: str
) -> None:
    """The command is not guessed; the hint has similar names."""
    told = shell(*argv)
    assert (told.stdout, told.code) == ("", 2)
    assert told.stderr.startswith("error[usage]: unknown command")
    assert near in told.stderr.splitlines()[1]


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"], ["help"]])
def test_help_lists_all_commands(shell: Shell, argv: list[str]) -> None:
    """Help is data: stdout, exit 0. Aliases are not listed."""
    told = shell(*argv)
    assert (told.stderr, told.code) == ("", 0)
    listed = told.stdout.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert {line.split()[0] for line in listed} == {c.path[0] for c in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: " ".join(c.path))
def test_every_command_has_help_with_all_its_options(
    command: object, capsys: pytest.CaptureFixture[str]
) -> None:
    """`COMMAND --help` names each option and argument."""
    from stackshift_cli.commands import typer_app
    from stackshift_cli.commands.spec import Command

    assert isinstance(command, Command)
    assert typer_app.run([*command.path, "--help"]) == 0
    told = capsys.readouterr().out
    for parameter in (*command.parameters, *GLOBALS):
        named = parameter.flags[-1] if isinstance(parameter, Option) else parameter.metavar
        assert named.removesuffix("...") in told


def test_help_of_a_command_is_laid_out_by_us(shell: Shell) -> None:
    """The page has arguments, own options and global options, and no types."""
    told = shell("state", "lock", "--help").stdout
    assert told.splitlines()[0] == "Usage: stackshift state lock [OPTIONS] KEY [-- COMMAND...]"
    sections = ["Arguments:", "Options:", "Global options:"]
    assert [line for line in told.splitlines() if line in sections] == sections
    assert "<str>" not in told


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: " ".join(c.path))
def test_every_command_can_be_called(command: object) -> None:
    """The function that the table names exists."""
    import importlib

    from stackshift_cli.commands.spec import Command

    assert isinstance(command, Command)
    module, _, function = command.run.partition(":")
    assert callable(getattr(importlib.import_module(f"stackshift_cli.verbs.{module}"), function))


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("runs show", "RUN is missing", "stackshift runs show --help"),
        ("runs wait", "RUN is missing", "stackshift runs wait --help"),
        ("runs show a b c", "unexpected argument: b c", "stackshift runs show --help"),
        (
            "start x --quue a",
            "there is no option --quue",
            "did you mean --queue or --quiet or --unique?",
        ),
        ("start x -p", "-p needs a value", "stackshift start --help"),
        ("start --wait=1 x", "--wait takes no value", "stackshift start --help"),
    ],
)
def test_usage_errors_are_in_our_words(shell: Shell, line: str, message: str, hint: str) -> None:
    """Nothing of the parser's wording or of Python shows: exit 2."""
    assert shell.run(line) == ("", f"error[usage]: {message}\nhint: {hint}\n", 2)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: " ".join(c.path))
def test_every_example_is_a_command_line_that_is_read(command: Command) -> None:
    """Each command has an example of its own, and the parser takes it: no old option, no missing
    argument."""
    examples = EXAMPLES[command.path]
    assert examples
    assert all(example.purpose for example in examples)
    called = [path for example in examples for path in commands_in(example.line)]
    assert command.path in called


def commands_in(line: str) -> list[tuple[str, ...]]:
    """The paths of the commands that `line` calls, each read by the real parser."""
    from stackshift_cli.commands import typer_app

    found: list[tuple[str, ...]] = []

    def run(command: Command, _globals: object, _values: object) -> int:
        found.append(command.path)
        return 0

    for called in re.findall(r"(?<![\w/~.])stackshift ((?:'[^']*'|\"[^\"]*\"|[^|&)>])+)", line):
        typer_app.parse(shlex.split(called), run)
    return found


def test_no_example_is_for_a_command_that_is_gone() -> None:
    """The table of examples has the commands of the catalogue, and no others."""
    assert EXAMPLES.keys() == {command.path for command in COMMANDS}


def test_topic_of_the_timeline_explains_each_sign() -> None:
    """What a picture can be made of is in `help timeline`, in both sets of signs."""
    from stackshift_cli.render.console import ASCII, UNICODE

    text = TOPICS["timeline"]
    for signs in (UNICODE, ASCII):
        assert {*signs.bars.values(), *signs.statuses.values()} <= set(text)


def test_help_on_topics_and_commands(shell: Shell) -> None:
    """`help TOPIC`, `help runs show`, and similar names for anything else."""
    for topic, text in TOPICS.items():
        shown = shell("help", topic).stdout
        assert shown.split() == text.split()
        assert max(map(len, shown.splitlines())) <= 80
    assert shell("help", "run", "show").stdout.startswith("Usage: stackshift runs show")
    assert shell("help", "duration") == shell("help", "durations")
    told = shell("help", "paylod")
    assert (told.stdout, told.code) == ("", 4)
    assert "did you mean payload?" in told.stderr


def test_completion_for_an_unknown_shell_is_usage(shell: Shell) -> None:
    """Exit 2, with the shells that are supported."""
    told = shell("completion", "tcsh")
    assert (told.stdout, told.code) == ("", 2)
    assert "bash, zsh, fish" in told.stderr


def test_singular_and_plural_name_one_group() -> None:
    """No alias is itself a group, and each stands for one."""
    assert not ALIASES.keys() & GROUPS.keys()
    assert set(ALIASES.values()) <= GROUPS.keys()


def test_internal_error_shows_a_traceback_only_with_verbose(
    shell: Shell, daemon: FakeDaemon
) -> None:
    """A bug is exit 70 and one line; `-v` adds the traceback."""
    daemon.answers["run.why"] = lambda _: []
    told = shell("runs", "why", "@last")
    assert (told.stdout, told.code) == ("", 70)
    assert told.stderr.startswith("error[internal]: TypeError: ")
    assert "Traceback" not in told.stderr
    assert "Traceback (most recent call last)" in shell("runs", "why", "@last", "-v").stderr
