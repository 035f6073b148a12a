"""What all methods of the protocol share: params as structs, answers as calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from stackshift_jobs.errors import Usage

"""How long the idempotency key of a start or an event lives, where nobody says."""

Answer = Callable[[Any], None]
"""Gets a result, or a `StackshiftError`; on the loop, at once or when it is durable."""


class Params(msgspec.Struct, forbid_unknown_fields=True):
    """Base of all params: a field that is not known is refused, so that a misspelt option is never
    silently without effect."""


class NoParams(Params):
    """Nothing."""


class NameRun(Params):
    """A run, by any of its names."""

    run: str


Table = dict[str, tuple[type[msgspec.Struct], Callable[[Any, Answer], None]]]
"""Method → its params and what does it."""
BoundTable = dict[str, tuple[type[msgspec.Struct], Callable[[Any, Any, Answer], None]]]
"""The same for methods that are given their connection first: what they begin ends with it."""


def within(value: int, least: int, most: int, what: str) -> int:
    """`value`, if it lies there. Raises `Usage`."""
    if not least <= value <= most:
        raise Usage(f"{what} is {value}", hint=f"{least} to {most}")
    return value
