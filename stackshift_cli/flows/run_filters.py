"""Which runs a command is about, of those that have something in common: the options that `runs
list`, `runs count`, `dead list` and the commands with `--all` share."""

from __future__ import annotations

import time
from typing import Any, Final

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.session import Session
from stackshift_cli.flows.start_params import moment
from stackshift_jobs.errors import Usage

_TEXTS: Final = ("job", "queue", "parent", "forked_from")
FILTERS: Final = ("job", "status", "queue", "label", "parent", "forked_from", "since", "until")
"""The names of the options."""


def run_filters(session: Session, given: Given) -> dict[str, Any]:
    """The params of the protocol that the given filters stand for."""
    names = given.given()
    filters: dict[str, Any] = {name: given.text(name) for name in _TEXTS if name in names}
    if "status" in names:
        first, *others = given.word("status").split(",")
        filters["status"] = [first, *others] if others else first
    if "label" in names:
        filters["labels"] = given.pairs("label")
    return filters | time_range(session, given)


def time_range(session: Session, given: Given) -> dict[str, str]:
    """The params `since` and `until`, those that are given. Raises `Usage` if nothing can be in
    between."""
    times: dict[str, str] = {}
    for name in ("since", "until"):
        if (at := time_ago(session, given, name)) is not None:
            times[name] = at
    if len(times) == 2 and times["since"] > times["until"]:
        raise Usage(
            f"--since {given.word('since')} is after --until {given.word('until')}",
            hint="a duration counts back from now: --since 2h --until 1h",
        )
    return times


def time_ago(session: Session, given: Given, name: str) -> str | None:
    """The time that the option `name` gives, as a time or as a duration before now; None without
    it."""
    from stackshift_jobs.values.durations import milliseconds, rfc3339

    text = given.text(name)
    if text is None:
        return None
    try:
        back_ms = milliseconds(text)
    except Usage:
        try:
            at, notes = moment(text)
        except Usage as bad:
            raise Usage(
                f"--{name}: {bad.message}", hint="write 30m, 7d (ago) or 2026-05-06T09:00:00Z"
            ) from bad
        for note in notes:
            session.say(note)
        return at
    return rfc3339(time.time_ns() // 1000 - back_ms * 1000)
