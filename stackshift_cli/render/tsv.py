"""What pipes get: one line an entry, tab-separated, full width, nothing cut, no colour.

Columns are a promise: only ever appended. Times are RFC 3339 UTC as the daemon sent them, an absent
value is empty, and everything passes `safe_text`, so that no tab or line break of others' text can
make a column or a line.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from stackshift_cli.output.messages import compact
from stackshift_cli.output.safe_text import safe
from stackshift_cli.timeline.describe import about

RUN_COLUMNS: Final = ("id", "status", "job", "queue", "attempt", "created_at", "duration_ms")
RECORD_COLUMNS: Final = ("seq", "at", "kind", "run", "attempt", "step", "detail")
JOB_COLUMNS: Final = ("name", "queue", "max_attempts", "timeout_ms", "module", "code")
QUEUE_COLUMNS: Final = (
    "name",
    "status",
    "depth",
    "running",
    "oldest_ms",
    "concurrency",
    "key_concurrency",
    "rate",
)
SCHEDULE_COLUMNS: Final = (
    "job",
    "schedule",
    "timezone",
    "next_at",
    "last_at",
    "paused",
    "retired",
    "catch_up",
    "overlap",
    "last_run",
)
TICK_COLUMNS: Final = ("at", "job", "local")
STATE_COLUMNS: Final = ("key", "version", "value", "updated_at", "expires_at")
CHANGE_COLUMNS: Final = ("seq", "at", "kind", "version", "value", "expires_at", "by")
EVENT_COLUMNS: Final = ("id", "name", "correlation_key", "received_at", "kept_until")
PLAN_COLUMNS: Final = ("action", "name", "kind", "status", "run")
LOG_COLUMNS: Final = ("at", "attempt", "step", "stream", "message")
_PLACED: Final = frozenset(
    ("seq", "at", "kind", "run", "attempt", "step", "crc", "part", "restored")
)
"""What a column tells already, or nobody reads: of `restored` records the number is told."""


def columns(row: dict[str, Any], names: Iterable[str]) -> str:
    """The values of `row` called `names`, separated by tabs."""
    return tabbed(row.get(name) for name in names)


def tabbed(values: Iterable[Any]) -> str:
    """`values` separated by tabs."""
    return "\t".join("" if v is None else safe(_text(v)) for v in values)


def valued(row: dict[str, Any], names: Iterable[str]) -> str:
    """Like `columns`, where `value` is JSON: a text has its quotes, so that it is no number."""
    return columns({**row, "value": compact(row["value"])}, names)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else compact(value)


def record(body: dict[str, Any]) -> str:
    """A record's line; `detail` is what this kind alone has, for people."""
    return columns({**body, "detail": detail(body)}, RECORD_COLUMNS)


def detail(body: dict[str, Any]) -> str:
    """What a record says besides where and when: `TimeoutError: PUT timed out retry_at=…`,
    `event paid [order:1] until=…`."""
    subject, error = about(body), body.get("error")
    told = [subject.words] if subject.words else []
    if isinstance(error, dict):
        told.append(f"{error.get('type') or error.get('code')}: {error.get('message')}")
    told += [
        f"{name}={_text(value)}"
        for name, value in body.items()
        if not (name in _PLACED or name == "error" or name in subject.fields)
        and value not in (None, "", [], {})
    ]
    if restored := body.get("restored"):
        told.append(f"restored={len(restored)}")
    return " ".join(told)


def ending(run: dict[str, Any], exit_status: int) -> str:
    """The last line that a follower of a run prints, in the columns of a record."""
    return tabbed(
        (
            None,
            run.get("finished_at"),
            "end",
            run["id"],
            run["attempt"],
            None,
            f"{run['status']} exit={exit_status}",
        )
    )
