"""One line of a batch: what `run.start` is asked for it, or why it is none.

A line is a JSON object with the fields of `start`'s options. Whatever can be told without the
daemon is told here; the rest (is there such a job, does the payload fit) is its answer.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from stackshift_cli.flows.start_params import moment
from stackshift_jobs.errors import PayloadRefused, Usage
from stackshift_jobs.project.locate import Project
from stackshift_jobs.values import strict_json
from stackshift_jobs.values.durations import milliseconds
from stackshift_jobs.values.limits import LINE_MARGIN, MAX_PAYLOAD_BYTES
from stackshift_jobs.wire.request import encode

MAX_LINE: Final = MAX_PAYLOAD_BYTES + LINE_MARGIN
_FIELDS: Final = frozenset(
    (
        "job",
        "payload",
        "queue",
        "idempotency_key",
        "idempotency_ttl",
        "delay",
        "scheduled_at",
        "priority",
        "max_attempts",
        "labels",
    )
)


class Entry(NamedTuple):
    """A line that can be sent: its number and its params, encoded. With a key it may be sent again.
    `notes` are for the person."""

    number: int
    body: bytes
    keyed: bool
    notes: list[str]


def entry(project: Project, number: int, line: bytes | None) -> Entry:
    """What is sent for a line; raises what is wrong with it."""
    if line is None:
        raise PayloadRefused(f"the line is over {MAX_LINE} bytes", path="$")
    given = strict_json.loads(line, MAX_LINE)
    if not isinstance(given, dict):
        raise Usage("not an object", hint='write {"job": ..., "payload": ...} a line')
    if not given.keys() <= _FIELDS:
        unknown = min(given.keys() - _FIELDS)
        raise Usage(f"unknown field {unknown!r}", hint=" ".join(sorted(_FIELDS)))
    if not isinstance(given.get("job"), str):
        raise Usage("job is missing")
    params = {k: v for k, v in given.items() if v is not None or k == "payload"}
    if "delay" in params and "scheduled_at" in params:
        raise Usage("delay and scheduled_at exclude each other")
    if "idempotency_ttl" in params and "idempotency_key" not in params:
        raise Usage("idempotency_ttl is for a start with an idempotency_key")
    for name in ("delay", "idempotency_ttl"):
        if (duration := params.pop(name, None)) is not None:
            params[f"{name}_ms"] = _milliseconds(name, duration)
    notes: list[str] = []
    if isinstance(at := params.get("scheduled_at"), str):
        params["scheduled_at"], notes = moment(at)
    return Entry(number, encode(project, params), "idempotency_key" in params, notes)


def _milliseconds(name: str, duration: Any) -> int:
    try:
        return milliseconds(duration)
    except Usage as bad:
        raise Usage(f"{name}: {bad.message}", hint=bad.hint) from bad
