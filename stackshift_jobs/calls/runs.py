"""Runs over the wire: arguments from Python become the params of a method.

Owns the options of a start, how times and filters are written, and what the end of a run means to a
caller that waited for it. It knows nothing of connections.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypedDict

from stackshift_jobs.errors import RunCancelled, RunFailed, Usage
from stackshift_jobs.values.durations import Duration, milliseconds, moment_us, parse_time, rfc3339
from stackshift_jobs.values.limits import ON_DUPLICATE
from stackshift_jobs.values.names import check_key, check_name, one_of
from stackshift_jobs.values.payload_types import convert


class StartOptions(TypedDict, total=False):
    """The options of a start, all optional.

    `idempotency_key`: starts with the same key are one run, for `idempotency_ttl`; with
    `retry_failed`, a run that has failed is retried by a start with its key. `delay` or
    `scheduled_at` (a `datetime`, local if naive, or RFC 3339 text): do not run before then.

    `unique`: at most one unfinished run has this key. `on_duplicate` says what becomes of another
    start meanwhile: `refuse` (the default; raises `Conflict`), `attach` (it is given that run),
    `replace` (that run is cancelled first) or `queue` (its run waits for the end of that run).

    `after`: the run begins when these runs (ids) have ended, and fails if one of them did not
    complete, unless `even_if_failed`.

    `ttl`: the run is cancelled if it has not begun so long after it is due. `deadline`: it fails if
    it has not ended so long after it is due, waits and retries included.
    """

    queue: str | None
    idempotency_key: str | None
    idempotency_ttl: Duration | None
    delay: Duration | None
    scheduled_at: datetime | str | None
    priority: int | None
    max_attempts: int | None
    labels: Mapping[str, str] | None
    unique: str | None
    on_duplicate: str | None
    ttl: Duration | None
    deadline: Duration | None
    retry_failed: bool
    after: Sequence[str] | None
    even_if_failed: bool


class RunPage(list[dict[str, Any]]):
    """Run objects, newest first. Pass `cursor` to get the next page; None on the last one."""

    cursor: str | None = None


def check_id(id: str) -> str:
    """`id`, if it always means the same run. Raises `Usage` for `@last` and the like."""
    if not isinstance(id, str) or not id or id.startswith("@"):
        raise Usage(
            f"{id!r:.80} is not the id of a run",
            hint='runs.get("@last")["id"] is that of the newest run at this time',
        )
    return id


def cancel_params(run: str, gently: bool, grace: Duration | None, children: bool) -> dict[str, Any]:
    """The params of `run.cancel`. Raises `Usage` for a grace without `gently`."""
    return {"run": run, **cancel_terms(gently, grace, children)}


def cancel_terms(gently: bool, grace: Duration | None, children: bool) -> dict[str, Any]:
    """How to cancel, as params. Raises `Usage` for a grace without `gently`."""
    params: dict[str, Any] = {}
    if gently:
        params["gently"] = True
    if grace is not None:
        if not gently:
            raise Usage("grace= is for gently=True", hint="what is cancelled at once has none")
        params["grace_ms"] = milliseconds(grace, "the grace")
    if children:
        params["children"] = True
    return params


def retry_params(run: str, from_step: str | None, set: Mapping[str, Any] | None) -> dict[str, Any]:
    """The params of `run.retry`."""
    params: dict[str, Any] = {"run": run}
    if from_step is not None:
        params["from_step"] = from_step
    if set:
        params["set"] = dict(set)
    return params


def fork_params(
    run: str, from_step: str | None, payload: Any, queue: str | None = None
) -> dict[str, Any]:
    """The params of `run.fork`."""
    params = {"run": run, "from_step": from_step, "payload": payload, "queue": queue}
    return {name: value for name, value in params.items() if value is not None}


def wire_time(when: datetime | str) -> str:
    """`when` as RFC 3339 in UTC; a naive time is local."""
    if isinstance(when, datetime):
        return rfc3339(moment_us(when))
    return rfc3339(parse_time(when))


_START_PARAMS: Final[tuple[tuple[str, str, Callable[[Any], Any] | None], ...]] = (
    ("queue", "queue", lambda name: check_name(name, "queue")),
    ("idempotency_key", "idempotency_key", lambda key: check_key(key, "an idempotency key")),
    ("idempotency_ttl", "idempotency_ttl_ms", milliseconds),
    ("delay", "delay_ms", milliseconds),
    ("scheduled_at", "scheduled_at", wire_time),
    ("priority", "priority", None),
    ("max_attempts", "max_attempts", None),
    ("labels", "labels", dict),
    ("unique", "unique", lambda key: check_key(key, "a unique key")),
    ("on_duplicate", "on_duplicate", lambda word: one_of(word, ON_DUPLICATE, "on_duplicate")),
    ("ttl", "ttl_ms", milliseconds),
    ("deadline", "deadline_ms", milliseconds),
    ("retry_failed", "retry_failed", None),
    ("after", "after", list),
    ("even_if_failed", "even_if_failed", None),
)
"""Each option of a start: its name, the param that it becomes, and what converts its value."""


def start_params(job: str, payload: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The params of `run.start`; raises `Usage` for an invalid name, time or option."""
    params: dict[str, Any] = {"job": check_name(job, "job")}
    if payload is not None:
        params["payload"] = payload
    return params | option_params(options)


