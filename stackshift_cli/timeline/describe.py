"""What a record of a wait, a lock, an event or state is about, in a few words.

    event avatar.approved [img_123]     lock index:customer_1     state counter = 5

One wording for lines and pictures. Pure; the texts of others in it are not made safe here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from stackshift_cli.output.messages import compact

_BRACKETED: Final = re.compile(r"\[(.*)\](?:\.([^\[\]#]*))?(#\d+)?", re.DOTALL)


class About:
    """The words, and the fields of the record that they tell or that tell nobody anything."""

    __slots__ = ("fields", "words")

    def __init__(self, words: str = "", *fields: str) -> None:
        self.words = words
        self.fields = frozenset(fields)


def about(record: Mapping[str, Any]) -> About:
    """What `record` is about; no words for records of other kinds."""
    kind = str(record.get("kind"))
    if kind == "wait.started":
        return _wait(record)
    if kind == "wait.ended" and record.get("name"):
        words = event(record["name"], record.get("correlation_key"))
        return About(words, "name", "correlation_key")
    noun, _, verb = kind.partition(".")
    if noun == "lock":
        return About(f"lock {record.get('key')}", "key", "asker")
    if noun == "event":
        words = event(record.get("name"), record.get("correlation_key"))
        return About(words, "name", "correlation_key", "digest", "key_ttl_ms")
    if noun == "state" and verb == "set":
        told = compact(record.get("value"))
        return About(f"state {record.get('key')} = {told}", "key", "value")
    if noun == "state":
        return About(f"state {record.get('key')}", "key")
    return About()


def event(name: object, correlation_key: object) -> str:
    """`event avatar.approved [img_123]`."""
    key = "" if correlation_key is None else f" [{correlation_key}]"
    return f"event {name}{key}"


def call(step: str) -> str:
    """How a call is named that is no step: `lock index`, for `[lock index]`, and `lock index
    (left)` for `[lock index].left`; else as it is."""
    found = _BRACKETED.fullmatch(step)
    if found is None:
        return step
    name = f" ({found[2]})" if found[2] else ""
    return f"{found[1]}{name}{found[3] or ''}"


def _wait(record: Mapping[str, Any]) -> About:
    if record.get("wait") == "lock":
        return About(f"lock {record.get('lock')}", "wait", "lock")
    if record.get("wait") == "event" and record.get("events"):
        words = ", ".join(event(*pair) for pair in record["events"])
        return About(words, "wait", "events")
    return About()
