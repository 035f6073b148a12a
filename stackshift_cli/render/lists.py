"""Lists on a terminal: tables without boxes."""

from __future__ import annotations

from typing import Any, Final

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from stackshift_cli.given import Globals
from stackshift_cli.render.console import STATUS_STYLES, Glyphs, console, glyphs
from stackshift_cli.safe_text import safe
from stackshift_cli.timeline import FINISHED
from stackshift_jobs.durations import format_ms, from_rfc3339
from stackshift_jobs.setting_kinds import format_size

_WIDEST_CELLS: Final = 30
"""What a column may insist on: an id is as wide."""


def print_runs(options: Globals, runs: list[dict[str, Any]], now_us: int) -> None:
    """`runs list`."""
    marks = glyphs()
    table = _table("", "id", "job", "queue", "status", "try", "age", "took", "why")
    for run in runs:
        age_ms = max(0, now_us - from_rfc3339(run["created_at"])) // 1000
        took = "" if run["duration_ms"] is None else format_ms(run["duration_ms"])
        table.add_row(
            _mark(run["status"], marks),
            run["id"],
            safe(run["job"]),
            safe(run["queue"]),
            Text(run["status"], STATUS_STYLES.get(run["status"], "")),
            f"{run['attempt']}/{run['max_attempts']}",
            format_ms(age_ms),
            took,
            safe(_why(run)),
        )
    console(options).print(_last_column_yields(table))


def _why(run: dict[str, Any]) -> str:
    if run["status"] == "failed" and (error := run.get("error")):
        return f"{error['type']}: {error['message']}"
    return "" if run["status"] in FINISHED else str(run.get("why") or "")


def print_jobs(options: Globals, jobs: list[dict[str, Any]]) -> None:
    """`jobs list`."""
    table = _table("name", "queue", "tries", "timeout", "module", "code")
    for job in jobs:
        table.add_row(
            safe(job["name"]),
            safe(job["queue"]),
            str(job["max_attempts"]),
            format_ms(job["timeout_ms"]) if job["timeout_ms"] else "",
            safe(str(job["module"])),
            str(job["code"] or "")[:7],
        )
    console(options).print(table)


def print_status(options: Globals, told: dict[str, Any]) -> None:
    """`daemon status`."""
    screen = console(options)
    facts = Table.grid(padding=(0, 2))
    facts.add_row("project", safe(str(told["project"])))
    facts.add_row("daemon", f"{told['version']}, pid {told['pid']}, {told['mode']}")
    facts.add_row("up", format_ms(told["uptime_ms"]))
    facts.add_row("journal", f"{_size(told['journal_bytes'])}, durability {told['durability']}")
    facts.add_row("disk free", _size(told["disk_free_bytes"]))
    facts.add_row("dead letter", str(told["dead"]))
    if told.get("recovered"):
        facts.add_row("recovered", Text(safe(str(told["recovered"])), "yellow"))
    screen.print(facts)
    queues = _table("queue", "waiting", "oldest", "running")
    for queue in told["queues"]:
        oldest = "" if queue["oldest_ms"] is None else format_ms(queue["oldest_ms"])
        queues.add_row(safe(queue["name"]), str(queue["depth"]), oldest, str(queue["running"]))
    workers = _table("worker", "pid", "slots", "running", "status")
    for worker in told["workers"]:
        workers.add_row(
            safe(str(worker["id"])),
            *(str(worker[k]) for k in ("pid", "slots", "running", "status")),
        )
    for table in (queues, workers):
        if table.row_count:
            screen.print()
            screen.print(table)


def _size(count: int) -> str:
    """Bytes with one decimal of the largest unit: `12.3 MiB`."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return format_size(count)


def _mark(status: str, marks: Glyphs) -> Text:
    return Text(marks.statuses.get(status, "?"), STATUS_STYLES.get(status, ""))


def _table(*headers: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for header in headers:
        table.add_column(header.upper(), no_wrap=True, overflow="ellipsis")
    return table


def _last_column_yields(table: Table) -> Table:
    """Where the terminal is narrow the last column is cut, not the ids that one wants to copy."""
    for column in table.columns[:-1]:
        widest = max(cell_len(str(cell)) for cell in (column.header, *column.cells))
        column.min_width = min(widest, _WIDEST_CELLS)
    return table
