"""`stackshift.job`, and the registry of all jobs and declared queues of this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import Any, Final, TypeVar, cast, overload

from stackshift_jobs import callables
from stackshift_jobs.errors import BadConfiguration, Usage
from stackshift_jobs.project.settings import Rate, parse_rate
from stackshift_jobs.retry import Retry
from stackshift_jobs.values.durations import Duration, milliseconds
from stackshift_jobs.values.names import EXEC_JOB, check_name
from stackshift_jobs.values.templates import fields_of

Handler = Callable[..., Any]
H = TypeVar("H", bound=Handler)


CATCH_UP: Final = ("skip", "once", "all")
OVERLAP: Final = ("allow", "skip", "queue")


@dataclass(frozen=True)
class Schedule:
    """When a job starts by itself. `expression` and `timezone` are not checked here: the worker
    does that, because it knows cron and the time zones."""

    expression: str
    timezone: str
    catch_up: str
    overlap: str
    payload: Any


@dataclass(frozen=True)
class Job:
    """A registered handler with its name and options. An option that was not given is None (a
    concurrency key: empty)."""

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
    module: str
    """The module that defines the handler: `jobs.media`. A method, an object or a partial is made
    by the module that registers it, wherever its class comes from."""
    place: str
    """What distinguishes the handler from others: `jobs.media.resize_avatar` for a function, and
    else where it is registered, `jobs.media:12`."""
    schedule: Schedule | None = None

    @property
    def doc(self) -> str:
        """The handler's docstring without its indentation; empty if it has none."""
        return callables.doc_of(self.handler)


class TwoJobsOneName(BadConfiguration):
    """Two handlers are registered under one name. Field: `job`, the name."""


