"""Runs, jobs, queues, schedules and the daemon's status, listed on a terminal."""

from __future__ import annotations

from typing import Any, Final

from rich.text import Text

from stackshift_cli.arguments import Globals
from stackshift_cli.output.clock import Clock
from stackshift_cli.output.run_name import run_name
from stackshift_cli.output.safe_text import safe
from stackshift_cli.render.columns import (
    Cells,
    Give,
    Row,
    away,
    both,
    duration,
    field,
    print_table,
)
from stackshift_cli.render.console import STATUS_STYLES, Glyphs, console, glyphs
from stackshift_cli.render.objects import print_object, size
from stackshift_cli.timeline.describe import attempts, brief, briefly, call, why
from stackshift_jobs.errors import error_text
from stackshift_jobs.values.durations import format_ms, short_ms
from stackshift_jobs.values.limits import FINISHED
from stackshift_jobs.values.quantities import quantity

# --- Runs ----------------------------------------------------------------------------------

_RUNS_GIVE: Final[tuple[Give, ...]] = (
    ("WHY", 32),
    ("JOB", 24),
    ("QUEUE", 16),
    ("WHY", 28),
    ("JOB", 16),
    ("ATTEMPT", 0),
    ("QUEUE", 0),
    ("WHY", 16),
    ("JOB", 12),
    ("TOOK", 0),
    ("AGE", 0),
    ("WHY", 10),
    ("WHY", 0),
    ("JOB", 4),
)
"""A long name is cut before a column is dropped: one run would take it from all others."""


def print_runs(options: Globals, runs: list[dict[str, Any]], clock: Clock) -> None:
    """`runs list`."""
    marks = glyphs()
    cells: Cells = {
        "": lambda run: _mark(run["status"], marks),
        "id": lambda run: brief(run["id"]),
        "job": lambda run: safe(run_name(run)),
        "queue": field("queue"),
        "status": _run_status,
        "attempt": lambda run: attempts(run["attempt"], run),
        "age": lambda run: clock.age(run["created_at"]),
        "took": duration("duration_ms"),
        "why": lambda run: why_cell(run, clock),
    }
    print_table(options, runs, cells, _RUNS_GIVE)


def why_cell(run: Row, clock: Clock) -> str:
    """Why a run has its status, if that does not say it all: the error of a failed one, the reason
    of an unfinished one, as which run it has continued. Ids are short, and times local."""
    if run["status"] == "failed" and (error := run.get("error")):
        return safe(error_text(error["type"], error["message"]))
    return safe(briefly(clock.localized(why(run, run["status"] in FINISHED))))


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
    print_table(options, steps, _PLAN_CELLS, (("STEP", 24), ("KIND", 0), ("STEP", 10)))


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
    "run": lambda step: brief(step["run"] or ""),
}

# --- Jobs, queues and schedules ------------------------------------------------------------


def print_jobs(options: Globals, jobs: list[dict[str, Any]]) -> None:
    """`jobs list`."""
    gives: tuple[Give, ...] = (
        ("MODULE", 20),
        ("QUEUE", 16),
        ("NAME", 30),
        ("SCHEDULE", 16),
        ("MODULE", 12),
        ("NAME", 20),
        ("QUEUE", 8),
        ("TIMEOUT", 0),
        ("ATTEMPTS", 0),
        ("MODULE", 0),
        ("CODE", 0),
        ("SCHEDULE", 0),
        ("QUEUE", 8),
        ("NAME", 8),
    )
    cells = dict(_JOB_CELLS)
    if any(job.get("cron") for job in jobs):
        cells["schedule"] = lambda job: safe(job.get("cron") or "")
    print_table(options, jobs, cells, gives)


_JOB_CELLS: Final[Cells] = {
    "name": field("name"),
    "queue": field("queue"),
    "attempts": field("max_attempts"),
    "timeout": lambda job: "" if job["timeout_ms"] is None else short_ms(job["timeout_ms"]),
    "module": field("module"),
    "code": lambda job: str(job["code"] or "")[:7],
}


def print_queues(options: Globals, queues: list[dict[str, Any]]) -> None:
    """`queues list`."""
    gives: tuple[Give, ...] = (
        ("QUEUE", 24),
        ("PER KEY", 0),
        ("RATE", 0),
        ("OLDEST", 0),
        ("QUEUE", 8),
    )
    print_table(options, queues, _QUEUE_CELLS, gives)


def _queue_status(queue: Row) -> Text:
    return Text("paused", "yellow") if queue["paused"] else Text("open")


def queue_running(queue: Row) -> str:
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
    "queued": field("depth"),
    "oldest": duration("oldest_ms"),
    "running": queue_running,
    "per key": field("key_concurrency"),
    "rate": _rate,
}


