"""`state get|set|increment|delete`: one entry of the project's state.

The first three have a fast path, so this module imports nothing that costs time.
"""

from __future__ import annotations

import sys

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.session import Session
from stackshift_cli.flows.start_params import number_given, value_given
from stackshift_cli.output import messages
from stackshift_jobs.errors import NotFound, StackshiftError, Usage

TYPE_CHECKING = False  # See `stackshift_jobs.errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    from typing import Any, Final

_MAX_VERSION: Final = 2**63 - 1
_MOST_KEYS: Final = 1000
_NONE: Final[dict[str, Any]] = {
    "version": 0,
    "expires_at": None,
    "updated_at": None,
    "updated_by": None,
}
"""The fields of an entry that does not exist; `--if-version 0` means that too."""


def get(session: Session, given: Given) -> int:
    """`state get KEY`: print its value as JSON (`--raw`: text as it is; `--json`: the entry; `-v`:
    on stderr its version, and when and by whom it was written).
    Raises `NotFound` if there is no entry and no `--default`, with `--wait` `TimedOut`."""
    key, wait_ms = given.word("key"), given.duration_ms("wait")
    entry: dict[str, Any] | None
    if wait_ms is None:
        entry = session.call("state.get", {"key": key})
    else:
        from stackshift_cli.flows.state_wait import wait_for_entry

        entry = wait_for_entry(session, key, wait_ms)
    if entry is None:
        default = given.text("default")
        if default is None:
            raise _no_entry(session, key) if wait_ms is None else _not_set(key, wait_ms)
        entry = {"key": key, "value": value_given(default)[0], **_NONE}
    if session.options.verbose and not session.json:
        _say_facts(session, entry)
    if session.json:
        messages.data(messages.compact(entry))
    elif given.flag("raw") and isinstance(entry["value"], str):
        messages.data(_raw(entry["value"]))
    else:
        messages.data(messages.compact(entry["value"]))
    return 0


def _say_facts(session: Session, entry: dict[str, Any]) -> None:
    from stackshift_cli.output.clock import Clock
    from stackshift_cli.output.safe_text import safe

    clock = Clock.now()
    for name in _NONE:
        value = entry[name]
        if value is not None:
            text = clock.both(value) if name.endswith("_at") else safe(str(value))
            session.say(f"{name.replace('_', ' '):<12}{text}")


def set_(session: Session, given: Given) -> int:
    """`state set KEY VALUE`: set its value and print its new version (`--json`: the entry)."""
    if given.text("if_version") is not None and given.flag("if_absent"):
        raise Usage("--if-version and --if-absent cannot be used together")
    value, is_odd = value_given(given.word("value"))
    if is_odd:
        session.say("the value is not valid JSON and is stored as text")
    params: dict[str, Any] = {"key": given.word("key"), "value": value}
    _add_ttl(given, params)
    _add_version(given, params)
    if given.flag("if_absent"):
        params["if_absent"] = True
    entry = session.call("state.set", params)
    messages.data(messages.compact(entry) if session.json else str(entry["version"]))
    return 0


def increment(session: Session, given: Given) -> int:
    """`state increment KEY`: add to its number and print the result (`--json`: the entry)."""
    params: dict[str, Any] = {"key": given.word("key")}
    if (by := given.text("by")) is not None:
        params["by"] = number_given("by", by)
    _add_ttl(given, params)
    entry = session.call("state.increment", params)
    messages.data(messages.compact(entry if session.json else entry["value"]))
    return 0


def delete(session: Session, given: Given) -> int:
    """`state delete KEY`: delete the entry; raises `NotFound` if there is none."""
    from stackshift_cli.output.safe_text import safe

    key = given.word("key")
    params: dict[str, Any] = {"key": key}
    _add_version(given, params)
    reply = session.call("state.delete", params)
    if not reply["deleted"]:
        raise _no_entry(session, key)
    if session.json:
        messages.data(messages.compact(reply))
    else:
        session.say(f"{safe(key)} deleted")
    return 0


def _no_entry(session: Session, key: str) -> NotFound:
    near = _near(session, key)
    hint = f"did you mean {' or '.join(near)}?" if near else "stackshift state list"
    return NotFound(f"there is no entry {key!r}", hint=hint, key=key, near=near)


def _not_set(key: str, wait_ms: int) -> StackshiftError:
    from stackshift_cli.errors import TimedOut
    from stackshift_jobs.values.durations import format_ms

    return TimedOut(f"there is no entry {key!r} after {format_ms(wait_ms)}", key=key)


def _near(session: Session, key: str) -> list[str]:
    """Keys like `key`, the most similar first, among the first thousand that begin like it, or
    else among the first thousand of all."""
    import difflib

    for prefix in (key[:1], ""):
        entries = session.call("state.list", {"prefix": prefix, "limit": _MOST_KEYS})["entries"]
        keys = [str(entry["key"]) for entry in entries]
        if near := difflib.get_close_matches(key, keys, 3, 0.7):
            return near
    return []


def _add_ttl(given: Given, params: dict[str, Any]) -> None:
    if (ttl_ms := given.positive_ms("ttl", "leave it out, or write 1h")) is not None:
        params["ttl_ms"] = ttl_ms


def _add_version(given: Given, params: dict[str, Any]) -> None:
    if (version := given.whole("if_version", 0, _MAX_VERSION)) is not None:
        params["if_version"] = version


def _raw(text: str) -> str:
    """`text` as it is; on a terminal its control characters are escaped."""
    from stackshift_cli.output.terminal import is_terminal

    if not is_terminal(sys.stdout):
        return text
    from stackshift_cli.output.safe_text import safe_lines

    return safe_lines(text)
