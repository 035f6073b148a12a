"""What somebody means who calls a command that does not exist.

In this order: a verb of the noun that other programs call otherwise (`runs kill`: `runs cancel`), a
verb of some noun (`retry`: `runs retry`), a global option (`version`), a job of the project
(`hello`: `start hello`), a run (`runs @last`), what other programs call otherwise (`ps`: `runs
list`), and only then what is spelled alike. The daemon is asked for jobs only if it runs; nothing
is started, changed or imported.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable
from typing import Final, NamedTuple

from stackshift_cli.commands.catalogue import ALIASES, COMMANDS, GROUPS
from stackshift_cli.commands.help_page import PROGRAM, VERSION
from stackshift_cli.commands.spec import GLOBALS, Argument, Command
from stackshift_jobs.errors import Usage

_RUN: Final = re.compile(r"@(last|failed)|run_\w+")
_ELSEWHERE: Final = {
    "ls": ("list",),
    "ps": ("list",),
    "describe": ("show",),
    "info": ("show",),
    "inspect": ("show",),
    "abort": ("cancel",),
    "kill": ("cancel", "stop"),
    "rerun": ("retry",),
    "del": ("rm", "delete"),
    "delete": ("rm",),
    "remove": ("rm", "delete"),
    "rm": ("delete",),
    "put": ("set",),
    "emit": ("send",),
    "publish": ("send",),
    "enqueue": ("start",),
    "submit": ("start",),
    "follow": ("tail",),
    "watch": ("tail",),
    "htop": ("top",),
    "monitor": ("top",),
}
"""Our verbs for those of shells, queues and other programs."""
_VERY_ALIKE: Final = 0.75
_ALIKE: Final = 0.5
_MOST_ASKED: Final = 3
"""More candidates than these are listed instead of asked for."""


class Called(NamedTuple):
    """A word that is not a command: the noun before it (or empty), the word, the words after it,
    and the `--project` of the command line."""

    noun: str
    word: str
    rest: list[str]
    project: str | None = None


def unknown(called: Called) -> Usage:
    """The error for a command that does not exist, with what is probably meant."""
    near = _meant(called)
    typed = " ".join(filter(None, (called.noun, called.word)))
    return Usage(f"unknown command {typed!r}", hint=_hint(called, near), near=near)


def verbs(word: str, rest: Iterable[str] = ()) -> list[str]:
    """The commands whose verb is `word`, as `runs retry` or `start`; if words follow it, those that
    take any."""
    named = [command for command in COMMANDS if command.path[-1] == word]
    if any(not text.startswith("-") for text in rest):
        named = [command for command in named if _takes_words(command)] or named
    return [" ".join(command.path) for command in named]


def _meant(called: Called) -> list[str]:
    noun = ALIASES.get(called.noun, called.noun)
    return (
        (_called_otherwise(called.word, noun) if noun else [])
        or _elsewhere(called, noun)
        or _as_argument(called, noun)
        or _called_otherwise(called.word, "")
        or [_path(noun, word) for word in _spelled_alike(called.word, _inside(noun))]
    )


def _called_otherwise(word: str, noun: str) -> list[str]:
    """The command for what other programs call `word`, among those of `noun`; without a noun, the
    command of one word, one about runs, or of any noun."""
    mine = _ELSEWHERE.get(word, ())
    if noun:
        return [f"{noun} {verb}" for verb in mine if verb in _inside(noun)]
    for verb in mine:
        named = verbs(verb)
        for best in (verb, f"runs {verb}"):
            if best in named:
                return [best]
        if named:
            return named
    return []


def _spelled_alike(word: str, known: list[str]) -> list[str]:
    """Those of `known` that are spelled like `word`: only the very similar ones, if there are
    any."""
    very = difflib.get_close_matches(word, known, _MOST_ASKED, _VERY_ALIKE)
    return very or difflib.get_close_matches(word, known, _MOST_ASKED, _ALIKE)


def _elsewhere(called: Called, noun: str) -> list[str]:
    """What is called exactly like the word, elsewhere than among the commands of `noun`."""
    near = verbs(called.word, called.rest)
    near += [f"--{called.word}" for o in (*GLOBALS, VERSION) if f"--{called.word}" in o.flags]
    return near + _starting(called, noun)


def _starting(called: Called, noun: str) -> list[str]:
    """The commands for the word as the name of a job, if it is one."""
    if noun not in ("", "runs", "jobs"):
        return []
    from stackshift_cli.daemon.known_jobs import is_job

    if not is_job(called.word, called.project):
        return []
    name = shlex.quote(called.word)
    start = f"start {name}"
    return [f"jobs show {name}", start] if noun == "jobs" else [start]


def _as_argument(called: Called, noun: str) -> list[str]:
    """The command that shows the run that the word is."""
    is_run = noun in ("", "runs") and _RUN.fullmatch(called.word)
    return [f"runs show {called.word}"] if is_run else []


def _inside(noun: str) -> list[str]:
    """The words that may follow `noun`; the first words of command lines if it is empty."""
    if noun:
        return [command.path[1] for command in COMMANDS if command.path[0] == noun]
    return [*(command.path[0] for command in COMMANDS if len(command.path) == 1), *GROUPS]


def _path(noun: str, word: str) -> str:
    return f"{noun} {word}" if noun else word


def _takes_words(command: Command) -> bool:
    return any(isinstance(parameter, Argument) for parameter in command.parameters)


def _hint(called: Called, near: list[str]) -> str:
    commands = [f"{PROGRAM} {each}" for each in near]
    if len(near) > _MOST_ASKED:
        return f"one of: {', '.join(commands)}"
    if near:
        return f"did you mean {' or '.join(commands)}?"
    return f"one of: {', '.join(sorted(_inside(ALIASES.get(called.noun, called.noun))))}"
