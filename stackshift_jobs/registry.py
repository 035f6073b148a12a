"""`stackshift.job`, and the registry of all jobs and declared queues of this process."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import FrameType, FunctionType
from typing import Any, TypedDict, TypeVar, Unpack, cast, overload

from stackshift_jobs import callables
from stackshift_jobs.errors import BadConfiguration, Usage
from stackshift_jobs.project.settings import Rate, parse_rate
from stackshift_jobs.retry import Retry, check_retry
from stackshift_jobs.schedules import Declared, Schedule, declared
from stackshift_jobs.values.destinations import check_heartbeat
from stackshift_jobs.values.durations import Duration, milliseconds
from stackshift_jobs.values.expectations import check_expectation
from stackshift_jobs.values.limits import MAX_PRIORITY, ON_DUPLICATE
from stackshift_jobs.values.names import BUILT_IN_JOBS, check_name, one_of
from stackshift_jobs.values.templates import fields_of

Handler = Callable[..., Any]
H = TypeVar("H", bound=Handler)


@dataclass(frozen=True)
class Job:
    """A registered handler with its name and options. An option that was not given is None (the
    template of a key: empty)."""

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
    schedules: tuple[Declared, ...] = ()
    unique: str = ""
    on_duplicate: str = "refuse"
    ttl_ms: int | None = None
    deadline_ms: int | None = None
    on_failure: str = ""
    on_success: str = ""
    expect: str = ""
    expect_timezone: str = "UTC"
    max_runtime_ms: int | None = None
    heartbeat: str = ""
    registered_by: str = ""
    """The module whose code registers it, which may be another than `module`."""

    @property
    def doc(self) -> str:
        """The handler's docstring without its indentation; empty if it has none."""
        return callables.doc_of(self.handler)


class TwoJobsOneName(BadConfiguration):
    """Two handlers are registered under one name. Field: `job`, the name."""


@dataclass(frozen=True)
class QueueLimits:
    """The limits that job modules declare for a queue; None where they declare none."""

    concurrency: int | None = None
    key_concurrency: int | None = None
    rate: Rate | None = None
    rate_burst: int | None = None
    paused: bool | None = None
    declared_by: tuple[str, ...] = field(default=(), compare=False)


queues: dict[str, QueueLimits] = {}
"""Every queue that this process's job modules have declared, by name."""
registry: dict[str, Job] = {}
"""Every job of this process, by name. Worker processes fill it by importing the job modules."""


class JobOptions(TypedDict, total=False):
    """The options of a job, all optional.

    `timeout` limits the running time of an attempt; waits do not count. A run that has not begun
    when `ttl` has passed since it was due is cancelled, and one that has not ended when `deadline`
    has passed, waits and retries included, fails with `DeadlineExceeded`. `payload` is the type of
    the payload, for a handler whose annotation does not give it. `idempotency_ttl` is how long
    idempotency keys of its starts are kept, unless a start says otherwise.

    `concurrency_key` and `unique` are templates over the payload (`"customer:{customerId}"`). The
    queue's `key_concurrency` limits how many runs with the same concurrency key execute at once. Of
    the runs with the same unique key at most one is unfinished: `on_duplicate` says what becomes of
    another start meanwhile. It is refused (`refuse`, the default), is given that run (`attach`),
    cancels that run first (`replace`), or its run waits for the end of that run (`queue`).

    `on_failure` names a job that is started when a run fails for good, and `on_success` one for
    when it completes, in the same append. Its payload is a part of the run object: `id job queue
    status attempt payload result error labels created_at finished_at`, and in `omitted` the names
    of `payload` and `result` where they are over 4 KiB, and so null.

    `expect` says how often, or by when, a run completes: `every 6h`, `daily by 03:00`, `hourly by
    :15`, `weekdays by 18:30`, `mon, thu by 03:00`, `monthly by 1 03:00`, in `timezone`. If none
    does, the job is `late` or `missing`. `max_runtime` is how long after it began a run is `late`;
    it goes on. Both are shown, and told to `[notify.NAME]`. `heartbeat` is the URL of an outside
    watcher, which is told when a run begins, completes and fails.

    `schedule` starts the job by itself: five fields as in a crontab, `@hourly @daily @weekly
    @monthly @yearly`, or `@every 30m`, in the IANA time zone `timezone` (default UTC), with
    `schedule_payload` (default `{}`). `catch_up` says which of the ticks missed while the daemon
    was down get a run: `once` (the default: only the latest), `skip` or `all`; `catch_up_for` is
    how old one of them may be (default: any age). `overlap` says what happens to a tick while the
    run of the previous one is unfinished: `skip` (the default), `allow`, `queue`, or `cancel`,
    which ends that run first. `jitter` starts each tick's run up to so much later.

    `schedules` are more of them, by name: `{"weekend": Schedule("0 11 * * 0,6"), "noon": "0 12 * *
    *"}`. What one of them does not say is as these options say.
    """

    queue: str
    retry: Retry | None
    timeout: Duration | None
    priority: int
    concurrency_key: str | None
    unique: str | None
    on_duplicate: str | None
    ttl: Duration | None
    deadline: Duration | None
    on_failure: str | None
    on_success: str | None
    expect: str | None
    max_runtime: Duration | None
    heartbeat: str | None
    payload: Any
    idempotency_ttl: Duration | None
    schedule: Schedule | str | None
    schedules: Mapping[str, Schedule | str] | None
    timezone: str | None
    catch_up: str | None
    catch_up_for: Duration | None
    overlap: str | None
    jitter: Duration | None
    schedule_payload: Any


