"""`stackshift start JOB …` and the like, as fast as shell loops need them.

A plain command line is read by the small parser, sent as one request, and its answer printed.
Anything that is not plain goes to Typer before anything was printed or sent. Both paths mean the
same, since they share the table of commands (`spec`) and the functions that do the work.
"""

from __future__ import annotations

from stackshift_cli import user_config
from stackshift_cli.arguments import Given, Globals
from stackshift_cli.commands.small_parser import Parsed, parse
from stackshift_cli.commands.spec import EVENT_SEND, FAST, START, Command
from stackshift_cli.daemon.session import Session
from stackshift_jobs.errors import Usage


def run(argv: list[str]) -> int | None:
    """Run the command in `argv` and return its exit status; None if Typer has to read it."""
    plain = _plain(argv)
    if plain is None:
        return None
    command, parsed = plain
    options = Globals(**parsed.globals)
    if options.color not in (None, "auto", "always", "never"):
        return None
    if user_config.may_want_json():
        return None
    try:
        return _do(command, Session(options, " ".join(command.path)), Given(parsed.values))
    except Usage as refused:
        from stackshift_cli.commands.typed_names import as_typed

        raise as_typed(refused, command) from refused


def _plain(argv: list[str]) -> tuple[Command, Parsed] | None:
    for command in FAST:
        if command.path[-1] in argv and (parsed := parse(argv, command)) is not None:
            # These take a while anyway: the time that Typer needs to load does not matter.
            is_long = command is START and any(
                parsed.values[name] for name in ("wait", "follow", "batch")
            )
            return None if is_long else (command, parsed)
    return None


def _do(command: Command, session: Session, given: Given) -> int:
    if command is START:
        from stackshift_cli.flows.start import start_one

        return start_one(session, given)
    if command is EVENT_SEND:
        from stackshift_cli.verbs import events

        return events.send(session, given)
    from stackshift_cli.verbs import state

    verb = {"get": state.get, "set": state.set_, "increment": state.increment}
    return verb[command.path[1]](session, given)
