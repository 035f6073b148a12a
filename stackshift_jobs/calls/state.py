"""State over the wire: the method and params of each call, and what its result means.

The only place that knows both, for the clients and for `ctx.state`. A call is `(method, params)`;
an operation that takes several is a generator that yields calls and receives their results. Nothing
here sends anything. An invalid request raises `Usage` before it is sent.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from datetime import datetime
from math import isfinite
from typing import Any, Final

from stackshift_jobs.calls.drive import Call
from stackshift_jobs.calls.runs import wire_time
from stackshift_jobs.errors import Usage
from stackshift_jobs.values.durations import Duration, milliseconds
from stackshift_jobs.values.names import check_key
from stackshift_jobs.values.payload_types import check_type, convert
from stackshift_jobs.values.stored import StateChange, StateEntry

PAGE: Final = 1000
"""The most entries or changes in one reply."""


def get(key: str) -> Call:
    """The call that reads an entry; `entry` or `value` reads its result."""
    return "state.get", {"key": _key(key)}


def wait(key: str, wait: Duration) -> tuple[Call, float]:
    """The call that waits up to `wait` for an entry to exist, and its seconds; its result is that
    of `get`."""
    wait_ms = milliseconds(wait, "wait")
    return ("state.wait", {"key": _key(key), "wait_ms": wait_ms}), wait_ms / 1000


def set_(
    key: str,
    value: Any,
    *,
    ttl: Duration | None = None,
    expires_at: datetime | str | None = None,
    if_version: int | None = None,
    if_absent: bool = False,
) -> Call:
    """The call that writes an entry; `version` reads its result."""
    params: dict[str, Any] = {"key": _key(key), "value": value}
    if ttl is not None and expires_at is not None:
        raise Usage("ttl and expires_at are both given", hint="give one of them")
    if if_version is not None and if_absent:
        raise Usage("if_version and if_absent are both given", hint="give one of them")
    if ttl is not None:
        params["ttl_ms"] = milliseconds(ttl, "ttl")
    if expires_at is not None:
        params["expires_at"] = wire_time(expires_at)
    if if_version is not None:
        params["if_version"] = _version(if_version)
    if if_absent:
        params["if_absent"] = True
    return "state.set", params


def delete(key: str, *, if_version: int | None = None) -> Call:
    """The call that removes an entry; `existed` reads its result."""
    params: dict[str, Any] = {"key": _key(key)}
    if if_version is not None:
        params["if_version"] = _version(if_version)
    return "state.delete", params


def increment(key: str, by: int | float = 1, *, ttl: Duration | None = None) -> Call:
    """The call that adds to a number; `number` reads its result."""
    is_number = isinstance(by, int | float) and not isinstance(by, bool)
    if not is_number or (isinstance(by, float) and not isfinite(by)):
        raise Usage(f"by cannot be {by!r}", hint="use a finite number")
    params: dict[str, Any] = {"key": _key(key), "by": by}
    if ttl is not None:
        params["ttl_ms"] = milliseconds(ttl, "ttl")
    return "state.increment", params


def listing(prefix: str = "") -> Generator[Call, Mapping[str, Any], list[StateEntry]]:
    """All entries whose key begins with `prefix`, in the order of keys, page by page."""
    if prefix != "":
        check_key(prefix, "a prefix of state keys")
    entries: list[StateEntry] = []
    params: dict[str, Any] = {"prefix": prefix, "limit": PAGE}
    while True:
        page = yield "state.list", dict(params)
        entries += [_entry(item) for item in page["entries"]]
        if page["next"] is None:
            return entries
        params["after"] = page["next"]


def history(key: str, limit: int = 50) -> Generator[Call, Mapping[str, Any], list[StateChange]]:
    """The last `limit` changes of an entry, newest first."""
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise Usage(f"limit cannot be {limit!r}", hint="use a whole number, 1 or more")
    changes: list[StateChange] = []
    params: dict[str, Any] = {"key": _key(key)}
    while True:
        page = yield "state.history", {**params, "limit": min(PAGE, limit - len(changes))}
        changes += [_change(item) for item in page["history"]]
        if page["next"] is None or len(changes) >= limit:
            return changes
        params["before_seq"] = page["next"]


def entry(result: Mapping[str, Any] | None) -> StateEntry | None:
    """The entry in a reply to `state.get`; None if there is none."""
    return None if result is None else _entry(result)


def value(result: Mapping[str, Any] | None, default: Any, returns: Any = None) -> Any:
    """The value of the entry in a reply to `state.get`, as the type `returns`; `default` if there
    is no entry. Raises `PayloadRefused` if the value does not fit, `Usage` for an invalid type."""
    check_type(returns)
    if result is None:
        return default
    return convert(result["value"], returns, f"the value of {result['key']!r}")


def version(result: Mapping[str, Any]) -> int:
    """The new version of the entry, from a reply to `state.set`."""
    return int(result["version"])


def existed(result: Mapping[str, Any]) -> bool:
    """Whether there was an entry, from a reply to `state.delete`."""
    return bool(result["deleted"])


def number(result: Mapping[str, Any]) -> int | float:
    """The new number, from a reply to `state.increment`."""
    new: int | float = result["value"]
    return new


def moment(text: str | None) -> datetime | None:
    """The `datetime` of a time on the wire; None if there is none."""
    return None if text is None else datetime.fromisoformat(text)


def _entry(result: Mapping[str, Any]) -> StateEntry:
    return StateEntry(
        key=result["key"],
        value=result["value"],
        version=result["version"],
        expires_at=moment(result["expires_at"]),
        updated_at=datetime.fromisoformat(result["updated_at"]),
        updated_by=result["updated_by"],
    )


def _change(result: Mapping[str, Any]) -> StateChange:
    return StateChange(
        seq=result["seq"],
        at=datetime.fromisoformat(result["at"]),
        kind=result["kind"],
        version=result["version"],
        value=result["value"],
        expires_at=moment(result["expires_at"]),
        by=result["by"],
    )


def _key(key: str) -> str:
    return check_key(key, "a state key")


def _version(version: int) -> int:
    if isinstance(version, bool) or not isinstance(version, int) or version < 0:
        raise Usage(f"if_version cannot be {version!r}", hint="use 0 (no entry yet) or more")
    return version
