"""Runs, jobs, queues, schedules and the daemon's status, listed on a terminal."""

from __future__ import annotations

from typing import Any, Final

from rich.table import Table
from rich.text import Text

from stackshift_cli.arguments import Globals
from stackshift_cli.output.safe_text import safe
from stackshift_cli.render.columns import (
    Cells,
    Column,
    Row,
    column,
    columns_of,
    duration,
    excess,
    field,
    narrowed,
    print_columns,
    print_table,
    second,
    squeezed,
)
from stackshift_cli.render.console import STATUS_STYLES, Glyphs, console, glyphs, short_id
from stackshift_cli.timeline.describe import call
from stackshift_jobs.values.durations import format_ms, from_rfc3339
from stackshift_jobs.values.limits import FINISHED
from stackshift_jobs.values.sizes import size_text

_LEAST_WHY: Final = 12
"""WHY keeps this many cells before any of `_GIVE_WAY` are dropped."""
_LEAST_NAME: Final = 4
_MOST_NAME: Final = 30
"""A longer name is cut before any column is dropped; an id is as wide."""
_GIVE_WAY: Final = ("QUEUE", "TRY", "TOOK", "AGE")

# --- Runs ----------------------------------------------------------------------------------


def print_runs(options: Globals, runs: list[dict[str, Any]], now_us: int) -> None:
    """`runs list`."""
    marks, screen = glyphs(), console(options)

    def age(run: Row) -> str:
        return format_ms(max(0, now_us - from_rfc3339(run["created_at"])) // 1000)

    cells: Cells = {
        "": lambda run: _mark(run["status"], marks),
        "id": field("id"),
        "job": field("job"),
        "queue": field("queue"),
        "status": _run_status,
        "try": lambda run: f"{run['attempt']}/{run['max_attempts']}",
        "age": age,
        "took": duration("duration_ms"),
        "why": _why,
    }
    print_columns(screen, runs_in(screen.width, columns_of(runs, cells), marks), marks)


def runs_in(room: int, columns: list[Column], marks: Glyphs) -> list[Column]:
    """The columns of `runs list` in `room` cells. First WHY and overlong names are cut, then whole
    columns are dropped, then ids are shortened as far as they still name a run. The mark and the
    status always stay."""
    why = columns[-1]
    kept = [*columns[:-1], narrowed(why, _LEAST_WHY, marks)]
    kept = squeezed(kept, ("JOB", "QUEUE"), _MOST_NAME, room, marks)
    for header in _GIVE_WAY:
        if excess(kept, room) > 0:
            kept = [column for column in kept if column.header != header]
    if excess(kept, room) > 0:
        kept = [_short_ids(column, marks) if column.header == "ID" else column for column in kept]
    if excess(kept, room) > 0:
        kept.pop()
    else:
        kept[-1] = narrowed(why, kept[-1].width - excess(kept, room), marks)
    return squeezed(kept, ("JOB",), _LEAST_NAME, room, marks)


def _short_ids(ids: Column, marks: Glyphs) -> Column:
    return column(ids.header, (short_id(cell.plain, marks) for cell in ids.cells))


def _why(run: Row) -> str:
    if run["status"] == "failed" and (error := run.get("error")):
        return safe(f"{error['type']}: {error['message']}")
    return "" if run["status"] in FINISHED else safe(str(run.get("why") or ""))


def _mark(status: str, marks: Glyphs) -> Text:
    return Text(marks.statuses.get(status, "?"), STATUS_STYLES.get(status, ""))


def _run_status(run: Row) -> Text:
    return Text(run["status"], STATUS_STYLES.get(run["status"], ""))


# --- The plan of a retry -------------------------------------------------------------------

_HAPPENS: Final = {
    "reuse": "reused",
    "set": "gets the given result",
    "run": "executes again",
    "sleep": "sleeps again",
    "start": "starts a run again",
    "call": "starts or waits for a run again",
    "value": "is read again",
    "event": "waits for the event again",
    "lock": "acquires the lock again",
    "": "is tried again",
}
"""What a retry does with a step: by its action, or by its kind if it is repeated."""
_WRITES: Final = ("[state.set ", "[state.delete ", "[state.increment ", "[event.send ")
"""How the names of calls begin that change something outside the run."""


def print_plan(options: Globals, steps: list[dict[str, Any]]) -> None:
    """`runs retry --dry-run`: the steps of a run, and what a retry would do with each."""
    print_table(options, steps, _PLAN_CELLS, ("step",), _MOST_NAME)


def _happens(step: Row) -> Text:
    if step["action"] != "repeat":
        return Text(_HAPPENS[step["action"]])
    if step["name"].startswith(_WRITES):
        return Text("happens again", "yellow")
    return Text(_HAPPENS.get(step["kind"] or "", _HAPPENS[""]), "yellow")


_PLAN_CELLS: Final[Cells] = {
    "step": lambda step: safe(call(step["name"])),
    "kind": field("kind"),
    "was": field("status"),
    "then": _happens,
    "run": field("run"),
}

# --- Jobs, queues and schedules ------------------------------------------------------------


def print_jobs(options: Globals, jobs: list[dict[str, Any]]) -> None:
    """`jobs list`."""
    print_table(options, jobs, _JOB_CELLS, ("module", "queue", "name"), _LEAST_NAME)


_JOB_CELLS: Final[Cells] = {
    "name": field("name"),
    "queue": field("queue"),
    "tries": field("max_attempts"),
    "timeout": duration("timeout_ms"),
    "module": field("module"),
    "code": lambda job: str(job["code"] or "")[:7],
}


def print_queues(options: Globals, queues: list[dict[str, Any]]) -> None:
    """`queues list`."""
    print_table(options, queues, _QUEUE_CELLS, ("queue",), _LEAST_NAME)


def _queue_status(queue: Row) -> Text:
    return Text("paused", "yellow") if queue["paused"] else Text("open")


def _running(queue: Row) -> str:
    """`3/4`, or `3` if there is no limit."""
    limit = queue["concurrency"]
    return str(queue["running"]) if limit is None else f"{queue['running']}/{limit}"


def _rate(queue: Row) -> str:
    if queue["rate"] is None:
        return ""
    burst = queue["rate_burst"]
    return str(queue["rate"]) if burst == 1 else f"{queue['rate']}, {burst} at once"


_QUEUE_CELLS: Final[Cells] = {
    "queue": field("name"),
    "status": _queue_status,
    "waiting": field("depth"),
    "oldest": duration("oldest_ms"),
    "running": _running,
    "per key": field("key_concurrency"),
    "rate": _rate,
}


def print_schedules(options: Globals, schedules: list[dict[str, Any]]) -> None:
    """`schedules list`."""
    print_table(options, schedules, _SCHEDULE_CELLS, ("zone", "schedule", "job"), _LEAST_NAME)


def _schedule_state(schedule: Row) -> Text:
    if schedule["retired"]:
        return Text("retired", "dim")
    if schedule["paused"]:
        return Text("paused", "yellow")
    return Text("stuck", "red") if schedule["problem"] else Text("")


_SCHEDULE_CELLS: Final[Cells] = {
    "job": field("job"),
    "schedule": field("schedule"),
    "zone": field("timezone"),
    "next": second("next_at"),
    "last": second("last_at"),
    "state": _schedule_state,
}


def print_ticks(options: Globals, ticks: list[dict[str, Any]]) -> None:
    """`schedules next`."""
    print_table(options, ticks, _TICK_CELLS, ("job",), _LEAST_NAME)


_TICK_CELLS: Final[Cells] = {
    "at": second("at"),
    "job": field("job"),
    "local": field("local"),
}

# --- The daemon ----------------------------------------------------------------------------


_NOTICED_MS: Final = 1000
"""A clock that is ahead by less is not worth a word."""


def print_status(options: Globals, status: dict[str, Any]) -> None:
    """`daemon status`: facts, then a table of queues and one of workers if there are any."""
    screen = console(options)
    facts = Table.grid(padding=(0, 2))
    facts.add_row("project", safe(str(status["project"])))
    facts.add_row("daemon", f"{status['version']}, pid {status['pid']}, {status['mode']}")
    facts.add_row("up", format_ms(status["uptime_ms"]))
    facts.add_row(
        "journal", f"{size_text(status['journal_bytes'])}, durability {status['durability']}"
    )
    facts.add_row("disk free", size_text(status["disk_free_bytes"]))
    if why := status.get("read_only_because"):
        facts.add_row("read only", Text(safe(why), "yellow"))
    facts.add_row("dead letter", str(status["dead"]))
    if status.get("damage"):
        facts.add_row("damage", Text(safe(str(status["damage"]["message"])), "red"))
    if status.get("clock_ahead_ms", 0) >= _NOTICED_MS:
        ahead = f"{format_ms(status['clock_ahead_ms'])} ahead of the system clock, and stands still"
        facts.add_row("daemon time", Text(f"{ahead} (stackshift daemon clock)", "yellow"))
    if status.get("recovered"):
        facts.add_row("recovered", Text(safe(str(status["recovered"])), "yellow"))
    screen.print(facts)
    tables = ((status["queues"], _QUEUE_LOAD_CELLS), (status["workers"], _WORKER_CELLS))
    for rows, cells in tables:
        if rows:
            screen.print()
            print_table(options, rows, cells, ("queue", "worker"), _LEAST_NAME)
    if status.get("more_queues"):
        screen.print(f"and {status['more_queues']} more queues (stackshift queues list)")


def _worker_status(worker: Row) -> str:
    module = worker.get("importing")
    return f"{worker['status']}: importing {safe(module)}" if module else str(worker["status"])


_QUEUE_LOAD_CELLS: Final[Cells] = {
    "queue": field("name"),
    "waiting": field("depth"),
    "oldest": duration("oldest_ms"),
    "running": field("running"),
}
_WORKER_CELLS: Final[Cells] = {
    "worker": field("id"),
    "pid": field("pid"),
    "slots": field("slots"),
    "running": field("running"),
    "status": _worker_status,
}
