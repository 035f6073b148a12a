"""Refusals in the words that were typed.

The daemon and the SDK name what they refuse by its parameter, `on_duplicate`, as job modules and
the protocol spell it. Whoever typed `--on-duplicate` looks for that in the help.
"""

from __future__ import annotations

import re

from stackshift_cli.commands.spec import Command, Option
from stackshift_jobs.errors import Usage


def as_typed(refused: Usage, command: Command) -> Usage:
    """The error `refused` of `command` with parameters spelled as its options are."""
    message, hint = refused.message, refused.hint
    for option in command.parameters:
        if isinstance(option, Option) and option.metavar:
            message, hint = _spelled(message, option), _spelled(hint, option)
    return Usage(message, hint=hint, **refused.fields)


def _spelled(text: str, option: Option) -> str:
    name = re.escape(option.name)
    # A plain word, such as `queue`, is the parameter only where the sentence begins with it, and
    # says of it what it may be. A quoted one is what somebody has typed.
    begins = rf"^{name}(?:_ms)?(?=:|(?: must| can| cannot| takes) | '| -?\d)"
    anywhere = rf"(?<![\w'\"-]){name}(?:_ms)?(?![\w'\"=])"
    return re.sub(anywhere if "_" in option.name else begins, option.flags[-1], text)
