"""The small parser: reads plain command lines of one command, without Typer.

What follows `--` are the words of a command that takes as many as there are.

It accepts a subset of what Typer accepts, with the same values. For anything else (help, an unknown
option, clusters like `-qv`, a value that looks like an option, an option given twice, a mistake) it
returns None, and the caller leaves the command line to Typer, which also words the error. A test
compares the two.
"""

from __future__ import annotations

from stackshift_cli.commands.spec import GLOBALS, Argument, Command, Option, Parameter

TYPE_CHECKING = False  # See `stackshift_jobs.errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    from typing import Any

Values = dict[str, "Any"]
"""By parameter name: text, a list of texts, a bool, or None if not given."""


class Parsed:
    """The values of the global options, and of the command's own parameters."""

    __slots__ = ("globals", "values")

    def __init__(self, globals: Values, values: Values) -> None:
        self.globals = globals
        self.values = values


def parse(argv: list[str], command: Command) -> Parsed | None:
    """The values that `argv` (without the program's name) gives `command`; None if it is not plain,
    or calls another command."""
    before = _Reader(GLOBALS)
    verb = before.read(argv, 0, stop_at_word=True)
    start = verb + len(command.path)
    if before.strange or tuple(argv[verb:start]) != command.path:
        return None
    after = _Reader((*GLOBALS, *command.parameters))
    after.read(argv, start)
    if after.strange or not after.place(command.parameters):
        return None
    own = {p.name: after.values[p.name] for p in command.parameters}
    return Parsed(merge(before.values, after.values), own)


def place_of_word(
    argv: list[str], command: Command, before: int, aliases: dict[str, str]
) -> int | None:
    """Where the word of `argv` stands that follows `before` other words of `command`; None if there
    is none, if it stands behind `--`, or if another command is called."""
    globals_ = _Reader(GLOBALS)
    verb = globals_.read(argv, 0, stop_at_word=True)
    at = verb + len(command.path)
    path = [aliases.get(word, word) for word in argv[verb : verb + 1]] + argv[verb + 1 : at]
    if globals_.strange or tuple(path) != command.path:
        return None
    own = _Reader((*GLOBALS, *command.parameters))
    for _ in range(before + 1):
        at = own.read(argv, at, stop_at_word=True) + 1
        if own.strange or at > len(argv):
            return None
    return at - 1


def blank(parameters: tuple[Parameter, ...]) -> Values:
    """The values of `parameters` when none of them was given."""
    return {p.name: _nothing(p) for p in parameters}


def merge(before: Values, after: Values) -> Values:
    """The global options of a command line; those after the verb win over those before it."""
    return {
        o.name: before[o.name] if after[o.name] in (None, False) else after[o.name] for o in GLOBALS
    }


def is_negative_number(word: str) -> bool:
    """Is `word` a negative number, and so a value, though it begins like an option? No option
    begins with a digit, or is called Infinity."""
    if word[:1] != "-" or not (word[1:2].isdigit() or word == "-Infinity"):
        return False
    try:
        float(word)
    except ValueError:
        return False
    return True


def _nothing(parameter: Parameter) -> Any:
    if parameter.many:
        return []
    return False if isinstance(parameter, Option) and not parameter.metavar else None


def _looks_like_option(word: str) -> bool:
    return word[:1] == "-" and word != "-" and not is_negative_number(word)


class _Reader:
    """Reads words into `values`; `strange` is set at the first word that Typer has to read."""

    def __init__(self, parameters: tuple[Parameter, ...]) -> None:
        self.values = blank(parameters)
        self.words: list[str] = []
        self.strange = False
        self._takes_rest = any(isinstance(p, Argument) and p.many for p in parameters)
        self._options = {flag: p for p in parameters if isinstance(p, Option) for flag in p.flags}

    def read(self, argv: list[str], at: int, stop_at_word: bool = False) -> int:
        """Read from `argv[at]` on and return the index of the first word not read."""
        while at < len(argv) and not self.strange:
            word = argv[at]
            if word == "--" and self._takes_rest and at + 1 < len(argv):
                self.words += argv[at + 1 :]
                return len(argv)
            if not _looks_like_option(word):
                if stop_at_word:
                    return at
                self.words.append(word)
                at += 1
            else:
                at = self._option(argv, at)
        return at

    def _option(self, argv: list[str], at: int) -> int:
        flag, equals, attached = argv[at].partition("=")
        option = self._options.get(flag)
        if option is None or (equals and (not option.metavar or flag[:2] != "--")):
            self.strange = True
            return at
        if not option.metavar:
            self.values[option.name] = True
            return at + 1
        if equals:
            self._keep(option, attached)
            return at + 1
        if at + 1 == len(argv) or _looks_like_option(argv[at + 1]):
            self.strange = True
            return at
        self._keep(option, argv[at + 1])
        return at + 2

    def _keep(self, option: Option, text: str) -> None:
        if option.many:
            self.values[option.name].append(text)
        elif self.values[option.name] is not None:
            self.strange = True  # Which of the two is meant?
        else:
            self.values[option.name] = text

    def place(self, parameters: tuple[Parameter, ...]) -> bool:
        """Assign the words read to the arguments of `parameters`; false if they do not fit."""
        words = self.words
        for argument in parameters:
            if not isinstance(argument, Argument):
                continue
            if argument.many:
                self.values[argument.name], words = words, []
            elif words:
                self.values[argument.name], words = words[0], words[1:]
            if argument.required and not self.values[argument.name]:
                return False
        return not words
