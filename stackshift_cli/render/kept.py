"""Entries of state, their changes, and kept events, on a terminal: columns without boxes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from stackshift_cli.arguments import Globals
from stackshift_cli.output.messages import shown
from stackshift_cli.output.safe_text import safe
from stackshift_cli.render.columns import Column, column, excess, print_columns, squeezed
from stackshift_cli.render.console import console, glyphs, short_id

_LEAST: Final = 8
"""Cells that a value or a key is not cut below while others can give way."""
_VALUE_CHARACTERS: Final = 400
"""More than any terminal has in a line, less than the 16 MiB that a value may have."""


def print_entries(options: Globals, entries: list[dict[str, Any]]) -> None:
    """`state list`."""
    _print(
        options,
        ("value", "by", "key"),
        [
            column("key", (safe(each["key"]) for each in entries)),
            column("version", (str(each["version"]) for each in entries)),
            column("value", _values(entries)),
            column("updated", (_second(each["updated_at"]) for each in entries)),
            column("expires", (_second(each["expires_at"]) for each in entries)),
        ],
    )


def print_changes(options: Globals, changes: list[dict[str, Any]]) -> None:
    """`state history`."""
    _print(
        options,
        ("value", "by"),
        [
            column("seq", (str(each["seq"]) for each in changes)),
            column("at", (_second(each["at"]) for each in changes)),
            column("what", (safe(each["kind"]) for each in changes)),
            column("version", (str(each["version"]) for each in changes)),
            column(
                "value",
                (
                    "" if each["kind"] in ("deleted", "expired") else value
                    for each, value in zip(changes, _values(changes), strict=True)
                ),
            ),
            column("expires", (_second(each["expires_at"]) for each in changes)),
            column("by", (safe(each["by"] or "") for each in changes)),
        ],
    )


def print_events(options: Globals, events: list[dict[str, Any]]) -> None:
    """`event list`. Nothing takes an event's id: it is the first to give way."""
    marks, screen = glyphs(), console(options)
    columns = [
        column("id", (safe(each["id"]) for each in events)),
        column("name", (safe(each["name"]) for each in events)),
        column("key", (safe(each["correlation_key"] or "") for each in events)),
        column("received", (_second(each["received_at"]) for each in events)),
        column("kept until", (_second(each["kept_until"]) for each in events)),
    ]
    if excess(columns, screen.width) > 0:
        columns[0] = column("id", (short_id(each["id"], marks) for each in events))
    print_columns(screen, squeezed(columns, ("key", "name"), _LEAST, screen.width, marks), marks)


def _print(options: Globals, give_way: Iterable[str], columns: list[Column]) -> None:
    marks, screen = glyphs(), console(options)
    print_columns(screen, squeezed(columns, give_way, _LEAST, screen.width, marks), marks)


def _values(rows: list[dict[str, Any]]) -> list[str]:
    return [shown(each["value"])[:_VALUE_CHARACTERS] for each in rows]


def _second(at: str | None) -> str:
    """A time to the second: `2026-11-22T09:00:00Z`."""
    return f"{at[:19]}Z" if at else ""
