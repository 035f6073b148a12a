"""State over the wire: the method and params of each call, and what its result means.

The one place that knows both, for the clients and for `ctx.state`. A call is `(method, params)`;
what takes several is a generator that yields calls and is sent their results. Nothing here sends
anything. Raises `Usage` for what cannot be asked, before it is.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from datetime import datetime
from math import isfinite
from typing import Any, Final

from stackshift_jobs.calls.runs import wire_time
from stackshift_jobs.errors import Usage
from stackshift_jobs.values.durations import Duration, milliseconds
from stackshift_jobs.values.names import check_key
from stackshift_jobs.values.stored import StateChange, StateEntry

Call = tuple[str, dict[str, Any]]
"""A method of the protocol and its params."""

PAGE: Final = 1000
"""Entries or changes in one answer, at most."""


def get(key: str) -> Call:
    """Result: `entry`."""
    return "state.get", {"key": _key(key)}


def set_(
    key: str,
    value: Any,
    *,
    ttl: Duration | None = None,
    expires_at: datetime | str | None = None,
    if_version: int | None = None,
    if_absent: bool = False,
) -> Call:
    """Result: `entry`, whose version `state.set` gives."""
    params: dict[str, Any] = {"key": _key(key), "value": value}
    if ttl is not None and expires_at is not None:
        raise Usage("ttl and expires_at are both given", hint="give one of them")
    if if_version is not None and if_absent:
        raise Usage("if_version and if_absent are both given", hint="give one of them")
    if ttl is not None:
        params["ttl_ms"] = milliseconds(ttl)
    if expires_at is not None:
        params["expires_at"] = wire_time(expires_at)
    if if_version is not None:
        params["if_version"] = _version(if_version)
    if if_absent:
        params["if_absent"] = True
    return "state.set", params


def delete(key: str, *, if_version: int | None = None) -> Call:
    """Result: `existed`."""
    params: dict[str, Any] = {"key": _key(key)}
    if if_version is not None:
        params["if_version"] = _version(if_version)
    return "state.delete", params


def increment(key: str, by: int | float = 1, *, ttl: Duration | None = None) -> Call:
    """Result: `number`."""
    if isinstance(by, bool) or not isinstance(by, int | float) or not isfinite(by):
        raise Usage(f"{by!r} is no number to increment by")
    params: dict[str, Any] = {"key": _key(key), "by": by}
    if ttl is not None:
        params["ttl_ms"] = milliseconds(ttl)
    return "state.increment", params


def listing(prefix: str = "") -> Generator[Call, Mapping[str, Any], list[StateEntry]]:
    """All entries whose key begins with `prefix`, in the order of keys, page by page."""
    if prefix != "":
        check_key(prefix, "the beginning of keys")
    found: list[StateEntry] = []
    params: dict[str, Any] = {"prefix": prefix, "limit": PAGE}
    while True:
        page = yield "state.list", dict(params)
        found += [_entry(each) for each in page["entries"]]
        if page["next"] is None:
            return found
        params["after"] = page["next"]


def history(key: str, limit: int = 50) -> Generator[Call, Mapping[str, Any], list[StateChange]]:
    """The last `limit` changes of an entry, newest first."""
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise Usage(f"{limit!r} is no number of changes", hint="1 or more")
    found: list[StateChange] = []
    params: dict[str, Any] = {"key": _key(key)}
    while True:
        page = yield "state.history", {**params, "limit": min(PAGE, limit - len(found))}
        found += [_change(each) for each in page["history"]]
        if page["next"] is None or len(found) >= limit:
            return found
        params["before_seq"] = page["next"]


def entry(result: Mapping[str, Any] | None) -> StateEntry | None:
    """The entry that the daemon answered with; None where there is none."""
    return None if result is None else _entry(result)


def value(result: Mapping[str, Any] | None, default: Any) -> Any:
    """What `state.get` gives: the entry's value, or `default` where there is no entry."""
    return default if result is None else result["value"]


def version(result: Mapping[str, Any]) -> int:
    """What `state.set` gives."""
    return int(result["version"])


def existed(result: Mapping[str, Any]) -> bool:
    """What `state.delete` gives."""
    return bool(result["deleted"])


def number(result: Mapping[str, Any]) -> int | float:
    """What `state.increment` gives."""
    made: int | float = result["value"]
    return made


def moment(text: str | None) -> datetime | None:
    """A time off the wire."""
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
    return check_key(key, "a key of state")


def _version(version: int) -> int:
    if isinstance(version, bool) or not isinstance(version, int) or version < 0:
        raise Usage(f"{version!r} is no version", hint="0 (there is none) or more")
    return version
