"""The names that completion offers: what there is in the project, as the daemon tells it.

The daemon is asked only for what the parameter under the cursor can be, once or twice, and for a
bounded number of things; without an answer at once there are no names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from stackshift_cli.commands.completion_line import Candidate, Candidates, Typed
from stackshift_cli.commands.spec import Parameter
from stackshift_jobs.errors import StackshiftError

_ANSWER_SECONDS: Final = 1.0
_MOST: Final = 100
_MOST_RUNS: Final = 20
"""The newest runs that are offered: more would fill the screen."""
_FINISHED: Final = frozenset(("completed", "failed", "cancelled"))
_ALL: Final = _FINISHED | {"scheduled", "queued", "running", "waiting", "retrying"}
_STATUSES: Final[dict[tuple[str, ...], frozenset[str]]] = {
    ("runs", "cancel"): _ALL - _FINISHED,
    ("runs", "wait"): _ALL - _FINISHED,
    ("runs", "retry"): frozenset(("failed", "cancelled")),
    ("runs", "rm"): _FINISHED,
}
"""The runs that a command can act on, by their statuses; the others act on all."""
_FIXED_RUNS: Final = (
    Candidate("@last", "the newest run"),
    Candidate("@failed", "the run that failed most recently"),
)


def names(typed: Typed, wanted: Parameter) -> Candidates:
    """What can stand for the parameter `wanted` of the command that is being typed."""
    source = _SOURCES.get(wanted.name)
    if wanted.name in ("key", "prefix"):
        source = _key_source(typed)
    return list(source(typed)) if source else []


def _jobs(typed: Typed) -> Iterator[Candidate]:
    for job in _ask(typed, "job.list").get("jobs", ()):
        yield Candidate(job["name"], f"{job['module']}, queue {job['queue']}")


def _schedules(typed: Typed) -> Iterator[Candidate]:
    """Those that the command can act on: only what was added, or is retired, can be removed."""
    removes = typed.command is not None and typed.command.path[-1] == "rm"
    for each in _ask(typed, "schedule.list").get("schedules", ()):
        if each["name"] in typed.words:
            continue
        if not removes or each["retired"] or each["source"] in ("command", "crontab"):
            yield Candidate(each["name"], f"{each['schedule']} {each['timezone']}")


def _queues(typed: Typed) -> Iterator[Candidate]:
    for queue in _ask(typed, "queue.list").get("queues", ()):
        paused = ", paused" if queue["paused"] else ""
        yield Candidate(
            queue["name"], f"{queue['depth']} queued, {queue['running']} running{paused}"
        )


def _hosts(typed: Typed) -> Iterator[Candidate]:
    for host in _ask(typed, "leader.status").get("hosts", ()):
        if host["name"] not in typed.words:
            yield Candidate(host["name"], host["problem"] or host["status"])


def _notify(typed: Typed) -> Iterator[Candidate]:
    from stackshift_jobs.project.config import load_config
    from stackshift_jobs.project.locate import find_project

    try:
        config = load_config(find_project(typed.project).root)
    except (StackshiftError, OSError):
        return
    for name, terms in config.notify.items():
        yield Candidate(name, ", ".join(terms.on))


def _runs(typed: Typed) -> Iterator[Candidate]:
    """Their ids, or the ends of ids if one is being typed; the newest that fit what is typed, of
    those that the command can act on."""
    path = () if typed.command is None else typed.command.path
    is_dead = path[:1] == ("dead",)
    if not is_dead:
        yield from _FIXED_RUNS
    params = {"dead": True} if is_dead else {}
    wanted = _STATUSES.get(path, _ALL)
    is_end = bool(typed.word) and not "run_".startswith(typed.word[:4])
    count = 0
    for run in _ask(typed, "run.list", params | {"limit": _MOST}).get("runs", ()):
        if run["status"] in wanted and run["id"] not in typed.words:
            text = run["id"][-max(6, len(typed.word)) :] if is_end else run["id"]
            if text.startswith(typed.word):
                yield Candidate(text, f"{run['job']}, {run['status']}")
                count += 1
        if count >= _MOST_RUNS:
            break


def _steps(typed: Typed) -> Iterator[Candidate]:
    if not typed.words:
        return
    run = _ask(typed, "run.get", {"run": typed.words[0], "detail": True})
    for step in run.get("steps") or ():
        yield Candidate(step["name"], step["status"])


def _results(typed: Typed) -> Iterator[Candidate]:
    for step in _steps(typed):
        yield Candidate(f"{step.text}=", step.about)


def _labels(typed: Typed) -> Iterator[Candidate]:
    for run in _ask(typed, "run.list", {"limit": _MOST}).get("runs", ()):
        for label, value in run["labels"].items():
            yield Candidate(f"{label}={value}", "label of recent runs")


def _events(typed: Typed) -> Iterator[Candidate]:
    """The names of events that are kept, and of those that runs wait for."""
    for event in _ask(typed, "event.list", {"limit": _MOST}).get("events", ()):
        yield Candidate(event["name"], "kept")
    for name, _, job in _waited(typed):
        yield Candidate(name, f"{job} waits for it")


def _correlation_keys(typed: Typed) -> Iterator[Candidate]:
    for name, key, job in _waited(typed):
        if key and (not typed.words or typed.words[0] == name):
            yield Candidate(key, f"{job} waits for {name}")


def _waited(typed: Typed) -> Iterator[tuple[str, str, str]]:
    params = {"status": "waiting", "limit": _MOST}
    for run in _ask(typed, "run.list", params).get("runs", ()):
        waiting = run["waiting_for"] or {}
        if waiting.get("kind") == "event" and waiting.get("event"):
            yield waiting["event"], waiting.get("correlation_key") or "", run["job"]


def _key_source(typed: Typed) -> Callable[[Typed], Iterator[Candidate]] | None:
    path = () if typed.command is None else typed.command.path
    if path[:1] == ("config",):
        return _settings
    if path[1:2] in (("lock",), ("unlock",), ("locks",)):
        return _locks
    return _keys if path[:1] == ("state",) else None


def _keys(typed: Typed) -> Iterator[Candidate]:
    params = {"prefix": typed.word, "limit": _MOST}
    for entry in _ask(typed, "state.list", params).get("entries", ()):
        yield Candidate(entry["key"], f"version {entry['version']}")


def _locks(typed: Typed) -> Iterator[Candidate]:
    params = {"prefix": typed.word, "limit": _MOST}
    for lock in _ask(typed, "lock.list", params).get("locks", ()):
        yield Candidate(lock["key"], f"held by {lock.get('run') or lock.get('holder') or 'nobody'}")


def _settings(_typed: Typed) -> Iterator[Candidate]:
    from stackshift_cli.user_config import KEYS as USER_KEYS
    from stackshift_jobs.project.config import KEYS

    for name, about in USER_KEYS.items():
        yield Candidate(name, about)
    for key in KEYS:
        yield Candidate(key.path, key.help)


def _topics(typed: Typed) -> Iterator[Candidate]:
    from stackshift_cli.commands.catalogue import COMMANDS, GROUPS
    from stackshift_cli.commands.help_topics import TOPICS

    if not typed.words:
        for name, text in TOPICS.items():
            yield Candidate(name, text.partition("\n")[0])
        for name, about in GROUPS.items():
            yield Candidate(name, about)
    for command in COMMANDS:
        if command.path[:-1] == tuple(typed.words):
            yield Candidate(command.path[-1], command.help)


_SOURCES: Final[dict[str, Callable[[Typed], Iterator[Candidate]]]] = {
    "job": _jobs,
    "schedule": _schedules,
    "queue": _queues,
    "host": _hosts,
    "notify": _notify,
    "run": _runs,
    "runs": _runs,
    "cursor": _runs,
    "from": _steps,
    "step": _steps,
    "set": _results,
    "label": _labels,
    "name": _events,
    "correlation_key": _correlation_keys,
    "topic": _topics,
}
"""By the names of parameters; `key` and `prefix` mean different things in different commands."""


def _ask(typed: Typed, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
    """The daemon's answer; empty if no daemon is running or it does not answer at once."""
    from stackshift_cli.daemon.connection import Connection
    from stackshift_jobs.project.locate import find_project

    try:
        project = find_project(typed.project)
        with Connection.open(project.data_dir_text, connect_timeout=_ANSWER_SECONDS) as connection:
            return dict(connection.call(method, params or {}, _ANSWER_SECONDS))
    except (StackshiftError, OSError, TimeoutError):
        return {}
