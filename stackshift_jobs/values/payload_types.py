"""Converts JSON to a dataclass, TypedDict, msgspec.Struct or pydantic model, and makes the JSON
Schema of such a type.

msgspec does the work. Every worker has it, because the daemon depends on it; it is imported when
first needed, so that the SDK itself depends on nothing.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from stackshift_jobs.errors import PayloadRefused

_PLACE = re.compile(r" - at `(\$[^`]*)`$")


def convert(value: Any, to: Any) -> Any:
    """Convert `value` (plain JSON) to the type `to`; None and `Any` leave it as it is.

    Raises `PayloadRefused` with the path of the part that does not fit.
    """
    if to is None or to is Any:
        return value
    if _is_pydantic(to):
        return _convert_pydantic(value, to)
    if to is timedelta and isinstance(value, int | float):
        return timedelta(seconds=value)  # as `strict_json` writes it
    import msgspec

    try:
        return msgspec.convert(value, to)
    except msgspec.ValidationError as bad:
        reason = str(bad)
        place = _PLACE.search(reason)
        path = place[1] if place else "$"
        raise PayloadRefused(f"at {path}: {_PLACE.sub('', reason)}", path=path) from bad


def schema(of: Any) -> dict[str, Any] | None:
    """The JSON Schema of a type; None if it has none.

    A dataclass and a TypedDict allow no other fields than their own, because a misspelt one would
    be dropped silently. A `msgspec.Struct` (`forbid_unknown_fields`) and a pydantic model (`extra`)
    decide for themselves.
    """
    if of is None or of is Any:
        return None
    if _is_pydantic(of):
        model_schema: dict[str, Any] = of.model_json_schema()
        return model_schema
    import msgspec

    try:
        type_schema = msgspec.json.schema(of)
    except TypeError:
        return None
    closed = _closed(msgspec.inspect.type_info(of), {})
    for node in (type_schema, *type_schema.get("$defs", {}).values()):
        if node.get("type") == "object" and node.get("title") in closed:
            node["additionalProperties"] = False
    return type_schema


def _closed(kind: Any, seen: dict[int, Any]) -> set[str]:
    """The names of the dataclasses and TypedDicts in a type, which `msgspec.inspect` describes."""
    import msgspec

    if id(kind) in seen or not isinstance(kind, msgspec.Struct | tuple):
        return set()
    seen[id(kind)] = kind
    parts = (
        kind
        if isinstance(kind, tuple)
        else [
            getattr(kind, name) for name in kind.__struct_fields__ if name not in ("cls", "default")
        ]
    )
    names = set().union(*(_closed(part, seen) for part in parts))
    if isinstance(kind, msgspec.inspect.DataclassType | msgspec.inspect.TypedDictType):
        names.add(kind.cls.__name__)
    return names


def _is_pydantic(of: Any) -> bool:
    return isinstance(of, type) and hasattr(of, "model_validate")


def _convert_pydantic(value: Any, to: Any) -> Any:
    try:
        return to.model_validate(value)
    except ValueError as bad:
        errors: list[Any] = getattr(bad, "errors", list)()
        where = errors[0]["loc"] if errors else ()
        path = "$" + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in where)
        reason = errors[0]["msg"] if errors else str(bad)
        raise PayloadRefused(f"at {path}: {reason}", path=path) from bad
