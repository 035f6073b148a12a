"""Entries of state, their changes, and kept events, listed on a terminal."""

from __future__ import annotations

from typing import Any, Final

from stackshift_cli.arguments import Globals
from stackshift_cli.output.messages import shown
from stackshift_cli.render.columns import (
    Cells,
    Row,
    column,
    columns_of,
    excess,
    field,
    print_columns,
    print_table,
    second,
    squeezed,
)
from stackshift_cli.render.console import console, glyphs, short_id

_LEAST: Final = 8
"""A value or a key is not cut to fewer cells than this while others can give way."""
_VALUE_CHARACTERS: Final = 400
"""More than any terminal shows in a line, less than the 16 MiB that a value may have."""


def print_entries(options: Globals, entries: list[dict[str, Any]]) -> None:
    """`state list`."""
    print_table(options, entries, _ENTRY_CELLS, ("value", "key"), _LEAST)


def print_changes(options: Globals, changes: list[dict[str, Any]]) -> None:
    """`state history`."""
    print_table(options, changes, _CHANGE_CELLS, ("value", "by"), _LEAST)


def print_events(options: Globals, events: list[dict[str, Any]]) -> None:
    """`event list`. No command takes the id of an event, so ids are the first to be shortened."""
    marks, screen = glyphs(), console(options)
    columns = columns_of(events, _EVENT_CELLS)
    if excess(columns, screen.width) > 0:
        columns[0] = column("id", (short_id(event["id"], marks) for event in events))
    print_columns(screen, squeezed(columns, ("key", "name"), _LEAST, screen.width, marks), marks)


def _value(row: Row) -> str:
    return shown(row["value"])[:_VALUE_CHARACTERS]


def _new_value(change: Row) -> str:
    return "" if change["kind"] in ("deleted", "expired") else _value(change)


_ENTRY_CELLS: Final[Cells] = {
    "key": field("key"),
    "version": field("version"),
    "value": _value,
    "updated": second("updated_at"),
    "expires": second("expires_at"),
}
_CHANGE_CELLS: Final[Cells] = {
    "seq": field("seq"),
    "at": second("at"),
    "what": field("kind"),
    "version": field("version"),
    "value": _new_value,
    "expires": second("expires_at"),
    "by": field("by"),
}
_EVENT_CELLS: Final[Cells] = {
    "id": field("id"),
    "name": field("name"),
    "key": field("correlation_key"),
    "received": second("received_at"),
    "kept until": second("kept_until"),
}
