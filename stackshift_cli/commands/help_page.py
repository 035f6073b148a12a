"""The pages that `--help` prints, laid out from the table of commands and the table of examples.

    Usage: stackshift state get [OPTIONS] KEY

      Print the value of a key as JSON.

    Arguments:
      KEY  The key.

    Options:
      --default V  Print V if the key does not exist (otherwise exit 4).
      …

    Examples:
      stackshift state get cursor --raw --default none
          as text, for a script

Typer's own layout is not used: it changes from version to version, shows the types of a signature
that was made for Typer alone (`KEY <str>  [required]`), and takes four times as long.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from stackshift_cli.commands.catalogue import ALIASES, COMMANDS, GROUPS
from stackshift_cli.commands.examples import EXAMPLES, Example
from stackshift_cli.commands.spec import GLOBALS, Argument, Command, Option, Parameter
from stackshift_cli.output.wrapping import width_of, wrapped

Rows = list[tuple[str, str]]
PROGRAM = "stackshift"
ABOUT = "Durable jobs for Python: start them, follow them, see what happened."
VERSION = Option("version", ("--version",), "Print the version.")
HELP = Option("help", ("-h", "--help"), "Show this message and exit.")
_FIRST = (
    Example("stackshift init shop && cd shop", "a project, with a job to begin with"),
    Example("stackshift start hello -F name=World --wait", "start the job, and wait for it"),
    Example("stackshift runs show @last", "see what happened"),
)
_TOPICS = {
    "start": ("payload", "durations"),
    "runs": ("runs", "selectors", "timeline"),
    "dead": ("retries",),
    "schedules": ("schedules",),
    "state": ("locks",),
    "config": ("config",),
    "daemon": ("environment",),
    "doctor": ("cron",),
}
"""The topics of `help` that belong to a noun."""
_MOST_WIDE = 100
_LEAST_WIDE = 40
_WIDEST_LABEL = 32
ONE_PAGE = ("init", "doctor", "completion", "help")
"""The commands that are explained in stackshift(1) itself; each of the others has a page."""


def page_for(words: tuple[str, ...]) -> str | None:
    """The page of the command or group with the path `words`, or of the program without any; None
    if there is none. Of a group, either number of its noun will do."""
    if not words:
        return program_page()
    path = (ALIASES.get(words[0], words[0]), *words[1:])
    for command in COMMANDS:
        if command.path == path:
            return command_page(command)
    return group_page(path[0]) if path[1:] == () and path[0] in GROUPS else None


def program_page() -> str:
    """The page of `stackshift --help`."""
    single = [(c.path[0], c.help) for c in COMMANDS if len(c.path) == 1]
    return _page(
        f"{PROGRAM} [OPTIONS] COMMAND [ARGS]...",
        ABOUT,
        [("Commands", [*single, *GROUPS.items()]), ("Options", _rows([*GLOBALS, VERSION, HELP]))],
        _FIRST,
        f"{PROGRAM} help, which lists topics; man {PROGRAM}",
    )


def group_page(group: str) -> str:
    """The page of `stackshift GROUP --help`."""
    commands = [command for command in COMMANDS if command.path[0] == group]
    examples = [EXAMPLES[command.path][0] for command in commands[:3]]
    return _page(
        f"{PROGRAM} {group} [OPTIONS] COMMAND [ARGS]...",
        GROUPS[group],
        [
            ("Commands", [(command.path[1], command.help) for command in commands]),
            ("Global options", _rows([*GLOBALS, HELP])),
        ],
        examples,
        f"{PROGRAM} {group} COMMAND --help; {_more(group)}",
    )


def command_page(command: Command) -> str:
    """The page of `stackshift COMMAND --help`."""
    options = [p for p in command.parameters if isinstance(p, Option)]
    sections = [("Arguments", _rows(_arguments(command))), ("Options", _rows(options))]
    return _page(
        f"{PROGRAM} {' '.join(command.path)} {usage(command)}",
        command.help,
        [*sections, ("Global options", _rows([*GLOBALS, HELP]))],
        EXAMPLES[command.path],
        _more(command.path[0]),
    )


def _more(noun: str) -> str:
    """Where there is more about the commands of `noun`."""
    topics = [f"{PROGRAM} help {topic}" for topic in _TOPICS.get(noun, ())]
    return "; ".join([*topics, f"man {PROGRAM if noun in ONE_PAGE else f'{PROGRAM}-{noun}'}"])


def version(*, as_json: bool) -> str:
    """What `--version` prints: `stackshift 1.2.3`, or `{"version":"1.2.3"}`."""
    from stackshift_jobs.version import __version__

    return f'{{"version":"{__version__}"}}' if as_json else f"{PROGRAM} {__version__}"


def usage(command: Command) -> str:
    """What follows the command's path in its usage line: `[OPTIONS] KEY [-- COMMAND...]`."""
    return " ".join(["[OPTIONS]", *map(_spelling, _arguments(command))])


def _arguments(command: Command) -> list[Argument]:
    return [p for p in command.parameters if isinstance(p, Argument)]


def _rows(parameters: Iterable[Parameter]) -> Rows:
    return [(label(parameter), parameter.help) for parameter in parameters]


def label(parameter: Parameter) -> str:
    """How a parameter is written: `-n, --lines N`, `RUN...`."""
    if isinstance(parameter, Argument):
        return parameter.metavar
    return f"{', '.join(parameter.flags)} {parameter.metavar}".rstrip()


def _spelling(argument: Argument) -> str:
    """`KEY`, `RUN...`, `[JOB]`; a command line of its own comes after `--`."""
    shown = f"-- {argument.metavar}" if argument.name == "command" else argument.metavar
    return shown if argument.required else f"[{shown}]".replace("[[", "[").replace("]]", "]")


# --- Layout --------------------------------------------------------------------------------


def _page(
    usage_line: str,
    about: str,
    sections: list[tuple[str, Rows]],
    examples: Iterable[Example],
    more: str,
) -> str:
    width = page_width()
    lines = [*_hanging("Usage: ", usage_line, width), "", *wrapped(about, width - 2, "  ")]
    for title, rows in sections:
        if rows:
            lines += ["", f"{title}:", *_table(rows, width)]
    lines += ["", "Examples:"]
    for example in examples:
        lines += [f"  {example.line}", *wrapped(example.purpose, width - 6, "      ")]
    return "\n".join([*lines, "", *_hanging("See also: ", more, width)])


def _hanging(label: str, text: str, width: int) -> list[str]:
    first, *rest = wrapped(text, width - len(label), " " * len(label))
    return [label + first.lstrip(), *rest]


def _table(rows: Rows, width: int) -> Iterator[str]:
    column = min(_WIDEST_LABEL, max(len(text) for text, _ in rows)) + 4
    for text, help in rows:
        described = list(wrapped(help, max(width - column, 20), " " * column))
        if len(text) + 4 > column:
            yield f"  {text}"
        else:
            described[0] = f"  {text}".ljust(column) + described[0].lstrip()
        yield from described


def page_width() -> int:
    """The width of the terminal, within reason; 80 without one."""
    return max(_LEAST_WIDE, min(width_of(sys.stdout), _MOST_WIDE))
