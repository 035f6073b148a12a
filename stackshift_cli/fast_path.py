"""`stackshift start JOB …` and its like at the speed that shell loops need.

For a plain command line and a project whose daemon runs: parse with the small parser, one request
over the socket, print the answer. Whatever is not plain goes to Typer, before anything has been
said or sent; the meaning is the same, since both share `table`, `request` and what asks.
"""

from __future__ import annotations

from stackshift_cli import user_config
from stackshift_cli.arguments import Given, Globals
from stackshift_cli.commands.small_parser import Parsed, parse
from stackshift_cli.commands.spec import EVENT_SEND, SHORT, START, Command
from stackshift_cli.daemon.session import Session


def run(argv: list[str]) -> int | None:
    """Do what `argv` asks for; the exit status, or None if this is not ours to do."""
    found = _plain(argv)
    if found is None:
        return None
    command, parsed = found
    options = Globals(**parsed.globals)
    if options.color not in (None, "auto", "always", "never"):
        return None
    if user_config.may_want_json():
        return None
    return _do(command, Session(options), Given(parsed.values))


def _plain(argv: list[str]) -> tuple[Command, Parsed] | None:
    for command in SHORT:
        if command.path[-1] in argv and (parsed := parse(argv, command)) is not None:
            takes_long = command is START and any(
                parsed.values[name] for name in ("wait", "follow", "batch")
            )
            return None if takes_long else (command, parsed)
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
