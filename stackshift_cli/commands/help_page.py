"""The page that `COMMAND --help` prints, laid out from the table of commands.

    Usage: stackshift state get [OPTIONS] KEY

      Print the value of a key as JSON.

    Arguments:
      KEY  The key.

    Options:
      --default V  Print V if the key does not exist (otherwise exit 4).
      …

    Global options:
      …

Typer's own layout is not used: it changes from version to version, and shows the types of a
signature that was made for Typer alone (`KEY <str>  [required]`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stackshift_cli.commands.spec import GLOBALS, Argument, Command, Option, Parameter

Rows = list[tuple[str, str]]
_HELP = Option("help", ("-h", "--help"), "Show this message and exit.")


def usage(command: Command) -> str:
    """What follows the command's path in its usage line: `[OPTIONS] KEY [-- COMMAND...]`."""
    return " ".join(["[OPTIONS]", *map(_spelling, _arguments(command))])


def sections(command: Command) -> Iterator[tuple[str, Rows]]:
    """The title of each section that is not empty, and its rows: a parameter and its help."""
    options = [p for p in command.parameters if isinstance(p, Option)]
    if arguments := _arguments(command):
        yield "Arguments", _rows(arguments)
    if options:
        yield "Options", _rows(options)
    yield "Global options", _rows([*GLOBALS, _HELP])


def _arguments(command: Command) -> list[Argument]:
    return [p for p in command.parameters if isinstance(p, Argument)]


def _rows(parameters: Iterable[Parameter]) -> Rows:
    return [(_label(parameter), parameter.help) for parameter in parameters]


def _label(parameter: Parameter) -> str:
    if isinstance(parameter, Argument):
        return parameter.metavar
    return f"{', '.join(parameter.flags)} {parameter.metavar}".rstrip()


def _spelling(argument: Argument) -> str:
    """`KEY`, `RUN...`, `[JOB]`; a command line of its own comes after `--`."""
    shown = f"-- {argument.metavar}" if argument.name == "command" else argument.metavar
    return shown if argument.required else f"[{shown}]"
