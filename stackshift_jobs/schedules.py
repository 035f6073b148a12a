"""When a job starts by itself: the schedules that the options of `stackshift.job` describe.

Expressions and time zones are not checked here: the worker does that, because it knows cron.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from stackshift_jobs.errors import Usage
from stackshift_jobs.values.destinations import check_heartbeat
from stackshift_jobs.values.durations import Duration, milliseconds
from stackshift_jobs.values.expectations import check_expectation
from stackshift_jobs.values.names import check_name, one_of

CATCH_UP: Final = ("skip", "once", "all")
OVERLAP: Final = ("allow", "skip", "queue", "cancel")
MAX_JITTER_MS: Final = 86_400_000
TERMS: Final = ("timezone", "catch_up", "catch_up_for", "overlap", "jitter")
"""The options that `Schedule` and `stackshift.job` have in common."""


@dataclass(frozen=True)
class Schedule:
    """One of several schedules of a job, for `stackshift.job(schedules={"weekend": Schedule(…)})`.

    What it leaves out is as the options of the job say, whose names and defaults are the same;
    `payload` is the job's `schedule_payload`. But `expect`, `max_runtime` and `heartbeat` are of
    this schedule's runs alone, beside those of the job, which are of all its runs.
    """

    expression: str
    timezone: str | None = None
    catch_up: str | None = None
    catch_up_for: Duration | None = None
    overlap: str | None = None
    jitter: Duration | None = None
    payload: Any = None
    expect: str | None = None
    max_runtime: Duration | None = None
    heartbeat: str | None = None


@dataclass(frozen=True)
class Declared:
    """A schedule that the code declares, complete. `name` is the job's, or `JOB/NAME`."""

    name: str
    expression: str
    timezone: str = "UTC"
    catch_up: str = "once"
    catch_up_for_ms: int = 0
    overlap: str = "skip"
    jitter_ms: int = 0
    payload: Any = field(default_factory=dict)
    expect: str = ""
    max_runtime_ms: int = 0
    heartbeat: str = ""


def declared(job: str, options: Mapping[str, Any]) -> tuple[Declared, ...]:
    """The schedules of `job` that its options describe; none if they describe none. Raises
    `Usage`."""
    expression, several = options.get("schedule"), options.get("schedules")
    if several is not None and not isinstance(several, Mapping):
        raise Usage(
            f"schedules must be named, not {several!r}",
            hint='schedules={"weekend": "0 9 * * 0,6"}',
        )
    if expression is None and not several:
        for name in (*TERMS, "schedule_payload"):
            if name == "timezone" and options.get("expect") is not None:
                continue
            if options.get(name) is not None:
                raise Usage(f"{name} is given without a schedule", hint="add schedule=...")
        return ()
    found = {} if expression is None else {job: expression}
    found |= {full_name(job, name): one for name, one in (several or {}).items()}
    return tuple(
        _declared(name, one if isinstance(one, Schedule) else Schedule(one), options)
        for name, one in found.items()
    )


def full_name(job: str, name: object) -> str:
    """What the schedule `name` of `job` is called everywhere else: `report/weekend`. Raises
    `Usage`."""
    if not isinstance(name, str) or not name or "/" in name:
        raise Usage(f"{name!r} cannot be the name of a schedule", hint="use text without /")
    return check_name(f"{job}/{name}", "schedule")


def check_terms(catch_up: str, catch_up_for_ms: int, overlap: str, jitter_ms: int) -> None:
    """Raise `Usage` if these cannot be, alone or together."""
    one_of(catch_up, CATCH_UP, "catch_up")
    one_of(overlap, OVERLAP, "overlap")
    if catch_up == "skip" and catch_up_for_ms:
        raise Usage("catch_up_for is given, but nothing is caught up", hint='catch_up is "skip"')
    if jitter_ms > MAX_JITTER_MS:
        raise Usage("jitter can be at most a day")


def _declared(name: str, one: Schedule, options: Mapping[str, Any]) -> Declared:
    terms = {term: getattr(one, term) for term in TERMS}
    terms |= {term: options.get(term) for term, value in terms.items() if value is None}
    for what, text in (("schedule", one.expression), ("timezone", terms["timezone"])):
        if text is not None and not isinstance(text, str):
            raise Usage(f"{what} must be text, not {text!r}")
    payload = options.get("schedule_payload") if one.payload is None else one.payload
    made = Declared(
        name=name,
        expression=" ".join(one.expression.split()),
        timezone="UTC" if terms["timezone"] is None else terms["timezone"],
        catch_up=terms["catch_up"] or "once",
        catch_up_for_ms=_duration_ms(terms["catch_up_for"], "catch_up_for"),
        overlap=terms["overlap"] or "skip",
        jitter_ms=_duration_ms(terms["jitter"], "jitter"),
        payload={} if payload is None else payload,
        expect="" if one.expect is None else check_expectation(one.expect),
        max_runtime_ms=_limit_ms(one.max_runtime, name),
        heartbeat=check_heartbeat(one.heartbeat),
    )
    check_terms(made.catch_up, made.catch_up_for_ms, made.overlap, made.jitter_ms)
    return made


def _limit_ms(given: Duration | None, name: str) -> int:
    limit_ms = _duration_ms(given, "max_runtime")
    if given is not None and not limit_ms:
        raise Usage(f"the max_runtime of schedule {name!r} cannot be 0", hint="leave it out")
    return limit_ms


def _duration_ms(given: Duration | None, what: str) -> int:
    return 0 if given is None else milliseconds(given, what)
