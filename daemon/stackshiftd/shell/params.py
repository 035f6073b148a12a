"""What all methods of the protocol share: params as structs, answers as callbacks."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Raw

from stackshift_jobs.errors import Usage
from stackshiftd.core.state.entries import PAGE_BYTES, encode
from stackshiftd.core.state.state import Status

MAX_LIST: Final = 1000
"""The most runs, or lines of a log, on a page."""
MAX_NAMES: Final = 500
"""The most items on a page of jobs, queues or schedules."""

STATUSES: Final = frozenset(status.value for status in Status)
"""The statuses of runs."""

Answer = Callable[[Any], None]
"""Called once with a result, a `StackshiftError` or a `Later` (`shell.work`), on the loop, at once
or when it is durable."""


class Params(msgspec.Struct, forbid_unknown_fields=True):
    """Base of all params. Unknown fields are refused, so that a misspelt option is never silently
    ignored."""


class NoParams(Params):
    """No params."""


class FromCursor(Params):
    """The next page of a list in order of names: those after `cursor`, from the previous page."""

    cursor: str | None = None


class NameRun(Params):
    """A run: its id, a unique suffix of it, `@last` or `@failed`."""

    run: str


Reads = dict[str, tuple[type[msgspec.Struct], Callable[[Any], Any]]]
"""Method that only reads → the type of its params, and the function that returns its result, or
the work (`shell.work`) that leads to it."""
Table = dict[str, tuple[type[msgspec.Struct], Callable[[Any, Answer], Any]]]
"""Any other method → the type of its params, and the function that serves it. If that takes long it
returns work, which is done before the next request of its client."""
BoundTable = dict[str, tuple[type[msgspec.Struct], Callable[[Any, Any, Answer], None]]]
"""The same for methods whose first argument is the connection: what they begin ends with it."""


def within(value: int, least: int, most: int, what: str) -> int:
    """Return `value` if it is between `least` and `most`, else raise `Usage` that names `what`."""
    if not least <= value <= most:
        raise Usage(f"{what} {value} is out of range", hint=f"use {least} to {most}")
    return value


_MISFIT: Final = re.compile(r"Expected `([a-z |]+)`, got `([a-z]+)`(?: - at `\$\.?(.*)`)?")
_KINDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "object": "an object",
    "array": "a list",
}


def misfit(bad: msgspec.MsgspecError) -> str:
    """What the decoder found wrong, in words that are not those of a language:
    `priority: expected a whole number or null, not text`."""
    found = _MISFIT.fullmatch(str(bad))
    if found is None:
        return str(bad)
    wanted, given, path = found.groups()
    kinds = " or ".join(_KINDS.get(kind, kind) for kind in wanted.split(" | "))
    where = f"{path}: " if path else ""
    return f"{where}expected {kinds}, not {_KINDS.get(given, given)}"


def statuses_in(status: str | list[str] | None) -> frozenset[str] | None:
    """The statuses that the param `status` names, one or a list of them; None for all. Raises
    `Usage` for one that no run has, and for none."""
    if status is None:
        return None
    named = frozenset((status,) if isinstance(status, str) else status)
    for unknown in sorted(named - STATUSES):
        raise Usage(f"{unknown!r} is not a status", hint=", ".join(sorted(STATUSES)))
    if not named:
        raise Usage("no status is given", hint=", ".join(sorted(STATUSES)))
    return named


def sequence_number(cursor: str) -> int:
    """The sequence number that is the `cursor` of a previous page; raises `Usage` otherwise."""
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 20):
        raise Usage(f"{cursor!r} is not a cursor of a previous page")
    return int(cursor)


def paged(
    names: list[str], show: Callable[[str], dict[str, Any]], cursor: str | None
) -> tuple[list[Raw], str | None]:
    """A page of what `show` makes of `names` (sorted) after `cursor`, as JSON, and the cursor of
    the next page; None on the last. A page has at most `MAX_NAMES`, and ends once it exceeds
    `PAGE_BYTES`."""
    page: list[Raw] = []
    size = 0
    start = bisect_right(names, cursor) if cursor is not None else 0
    for at in range(start, len(names)):
        if len(page) == MAX_NAMES or size > PAGE_BYTES:
            return page, names[at - 1]
        page.append(Raw(encode(show(names[at]))))
        size += memoryview(page[-1]).nbytes
    return page, None
