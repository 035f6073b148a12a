"""The dialect of the JSON Schemas that payloads are checked with: what drafts 7 and 2019-09 have in
common, and what their formats mean here.

msgspec and pydantic write newer keywords, which the daemon's validator would pass over or misread.
A schema must accept whatever `encoding` writes for its type; it may accept more, which the type
then refuses in the worker.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any, Final

_DAY: Final = r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])"
_CLOCK: Final = (
    r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d+)?(?:[zZ]|[+-](?:[01]\d|2[0-3]):?[0-5]\d)?"
)
FORMATS: Final = {
    "date-time": rf"^{_DAY}[tT ]{_CLOCK}\Z",
    "time": rf"^{_CLOCK}\Z",
    "duration": (
        r"^[+-]?P(?!\Z)(?:\d+Y)?(?:\d+M)?(?:\d+W)?(?:\d+D)?"
        r"(?:T(?=\d)(?:\d+H)?(?:\d+M)?(?:\d+(?:\.\d+)?S)?)?\Z"
    ),
}
"""The formats that mean something else than in JSON Schema: a time may have no offset, as in
Python; a duration may be negative, and have microseconds."""

_LISTS: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_TABLES: Final = ("$defs", "properties", "patternProperties")
_SINGLE: Final = ("items", "additionalItems", "additionalProperties", "propertyNames", "not")


def nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """The schema and all schemas in it. Values that are not schemas, such as defaults, are left
    out."""
    if not isinstance(schema, dict):
        return
    yield schema
    parts = [schema.get(name) for name in _SINGLE]
    parts += [part for name in _LISTS for part in schema.get(name, ())]
    parts += [part for name in _TABLES for part in schema.get(name, {}).values()]
    for part in parts:
        yield from nodes(part)


def without_new_keywords(schema: dict[str, Any]) -> dict[str, Any]:
    """Rewrite `schema` in place, so that it has no keywords of draft 2020-12; returns it."""
    for node in list(nodes(schema)):
        if "prefixItems" in node:
            rest = node.pop("items", node.get("additionalItems"))
            node["items"] = node.pop("prefixItems")
            if rest is not None:
                node["additionalItems"] = rest
    return schema


def allow_seconds(schema: dict[str, Any]) -> dict[str, Any]:
    """Rewrite `schema` in place, so that a duration can also be a number of seconds, as `encoding`
    writes it; returns it."""
    for node in list(nodes(schema)):
        if node.get("format") == "duration" and node.get("type") == "string":
            node["type"] = ["number", "string"]
    return schema


def close(schema: dict[str, Any], titles: set[str]) -> dict[str, Any]:
    """Rewrite `schema` in place, so that its objects with one of these titles allow no other
    members than their own; returns it."""
    for node in nodes(schema):
        if node.get("type") == "object" and node.get("title") in titles:
            node["additionalProperties"] = False
    return schema


def finds_others(of: type[Enum]) -> bool:
    """Does an enum take other values than those of its members? It does if it has a `_missing_` of
    its own, as one that disregards case, and all flags do, which can be combined."""
    return of._missing_.__func__ is not Enum._missing_.__func__  # type: ignore[attr-defined]


def leave_open(schema: dict[str, Any], titles: set[str]) -> dict[str, Any]:
    """Rewrite `schema` in place, so that its enums with one of these titles take any value; returns
    it. Their members are still named."""
    for node in nodes(schema):
        if "enum" in node and node.get("title") in titles:
            node["examples"] = node.pop("enum")
    return schema
