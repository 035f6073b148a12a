"""The rules of recording and replay: each call of `ctx.step` as a generator of `ops`.

A generator looks at the record first, and yields to the driver only what is not recorded yet. The
result of a call is the value as read back from JSON, on the first pass too. There is no clock, no
thread and no socket here: the driver has them.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from types import CoroutineType
from typing import Any, Final

from stackshift_jobs.calls.runs import option_params
from stackshift_jobs.errors import (
    ChildFailed,
    PayloadRefused,
    ReplayError,
    StackshiftError,
    StepFailed,
    Usage,
    is_cut_off,
)
from stackshift_jobs.handler.failures import Failure, original
from stackshift_jobs.handler.locks import guard, inside
from stackshift_jobs.handler.ops import (
    AwaitRun,
    Heartbeat,
    Park,
    Perform,
    RecordBegin,
    Recorded,
    RecordedCall,
    RecordFailure,
    RecordResult,
    RecordValue,
    Sleep,
    StartChild,
    Steps,
)
from stackshift_jobs.handler.outcomes import granted, read, recalled
from stackshift_jobs.handler.replay import Pass
from stackshift_jobs.retry import Retry, check_retry
from stackshift_jobs.values.durations import Duration, milliseconds
from stackshift_jobs.values.encoding import payload_form
from stackshift_jobs.values.limits import ON_TIMEOUT, PAYLOAD_BYTES, WHEN_PARENT_ENDS
from stackshift_jobs.values.names import check_key, check_name
from stackshift_jobs.values.payload_types import check_type, convert
from stackshift_jobs.values.strict_json import canonical, dumps, plain, read_back

_new: Final = tuple.__new__
"""Makes a `NamedTuple` of its fields, in a fraction of the time: at every step, that counts."""


class Limits:
    """The largest value, in bytes of JSON; the worker sets it from `[limits] payload`."""

    value_bytes: int = PAYLOAD_BYTES


def run_step(
    pass_: Pass,
    key: str,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    retry: Retry | None,
    timeout_ms: int | None,
    clock: Callable[[], float],
    input: str = "",
    returns: Any = None,
    heartbeat: Heartbeat | None = None,
    undo: Any = None,
) -> Steps:
    """Run `fn` unless its result is recorded; returns the result, as the type `returns`. It is
    undone by `undo`, an `undo.Undo`, if the run does not come to a good end.

    Raises `StepFailed`; `ReplayError` for a record that does not fit the type; and `Usage` for a
    type of which nothing can be made, and for an `fn` that is no function."""
    check_type(returns)
    _note_unsure(pass_, key, undo)
    known = recalled(pass_, key)
    tried = 0
    if known is not None:
        _check_item(key, known, input)
        if known.phase == "completed":
            return _recorded_result(pass_, key, read(known.body), returns, undo)
        if known.phase == "failed":
            raise _step_failed(key, known.error)
        tried = known.tried
        if known.phase == "retrying":
            yield Park(key, known.due_us)
    _check_function(fn, key)
    terms = _terms(retry, key) if retry is not None else None
    can_undo = undo is not None
    while True:
        if inside.get():
            yield from guard(pass_, key)
        tried += 1
        if can_undo:
            yield RecordBegin(key, tried, input)
            pass_.begun.add(key)
        began = clock()
        try:
            value = yield _new(
                Perform,
                (key, fn, args, kwargs, timeout_ms, tried, terms, input, heartbeat, can_undo),
            )
            if pass_.forgotten:
                _refuse_forgotten(pass_, key)
            text = pass_.encode(value, Limits.value_bytes, "the result of step", key=key)
            result = read_back(value, text)
            result = result if returns is None else _as_type(result, returns, key)
        except Exception as error:
            pass_.forgotten.pop(key, None)
            pass_.begun.discard(key)
            failure = Failure.of(error, pass_.secrets)
            recorded: Recorded = yield RecordFailure(
                step=key,
                failure=failure,
                duration_ms=_ms(clock() - began),
                tried=tried,
                retry=terms,
                input=input,
                undo=can_undo and (undo.if_failed or is_cut_off(error)),
            )
            if not recorded.due_us:
                raise _step_failed(key, failure.as_json()) from original(error)
            yield Park(key, recorded.due_us)
        else:
            pass_.begun.discard(key)
            yield _new(
                RecordResult, (key, text, _ms(clock() - began), tried, input, undo is not None)
            )
            return result


def _check_function(fn: Any, step: str) -> None:
    """Raise `Usage` if `fn`, which `step` was given, cannot be called: most often it is what a call
    has returned."""
    if callable(fn):
        return
    given = "None" if fn is None else f"a value of type {type(fn).__name__}"
    if isinstance(fn, CoroutineType):
        given = f"the coroutine {fn.__qualname__}, as the call of an `async def` function makes it,"
        fn.close()  # Never to be awaited, which Python would report.
    raise Usage(
        f"step {step!r} was given {given} instead of a function",
        hint="pass the function, and after it its arguments: ctx.step.run(name, fn, *args)",
    )


def _note_unsure(pass_: Pass, key: str, undo: Any) -> None:
    """Note what undoes a step of which nobody knows what it has done."""
    if undo is not None and key in pass_.unsure:
        pass_.undos[key] = (undo, None)


def _check_item(key: str, known: RecordedCall, input: str) -> None:
    """Raise `ReplayError` if the step was recorded for another item of its map."""
    if input and known.input and known.input != input:
        raise ReplayError(
            f"the item of {key!r} is not the one that was recorded",
            hint="step.map needs the same items on every pass: make the list in a step",
        )


def _terms(retry: Retry, key: str) -> dict[str, Any]:
    """The policy of a step as it is recorded. Raises `Usage` if it is none."""
    check_retry(retry, f"the retry of step {key!r}")
    return retry.as_json()


def _as_type(value: Any, returns: Any, key: str) -> Any:
    return convert(value, returns, f"the result of step {key!r}")


def _recorded_result(pass_: Pass, key: str, value: Any, returns: Any, undo: Any) -> Any:
    """The recorded result of a step as the type `returns`; what undoes it is noted. Raises
    `ReplayError`, with `path`, if it does not fit: the type has changed since, or a person has set
    the result."""
    try:
        result = convert(value, returns)
    except PayloadRefused as bad:
        raise ReplayError(
            f"the recorded result of step {key!r} does not fit its type {bad.message}",
            hint=f"let the type accept it, or repeat the step: runs retry RUN --from {key!r}",
            path=bad.path,
        ) from bad.__cause__
    if undo is not None:
        pass_.undos[key] = (undo, result)
    return result


def _refuse_forgotten(pass_: Pass, key: str) -> None:
    """Raise `Usage` if the step's function made calls that nobody awaited."""
    calls = pass_.forgotten.pop(key, None)
    if calls:
        for call in calls.values():
            call.close()  # this error says it; Python's warning need not
        raise Usage(
            f"step {key!r} called {', '.join(sorted(calls))} and never awaited it",
            hint="await it; in a `def` function return it, or use stackshift.state or .events",
        )


