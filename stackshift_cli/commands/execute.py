"""Running the verb of a command, whichever parser has read the command line."""

from __future__ import annotations

import gc
import importlib

from stackshift_cli.arguments import Given, Globals
from stackshift_cli.commands.small_parser import Values
from stackshift_cli.commands.spec import Command
from stackshift_cli.daemon.session import Session
from stackshift_cli.user_config import preferred
from stackshift_jobs.errors import Usage


def execute(command: Command, globals_: Values, values: Values) -> int:
    """Run the verb of `command` with a session of its own; its exit status."""
    options = preferred(Globals(**globals_))
    if options.color not in (None, "auto", "always", "never"):
        raise Usage(f"--color takes auto, always or never, not {options.color!r}")
    if (words := values.get("command")) and words[0] == "" and isinstance(words, list):
        # `-- "$COMMAND"` without that variable. The system would say that '' may not be executed.
        raise Usage("the name of the program is empty", hint="-- COMMAND ARGUMENTS...")
    module, _, function = command.run.partition(":")
    verb = getattr(importlib.import_module(f"stackshift_cli.verbs.{module}"), function)
    # A verb may run for days (`runs tail`). What the imports made is not worth looking through.
    gc.freeze()
    gc.enable()
    session = Session(options, " ".join(command.path))
    try:
        return int(verb(session, Given(values)))
    except Usage as refused:
        from stackshift_cli.commands.typed_names import as_typed

        raise as_typed(refused, command) from refused
    finally:
        session.hang_up()
