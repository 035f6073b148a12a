"""What all methods of the protocol share: params as structs, answers as callbacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from stackshift_jobs.errors import Usage

Answer = Callable[[Any], None]
"""Called once with a result or a `StackshiftError`, on the loop, at once or when it is durable."""


class Params(msgspec.Struct, forbid_unknown_fields=True):
    """Base of all params. Unknown fields are refused, so that a misspelt option is never silently
    ignored."""


class NoParams(Params):
    """No params."""


class NameRun(Params):
    """A run: its id, a unique suffix of it, `@last` or `@failed`."""

    run: str


Table = dict[str, tuple[type[msgspec.Struct], Callable[[Any, Answer], None]]]
"""Method → the type of its params, and the function that serves it."""
BoundTable = dict[str, tuple[type[msgspec.Struct], Callable[[Any, Any, Answer], None]]]
"""The same for methods whose first argument is the connection: what they begin ends with it."""


def within(value: int, least: int, most: int, what: str) -> int:
    """Return `value` if it is between `least` and `most`, else raise `Usage` that names `what`."""
    if not least <= value <= most:
        raise Usage(f"{what} is {value}", hint=f"{least} to {most}")
    return value
