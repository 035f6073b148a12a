"""Lists in a pipe: one line per entry, tab-separated, full width, nothing cut, no colour.

The columns are a promise: later versions may only append to them. Times are RFC 3339 UTC as the
daemon sent them, a null is empty, and everything passes `safe_text`, so that no tab or line break
in a name or a message can make a column or a line.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from stackshift_cli.output.messages import compact
from stackshift_cli.output.safe_text import safe
from stackshift_cli.timeline.describe import about
from stackshift_jobs.errors import error_text


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


RUN_COLUMNS: Final = _names("id status job queue attempt created_at duration_ms")
RECORD_COLUMNS: Final = _names("seq at kind run attempt step detail")
JOB_COLUMNS: Final = _names("name queue max_attempts timeout_ms module code cron")
QUEUE_COLUMNS: Final = _names(
    "name status depth running oldest_ms concurrency key_concurrency rate"
)
MEMBER_COLUMNS: Final = _names("host role seq behind version address seen_ms clock_ahead_ms")
HOST_COLUMNS: Final = _names("name status workers version round_trip_ms problem")
NOTIFY_COLUMNS: Final = _names("name to command on jobs queues delivered undelivered")
HOST_CHECK_COLUMNS: Final = _names(
    "name status version python round_trip_ms digest jobs seconds problem"
)
SCHEDULE_COLUMNS: Final = _names(
    "name schedule timezone next_at last_at paused retired catch_up overlap last_run job"
    " last_status skipped source expected"
)
TICK_COLUMNS: Final = _names("at name local job tick")
FINDING_COLUMNS: Final = _names("name code message")
BACKFILL_COLUMNS: Final = _names("tick id state")
IMPORT_COLUMNS: Final = _names("line state name schedule timezone next_at why command")
STATE_COLUMNS: Final = _names("key version value updated_at expires_at")
LOCK_COLUMNS: Final = _names("key holder since expires_at waiting token holders")
CHANGE_COLUMNS: Final = _names("seq at kind version value expires_at by")
EVENT_COLUMNS: Final = _names("id name correlation_key received_at kept_until")
PLAN_COLUMNS: Final = _names("action name kind status run")
LOG_COLUMNS: Final = _names("at attempt step stream message")
_NOT_IN_DETAIL: Final = frozenset(_names("seq at kind run attempt step crc part restored error"))
"""Fields that another column shows, that nobody reads, or that `detail` words by itself."""


def columns(row: dict[str, Any], names: Iterable[str]) -> str:
    """The values of `row` called `names`, separated by tabs."""
    return tabbed(row.get(name) for name in names)


def tabbed(values: Iterable[Any]) -> str:
    """`values` separated by tabs."""
    return "\t".join("" if v is None else safe(_text(v)) for v in values)


def valued(row: dict[str, Any], names: Iterable[str]) -> str:
    """Like `columns`, with `value` as JSON: text has its quotes, which tell it from a number."""
    return columns({**row, "value": compact(row["value"])}, names)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else compact(value)


def record(body: dict[str, Any]) -> str:
    """The line of a record; `detail` holds what only its kind has, for people to read."""
    return columns({**body, "detail": detail(body)}, RECORD_COLUMNS)


def detail(body: dict[str, Any]) -> str:
    """What a record says besides where and when: `TimeoutError: PUT timed out retry_at=…`,
    `event paid [order:1] until=…`."""
    subject, error = about(body), body.get("error")
    parts = [subject.words] if subject.words else []
    if isinstance(error, dict):
        parts.append(error_text(error.get("type") or error.get("code"), error.get("message")))
    shown = body.keys() - _NOT_IN_DETAIL - subject.fields
    parts += [
        f"{name}={_text(value)}"
        for name, value in body.items()
        if name in shown and value not in (None, "", [], {})
    ]
    if restored := body.get("restored"):
        parts.append(f"restored={len(restored)}")
    return " ".join(parts)


def log_entry(run: dict[str, Any], line: dict[str, Any]) -> str:
    """A line of the log of `run`, in the columns of a record."""
    kind = f"log.{line['stream']}"
    return tabbed(
        (None, line["at"], kind, run["id"], line["attempt"], line["step"], line["message"])
    )


def ending(run: dict[str, Any], exit_status: int) -> str:
    """The last line for a follower of a run, in the columns of a record."""
    return end_line(run, "end", f"{run['status']} exit={exit_status}", run.get("finished_at"))


def end_line(run: dict[str, Any], kind: str, text: str, at: str | None = None) -> str:
    """A line about `run` that is no record, in the columns of a record: `kind` and a `text`."""
    return tabbed((None, at, kind, run["id"], run["attempt"], None, text))
