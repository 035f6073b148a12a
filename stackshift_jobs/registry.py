"""`stackshift.job`: giving a handler a name, and the register of all that have one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar, overload

from stackshift_jobs.errors import BadConfiguration, Usage
from stackshift_jobs.project.settings import Rate, parse_rate
from stackshift_jobs.retry import Retry
from stackshift_jobs.values.durations import Duration, milliseconds
from stackshift_jobs.values.names import check_name
from stackshift_jobs.values.templates import fields_of

Handler = Callable[..., Any]
H = TypeVar("H", bound=Handler)


CATCH_UP: Final = ("skip", "once", "all")
OVERLAP: Final = ("allow", "skip", "queue")


@dataclass(frozen=True)
class Schedule:
    """When a job is started by itself. Whether `expression` and `timezone` mean something is for
    the worker to say, which knows cron and the zones."""

    expression: str
    timezone: str
    catch_up: str
    overlap: str
    payload: Any


@dataclass(frozen=True)
class Job:
    """A handler under its name, with its options; those not given are None."""

    name: str
    handler: Handler
    queue: str
    retry: Retry | None
    timeout_ms: int | None
    priority: int
    concurrency_key: str
    payload_type: Any
    idempotency_ttl_ms: int | None
    is_async: bool
    schedule: Schedule | None = None

    @property
    def module(self) -> str:
        return self.handler.__module__

    @property
    def doc(self) -> str:
        return inspect.getdoc(self.handler) or ""


class TwoJobsOneName(BadConfiguration):
    """Two handlers have one name. Field: `job`."""


@dataclass(frozen=True)
class QueueLimits:
    """What a job module says of a queue; None: nothing."""

    concurrency: int | None = None
    key_concurrency: int | None = None
    rate: Rate | None = None
    rate_burst: int | None = None
    paused: bool | None = None


queues: dict[str, QueueLimits] = {}
"""Every queue that this process's job modules have declared, by name."""
registry: dict[str, Job] = {}
"""Every job of this process, by name. Worker processes fill it by importing the job modules."""


@overload
def job(name: H) -> H: ...
@overload
def job(
    name: str | None = None,
    handler: None = None,
    *,
    queue: str = "default",
    retry: Retry | None = None,
    timeout: Duration | None = None,
    priority: int = 0,
    concurrency_key: str | None = None,
    payload: Any = None,
    idempotency_ttl: Duration | None = None,
    schedule: str | None = None,
    timezone: str | None = None,
    catch_up: str | None = None,
    overlap: str | None = None,
    schedule_payload: Any = None,
) -> Callable[[H], H]: ...
@overload
def job(
    name: str,
    handler: H,
    *,
    queue: str = "default",
    retry: Retry | None = None,
    timeout: Duration | None = None,
    priority: int = 0,
    concurrency_key: str | None = None,
    payload: Any = None,
    idempotency_ttl: Duration | None = None,
    schedule: str | None = None,
    timezone: str | None = None,
    catch_up: str | None = None,
    overlap: str | None = None,
    schedule_payload: Any = None,
) -> H: ...
def job(
    name: Any = None,
    handler: Any = None,
    *,
    queue: str = "default",
    retry: Retry | None = None,
    timeout: Duration | None = None,
    priority: int = 0,
    concurrency_key: str | None = None,
    payload: Any = None,
    idempotency_ttl: Duration | None = None,
    schedule: str | None = None,
    timezone: str | None = None,
    catch_up: str | None = None,
    overlap: str | None = None,
    schedule_payload: Any = None,
) -> Any:
    """Register a handler as a job: `@job`, `@job("resizeAvatar", …)` or `job("resizeAvatar", fn)`.

    `timeout` is of an attempt and counts running time, not waits; `concurrency_key` is a template
    over the payload (`"customer:{customerId}"`), of which its queue's `key_concurrency` bounds how
    many execute at once; `payload` is the type of the payload where the handler's annotation does
    not say it. `schedule` starts the job by itself: five fields as in a crontab, `@hourly @daily
    @weekly @monthly @yearly`, or `@every 30m`, in the IANA zone `timezone` (default UTC).
    `catch_up` says which ticks that were missed while the daemon was down get a run (`once`, the
    default: the latest; `skip`; `all`), `overlap` what becomes of a tick while the last one's run
    is unfinished (`skip`, the default; `allow`; `queue`). The handler is returned as it is, with
    `.start(payload, **options)` added. Raises `Usage` for a bad name or option and
    `BadConfiguration` for a name that another handler has.
    """
    scheduled = _schedule(schedule, timezone, catch_up, overlap, schedule_payload)

    def register(fn: Handler) -> Handler:
        if not callable(fn):
            raise BadConfiguration(f"{fn!r} is not a function")
        _register(
            Job(
                name=check_name(name if isinstance(name, str) else fn.__name__, "job"),
                handler=fn,
                queue=check_name(queue, "queue"),
                retry=retry,
                timeout_ms=None if timeout is None else milliseconds(timeout),
                priority=priority,
                concurrency_key=_template(concurrency_key),
                payload_type=payload,
                idempotency_ttl_ms=None
                if idempotency_ttl is None
                else milliseconds(idempotency_ttl),
                is_async=inspect.iscoroutinefunction(fn),
                schedule=scheduled,
            )
        )
        return fn

    if callable(name):
        return register(name)
    return register if handler is None else register(handler)