def print_schedules(options: Globals, schedules: list[dict[str, Any]]) -> None:
    """`schedules list`."""
    clock = Clock.now()
    following = f"next ({clock.zone})"
    cells: Cells = {
        "name": field("name"),
        "schedule": field("schedule"),
        "zone": field("timezone"),
        following: both("next_at", clock),
        "last": away("last_at", clock),
        "outcome": lambda each: _run_status({"status": each["last_status"] or ""}),
        "skips": lambda each: str(each["skipped"] or ""),
        "state": _schedule_state,
    }
    if not any(each["skipped"] for each in schedules):
        cells = {name: cell for name, cell in cells.items() if name != "skips"}
    gives: tuple[Give, ...] = (
        ("NAME", 20),
        ("ZONE", 12),
        ("LAST", 0),
        ("ZONE", 0),
        ("SCHEDULE", 12),
        ("SKIPS", 0),
        ("NAME", 8),
    )
    print_table(options, schedules, cells, gives)


def _schedule_state(schedule: Row) -> Text:
    if schedule["retired"]:
        return Text("retired", "dim")
    if schedule["paused"]:
        return Text("paused", "yellow")
    if schedule["problem"]:
        return Text("stuck", "red")
    troubled = schedule.get("expected") in ("late", "missing")
    return Text(schedule["expected"], "red") if troubled else Text("")


def print_ticks(options: Globals, ticks: list[dict[str, Any]]) -> None:
    """`schedules next`. The time in the schedule's zone is shown where it differs."""
    clock = Clock.now()
    at = f"at ({clock.zone})"
    cells: Cells = {
        at: both("at", clock),
        "name": field("name"),
        "in its zone": lambda tick: clock.elsewhere(tick["local"]),
    }
    print_table(options, ticks, cells, (("NAME", 8), ("IN ITS ZONE", 0)))


# --- Hosts ---------------------------------------------------------------------------------


def print_hosts(options: Globals, hosts: list[dict[str, Any]]) -> None:
    """`hosts list`."""
    gives: tuple[Give, ...] = (("PROBLEM", 24), ("VERSION", 0), ("WORKERS", 12), ("PROBLEM", 8))
    print_table(options, hosts, _HOST_CELLS, gives)


def print_notify(options: Globals, rows: list[dict[str, Any]]) -> None:
    """`notify list`."""
    gives: tuple[Give, ...] = (("TO", 24), ("ON", 20), ("JOBS", 8), ("QUEUES", 8))
    print_table(options, rows, _NOTIFY_CELLS, gives)


def print_host_checks(options: Globals, found: list[dict[str, Any]]) -> None:
    """`hosts check`."""
    gives: tuple[Give, ...] = (("PROBLEM", 30), ("PYTHON", 12), ("TOOK", 0), ("PROBLEM", 8))
    print_table(options, found, _HOST_CHECK_CELLS, gives)


def print_members(options: Globals, found: dict[str, Any], members: list[Row]) -> None:
    """`cluster status`: a line about the journal and one about its database, then a table of the
    daemons."""
    leads = f"{found['leader']} leads" if found["leader"] else "nobody leads"
    where = found["url"] if found["answers"] else f"{found['url']}, which does not answer"
    standby = found["synchronous"]
    replicated = f"commits wait for {standby}" if standby else "no synchronous standby is set"
    out = console(options)
    out.print(Text(safe(f"{found['journal']} in {where} · record {found['seq']:,} · {leads}")))
    out.print(Text(safe(f"PostgreSQL {found['server']} · {replicated}")))
    out.print()
    gives: tuple[Give, ...] = (("ADDRESS", 0), ("VERSION", 0), ("HOST", 12))
    print_table(options, members, _MEMBER_CELLS, gives)


def _clock(member: Row) -> str:
    ahead = member["clock_ahead_ms"]
    return "" if abs(ahead) < _NOTICED_MS else f"{'+' if ahead > 0 else '-'}{format_ms(abs(ahead))}"


_ROLE_STYLES: Final = {"leads": "green", "silent": "red", "stopped": "dim"}
_MEMBER_CELLS: Final[Cells] = {
    "host": field("host"),
    "role": lambda member: Text(member["role"], _ROLE_STYLES.get(member["role"], "")),
    "record": lambda member: f"{member['seq']:,}",
    "behind": lambda member: f"{member['behind']:,}" if member["behind"] else "",
    "clock": _clock,
    "version": field("version"),
    "address": field("address"),
    "seen": lambda member: f"{format_ms(member['seen_ms'])} ago",
}


def _host_problem(host: Row) -> Text:
    return Text(safe(host["problem"] or ""), "red")


def _round_trip(host: Row) -> str:
    return "" if host["round_trip_ms"] is None else f"{host['round_trip_ms']:.1f}ms"


