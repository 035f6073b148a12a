"""The subject of a record of a wait, a lock, an event or state, in a few words.

    event avatar.approved [img_123]     lock index:customer_1     state counter = 5

Lists and timelines share this wording. Pure; names and values in it are not escaped here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from stackshift_cli.output.messages import compact
from stackshift_jobs.values.identities import own_part

_BRACKETED: Final = re.compile(r"\[(.*)\](?:\.([^\[\]#]*))?(#\d+)?", re.DOTALL)
_ID: Final = re.compile(r"\b(?:run|evt)_[0-9a-z]{26}\b")


def attempts(number: int, run: Mapping[str, Any]) -> str:
    """`2/3`: attempt `number` of so many. A run that was retried by a person has got as many again,
    so a number beyond that stands alone."""
    most = run["max_attempts"]
    return f"{number}/{most}" if number <= most else str(number)


def why(run: Mapping[str, Any], finished: bool) -> str:
    """Why the run is not progressing, why its handler has cancelled it, or as which run it has
    continued; empty if it has `finished` and its status says it all."""
    text = str(run.get("why") or "")
    # While a picture is redrawn, what is known of the run may be older than its end.
    if finished and not text.startswith(("cancelled: ", "continued as ")):
        return ""
    return text


class About:
    """The words, and the fields of the record that need not be shown besides them."""

    __slots__ = ("fields", "words")

    def __init__(self, words: str = "", *fields: str) -> None:
        self.words = words
        self.fields = frozenset(fields)


def about(record: Mapping[str, Any]) -> About:
    """The subject of `record`; no words for records of other kinds."""
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
        return About(words, "name", "correlation_key", "digest", "key_ttl_ms", "place")
    if noun == "state" and verb == "set":
        value = compact(record.get("value"))
        return About(f"state {record.get('key')} = {value}", "key", "value")
    if noun == "state":
        return About(f"state {record.get('key')}", "key")
    return About()


def event(name: object, correlation_key: object) -> str:
    """An event in words: `event avatar.approved [img_123]`."""
    key = f" [{correlation_key}]" if correlation_key else ""
    return f"event {name}{key}"


def call(step: str) -> str:
    """The name of a call in words: `lock index` for `[lock index]`, `lock index (left)` for
    `[lock index].left`, `page/timer 5.0s` for `page/[timer 5.0s]`; the name of a step as it is."""
    own = own_part(step)
    match = _BRACKETED.fullmatch(own)
    if match is None:
        return step
    name = f" ({match[2]})" if match[2] else ""
    return f"{step.removesuffix(own)}{match[1]}{name}{match[3] or ''}"


def _wait(record: Mapping[str, Any]) -> About:
    if record.get("wait") == "lock":
        return About(f"lock {record.get('lock')}", "wait", "lock")
    if record.get("wait") == "event" and record.get("events"):
        words = ", ".join(event(*pair) for pair in record["events"])
        return About(words, "wait", "events")
    return About()


def brief(id: str) -> str:
    """The end of an id, `7k2m9q`, which commands accept for the whole."""
    return id[-6:]


def briefly(text: str) -> str:
    """`text` with the ends of the ids in it."""
    return _ID.sub(lambda match: brief(match[0]), text)