@dataclass(frozen=True)
class QueueLimits:
    """The limits that a job module declares for a queue; None where it declares none."""

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

    A handler is called with `ctx`. It is `def` or `async def`: a function, a method that is bound
    to its object, a static method, a partial, or an object with `__call__`.

    `timeout` limits the running time of an attempt; waits do not count. `concurrency_key` is a
    template over the payload (`"customer:{customerId}"`); the queue's `key_concurrency` limits how
    many runs with the same key execute at once. `payload` is the type of the payload, for a handler
    whose annotation does not give it. `idempotency_ttl` is how long idempotency keys of its starts
    are kept, unless a start says otherwise.

    `schedule` starts the job by itself: five fields as in a crontab, `@hourly @daily @weekly
    @monthly @yearly`, or `@every 30m`, in the IANA time zone `timezone` (default UTC), with
    `schedule_payload` (default `{}`). `catch_up` says which of the ticks missed while the daemon
    was down get a run: `once` (the default: only the latest), `skip` or `all`. `overlap` says what
    happens to a tick while the run of the previous one is unfinished: `skip` (the default), `allow`
    or `queue`.

    Returns the handler itself, with `.start(payload, **options)` added; for a bound method or an
    object a `functools.partial` of it, because these have attributes of their own. Raises `Usage`
    for a bad name or option, and `BadConfiguration` if another handler has the name, or if the
    handler cannot be called with `ctx` alone.
    """
    scheduled = _schedule(schedule, timezone, catch_up, overlap, schedule_payload)

    def register(given: Handler) -> Handler:
        # In the body of a class, a static method is not a function yet.
        fn = given.__func__ if isinstance(given, staticmethod) else given
        own_name = check_name(name if isinstance(name, str) else callables.name_of(fn), "job")
        if own_name == EXEC_JOB:
            raise BadConfiguration(
                f"{own_name!r} is the name of a built-in job", hint="give the job another name"
            )
        _check_handler(fn, own_name)
        module, place = _origin(fn)
        startable = _register(
            Job(
                name=own_name,
                handler=fn,
                queue=check_name(queue, "queue"),
                retry=retry,
                timeout_ms=None
                if timeout is None
                else milliseconds(timeout, f"the timeout of job {own_name!r}"),
                priority=priority,
                concurrency_key=_template(concurrency_key),
                payload_type=payload,
                idempotency_ttl_ms=None
                if idempotency_ttl is None
                else milliseconds(idempotency_ttl, f"the idempotency_ttl of job {own_name!r}"),
                is_async=callables.is_async(fn),
                module=module,
                place=place,
                schedule=scheduled,
            )
        )
        return startable if given is fn else given

    if callable(name) or isinstance(name, classmethod):
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
    """Declare the limits of a queue, for those that neither `stackshift.toml` nor a person sets.

    Raises `Usage` for a bad limit, and `BadConfiguration` if the queue was declared with others.
    """
    for what, value in (
        ("concurrency", concurrency),
        ("key_concurrency", key_concurrency),
        ("rate_burst", rate_burst),
    ):
        if value is not None and (type(value) is not int or value < 1):
            raise Usage(
                f"{what} of queue {name!r} cannot be {value!r}",
                hint="use a whole number, 1 or more",
            )
    try:
        parsed = None if rate is None else parse_rate(rate)
    except ValueError as bad:
        raise Usage(f"rate of queue {name!r}: {rate!r} is not {bad}") from None
    limits = QueueLimits(concurrency, key_concurrency, parsed, rate_burst, paused)
    if queues.setdefault(name, limits) != limits:
        raise BadConfiguration(
            f"queue {name!r} is declared twice with different limits",
            hint="declare it in one module",
        )


def _template(text: str | None) -> str:
    """The template of a concurrency key; empty for None. Raises `Usage` if it is not valid."""
    if text is None:
        return ""
    if not isinstance(text, str) or not text or fields_of(text) is None:
        raise Usage(
            f"{text!r} is not a valid concurrency key template",
            hint='write fields of the payload in braces: "customer:{customerId}"',
        )
    return text


def _schedule(
    expression: str | None,
    timezone: str | None,
    catch_up: str | None,
    overlap: str | None,
    payload: Any,
) -> Schedule | None:
    """The schedule that the options describe; None if they describe none."""
    if expression is None:
        others = {
            "timezone": timezone,
            "catch_up": catch_up,
            "overlap": overlap,
            "schedule_payload": payload,
        }
        for name, value in others.items():
            if value is not None:
                raise Usage(f"{name} is given without a schedule", hint="add schedule=...")
        return None
    for name, text in (("schedule", expression), ("timezone", timezone)):
        if text is not None and not isinstance(text, str):
            raise Usage(f"{name} must be text, not {text!r}")
    return Schedule(
        expression=" ".join(expression.split()),
        timezone="UTC" if timezone is None else timezone,
        catch_up=_one_of("catch_up", catch_up, CATCH_UP, "once"),
        overlap=_one_of("overlap", overlap, OVERLAP, "skip"),
        payload={} if payload is None else payload,
    )


def _one_of(name: str, word: str | None, words: tuple[str, ...], default: str) -> str:
    if word is None:
        return default
    if word not in words:
        raise Usage(f"{name} must be {', '.join(words[:-1])} or {words[-1]}, not {word!r}")
    return word


def _check_handler(fn: object, job: str) -> None:
    """Raise `BadConfiguration` if `fn` cannot be the handler of a job."""
    if isinstance(fn, classmethod):
        raise BadConfiguration(
            f"the handler of job {job!r} is a class method, and its class does not exist yet: "
            f"register it after the class, by stackshift.job({job!r}, Class.method)"
        )
    if not callable(fn):
        raise BadConfiguration(f"{fn!r} is not a function")
    callables.check_takes_context(fn, job)


def _register(new: Job) -> Handler:
    """Put the job into the registry; returns its handler, or a stand-in for it, with `start`."""
    other = registry.get(new.name)
    if other is not None and other.place != new.place:
        raise TwoJobsOneName(
            f"two jobs are named {new.name!r}: {other.place} and {new.place}",
            hint="give one of them another name",
            job=new.name,
        )
    registry[new.name] = new

    def start(payload: Any = None, **options: Any) -> Any:
        """Start a run of this job; see `stackshift_jobs.start`."""
        from stackshift_jobs import start as start_run

        return start_run(new.name, payload, **options)

    has_room = isinstance(new.handler, FunctionType | partial)
    handler = new.handler if has_room else partial(new.handler)
    cast(Any, handler).start = start
    return handler


def _origin(fn: Handler) -> tuple[str, str]:
    """The `module` and the `place` of the job that `fn` handles; see `Job`."""
    if isinstance(fn, FunctionType):
        return fn.__module__, f"{fn.__module__}.{fn.__qualname__}"
    frame = sys._getframe(1)
    while frame.f_globals is globals() and frame.f_back is not None:
        frame = frame.f_back
    module = str(frame.f_globals.get("__name__"))
    return module, f"{module}:{frame.f_lineno}"