def declare_queue(
    name: str,
    *,
    concurrency: int | None = None,
    key_concurrency: int | None = None,
    rate: str | None = None,
    rate_burst: int | None = None,
    paused: bool | None = None,
) -> None:
    """Say how a queue is limited where neither `stackshift.toml` nor a person does. Raises `Usage`
    for a bad limit and `BadConfiguration` where another declaration says otherwise."""
    for what, value in (
        ("concurrency", concurrency),
        ("key_concurrency", key_concurrency),
        ("rate_burst", rate_burst),
    ):
        if value is not None and (type(value) is not int or value < 1):
            raise Usage(f"{what} of queue {name!r} is {value!r}", hint="a whole number from 1")
    try:
        parsed = None if rate is None else parse_rate(rate)
    except ValueError as bad:
        raise Usage(f"rate of queue {name!r} is {rate!r}, not {bad}") from None
    made = QueueLimits(concurrency, key_concurrency, parsed, rate_burst, paused)
    if queues.setdefault(name, made) != made:
        raise BadConfiguration(
            f"queue {name!r} is declared twice, and not alike", hint="declare it in one module"
        )


def _template(text: str | None) -> str:
    """A concurrency key's template, if it is one. Raises `Usage`."""
    if text is None:
        return ""
    if not isinstance(text, str) or not text or fields_of(text) is None:
        raise Usage(
            f"{text!r} is no template of a concurrency key",
            hint='text with fields of the payload in braces: "customer:{customerId}"',
        )
    return text


def _schedule(
    expression: str | None,
    timezone: str | None,
    catch_up: str | None,
    overlap: str | None,
    payload: Any,
) -> Schedule | None:
    """The schedule that the options name; None where there is none."""
    if expression is None:
        others = {
            "timezone": timezone,
            "catch_up": catch_up,
            "overlap": overlap,
            "schedule_payload": payload,
        }
        for name, value in others.items():
            if value is not None:
                raise Usage(f"{name} is of a schedule, and there is none", hint="give schedule=")
        return None
    for name, given in (("schedule", expression), ("timezone", timezone)):
        if given is not None and not isinstance(given, str):
            raise Usage(f"{name} takes text, not {given!r}")
    return Schedule(
        expression=" ".join(expression.split()),
        timezone="UTC" if timezone is None else timezone,
        catch_up=_one_of("catch_up", catch_up, CATCH_UP, "once"),
        overlap=_one_of("overlap", overlap, OVERLAP, "skip"),
        payload={} if payload is None else payload,
    )


def _one_of(name: str, given: str | None, words: tuple[str, ...], otherwise: str) -> str:
    if given is None:
        return otherwise
    if given not in words:
        raise Usage(f"{name} {given!r} is none of {', '.join(words)}")
    return given


def _register(made: Job) -> None:
    other = registry.get(made.name)
    if other is not None and _place(other) != _place(made):
        raise TwoJobsOneName(
            f"two jobs are named {made.name!r}: {_place(other)} and {_place(made)}",
            hint="give one of them another name",
            job=made.name,
        )
    registry[made.name] = made

    def start(payload: Any = None, **options: Any) -> Any:
        """Start a run of this job; see `stackshift_jobs.start`."""
        from stackshift_jobs import start as start_run

        return start_run(made.name, payload, **options)

    made.handler.start = start  # type: ignore[attr-defined]


def _place(made: Job) -> str:
    return f"{made.module}.{made.handler.__qualname__}"
