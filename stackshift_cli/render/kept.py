"""Entries of state, their changes, locks, and kept events, listed on a terminal."""

from __future__ import annotations

from typing import Any, Final

from stackshift_cli.arguments import Globals
from stackshift_cli.output.clock import Clock
from stackshift_cli.output.messages import shown
from stackshift_cli.output.safe_text import safe
from stackshift_cli.render.columns import Cells, Give, Row, away, field, moment, print_table
from stackshift_cli.timeline.describe import brief, briefly

_VALUE_CHARACTERS: Final = 400
"""More than any terminal shows in a line, less than the 16 MiB that a value may have."""


def print_entries(options: Globals, entries: list[dict[str, Any]]) -> None:
    """`state list`."""
    clock = Clock.now()
    cells: Cells = {
        "key": field("key"),
        "version": field("version"),
        "value": _value,
        f"updated ({clock.zone})": moment("updated_at", clock),
        "expires": away("expires_at", clock),
    }
    updated = f"UPDATED ({clock.zone})".upper()
    gives: tuple[Give, ...] = (
        ("VALUE", 20),
        ("KEY", 30),
        (updated, 0),
        ("VERSION", 0),
        ("KEY", 12),
        ("VALUE", 8),
        ("EXPIRES", 0),
    )
    print_table(options, entries, cells, gives)


def print_changes(options: Globals, changes: list[dict[str, Any]]) -> None:
    """`state history`."""
    clock = Clock.now()
    cells: Cells = {
        "seq": field("seq"),
        f"at ({clock.zone})": moment("at", clock),
        "what": field("kind"),
        "version": field("version"),
        "value": _new_value,
        "expires": away("expires_at", clock),
        "by": _by,
    }
    print_table(options, changes, cells, (("VALUE", 20), ("SEQ", 0), ("EXPIRES", 0), ("VALUE", 8)))


def print_locks(options: Globals, locks: list[dict[str, Any]]) -> None:
    """`state locks`."""
    clock = Clock.now()
    cells: Cells = {
        "key": field("key"),
        "holder": _holder,
        f"since ({clock.zone})": moment("since", clock),
        "expires": lambda lock: clock.away(lock["expires_at"]) if lock["expires_at"] else "never",
        "waiting": _line,
    }
    since = f"SINCE ({clock.zone})".upper()
    gives: tuple[Give, ...] = (
        ("WAITING", 20),
        ("HOLDER", 24),
        ("KEY", 24),
        (since, 0),
        ("HOLDER", 12),
        ("KEY", 12),
        ("EXPIRES", 0),
    )
    print_table(options, locks, cells, gives)


def print_events(options: Globals, events: list[dict[str, Any]]) -> None:
    """`event list`. No command takes the id of an event, so its end is enough to tell it apart."""
    clock = Clock.now()
    received = f"received ({clock.zone})"
    cells: Cells = {
        "id": lambda event: brief(event["id"]),
        "name": field("name"),
        "key": field("correlation_key"),
        received: moment("received_at", clock),
        "expires": away("kept_until", clock),
    }
    gives: tuple[Give, ...] = (("KEY", 16), ("NAME", 16), (received.upper(), 0), ("ID", 0))
    print_table(options, events, cells, (*gives, ("KEY", 8), ("NAME", 8)))


def _value(row: Row) -> str:
    return shown(row["value"])[:_VALUE_CHARACTERS]


def _new_value(change: Row) -> str:
    return "" if change["kind"] in ("deleted", "expired") else _value(change)


def _by(change: Row) -> str:
    """The end of a run's id, or `client`; an entry that expired was changed by nobody."""
    by = str(change["by"] or "")
    return brief(by) if by.startswith("run_") else safe(by)


def _holder(lock: Row) -> str:
    """The run and its call, or the client; a lock that changes hands has neither."""
    if lock["run"]:
        return f"run {brief(lock['run'])}"
    return safe(lock["holder"] or "") or ("a client" if lock["token"] else "changes hands")


def _line(lock: Row) -> str:
    """`2: 7k2m9q, import.sh (pid 4711)`."""
    if not lock["waiting"]:
        return "0"
    names = [brief(each["run"]) if each["run"] else each["holder"] for each in lock["line"]]
    return f"{lock['waiting']}: {safe(briefly(', '.join(name or 'a client' for name in names)))}"
