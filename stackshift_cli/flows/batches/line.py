"""One line of a batch: the params of its `run.start`, or the reason why it is not valid.

A line is a JSON object with the fields of `start`'s options. What can be checked without the daemon
is checked here; the daemon checks the rest (does the job exist, does the payload fit).
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
_FIELD_NAMES: Final = (
    "job payload queue idempotency_key idempotency_ttl delay scheduled_at priority max_attempts"
    " labels unique on_duplicate ttl deadline after even_if_failed"
)
_FIELDS: Final = frozenset(_FIELD_NAMES.split())


class Entry(NamedTuple):
    """A line that can be sent: its number and its encoded params. If it is `keyed`, with an
    idempotency key, it may be sent twice. `notes` are for the person."""

    number: int
    body: bytes
    keyed: bool
    notes: list[str]


def entry(project: Project, number: int, line: bytes | None) -> Entry:
    """The entry for the bytes of a line (None: it was too long to keep). Raises `PayloadRefused` or
    `Usage` if it is not a valid start."""
    if line is None:
        raise PayloadRefused(f"the line is longer than {MAX_LINE} bytes", path="$")
    given = strict_json.loads(line, MAX_LINE)
    if not isinstance(given, dict):
        raise Usage("not an object", hint='each line is {"job": ..., "payload": ..., ...}')
    if not given.keys() <= _FIELDS:
        unknown = min(given.keys() - _FIELDS)
        raise Usage(f"unknown field {unknown!r}", hint=f"one of: {', '.join(sorted(_FIELDS))}")
    if not isinstance(given.get("job"), str):
        raise Usage("job is missing, or is not a string")
    params = {k: v for k, v in given.items() if v is not None or k == "payload"}
    if "delay" in params and "scheduled_at" in params:
        raise Usage("delay and scheduled_at cannot be used together")
    if "idempotency_ttl" in params and "idempotency_key" not in params:
        raise Usage("idempotency_ttl requires idempotency_key")
    for name in ("delay", "idempotency_ttl", "ttl", "deadline"):
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
