"""The two parsers of `start` give the same answers, since both are made from one table."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stackshift_cli import tree
from stackshift_cli.plain import Values, parse
from stackshift_cli.table import GLOBALS, START, Command, Option

OPTIONS = [p for p in (*GLOBALS, *START.parameters) if isinstance(p, Option)]
FLAGS = [flag for option in OPTIONS for flag in option.flags]
WORDS = st.sampled_from(
    ["hello", "resizeAvatar", "-", "a=b", "n:=1", "{}", "10m", "", "start", "7"]
)
STRANGE = st.sampled_from(
    ["--", "-x", "--nope", "-qv", "-p{}", "--wait=1", "-1", "--help", "--que"]
)


@st.composite
def _tokens(draw: st.DrawFn) -> list[str]:
    """An option (spaced or with `=`), a flag, a word or, seldom, something strange."""
    kind = draw(st.integers(0, 9))
    if kind < 6:
        option = draw(st.sampled_from(OPTIONS))
        flag = draw(st.sampled_from(option.flags))
        if not option.metavar:
            return [flag]
        value = draw(WORDS)
        return [f"{flag}={value}"] if draw(st.booleans()) else [flag, value]
    return [draw(WORDS if kind < 9 else STRANGE)]


def _lines() -> st.SearchStrategy[list[str]]:
    def line(before: list[list[str]], after: list[list[str]]) -> list[str]:
        return [w for part in before for w in part] + ["start"] + [w for p in after for w in p]

    global_flags = {flag for option in GLOBALS for flag in option.flags}
    before = _tokens().filter(lambda t: t[0].partition("=")[0] in global_flags)
    return st.builds(line, st.lists(before, max_size=2), st.lists(_tokens(), max_size=6))


def typer_answer(argv: list[str]) -> tuple[Values, Values]:
    """What the Typer parser makes of `argv`."""
    seen: list[tuple[Values, Values]] = []

    def run(command: Command, globals_: Values, values: Values) -> int:
        assert command is START
        seen.append((globals_, values))
        return 0

    assert tree.parse(argv, run) == 0
    return seen[0]


@settings(max_examples=200, deadline=None)
@given(_lines())
def test_what_the_small_parser_takes_typer_reads_the_same(argv: list[str]) -> None:
    """For any command line the small parser gives Typer's values, or leaves it to Typer."""
    plain = parse(argv, START)
    if plain is not None:
        assert (plain.globals, plain.values) == typer_answer(argv)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda o: o.name)
@pytest.mark.parametrize("before", [False, True])
def test_every_option_of_the_table_is_plain(option: Option, before: bool) -> None:
    """No option sends a plain command line to Typer, and its value arrives under its name."""
    value = ["hello"] if option.metavar else []
    expected: Any = ["hello"] if option.many else ("hello" if option.metavar else True)
    if before and option not in GLOBALS:
        return
    for flag in option.flags:
        given_option = [flag, *value]
        argv = [*given_option, "start", "j"] if before else ["start", "j", *given_option]
        plain = parse(argv, START)
        assert plain is not None
        assert {**plain.globals, **plain.values}[option.name] == expected
        assert plain.values["job"] == "j"


@pytest.mark.parametrize(
    "argv",
    [
        ["start", "j", "--help"],
        ["start", "j", "-qv"],
        ["start", "j", "-p{}"],
        ["start", "j", "--", "x"],
        ["start", "a", "b"],
        ["start", "j", "-p"],
        ["start", "j", "--delay", "-5"],
        ["start", "j", "--wait=1"],
        ["start", "j", "--nope"],
        ["daemon", "start"],
        ["runs", "list"],
        [],
    ],
)
def test_what_is_not_plain_is_left_to_typer(argv: list[str]) -> None:
    """Whatever could mean something else, or is a mistake, is not guessed at."""
    assert parse(argv, START) is None
