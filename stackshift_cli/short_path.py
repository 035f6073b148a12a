"""Command lines without a surprise, read without Typer: a quarter of the time of a short command.

Whatever the small parser can read of a command is run here, and `--help` and `--version` are
printed here. Everything else (clusters of options, a word that begins like an option, a mistake) is
left to Typer, which also words the errors. Both mean the same: they are made from one table, and a
test compares them. `fast_path` does the same for shell loops, without even the whole table.
"""

from __future__ import annotations

from stackshift_cli.commands.catalogue import COMMANDS
from stackshift_cli.commands.small_parser import parse

_HELP = ("-h", "--help")


def run(argv: list[str]) -> int | None:
    """Run the command in `argv` and return its exit status; None if Typer has to read it."""
    if argv == ["--version"]:
        from stackshift_cli.commands.help_page import version

        return _printed(version(as_json=False))
    if not argv or argv[-1] in _HELP:
        from stackshift_cli.commands.help_page import page_for

        page = page_for(tuple(argv[:-1]))
        return None if page is None else _printed(page)
    for command in COMMANDS:
        if command.path[-1] in argv and (parsed := parse(argv, command)) is not None:
            from stackshift_cli.commands.execute import execute

            return execute(command, parsed.globals, parsed.values)
    return None


def _printed(text: str) -> int:
    from stackshift_cli.output import messages

    messages.data(text)
    return 0
