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

from collections.abc import Iterable
from typing import Any

from typer.core import TyperCommand

from stackshift_cli.commands.spec import GLOBALS, Argument, Command, Option, Parameter

_HELP = Option("help", ("-h", "--help"), "Show this message and exit.")


class CommandWithPage(TyperCommand):
    """A Typer command that has the page of `spec`; subclasses set it."""

    spec: Command

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        """Write the usage line."""
        arguments = [_spelling(p) for p in self.spec.parameters if isinstance(p, Argument)]
        formatter.write_usage(ctx.command_path, " ".join(["[OPTIONS]", *arguments]))

    def format_options(self, _ctx: Any, formatter: Any) -> None:
        """Write the arguments, the command's own options and the global ones."""
        own = [p for p in self.spec.parameters if isinstance(p, Option)]
        arguments = [p for p in self.spec.parameters if isinstance(p, Argument)]
        _section(formatter, "Arguments", arguments)
        _section(formatter, "Options", own)
        _section(formatter, "Global options", [*GLOBALS, _HELP])


def _section(formatter: Any, title: str, parameters: Iterable[Parameter]) -> None:
    rows = [(_label(parameter), parameter.help) for parameter in parameters]
    if rows:
        with formatter.section(title):
            formatter.write_dl(rows)


def _label(parameter: Parameter) -> str:
    if isinstance(parameter, Argument):
        return parameter.metavar
    return f"{', '.join(parameter.flags)} {parameter.metavar}".rstrip()


def _spelling(argument: Argument) -> str:
    """`KEY`, `RUN...`, `[JOB]`; a command line of its own comes after `--`."""
    shown = f"-- {argument.metavar}" if argument.name == "command" else argument.metavar
    return shown if argument.required else f"[{shown}]"
