"""Two parsers, one table: both read each command in the same way."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stackshift_cli.commands import typer_app
from stackshift_cli.commands.catalogue import COMMANDS
from stackshift_cli.commands.small_parser import Values, parse
from stackshift_cli.commands.spec import FAST, GLOBALS, START, Command, Option
from stackshift_jobs.errors import Usage

OF_EACH = [(c, o) for c in COMMANDS for o in (*GLOBALS, *c.parameters) if isinstance(o, Option)]
WORDS = st.sampled_from(
    ["hello", "resizeAvatar", "-", "a=b", "n:=1", "{}", "10m", "", "start", "7", "-1"]
)
STRANGE = st.sampled_from(
    ["--", "-x", "--nope", "-qv", "-p{}", "--wait=1", "-1x", "-.5", "--help", "--que"]
)


def options_of(command: Command) -> list[Option]:
    """The options of `command`, including the global ones."""
    return [option for of, option in OF_EACH if of is command]


@st.composite
def _tokens(draw: st.DrawFn, command: Command) -> list[str]:
    """An option (with a space or with `=`), a flag, a word or, rarely, something strange."""
    kind = draw(st.integers(0, 9))
    if kind < 6:
        option = draw(st.sampled_from(options_of(command)))
        flag = draw(st.sampled_from(option.flags))
        if not option.metavar:
            return [flag]
        value = draw(WORDS)
        return [f"{flag}={value}"] if draw(st.booleans()) else [flag, value]
    return [draw(WORDS if kind < 9 else STRANGE)]


def _lines(command: Command) -> st.SearchStrategy[tuple[Command, list[str]]]:
    def line(before: list[list[str]], after: list[list[str]]) -> tuple[Command, list[str]]:
        words = [w for part in before for w in part]
        return command, [*words, *command.path, *(w for part in after for w in part)]

    global_flags = {flag for option in GLOBALS for flag in option.flags}
    before = _tokens(command).filter(lambda t: t[0].partition("=")[0] in global_flags)
    return st.builds(line, st.lists(before, max_size=2), st.lists(_tokens(command), max_size=6))


def typer_answer(argv: list[str], of: Command) -> tuple[Values, Values]:
    """The global options and values that the Typer parser reads from `argv`."""
    seen: list[tuple[Values, Values]] = []

    def run(command: Command, globals_: Values, values: Values) -> int:
        assert command is of
        seen.append((globals_, values))
        return 0

    assert typer_app.parse(argv, run) == 0
    return seen[0]


def given_twice(argv: list[str], command: Command) -> bool:
    """Does one side of the command contain the same option with a value twice?"""
    verb = next(
        at for at in range(len(argv)) if tuple(argv[at:][: len(command.path)]) == command.path
    )
    for side in (argv[:verb], argv[verb:]):
        flags = [word.partition("=")[0] for word in side]
        for option in options_of(command):
            is_single = option.metavar and not option.many
            if is_single and sum(flags.count(flag) for flag in option.flags) > 1:
                return True
    return False


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(COMMANDS).flatmap(_lines))
def test_what_the_small_parser_takes_typer_reads_the_same(line: tuple[Command, list[str]]) -> None:
    """For any command line the small parser returns Typer's values, or leaves it to Typer."""
    command, argv = line
    plain = parse(argv, command)
    if plain is not None:
        assert not given_twice(argv, command)
        assert (plain.globals, plain.values) == typer_answer(argv, command)


@pytest.mark.parametrize(
    ("command", "option"), OF_EACH, ids=lambda each: getattr(each, "name", None) or each.path[-1]
)
@pytest.mark.parametrize("before", [False, True])
def test_every_option_of_the_table_is_plain(command: Command, option: Option, before: bool) -> None:
    """Each option is read by the small parser, and its value is stored under its name."""
    value = ["hello"] if option.metavar else []
    expected: Any = ["hello"] if option.many else ("hello" if option.metavar else True)
    if before and option not in GLOBALS:
        return
    arguments = [p for p in command.parameters if not isinstance(p, Option)]
    words = [p.name for p in arguments]
    for flag in option.flags:
        given_option = [flag, *value]
        own = [*command.path, *words]
        argv = [*given_option, *own] if before else [*own, *given_option]
        plain = parse(argv, command)
        assert plain is not None
        assert {**plain.globals, **plain.values}[option.name] == expected
        read = [plain.values[p.name] for p in arguments]
        assert read == [[p.name] if p.many else p.name for p in arguments]


@pytest.mark.parametrize(
    "argv",
    [
        ["start", "j", "--help"],
        ["start", "j", "-qv"],
        ["start", "j", "-p{}"],
        ["start", "j", "--", "x"],
        ["start", "a", "b"],
        ["start", "j", "-p"],
        ["start", "j", "--delay", "-x"],
        ["start", "j", "--wait=1"],
        ["start", "j", "--nope"],
        ["daemon", "start"],
        ["runs", "list"],
        ["state", "get", "k"],
        [],
    ],
)
def test_what_is_not_plain_is_left_to_typer(argv: list[str]) -> None:
    """Anything ambiguous or wrong is left to Typer, not guessed."""
    assert parse(argv, START) is None


@pytest.mark.parametrize(
    "argv",
    [
        ["state", "set", "k"],
        ["state", "set", "k", "-x"],
        ["state", "set", "k", "--", "-5"],
        ["state", "get", "k", "extra"],
        ["states", "get", "k"],
        ["state", "list"],
        ["event", "send"],
        ["event", "tail"],
    ],
)
def test_what_is_not_plain_of_state_and_events_is_left_to_typer(argv: list[str]) -> None:
    """No command with a fast path accepts the options of another."""
    assert [parse(argv, command) for command in FAST] == [None] * len(FAST)


@pytest.mark.parametrize(
    ("command", "option"),
    [(c, o) for c, o in OF_EACH if o.metavar],
    ids=lambda each: getattr(each, "name", None) or each.path[-1],
)
def test_option_that_cannot_be_repeated_is_refused_if_it_is(
    command: Command, option: Option
) -> None:
    """Of two values one would be lost in silence. The small parser leaves it to Typer."""
    words = [word for a in command.parameters if not isinstance(a, Option) for word in ["x"]]
    argv = [*command.path, *words, option.flags[0], "a", f"{option.flags[-1]}=b"]
    if "--" in argv[-1]:
        assert (parse(argv, command) is None) is not option.many
    if option.many:
        typer_answer(argv, command)
        return
    with pytest.raises(Usage, match=f"{option.flags[-1]} is given 2 times"):
        typer_app.parse(argv, lambda *_: 0)


def test_global_option_after_the_verb_wins_over_one_before_it() -> None:
    """That is not twice: a wrapper gives its own before."""
    argv = ["-C", "a", "jobs", "list", "-C", "b"]
    command = next(c for c in COMMANDS if c.path == ("jobs", "list"))
    assert typer_answer(argv, command)[0]["project"] == "b"