@overload
def job(name: H) -> H: ...
@overload
def job(
    name: str | None = None, handler: None = None, **options: Unpack[JobOptions]
) -> Callable[[H], H]: ...
@overload
def job(name: str, handler: H, **options: Unpack[JobOptions]) -> H: ...
def job(name: Any = None, handler: Any = None, **options: Any) -> Any:
    """Register a handler as a job: `@job`, `@job("resizeAvatar", …)` or `job("resizeAvatar", fn)`.

    A handler is called with `ctx`. It is `def` or `async def`: a function, a method that is bound
    to its object, a static method, a partial, or an object with `__call__`. The `options` are those
    of `JobOptions`.

    Returns the handler itself, with `.start(payload, **options)` added; for a bound method or an
    object a `functools.partial` of it, because these have attributes of their own. Raises `Usage`
    for a bad name or option, and `BadConfiguration` if another handler has the name, or if the
    handler cannot be called with `ctx` alone.
    """
    make = _maker(options)

    def register(given: Handler) -> Handler:
        # In the body of a class, a static method is not a function yet.
        fn = given.__func__ if isinstance(given, staticmethod) else given
        own_name = check_name(name if isinstance(name, str) else callables.name_of(fn), "job")
        if own_name in BUILT_IN_JOBS:
            raise BadConfiguration(
                f"{own_name!r} is the name of a built-in job", hint="give the job another name"
            )
        _check_handler(fn, own_name)
        startable = _register(make(own_name, fn))
        return startable if given is fn else given

    if callable(name) or isinstance(name, classmethod):
        return register(name)
    return register if handler is None else register(handler)


def _maker(options: Mapping[str, Any]) -> Callable[[str, Handler], Job]:
    """What makes a `Job` of a name and a handler, with these options of `job`. Raises `Usage` for a
    bad option."""
    if unknown := options.keys() - JobOptions.__annotations__.keys():
        near = difflib.get_close_matches(min(unknown), JobOptions.__annotations__, 1)
        raise Usage(
            f"a job has no option {min(unknown)!r}",
            hint=f"did you mean {near[0]}?"
            if near
            else "the options are " + ", ".join(JobOptions.__annotations__),
        )
    given = options.get
    expect = "" if given("expect") is None else check_expectation(given("expect"))
    heartbeat = check_heartbeat(given("heartbeat"))
    unique = _template(given("unique"), "unique key")
    on_duplicate = one_of(given("on_duplicate") or "refuse", ON_DUPLICATE, "on_duplicate")
    if given("on_duplicate") is not None and not unique:
        raise Usage("on_duplicate is given without a unique key", hint="add unique=...")

    def made(name: str, handler: Handler) -> Job:
        module, place = _origin(handler)
        return Job(
            name=name,
            handler=handler,
            queue=check_name(given("queue", "default"), "queue"),
            retry=check_retry(given("retry"), f"the retry of job {name!r}"),
            timeout_ms=_duration_ms(options, "timeout", name),
            priority=_priority(given("priority", 0), name),
            concurrency_key=_template(given("concurrency_key"), "concurrency key"),
            unique=unique,
            on_duplicate=on_duplicate,
            ttl_ms=_limit_ms(options, "ttl", name),
            deadline_ms=_limit_ms(options, "deadline", name),
            on_failure=_job_name(given("on_failure")),
            on_success=_job_name(given("on_success")),
            expect=expect,
            expect_timezone=_text(given("timezone"), "timezone") or "UTC",
            max_runtime_ms=_limit_ms(options, "max_runtime", name),
            heartbeat=heartbeat,
            payload_type=_payload_type(handler, given("payload")),
            idempotency_ttl_ms=_duration_ms(options, "idempotency_ttl", name),
            is_async=callables.is_async_handler(handler),
            module=module,
            place=place,
            schedules=declared(name, options),
            registered_by=_running_module(),
        )

    return made


def _payload_type(handler: Handler, declared: Any) -> Any:
    """The type of a payload as far as it must be found when the handler is registered: what an
    annotation names may be gone later, or at the top of a module only be defined later."""
    return callables.payload_type(handler, declared) if callables.is_nested(handler) else declared


