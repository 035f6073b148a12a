"""What an application asks of the daemon: arguments of Python become the params of a method.

Owns the options of a start, how times and filters are written, and what the end of a run means to
whoever waited for it. It knows no connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypedDict

from stackshift_jobs.errors import RunCancelled, RunFailed, Usage
from stackshift_jobs.values.durations import Duration, milliseconds, moment_us, parse_time, rfc3339
from stackshift_jobs.values.names import check_key, check_name


class StartOptions(TypedDict, total=False):
    """How a run is started, all optional.

    `idempotency_key`: the same key is the same run, for `idempotency_ttl`. `delay` or
    `scheduled_at` (a `datetime`, local if naive, or RFC 3339 text): not before then.
    """

    queue: str | None
    idempotency_key: str | None
    idempotency_ttl: Duration | None
    delay: Duration | None
    scheduled_at: datetime | str | None
    priority: int | None
    max_attempts: int | None
    labels: Mapping[str, str] | None


class RunPage(list[dict[str, Any]]):
    """Run objects, newest first; `cursor` asks for the next page, None at the end."""

    cursor: str | None = None


def start_params(job: str, payload: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The params of `run.start`; raises `Usage` for a name, time or option that cannot be."""
    if unknown := options.keys() - StartOptions.__annotations__.keys():
        raise Usage(
            f"start has no option {min(unknown)!r}",
            hint="it has " + ", ".join(StartOptions.__annotations__),
        )
    given = {name: value for name, value in options.items() if value is not None}
    params: dict[str, Any] = {"job": check_name(job, "job")}
    if payload is not None:
        params["payload"] = payload
    if "queue" in given:
        params["queue"] = check_name(given["queue"], "queue")
    if "idempotency_key" in given:
        params["idempotency_key"] = check_key(given["idempotency_key"], "idempotency key")
    if "idempotency_ttl" in given:
        params["idempotency_ttl_ms"] = milliseconds(given["idempotency_ttl"])
        if "idempotency_key" not in given:
            raise Usage("idempotency_ttl is given without an idempotency_key")
    if "delay" in given and "scheduled_at" in given:
        raise Usage("delay and scheduled_at are both given", hint="give one of them")
    if "delay" in given:
        params["delay_ms"] = milliseconds(given["delay"])
    if "scheduled_at" in given:
        params["scheduled_at"] = wire_time(given["scheduled_at"])
    for name in ("priority", "max_attempts"):
        if name in given:
            params[name] = given[name]
    if "labels" in given:
        params["labels"] = dict(given["labels"])
    return params


def item_params(item: Any) -> dict[str, Any]:
    """The params of one item of `start_many`: a dict with the arguments of `start`, or
    `(job, payload)`."""
    if isinstance(item, Mapping):
        options = dict(item)
        if "job" not in options:
            raise Usage("a start without a job", hint='write {"job": "resizeAvatar", ...}')
        return start_params(options.pop("job"), options.pop("payload", None), options)
    if isinstance(item, tuple) and len(item) == 2:
        return start_params(item[0], item[1], {})
    raise Usage(f"{item!r:.80} is no start", hint="give dicts, or tuples of job and payload")


def wire_time(when: datetime | str) -> str:
    """RFC 3339 in UTC; a naive time is local."""
    if isinstance(when, datetime):
        return rfc3339(moment_us(when))
    return rfc3339(parse_time(when))


def list_params(filters: Mapping[str, Any]) -> dict[str, Any]:
    """The params of `run.list` from the arguments of `runs.list`."""
    params = {name: value for name, value in filters.items() if value is not None}
    if "since" in params:
        params["since"] = wire_time(params["since"])
    return params


def outcome(run: Mapping[str, Any], run_id: str) -> Any:
    """The result of a run that `run.wait` answered with; raises `RunFailed`, `RunCancelled`, or
    `TimeoutError` if it is not finished."""
    if run.get("timed_out"):
        raise TimeoutError(f"{run_id} is not finished; it goes on")
    if run["status"] == "failed":
        raise RunFailed(run_id, dict(run.get("error") or {}))
    if run["status"] == "cancelled":
        raise RunCancelled(run_id)
    return run.get("result")
