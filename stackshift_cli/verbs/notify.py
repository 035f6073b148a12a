"""`stackshift notify`: whom the project tells of failures, and whether that works."""

from __future__ import annotations

import difflib
from typing import Any, Final

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.session import Session
from stackshift_cli.output import messages
from stackshift_cli.output.safe_text import safe
from stackshift_cli.output.terminal import draws
from stackshift_cli.render import tsv
from stackshift_jobs.errors import NotFound, StackshiftError, error_text
from stackshift_jobs.project.config import Config, load_config
from stackshift_jobs.project.notify import masked
from stackshift_jobs.values.names import NAME_LABEL, NOTIFY_JOB, NOTIFY_LABEL

_TEST_MS: Final = 120_000


class NotDelivered(StackshiftError):
    """A message was not delivered."""

    code = "not_delivered"
    exit_status = 1


def list_(session: Session, _given: Given) -> int:
    """`notify list`: list the `[notify.NAME]` of the project, and what each could not be told."""
    config = load_config(session.project.root)
    rows = [_row(session, config, name) for name in config.notify]
    if session.json:
        messages.data(messages.compact(rows))
    elif draws(session.options):
        from stackshift_cli.render.lists import print_notify

        print_notify(session.options, rows)
    else:
        for row in rows:
            shown = {name: _joined(value) for name, value in row.items()}
            messages.data(tsv.columns(shown, tsv.NOTIFY_COLUMNS))
    if not rows and not session.json:
        session.say("nobody is told of failures: stackshift.toml has no [notify.NAME]")
        session.say("hint: man stackshift-notify")
    undelivered = sum(row["undelivered"] for row in rows)
    if undelivered and not session.json:
        session.say(f"hint: {undelivered} could not be delivered: stackshift dead list")
    return 0


def _row(session: Session, config: Config, name: str) -> dict[str, Any]:
    terms = config.notify[name]
    params = {"job": NOTIFY_JOB, "labels": {NOTIFY_LABEL: name}}
    return {
        "name": name,
        "to": masked(terms.to) if terms.to is not None else None,
        "command": list(terms.command) if terms.command is not None else None,
        "on": list(terms.on),
        "jobs": list(terms.jobs),
        "queues": list(terms.queues),
        "delivered": session.call("run.count", {**params, "status": "completed"})["count"],
        "undelivered": session.call("run.count", {**params, "dead": True})["count"],
    }


def _joined(value: Any) -> Any:
    return ",".join(value) if isinstance(value, list) else value


def test(session: Session, given: Given) -> int:
    """`notify test NAME`: send a message now, once, and say whether it was taken; 1 if it was not,
    with what the other side said."""
    name = given.word("notify")
    config = load_config(session.project.root)
    if name not in config.notify:
        near = difflib.get_close_matches(name, config.notify, 1)
        raise NotFound(
            f"stackshift.toml has no [notify.{name}]",
            hint=f"did you mean {near[0]}?" if near else "stackshift notify list",
        )
    started = session.call(
        "run.start",
        {
            "job": NOTIFY_JOB,
            "payload": {"notify": name, "alert": "test"},
            "max_attempts": 1,
            "labels": {NAME_LABEL: f"notify {name}"[:128], NOTIFY_LABEL: name},
        },
    )
    run = session.call(
        "run.wait",
        {"run": started["id"], "timeout_ms": _TEST_MS, "full": True},
        _TEST_MS / 1000,
    )
    if run.get("timed_out"):
        raise StackshiftError(
            f"the message was not delivered within {_TEST_MS // 1000} s",
            hint=f"stackshift runs show {started['id']}",
        )
    if session.json:
        messages.data(messages.compact(run))
    if run["status"] == "completed":
        if not session.json:
            session.say(f"delivered to {safe(name)}")
        return 0
    if run.get("dead"):  # Nobody waits for a test.
        session.call("dead.discard", {"runs": [run["id"]]})
    error = run.get("error") or {"type": run["status"], "message": ""}
    raise NotDelivered(
        f"the message to {name} was not delivered: {error_text(error['type'], error['message'])}",
        hint=f"stackshift runs show {run['id']}",
    )