def _priority(priority: Any, job: str) -> int:
    """The priority of `job`. Raises `Usage`."""
    if type(priority) is not int or abs(priority) > MAX_PRIORITY:
        raise Usage(
            f"the priority of job {job!r} cannot be {priority!r}",
            hint=f"use a whole number, {-MAX_PRIORITY:,} to {MAX_PRIORITY:,}",
        )
    return priority


def _text(value: Any, option: str) -> str:
    """The text that an option gives; empty without one. Raises `Usage`."""
    if value is not None and not isinstance(value, str):
        raise Usage(f"{option} must be text, not {value!r}")
    return value or ""


def _job_name(name: str | None) -> str:
    """The name of a job that an option gives; empty without one. Raises `Usage`."""
    return "" if name is None else check_name(name, "job")


def _limit_ms(options: Mapping[str, Any], name: str, job: str) -> int | None:
    """The same for a limit, which cannot be 0."""
    limit_ms = _duration_ms(options, name, job)
    if limit_ms == 0:
        raise Usage(f"the {name} of job {job!r} cannot be 0", hint="leave it out for no limit")
    return limit_ms


def _duration_ms(options: Mapping[str, Any], name: str, job: str) -> int | None:
    """The duration that the option `name` of `job` gives, in milliseconds; None without one."""
    given = options.get(name)
    return None if given is None else milliseconds(given, f"the {name} of job {job!r}")


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
        if value is not None and (type(value) is not int or not 1 <= value < 2**63):
            raise Usage(
                f"{what} of queue {name!r} cannot be {value!r}",
                hint="use a whole number, 1 or more",
            )
    if paused is not None and type(paused) is not bool:
        raise Usage(f"paused of queue {name!r} cannot be {paused!r}", hint="use True or False")
    try:
        parsed = None if rate is None else parse_rate(rate)
    except ValueError as bad:
        raise Usage(f"rate of queue {name!r}: {rate!r} is not {bad}") from None
    limits = QueueLimits(concurrency, key_concurrency, parsed, rate_burst, paused)
    known = queues.get(name, limits)
    if known != limits:
        raise BadConfiguration(
            f"queue {name!r} is declared twice with different limits",
            hint="declare it in one module",
        )
    queues[name] = replace(known, declared_by=(*known.declared_by, _running_module()))


def forget_failed_modules() -> None:
    """Take back what modules have registered and declared that then failed to import: Python has
    forgotten them. What modules did that these had imported stays: they are imported once only."""
    for name, each in list(registry.items()):
        if not _is_imported(each.registered_by):
            del registry[name]
    for name, limits in list(queues.items()):
        if not any(map(_is_imported, limits.declared_by)):
            del queues[name]


def _running_module() -> str:
    """The module whose body is running, as it does while it is imported; empty without one."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    return "" if frame is None else str(frame.f_globals.get("__name__", ""))


def _is_imported(module: str) -> bool:
    return not module or module in sys.modules


def _template(text: str | None, what: str) -> str:
    """The template of a key; empty for None. Raises `Usage`, which names `what` it is of, if it is
    not valid."""
    if text is None:
        return ""
    if not isinstance(text, str) or not text or fields_of(text) is None:
        raise Usage(
            f"{text!r} is not a valid {what} template",
            hint='write fields of the payload in braces: "customer:{customerId}"',
        )
    return text


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
    if other is not None and other.place != new.place and not _is_same_code(other, new):
        raise TwoJobsOneName(
            f"two jobs are named {new.name!r}: {other.place} and {new.place}",
            hint="give one of them another name",
            job=new.name,
        )
    if other is None or other.place == new.place:
        registry[new.name] = new

    def start(payload: Any = None, **options: Any) -> Any:
        """Start a run of this job; see `stackshift_jobs.start`."""
        from stackshift_jobs import start as start_run

        return start_run(new.name, payload, **options)

    has_room = isinstance(new.handler, FunctionType | partial)
    handler = new.handler if has_room else partial(new.handler)
    cast(Any, handler).start = start
    return handler


def _is_same_code(one: Job, other: Job) -> bool:
    """Are they one function, of a file that was imported under two names? That happens where jobs
    are in `src/shop/jobs`, and import each other as `shop.jobs`."""
    first, second = one.handler, other.handler
    if not (isinstance(first, FunctionType) and isinstance(second, FunctionType)):
        return False
    place = callables.place_of(first)
    return (
        bool(place.file)
        and place == callables.place_of(second)
        and first.__qualname__ == second.__qualname__
    )


def _origin(fn: Handler) -> tuple[str, str]:
    """The `module` and the `place` of the job that `fn` handles; see `Job`."""
    if isinstance(fn, FunctionType):
        return fn.__module__, f"{fn.__module__}.{fn.__qualname__}"
    frame = sys._getframe(1)
    while frame.f_globals is globals() and frame.f_back is not None:
        frame = frame.f_back
    module = str(frame.f_globals.get("__name__"))
    return module, f"{module}:{frame.f_lineno}"
