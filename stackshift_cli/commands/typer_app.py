"""The Typer application, made from the table of commands.

Every command takes its own parameters and the global options. All values arrive as text, which
`arguments` gives a meaning. Usage errors have our form and status: `error[usage]: …`, exit 2. Only
the groups that the command line names are built in full, since Typer takes a while for each
parameter.
"""

from __future__ import annotations

import difflib
import inspect
import re
import shlex
from collections.abc import Callable
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from stackshift_cli.commands.catalogue import ALIASES, COMMANDS, GROUPS
from stackshift_cli.commands.completion_line import read
from stackshift_cli.commands.execute import execute
from stackshift_cli.commands.help_page import (
    ABOUT,
    PROGRAM,
    VERSION,
    command_page,
    group_page,
    program_page,
    version,
)
from stackshift_cli.commands.small_parser import (
    Values,
    blank,
    is_negative_number,
    merge,
)
from stackshift_cli.commands.spec import GLOBALS, Argument, Command, Option, Parameter
from stackshift_cli.commands.unknown import Called, unknown
from stackshift_cli.output import messages
from stackshift_jobs.errors import StackshiftError, Usage

_SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"]}
_MARK = "\0"
"""Put before negative numbers while Typer reads them; no word of a command line can contain it."""
Run = Callable[[Command, Values, Values], int]
Calls = list[tuple[Command, Values, Values]]


def run(argv: list[str]) -> int:
    """Parse `argv`, run its command and return the exit status."""
    return parse(argv, execute)


def parse(argv: list[str], run: Run) -> int:
    """Parse `argv`, call `run` with the command, the global options and the command's own values,
    and return its result. Help and `--version` are printed here. Raises `Usage`.

    Typer has returned before `run` is called: it has its own ideas of Ctrl-C and closed pipes.
    """
    called: Calls = []
    # A group's name may also be a value (`-C state runs list`): which one is called, Typer decides.
    app = _application(called, {ALIASES.get(word, word) for word in argv})
    try:
        # To Typer `-5` is an option; with the mark it is a value like any other.
        words = [_MARK + word if is_negative_number(word) else word for word in argv]
        status = app(words, prog_name=PROGRAM, standalone_mode=False)
    except StackshiftError:
        raise
    except Exception as bad:
        raise _usage(bad, argv) from bad
    if not called:
        return int(status or 0)
    command, _, values = called[0]
    if argv[-1] == "--":
        _refuse_empty_tail(command, values)
    return run(*called[0])


def _refuse_empty_tail(command: Command, values: Values) -> None:
    """Raise `Usage` if nothing follows the final `--` though `command` takes words there: they got
    lost (`-- $COMMAND` with an empty variable), and doing something else instead would be wrong."""
    for parameter in command.parameters:
        if isinstance(parameter, Argument) and parameter.many and not values[parameter.name]:
            raise Usage(f"{parameter.metavar.removesuffix('...')} is missing after --")


def _usage(bad: Exception, argv: list[str]) -> Exception:
    """The parser's error `bad` in our form. Its classes moved between versions of Typer, so it is
    recognised by a method; an exception without it is not about usage and is returned as it is."""
    format_message = getattr(bad, "format_message", None)
    if format_message is None:
        return bad
    ctx = getattr(bad, "ctx", None)
    command = read([*argv, ""]).command
    guessed = " ".join([PROGRAM, *(command.path if command else ())])
    path = guessed if ctx is None else ctx.command_path
    message = str(format_message()).replace(_MARK, "").replace(repr(_MARK)[1:-1], "").rstrip(".")
    flag = str(getattr(bad, "option_name", ""))
    near = difflib.get_close_matches(flag, getattr(bad, "possibilities", None) or (), 3, 0.7)
    hint = f"did you mean {' or '.join(near)}?" if near else f"{path} --help"
    worded = _worded(message)
    if command is not None and worded.startswith(_UNEXPECTED):
        hint = _as_options(worded.removeprefix(_UNEXPECTED), command, path) or hint
    return Usage(worded, hint=hint)