def _step_failed(key: str, error: dict[str, Any] | None) -> StepFailed:
    body = error or {}
    failed = StepFailed(
        key,
        body.get("type", ""),
        body.get("message", ""),
        body.get("traceback", ""),
        body.get("exit_code"),
    )
    failed.stdout = body.get("stdout", "")
    failed.retryable = body.get("retryable", True)
    failed.cancels = body.get("cancels", False)
    return failed


def read_value(pass_: Pass, key: str, make: Callable[[], Any]) -> Steps:
    """The value that `make` returned on the first pass."""
    known = recalled(pass_, key)
    if known is not None:
        return read(known.body)
    if inside.get():
        yield from guard(pass_, key)
    text = dumps(make())
    yield RecordValue(key, text)
    return read(text)


def sleep(pass_: Pass, key: str, delay_ms: int | None, until_us: int | None) -> Steps:
    """Wait durably, for `delay_ms` or until `until_us`; nothing need stay in memory meanwhile."""
    known = recalled(pass_, key)
    if known is None:
        if inside.get():
            yield from guard(pass_, key)
        recorded: Recorded = yield Sleep(key, delay_ms, until_us)
        yield Park(key, recorded.due_us)
    elif known.phase != "completed":
        yield Park(key, known.due_us)
    return None


def continuation(pass_: Pass, payload: Any) -> bytes:
    """The payload of the run as which this one continues, as JSON. Raises `PayloadRefused`."""
    sent = {} if payload is None else payload
    return pass_.encode(sent, Limits.value_bytes, "the payload", payload_form)


