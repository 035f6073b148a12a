"""`schedules add|rm|backfill`: schedules without code, and runs for ticks of the past."""

from __future__ import annotations

from typing import Any

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.session import Session
from stackshift_cli.flows.run_filters import time_range
from stackshift_cli.flows.start_params import NO_PAYLOAD, field_notes, payload_given
from stackshift_cli.output import messages
from stackshift_cli.output.safe_text import safe
from stackshift_cli.render import tsv
from stackshift_cli.verbs.jobs import say_boot_hint
from stackshift_cli.verbs.programs import command_words, surroundings
from stackshift_jobs.errors import Usage
from stackshift_jobs.values.limits import MAX_ATTEMPTS
from stackshift_jobs.values.names import EXEC_JOB, NAME_LABEL


def add(session: Session, given: Given) -> int:
    """`schedules add NAME (--job J | -- COMMAND...) --cron EXPRESSION`: add a schedule, and print
    its name. The same again changes nothing."""
    expression = given.text("cron")
    if expression is None:
        hint = '--cron "0 2 * * *", --cron @daily'
        if "--cron" in given.texts("command"):
            hint = "put --cron before the command: what follows that is for it"
        raise Usage("--cron is missing", hint=hint)
    params: dict[str, Any] = {"name": given.word("name"), "schedule": expression}
    params |= _of_job(session, given) if given.text("job") is not None else _of_command(given)
    for name in ("timezone", "overlap", "catch_up", "note", "expect", "heartbeat"):
        if (text := given.text(name)) is not None:
            params[name] = text
    for name in ("catch_up_for", "jitter"):
        if (ms := given.duration_ms(name)) is not None:
            params[f"{name}_ms"] = ms
    if (ms := given.positive_ms("max_runtime")) is not None:
        params["max_runtime_ms"] = ms
    if given.flag("replace"):
        params["replace"] = True
    reply = session.call("schedule.add", params)
    if not reply["changed"]:
        session.say(f"there is such a schedule {safe(reply['name'])} already")
    elif reply["next_at"] is not None:
        session.say(f"next at {messages.moment(reply['next_at'])}")
    messages.data(messages.compact(reply) if session.json else safe(reply["name"]))
    if reply["changed"]:
        say_boot_hint(session)
    return 0


def _of_job(session: Session, given: Given) -> dict[str, Any]:
    """The params of a schedule of `--job`."""
    if given.texts("command"):
        raise Usage("--job and a command cannot be used together")
    if given.texts("env"):
        raise Usage("--env is for a command", hint="a job takes its values from its payload: -F")
    params: dict[str, Any] = {"job": given.word("job"), "options": _options(given)}
    if (payload := payload_given(given)) is not NO_PAYLOAD:
        params["payload"] = payload
    for note in field_notes(given):
        session.say(note)
    if (timeout_ms := given.positive_ms("timeout")) is not None:
        params["options"]["timeout_ms"] = timeout_ms
    return params


def _of_command(given: Given) -> dict[str, Any]:
    """The params of a schedule of a program, which starts where the command was typed."""
    command = command_words(given.texts("command"))
    if not command:
        raise Usage(
            "nothing is given that it starts", hint="--job J, or a command after --: -- ./backup.sh"
        )
    for name in ("payload", "field"):
        if name in given.given():
            raise Usage(f"--{name} is for a job", hint="a command takes arguments")
    payload: dict[str, Any] = {"command": command, **surroundings(given)}
    if (timeout_ms := given.positive_ms("timeout")) is not None:
        payload["timeout_ms"] = timeout_ms
    options = _options(given) | {"labels": {NAME_LABEL: given.word("name")}}
    return {"job": EXEC_JOB, "payload": payload, "options": options}


def _options(given: Given) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if (queue := given.text("queue")) is not None:
        options["queue"] = queue
    if (retry := given.whole("retry", 0, MAX_ATTEMPTS - 1)) is not None:
        options["max_attempts"] = retry + 1
    if (backoff_ms := given.duration_ms("backoff")) is not None:
        options["backoff_ms"] = backoff_ms
    return options


def rm(session: Session, given: Given) -> int:
    """`schedules rm NAME...`: remove schedules that were added, and print their names. Their runs
    stay."""
    removed = []
    for name in given.texts("schedule"):
        removed.append(session.call("schedule.remove", {"name": name})["name"])
        if not session.json:
            messages.data(safe(removed[-1]))
    if session.json:
        messages.data(messages.compact(removed))
    return 0


def backfill(session: Session, given: Given) -> int:
    """`schedules backfill NAME --since T [--until T] [--dry-run]`: start a run for each tick that
    has none, and print a line for each tick: `tick id state`."""
    times = time_range(session, given)
    if "since" not in times:
        raise Usage("--since is missing", hint="--since 7d, --since 2026-05-01T00:00:00Z")
    is_dry = given.flag("dry_run")
    method = "schedule.past" if is_dry else "schedule.backfill"
    params = {"name": given.word("schedule"), **times}
    runs: list[dict[str, Any]] = []
    while True:
        page = session.call(method, params)
        for run in page["runs"]:
            run["state"] = "reused" if run["reused"] else "would start" if is_dry else "started"
            if not session.json:
                messages.data(tsv.columns(run, tsv.BACKFILL_COLUMNS))
        runs += page["runs"]
        if page["next"] is None or page["next"] >= page["until"]:
            break
        params |= {"since": page["next"], "until": page["until"]}
    if session.json:
        messages.data(messages.compact(runs))
    reused = sum(run["reused"] for run in runs)
    what = "to start" if is_dry else "started"
    session.say(f"{len(runs) - reused} {what}, {reused} there already" if runs else "no ticks")
    return 0
