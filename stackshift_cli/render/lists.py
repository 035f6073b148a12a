"""Lists on a terminal: columns without boxes."""

from __future__ import annotations

from typing import Any, Final

from rich.table import Table
from rich.text import Text

from stackshift_cli.arguments import Globals
from stackshift_cli.output.safe_text import safe
from stackshift_cli.render.columns import Column, column, excess, narrowed, print_columns, squeezed
from stackshift_cli.render.console import STATUS_STYLES, Glyphs, console, glyphs, short_id
from stackshift_cli.timeline.describe import call
from stackshift_jobs.project.settings import format_size
from stackshift_jobs.values.durations import format_ms, from_rfc3339
from stackshift_jobs.values.limits import FINISHED

_LEAST_WHY: Final = 12
"""The cells of WHY that are worth more than the columns that give way after it."""
_LEAST_NAME: Final = 4
_MOST_NAME: Final = 30
"""What a name may insist on before others give way to it: an id is as wide."""
_GIVE_WAY: Final = ("QUEUE", "TRY", "TOOK", "AGE")


def print_runs(options: Globals, runs: list[dict[str, Any]], now_us: int) -> None:
    """`runs list`."""
    marks, screen = glyphs(), console(options)
    ages_ms = [max(0, now_us - from_rfc3339(run["created_at"])) // 1000 for run in runs]
    lasted_ms = [run["duration_ms"] for run in runs]
    columns = [
        column("", (_mark(run["status"], marks) for run in runs)),
        column("id", (run["id"] for run in runs)),
        column("job", (safe(run["job"]) for run in runs)),
        column("queue", (safe(run["queue"]) for run in runs)),
        column("status", (_status(run["status"]) for run in runs)),
        column("try", (f"{run['attempt']}/{run['max_attempts']}" for run in runs)),
        column("age", map(format_ms, ages_ms)),
        column("took", ("" if ms is None else format_ms(ms) for ms in lasted_ms)),
        column("why", (safe(_why(run)) for run in runs)),
    ]
    print_columns(screen, runs_in(screen.width, columns, marks), marks)


def runs_in(room: int, columns: list[Column], marks: Glyphs) -> list[Column]:
    """The columns of `runs list` in `room` cells. WHY and overlong names are cut first, then whole
    columns go, then ids are shortened to what still names a run. The mark and the status always
    stay."""
    why = columns[-1]
    kept = [*columns[:-1], narrowed(why, _LEAST_WHY, marks)]
    kept = squeezed(kept, ("JOB", "QUEUE"), _MOST_NAME, room, marks)
    for header in _GIVE_WAY:
        if excess(kept, room) > 0:
            kept = [each for each in kept if each.header != header]
    if excess(kept, room) > 0:
        kept = [_short_ids(each, marks) if each.header == "ID" else each for each in kept]
    if excess(kept, room) > 0:
        kept.pop()
    else:
        kept[-1] = narrowed(why, kept[-1].width - excess(kept, room), marks)
    return squeezed(kept, ("JOB",), _LEAST_NAME, room, marks)


def _short_ids(ids: Column, marks: Glyphs) -> Column:
    return column(ids.header, (short_id(cell.plain, marks) for cell in ids.cells))


def _why(run: dict[str, Any]) -> str:
    if run["status"] == "failed" and (error := run.get("error")):
        return f"{error['type']}: {error['message']}"
    return "" if run["status"] in FINISHED else str(run.get("why") or "")


_HAPPENS: Final = {
    "reuse": "reused",
    "set": "gets the result given",
    "run": "executes again",
    "sleep": "sleeps again",
    "start": "starts a run again",
    "call": "starts or waits for a run again",
    "value": "is read again",
    "event": "waits for the event again",
    "lock": "takes the lock again",
    "": "is tried again",
}
"""What a step does when it is sent on: by its action, and by its kind where it is repeated."""
_WRITES: Final = ("[state.set ", "[state.delete ", "[state.increment ", "[event.send ")
"""How calls that change something outside of the run are named."""


def print_plan(options: Globals, steps: list[dict[str, Any]]) -> None:
    """The steps of a run that would be sent on, and what becomes of each."""
    marks, screen = glyphs(), console(options)
    columns = [
        column("step", (safe(call(step["name"])) for step in steps)),
        column("kind", (step["kind"] or "" for step in steps)),
        column("was", (step["status"] or "" for step in steps)),
        column("then", (_happens(step) for step in steps)),
        column("run", (step["run"] or "" for step in steps)),
    ]
    room = screen.width
    print_columns(screen, squeezed(columns, ("STEP",), _MOST_NAME, room, marks), marks)


def _worker_status(worker: dict[str, Any]) -> str:
    at = worker.get("importing")
    return f"{worker['status']}: importing {safe(at)}" if at else str(worker["status"])


def _happens(step: dict[str, Any]) -> Text:
    if step["action"] != "repeat":
        return Text(_HAPPENS[step["action"]])
    if step["name"].startswith(_WRITES):
        return Text("happens again", "yellow")
    return Text(_HAPPENS.get(step["kind"] or "", _HAPPENS[""]), "yellow")


def print_jobs(options: Globals, jobs: list[dict[str, Any]]) -> None:
    """`jobs list`."""
    marks, screen = glyphs(), console(options)
    timeouts_ms = [job["timeout_ms"] for job in jobs]
    columns = [
        column("name", (safe(job["name"]) for job in jobs)),
        column("queue", (safe(job["queue"]) for job in jobs)),
        column("tries", (str(job["max_attempts"]) for job in jobs)),
        column("timeout", (format_ms(ms) if ms else "" for ms in timeouts_ms)),
        column("module", (safe(str(job["module"])) for job in jobs)),
        column("code", (str(job["code"] or "")[:7] for job in jobs)),
    ]
    order = ("module", "queue", "name")
    print_columns(screen, squeezed(columns, order, _LEAST_NAME, screen.width, marks), marks)


def print_queues(options: Globals, queues: list[dict[str, Any]]) -> None:
    """`queues list`."""
    marks, screen = glyphs(), console(options)
    oldest_ms = [queue["oldest_ms"] for queue in queues]
    columns = [
        column("queue", (safe(queue["name"]) for queue in queues)),
        column("status", (_open(queue["paused"]) for queue in queues)),
        column("waiting", (str(queue["depth"]) for queue in queues)),
        column("oldest", ("" if ms is None else format_ms(ms) for ms in oldest_ms)),
        column("running", (_running(queue) for queue in queues)),
        column("a key", (str(queue["key_concurrency"] or "") for queue in queues)),
        column("rate", (_rate(queue) for queue in queues)),
    ]
    print_columns(screen, squeezed(columns, ("queue",), _LEAST_NAME, screen.width, marks), marks)


def _open(paused: bool) -> Text:
    return Text("paused", "yellow") if paused else Text("open")


def _running(queue: dict[str, Any]) -> str:
    """`3/4`, or `3` where nothing bounds it."""
    limit = queue["concurrency"]
    return str(queue["running"]) if limit is None else f"{queue['running']}/{limit}"


def _rate(queue: dict[str, Any]) -> str:
    if queue["rate"] is None:
        return ""
    burst = queue["rate_burst"]
    return str(queue["rate"]) if burst == 1 else f"{queue['rate']}, {burst} at once"


def print_schedules(options: Globals, schedules: list[dict[str, Any]]) -> None:
    """`schedules list`."""
    marks, screen = glyphs(), console(options)
    columns = [
        column("job", (safe(each["job"]) for each in schedules)),
        column("schedule", (safe(each["schedule"]) for each in schedules)),
        column("zone", (safe(each["timezone"]) for each in schedules)),
        column("next", (_second(each["next_at"]) for each in schedules)),
        column("last", (_second(each["last_at"]) for each in schedules)),
        column("state", (_schedule_state(each) for each in schedules)),
    ]
    order = ("zone", "schedule", "job")
    print_columns(screen, squeezed(columns, order, _LEAST_NAME, screen.width, marks), marks)


def print_ticks(options: Globals, ticks: list[dict[str, Any]]) -> None:
    """`schedules next`."""
    marks, screen = glyphs(), console(options)
    columns = [
        column("at", (_second(tick["at"]) for tick in ticks)),
        column("job", (safe(tick["job"]) for tick in ticks)),
        column("local", (safe(tick["local"]) for tick in ticks)),
    ]
    print_columns(screen, squeezed(columns, ("job",), _LEAST_NAME, screen.width, marks), marks)


def _second(at: str | None) -> str:
    """A time to the second: `2026-11-22T09:00:00Z`."""
    return f"{at[:19]}Z" if at else ""


def _schedule_state(each: dict[str, Any]) -> Text:
    if each["retired"]:
        return Text("retired", "dim")
    if each["paused"]:
        return Text("paused", "yellow")
    return Text("stuck", "red") if each["problem"] else Text("")


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
    queues, workers = told["queues"], told["workers"]
    oldest_ms = [queue["oldest_ms"] for queue in queues]
    waiting = [
        column("queue", (safe(queue["name"]) for queue in queues)),
        column("waiting", (str(queue["depth"]) for queue in queues)),
        column("oldest", ("" if ms is None else format_ms(ms) for ms in oldest_ms)),
        column("running", (str(queue["running"]) for queue in queues)),
    ]
    working = [
        column("worker", (safe(str(worker["id"])) for worker in workers)),
        *(
            column(name, (str(worker[name]) for worker in workers))
            for name in ("pid", "slots", "running")
        ),
        column("status", (_worker_status(worker) for worker in workers)),
    ]
    marks = glyphs()
    for columns in (waiting, working):
        if columns[0].cells:
            screen.print()
            order = ("queue", "worker")
            print_columns(screen, squeezed(columns, order, _LEAST_NAME, screen.width, marks), marks)


def _size(count: int) -> str:
    """Bytes with one decimal of the largest unit: `12.3 MiB`."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return format_size(count)


def _mark(status: str, marks: Glyphs) -> Text:
    return Text(marks.statuses.get(status, "?"), STATUS_STYLES.get(status, ""))


def _status(status: str) -> Text:
    return Text(status, STATUS_STYLES.get(status, ""))