def start_child(
    pass_: Pass,
    key: str,
    job: str,
    payload: Any,
    *,
    wait: bool,
    cancel_with_parent: bool,
    options: dict[str, Any],
    returns: Any = None,
    when_parent_ends: str = "leave",
    timeout: Duration | None = None,
    on_timeout: str = "fail",
) -> Steps:
    """Start a run exactly once; returns its id or, with `wait`, its result as the type `returns`;
    None if it had not ended within `timeout`, and the handler is to go on then.

    Raises `ChildFailed`; `PayloadRefused` for a result that does not fit; `ReplayError` if the
    record under `key` is that of another job; and `Usage` for an invalid option or type."""
    check_type(returns)
    if when_parent_ends not in WHEN_PARENT_ENDS:
        raise Usage(f"when_parent_ends cannot be {when_parent_ends!r}", hint="cancel or leave")
    limit = timeout_of(key, timeout, on_timeout)
    known = recalled(pass_, key)
    if known is not None and known.job not in ("", job):
        raise ReplayError(
            f"{key!r} is recorded as a call of job {known.job!r}; the code now calls {job!r}",
            hint="give the new call another name: name=...",
        )
    if known is None:
        sent = {} if payload is None else payload
        params = option_params(options)
        pass_.encode({"job": check_name(job, "job")})
        start = StartChild(
            key,
            job,
            pass_.encode(sent, Limits.value_bytes, "the payload", payload_form),
            wait,
            cancel_with_parent,
            pass_.encode(params),
            when_parent_ends == "cancel",
            *limit,
        )
        if inside.get():
            yield from guard(pass_, key)
        recorded = granted(key, (yield start))
        if not wait:
            return recorded.child
        known = yield Park(key)
    elif not wait:
        return known.child
    elif known.phase != "completed":
        known = yield Park(key)
    return _child_result(key, known, returns)


def await_run(
    pass_: Pass,
    key: str,
    run: str,
    returns: Any = None,
    timeout: Duration | None = None,
    on_timeout: str = "fail",
) -> Steps:
    """Wait for the result of a run; returns it as the type `returns`, or None if the run had not
    ended within `timeout`, and the handler is to go on then.

    Raises `ChildFailed`; `PayloadRefused` for a result that does not fit; `ReplayError` if the
    record under `key` is that of another run; and `Usage` for an invalid type."""
    check_type(returns)
    limit = timeout_of(key, timeout, on_timeout)
    known = recalled(pass_, key)
    if known is not None and known.child != run:
        raise ReplayError(
            f"{key!r} is recorded as a wait for {known.child}; the code now waits for {run}",
            hint="give the new call another name: name=...",
        )
    if known is None:
        wait = AwaitRun(key, check_key(run, "a run id"), *limit)
        if inside.get():
            yield from guard(pass_, key)
        yield wait
        known = yield Park(key)
    elif known.phase != "completed":
        known = yield Park(key)
    return _child_result(key, known, returns)


def _child_result(key: str, known: RecordedCall, returns: Any) -> Any:
    if known.child_status == "timed_out":
        return None
    if known.child_status == "completed":
        what = f"the result of {known.child} (call {key!r})"
        return convert(read(known.body), returns, what)
    failed = ChildFailed(known.child, known.child_status, known.error)
    # If it is not caught, it ends the run. `runs retry` then makes the call again instead of
    # reading this outcome again.
    failed.fields["step"] = key
    raise failed


def timeout_of(key: str, timeout: Duration | None, on_timeout: str) -> tuple[int | None, str]:
    """The limit of the wait `key` for a run, in ms, and what happens then. Raises `Usage`."""
    if on_timeout not in ON_TIMEOUT:
        raise Usage(
            f"on_timeout cannot be {on_timeout!r}", hint=f"use one of {', '.join(ON_TIMEOUT)}"
        )
    if timeout is None:
        return None, ""
    return milliseconds(timeout, f"the timeout of {key!r}"), on_timeout


def check_concurrency(concurrency: int) -> int:
    """`concurrency`, the number of items of a map that run at once. Raises `Usage` if it is 0 or
    less."""
    if concurrency < 1:
        raise Usage(f"concurrency cannot be {concurrency}", hint="use 1 or more")
    return concurrency


def digest(item: Any) -> str:
    """A short digest of an item of a map; empty if JSON cannot hold it (then it is not checked)."""
    try:
        return sha256(canonical(plain(item))).hexdigest()[:12]
    except (StackshiftError, TypeError, ValueError):
        return ""


def _ms(seconds: float) -> int:
    return round(seconds * 1000) if seconds > 0 else 0


def heartbeat_of(heartbeat: Duration | None, by_output: bool = False) -> Heartbeat | None:
    """The heartbeat of a step; None if its function need not beat. Raises `Usage`."""
    if heartbeat is None:
        if by_output:
            raise Usage("output_beats requires a heartbeat", hint='heartbeat="1m"')
        return None
    ms = milliseconds(heartbeat, "the heartbeat of a step")
    if ms <= 0:
        raise Usage("the heartbeat of a step cannot be 0", hint='leave it out, or heartbeat="1m"')
    return Heartbeat(ms, by_output)


def timeout_ms(timeout: Duration | None) -> int | None:
    """A timeout in milliseconds; None if there is none."""
    return None if timeout is None else milliseconds(timeout, "the timeout of a step")
