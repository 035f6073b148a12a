"""What a message says: a subject, and a text that a person can act on.

import failed: ValueError: row 14 has no price

run run_01k… · queue default · shop on web-1 · 2026-11-29 03:12:07Z

  File "/srv/shop/jobs/imports.py", line 41, in parse
    raise ValueError(f"row {row} has no price")

✗ run_01k… import  failed in 12s  …

what to type:
  stackshift -C /srv/shop runs show 01k…
  stackshift -C /srv/shop runs retry 01k…
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from stackshift_jobs.errors import error_text
from stackshift_jobs.values.durations import format_ms

TEST: Final = "test"
MOST_MESSAGE: Final = 500
"""Characters of an error's message."""
FRAME_LINES: Final = 12
"""Lines of the end of a traceback."""
MOST_SUBJECT: Final = 200


@dataclass(frozen=True)
class Notice:
    """The payload of a message: see `core.decide.monitoring.alerts`."""

    notify: str
    alert: str
    job: str = ""
    queue: str = ""
    run: str | None = None
    count: int = 1
    error: dict[str, Any] | None = None
    at: str = ""
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where it happened: the project's name and directory, and the machine."""

    project: str
    root: str
    host: str


def subject(notice: Notice, place: Place) -> str:
    """One line: what happened to what."""
    return _one_line(_headline(notice, place))[:MOST_SUBJECT]


def text(notice: Notice, place: Place, picture: str) -> str:
    """The whole message as plain text."""
    parts = [_headline(notice, place), _where(notice, place)]
    parts += [part for part in (_more(notice), _frames(notice), picture.rstrip()) if part]
    if commands := list(_commands(notice, place)):
        parts.append("what to type:\n" + "\n".join(f"  {command}" for command in commands))
    return "\n\n".join(parts) + "\n"


def _headline(notice: Notice, place: Place) -> str:
    job, detail = _subject(notice), notice.detail
    match notice.alert:
        case "failed" if notice.count > 1:
            since = _since(detail)
            return f"{notice.count} runs of {job} failed, with the same error{since}: " + _error(
                notice
            )
        case "failed":
            return f"{job} failed: {_error(notice)}"
        case "late" if "max_runtime_ms" in detail:
            return f"{job} is late: it has run for more than {format_ms(detail['max_runtime_ms'])}"
        case "late" if "expect" in detail:
            return f"{job} is late: it runs, and was expected {_expected(detail)}"
        case "missing" if "expect" in detail:
            return f"{job} is missing: a success was expected {_expected(detail)}"
        case "late" | "missing" as alert:
            return f"{job} is {alert}: {notice.count} times{_since(detail)}"
        case "recovered":
            held = f", and {detail['held']} more alerts" if detail.get("held") else ""
            after = str(detail.get("after", "failed"))
            return f"{job} has recovered: it was {after} since {detail.get('since')}{held}"
        case "daemon_stopped" if notice.count > 1:
            return f"the daemon of {place.project} stopped {notice.count} times{_since(detail)}"
        case "daemon_stopped" if detail.get("reason") == "asked":
            return f"the daemon of {place.project} stops: it was asked to"
        case "daemon_stopped":
            return (
                f"the daemon of {place.project} was gone from {detail.get('last_at')} "
                f"to {detail.get('back_at')}"
            )
        case "test":
            return f"test message of {place.project}"
    return f"{notice.count} more alerts of {place.project}"


def _subject(notice: Notice) -> str:
    """The job; and the schedule, if it is about that and is called otherwise."""
    schedule = notice.detail.get("schedule", notice.job)
    return notice.job if schedule == notice.job else f"{notice.job} (schedule {schedule})"


def _expected(detail: Mapping[str, Any]) -> str:
    return f"{detail['expect']}, and was due at {detail['due_at']}"


def _since(detail: Mapping[str, Any]) -> str:
    return f" since {detail['since']}" if "since" in detail else ""


def _error(notice: Notice) -> str:
    error = notice.error
    if error is None:
        return "the last one is no longer at hand" if notice.count > 1 else "for no known reason"
    return error_text(error["type"], str(error["message"])[:MOST_MESSAGE])


def _where(notice: Notice, place: Place) -> str:
    parts = [
        f"run {notice.run}" if notice.run else "",
        f"queue {notice.queue}" if notice.queue else "",
        f"{place.project} on {place.host}",
        notice.at,
    ]
    return " · ".join(part for part in parts if part)


def _more(notice: Notice) -> str:
    """What else there is to know: what many alerts were about, when it was well last."""
    detail = notice.detail
    lines = []
    if named := detail.get("named"):
        lines += [f"  {count} times {name or 'others'}" for name, count in named.items()]
    if "succeeded_at" in detail:
        lines.append(f"It last completed at {detail['succeeded_at']}.")
    elif notice.alert == "missing" and "expect" in detail:
        lines.append("No run of it has completed yet.")
    if detail.get("interrupted"):
        lines.append(f"{detail['interrupted']} runs were executing; they go on.")
    return "\n".join(lines)


def _frames(notice: Notice) -> str:
    """The last frames of the traceback."""
    if notice.error is None:
        return ""
    lines = str(notice.error.get("traceback") or "").rstrip().splitlines()
    frames = [line for line in lines if line.startswith("  ")][-FRAME_LINES:]
    return "\n".join(frames)


def _commands(notice: Notice, place: Place) -> Iterator[str]:
    stackshift = f"stackshift -C {shlex.quote(place.root)}"
    if notice.run:
        yield f"{stackshift} runs show {notice.run}"
    if notice.alert == "failed" and notice.run:
        if notice.count > 1:
            job = shlex.quote(notice.job)
            yield f"{stackshift} runs retry --all --job {job} --status failed"
        else:
            yield f"{stackshift} runs retry {notice.run}"
    elif notice.alert == "late" and notice.run:
        yield f"{stackshift} runs why {notice.run}"
    elif notice.alert == "missing":
        yield f"{stackshift} runs list --job {shlex.quote(notice.job)}"
        yield f"{stackshift} schedules list"
    elif notice.alert == "daemon_stopped":
        yield f"{stackshift} daemon status"
        yield f"{stackshift} daemon logs"
    elif not notice.run and notice.alert != TEST:
        yield f"{stackshift} dead list"


def _one_line(line: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in line).split())