def option_params(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a start as params, for clients and handlers alike; raises `Usage` for an
    invalid name, time or option."""
    if unknown := options.keys() - StartOptions.__annotations__.keys():
        raise Usage(
            f"start has no option {min(unknown)!r}",
            hint="the options are " + ", ".join(StartOptions.__annotations__),
        )
    given = {name: value for name, value in options.items() if value is not None}
    if "idempotency_ttl" in given and "idempotency_key" not in given:
        raise Usage("idempotency_ttl is given without an idempotency_key")
    if given.get("retry_failed") and "idempotency_key" not in given:
        raise Usage("retry_failed is given without an idempotency_key")
    if "delay" in given and "scheduled_at" in given:
        raise Usage("delay and scheduled_at are both given", hint="give one of them")
    return {
        param: given[option] if convert is None else convert(given[option])
        for option, param, convert in _START_PARAMS
        if option in given
    }


class MoveOptions(TypedDict, total=False):
    """Where to move a run, at least one of them: to `now`, after a `delay`, or to `scheduled_at` (a
    `datetime`, local if naive, or RFC 3339 text); to a `priority`; to a `queue`."""

    now: bool
    delay: Duration | None
    scheduled_at: datetime | str | None
    priority: int | None
    queue: str | None


def move_params(run: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The params of `run.move`; raises `Usage` for an invalid option."""
    if unknown := options.keys() - MoveOptions.__annotations__.keys():
        raise Usage(
            f"move has no option {min(unknown)!r}",
            hint="the options are " + ", ".join(MoveOptions.__annotations__),
        )
    now = {"now": True} if options.get("now") else {}
    rest = {name: value for name, value in options.items() if name != "now"}
    return {"run": run, **now, **option_params(rest)}


def item_params(item: Any) -> dict[str, Any]:
    """The params of one item of `start_many`: a dict with the arguments of `start`, or
    `(job, payload)`. Raises `Usage` for anything else."""
    if isinstance(item, Mapping):
        options = dict(item)
        if "job" not in options:
            raise Usage("an item names no job", hint='write {"job": "resizeAvatar", ...}')
        return start_params(options.pop("job"), options.pop("payload", None), options)
    if isinstance(item, tuple) and len(item) == 2:
        return start_params(item[0], item[1], {})
    raise Usage(f"{item!r:.80} is not a start", hint="use dicts, or (job, payload) tuples")


def list_params(filters: Mapping[str, Any]) -> dict[str, Any]:
    """The params of `run.list` from the arguments of `runs.list`."""
    params = {name: value for name, value in filters.items() if value is not None}
    if not isinstance(params.get("status", ""), str):
        params["status"] = list(params["status"])
    for name in params.keys() & {"since", "until"}:
        params[name] = wire_time(params[name])
    return params


def outcome(run: Mapping[str, Any], run_id: str, returns: Any = None) -> Any:
    """The result of the run in a reply to `run.wait`, as the type `returns`; raises `RunFailed`,
    `RunCancelled`, `TimeoutError` if it is not finished, or `PayloadRefused` if it does not fit."""
    if run.get("timed_out"):
        raise TimeoutError(f"{run_id} is not finished yet; it continues")
    if run["status"] == "failed":
        raise RunFailed(run_id, dict(run.get("error") or {}))
    if run["status"] == "cancelled":
        raise RunCancelled(run_id, str(run.get("why") or ""))
    return convert(run.get("result"), returns, f"the result of {run_id}")