def _as_options(words: str, command: Command, path: str) -> str:
    """What to type instead of the unexpected arguments `words`, if they are meant as the payload of
    `command`; else empty."""
    if not any(parameter.name == "field" for parameter in command.parameters):
        return ""
    if words.lstrip().startswith(("{", "[")):
        return f"the payload follows -p: {path} … -p {shlex.quote(words)}"
    fields = words.split(" ")
    if all(_FIELD.match(word) for word in fields):
        return "fields of the payload follow -F: " + " ".join(
            f"-F {shlex.quote(word)}" for word in fields
        )
    return ""


_FIELD: Final = re.compile(r"[^=:\s-][^=\s]*=")

_UNEXPECTED: Final = "unexpected argument: "
_WORDINGS: Final = (
    (r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", _UNEXPECTED + r"\1"),
    (r"Missing argument '?\[?(.*?)(?:\.\.\.)?\]?'?", r"\1 is missing"),
    (r"Missing parameter: (.*)", r"\1 is missing"),
    (r"No such option:? '?(--?[\w-]+)'?\.?(?: Did you mean (.*)\?)?.*", r"there is no option \1"),
    (r"Option '?(--?[\w-]+)'? requires an argument", r"\1 needs a value"),
    (r"Option '?(--?[\w-]+)'? does not take a value.*", r"\1 takes no value"),
)
"""What the parser says, and how we say it; a message that is not here is kept."""


def _worded(message: str) -> str:
    for pattern, ours in _WORDINGS:
        if match := re.fullmatch(pattern, message, re.DOTALL):
            return match.expand(ours)
    return message


# --- Groups --------------------------------------------------------------------------------


class _Group(TyperGroup):
    """A group of commands that suggests similar names for an unknown one, and whose help is laid
    out by `help_page`."""

    def get_help(self, ctx: Any) -> str:
        """The page of the group, or of the program."""
        name = ctx.command_path.split()[-1]
        return program_page() if ctx.parent is None else group_page(ALIASES.get(name, name))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that `args` begin with; raises `Usage` with similar names."""
        name = args[0].removeprefix(_MARK)
        if not args[0].startswith("-") and self.get_command(ctx, name) is None:
            noun = " ".join(ctx.command_path.split()[1:])
            rest = [word.removeprefix(_MARK) for word in args[1:]]
            raise unknown(Called(noun, name, rest, _project(ctx)))
        return super().resolve_command(ctx, args)


def _project(ctx: Any) -> str | None:
    """The project that was named before the word that is being read; the last one, if several."""
    for params in (ctx.params, ctx.find_root().params):
        if given := params.get("project" + _TAIL):
            return str(given[-1])
    return None


class _CommandWithPage(TyperCommand):
    """A command whose help is laid out by `help_page`; a subclass sets its `spec`."""

    spec: Command

    def get_help(self, _ctx: Any) -> str:
        """The page of the command."""
        return command_page(self.spec)


def _application(called: Calls, named: set[str]) -> typer.Typer:
    before = blank(GLOBALS)
    app = _group(ABOUT)
    _callback(app, before, is_root=True)
    for command in COMMANDS:
        if len(command.path) == 1:
            _add(app, command, before, called)
    names = {**{name: name for name in GROUPS}, **ALIASES}
    for name, group in names.items():
        sub = _group(GROUPS[group])
        _callback(sub, before, is_root=False)
        if group in named:
            for command in COMMANDS:
                if command.path[0] == group:
                    _add(sub, command, before, called)
        app.add_typer(sub, name=name, help=GROUPS[group], hidden=name in ALIASES)
    return app


def _group(help: str) -> typer.Typer:
    return typer.Typer(
        cls=_Group,
        help=help,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings=_SETTINGS,
    )


def _callback(app: typer.Typer, before: Values, is_root: bool) -> None:
    """Add what happens before the verb: keep the global options in `before`; without a verb, print
    help."""
    accepted = (*GLOBALS, VERSION) if is_root else GLOBALS

    def callback(ctx: typer.Context, **given: Any) -> None:
        cleaned = _cleaned(given, accepted)
        before.update(merge(before, cleaned))
        if cleaned.get("version"):
            messages.data(version(as_json=bool(before["json"])))
            raise typer.Exit(0)
        if ctx.invoked_subcommand is None:
            messages.data(ctx.get_help())

    parameters = [
        inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
        *map(_parameter, accepted),
    ]
    _sign(callback, parameters)
    app.callback(invoke_without_command=True)(callback)


def _add(app: typer.Typer, command: Command, before: Values, called: Calls) -> None:
    """Add `command` to `app`, with the global options after its own; a call is put in `called`."""

    def call(**given: Any) -> None:
        own = _cleaned(given, command.parameters)
        called.append((command, merge(before, _cleaned(given, GLOBALS)), own))

    _sign(call, [*map(_parameter, command.parameters), *map(_parameter, GLOBALS)])
    call.__doc__ = command.help
    page = type("_Command", (_CommandWithPage,), {"spec": command})
    app.command(command.path[-1], cls=page, context_settings=_SETTINGS)(call)


# --- Parameters ----------------------------------------------------------------------------


def _sign(function: Callable[..., Any], parameters: list[inspect.Parameter]) -> None:
    """Give `function` the signature that Typer reads."""
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in parameters}


def _parameter(parameter: Parameter) -> inspect.Parameter:
    # The name is only seen by Typer; what is typed is decided by the flags.
    return inspect.Parameter(
        parameter.name + _TAIL,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=_annotation(parameter),
        default=inspect.Parameter.empty if _is_required(parameter) else _default(parameter),
    )


_TAIL = "_"
"""Ends the names that Typer sees, so that none is a Python keyword, as `from` would be."""


def _is_required(parameter: Parameter) -> bool:
    return isinstance(parameter, Argument) and parameter.required


def _default(parameter: Parameter) -> Any:
    is_flag = isinstance(parameter, Option) and not parameter.metavar
    return False if is_flag else None


def _annotation(parameter: Parameter) -> Any:
    if isinstance(parameter, Argument):
        # Typer adds the dots itself.
        metavar = parameter.metavar.removesuffix("...")
        argument = typer.Argument(metavar=metavar, help=parameter.help, show_default=False)
        if parameter.many:
            return Annotated[list[str] if parameter.required else list[str] | None, argument]
        return Annotated[str if parameter.required else str | None, argument]
    shown = typer.Option(
        *parameter.flags,
        help=parameter.help,
        metavar=parameter.metavar or None,
        show_default=False,
    )
    if not parameter.metavar:
        return Annotated[bool, shown]
    # Of a text given twice Typer keeps the last one, and says nothing.
    return Annotated[list[str] | None, shown]


def _cleaned(given: Values, parameters: tuple[Parameter, ...]) -> Values:
    """Typer's values in the form of `small_parser`: names without their tail, an empty list for
    nothing, numbers without their mark."""
    values = {name.removesuffix(_TAIL): value for name, value in given.items()}
    for parameter in parameters:
        if isinstance(parameter, Option) and parameter.metavar and not parameter.many:
            values[parameter.name] = _single(parameter, values[parameter.name])
    return {p.name: _unmarked(values[p.name], p.many) for p in parameters}


def _single(option: Option, given: list[str] | None) -> str | None:
    """The one value `given` for `option`; raises `Usage` if there are more."""
    if given and len(given) > 1:
        raise Usage(f"{option.flags[-1]} is given {len(given)} times", hint="give it once")
    return given[0] if given else None


def _unmarked(value: Any, many: bool) -> Any:
    if many:
        return [_unmarked(word, False) for word in value or ()]
    return value.removeprefix(_MARK) if isinstance(value, str) else value