_HOST_STYLES: Final = {"serving": "green", "unreachable": "red"}
_HOST_CELLS: Final[Cells] = {
    "host": field("name"),
    "status": lambda host: Text(host["status"], _HOST_STYLES.get(host["status"], "yellow")),
    "workers": lambda host: ", ".join(safe(name) for name in host["workers"]),
    "round trip": _round_trip,
    "version": field("version"),
    "problem": _host_problem,
}
_NOTIFY_CELLS: Final[Cells] = {
    "name": field("name"),
    "to": lambda row: row["to"] or " ".join(row["command"] or ()),
    "on": lambda row: ", ".join(row["on"]),
    "jobs": lambda row: ", ".join(row["jobs"]) or "all",
    "queues": lambda row: ", ".join(row["queues"]) or "all",
    "delivered": field("delivered"),
    "undelivered": lambda row: Text(
        str(row["undelivered"]), "red" if row["undelivered"] else "dim"
    ),
}
_HOST_CHECK_CELLS: Final[Cells] = {
    "host": field("name"),
    "status": lambda host: Text("ok", "green") if host["ok"] else Text("problem", "red"),
    "round trip": _round_trip,
    "version": field("version"),
    "python": field("python"),
    "code": lambda host: (host["digest"] or "")[:7],
    "jobs": field("jobs"),
    "took": lambda host: f"{host['seconds']:.1f}s",
    "problem": _host_problem,
}


# --- The daemon ----------------------------------------------------------------------------


_NOTICED_MS: Final = 1000
"""A clock that is ahead by less is not worth a word."""
_NOTICED_LAG_MS: Final = 100
"""Nor is a loop that was late by less."""


def print_status(options: Globals, status: dict[str, Any]) -> None:
    """`daemon status`: facts, then a table of queues and one of workers if there are any."""
    journal = f"{size(status['journal_bytes'])}, durability {status['durability']}"
    facts = {
        "project": status["project"],
        "daemon": f"{status['version']}, pid {status['pid']}, {_mode(status)}",
        "up": format_ms(status["uptime_ms"]),
        "journal": journal,
        "commits": _commits(status),
        "loop_lag": _lag(status.get("loop_lag_ms", 0)),
        "database": _database(status.get("database")),
        "disk_free": size(status["disk_free_bytes"] or 0),
        "dead_letter": status["dead"],
        "undelivered": _undelivered(status),
        "in_trouble": _in_trouble(status),
        "read_only": status.get("read_only_because"),
        "damage": (status.get("damage") or {}).get("message"),
        "daemon_time": _stands_still(status.get("clock_ahead_ms", 0)),
        "recovered": status.get("recovered"),
    }
    print_object(options, facts, as_json=frozenset(("recovered",)))
    tables = (
        (status["queues"], _QUEUE_LOAD_CELLS),
        (status["workers"], _WORKER_CELLS),
        (status.get("hosts"), _HOST_CELLS),
    )
    for rows, cells in tables:
        if rows:
            console(options).print()
            print_table(options, rows, cells, (("QUEUE", 8), ("PROBLEM", 12), ("STATUS", 10)))
    if status.get("more_queues"):
        more = quantity(status["more_queues"], "more queue")
        console(options).print(f"and {more} (stackshift queues list)")


def _undelivered(status: dict[str, Any]) -> str | None:
    count = status.get("undelivered")
    return f"{quantity(count, 'message')} about failures" if count else None


def _in_trouble(status: dict[str, Any]) -> str | None:
    """The jobs that have not recovered: `import (failed), nightly (missing)`."""
    return ", ".join(f"{each['job']} ({each['alert']})" for each in status.get("troubles", ()))


def _commits(status: dict[str, Any]) -> str | None:
    """How long the last commits took: `0.3 ms (99 of 100: 1.2 ms), 4.5 records each`."""
    found = status.get("commits") or {}
    if found.get("p50_ms") is None:
        return None
    most = f"99 of 100: {found['p99_ms']:.2g} ms"
    return f"{found['p50_ms']:.2g} ms ({most}), {found['records']:g} records each"


def _lag(ms: float) -> str | None:
    return f"{ms:.0f} ms late within a minute" if ms >= _NOTICED_LAG_MS else None


def _mode(status: dict[str, Any]) -> str:
    """What the daemon does: it follows another one, or serves."""
    is_standby = status.get("role") == "follows"
    return f"follows the one on {status['leader']}" if is_standby else str(status["mode"])


def _stands_still(ahead_ms: int) -> str | None:
    if ahead_ms < _NOTICED_MS:
        return None
    ahead = f"{format_ms(ahead_ms)} ahead of the system clock, and stands still"
    return f"{ahead} (stackshift daemon clock)"


def _database(found: dict[str, Any] | None) -> str | None:
    """Where the journal is if not here, and whether it answers."""
    if found is None:
        return None
    return found["url"] if found["answers"] else f"{found['url']} does not answer"


def _worker_status(worker: Row) -> str:
    module = worker.get("importing")
    return f"{worker['status']}: importing {safe(module)}" if module else str(worker["status"])


_QUEUE_LOAD_CELLS: Final[Cells] = {
    "queue": field("name"),
    "queued": field("depth"),
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
