"""`step`, `sleep` and `wait-event`: the calls of the script of a shell job."""

from __future__ import annotations

import os
import sys
from typing import Any

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.session import Session
from stackshift_cli.flows.heartbeat import heartbeat_of
from stackshift_cli.output import messages
from stackshift_cli.output.safe_text import safe
from stackshift_cli.script.client import answer_to, is_script_output, require_script
from stackshift_jobs.errors import Usage
from stackshift_jobs.project.locate import working_directory
from stackshift_jobs.values.limits import MAX_ATTEMPTS
from stackshift_jobs.wire.script import TOKEN_VARIABLE


def step(session: Session, given: Given) -> int:
    """`step NAME -- COMMAND...`: run the program unless it is on record that it has succeeded;
    print its standard output and return its exit status, either way."""
    require_script("step")
    retry = given.whole("retry", 0, MAX_ATTEMPTS - 1)
    backoff_ms = given.duration_ms("backoff")
    if backoff_ms is not None and not retry:
        raise Usage("--backoff requires --retry", hint="--retry 3 --backoff 10s")
    timeout_ms = given.positive_ms("timeout")
    heartbeat_ms = heartbeat_of(given)
    mask = os.umask(0)
    os.umask(mask)
    answer = answer_to(
        {
            "call": "step",
            "name": given.word("name"),
            "argv": given.texts("command"),
            "env": {n: text for n, text in os.environ.items() if n != TOKEN_VARIABLE},
            "cwd": working_directory(),
            "umask": mask,
            "retry": retry,
            "backoff_ms": backoff_ms,
            "timeout_ms": timeout_ms,
            "heartbeat_ms": heartbeat_ms,
            "output_beats": given.flag("output_beats"),
        },
        passes_stdin=True,
    )
    if not is_script_output():
        sys.stdout.write(answer["stdout"])
    if problem := answer.get("problem"):
        session.say(safe(problem))
    return int(answer["exit_code"])


def sleep(_session: Session, given: Given) -> int:
    """`sleep NAME D`: wait durably."""
    require_script("sleep")
    delay_ms = given.duration_ms("duration")
    answer_to({"call": "sleep", "name": given.word("name"), "delay_ms": delay_ms})
    return 0


def wait_event(session: Session, given: Given) -> int:
    """`wait-event NAME`: wait durably for an event and print its payload (`--json`: the event);
    nothing if `--timeout` passed, with `--on-timeout continue`."""
    require_script("wait-event")
    call: dict[str, Any] = {"call": "wait-event", "event": given.word("event")}
    for option in ("name", "correlation_key", "on_timeout"):
        if (text := given.text(option)) is not None:
            call[option] = text
    if (timeout_ms := given.duration_ms("timeout")) is not None:
        call["timeout_ms"] = timeout_ms
    event = answer_to(call)["event"]
    if event is not None:
        messages.data(messages.compact(event if session.json else event["payload"]))
    return 0
