"""Values as types: from JSON to dataclass, TypedDict, msgspec.Struct or pydantic model, and the
JSON Schema of such a type.

msgspec does the work where it can be imported, which is so in every worker (the daemon's own
dependency); it is imported when first needed, so that the SDK itself needs nothing.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any, get_args, get_type_hints

from stackshift_jobs.errors import PayloadRefused

_PLACE = re.compile(r" - at `(\$[^`]*)`$")


def convert(value: Any, to: Any) -> Any:
    """`value` (plain JSON) as the type `to`; None and `Any` leave it as it is.

    Raises `PayloadRefused` with the path of what does not fit.
    """
    if to is None or to is Any:
        return value
    if _is_pydantic(to):
        return _convert_pydantic(value, to)
    if to is timedelta and isinstance(value, int | float):
        return timedelta(seconds=value)  # as `strict` writes it
    import msgspec

    try:
        return msgspec.convert(value, to)
    except msgspec.ValidationError as bad:
        told = str(bad)
        place = _PLACE.search(told)
        path = place[1] if place else "$"
        raise PayloadRefused(f"at {path}: {_PLACE.sub('', told)}", path=path) from bad


def schema(of: Any) -> dict[str, Any] | None:
    """The JSON Schema of a type, None where it has none.

    A dataclass and a TypedDict take no fields but their own: one that was misspelt would be lost
    without a word. A `msgspec.Struct` (`forbid_unknown_fields`) and a pydantic model (`extra`) say
    themselves whether they do.
    """
    if of is None or of is Any:
        return None
    if _is_pydantic(of):
        made: dict[str, Any] = of.model_json_schema()
        return made
    import msgspec

    try:
        found = msgspec.json.schema(of)
    except TypeError:
        return None
    closed = _closed(msgspec.inspect.type_info(of), {})
    for node in (found, *found.get("$defs", {}).values()):
        if node.get("type") == "object" and node.get("title") in closed:
            node["additionalProperties"] = False
    return found


def _closed(kind: Any, seen: dict[int, Any]) -> set[str]:
    """Names of the dataclasses and TypedDicts in a type, as `msgspec.inspect` tells it."""
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
    found = set().union(*(_closed(part, seen) for part in parts))
    if isinstance(kind, msgspec.inspect.DataclassType | msgspec.inspect.TypedDictType):
        found.add(kind.cls.__name__)
    return found


def payload_type(handler: Callable[..., Any], declared: Any) -> Any:
    """The type of a handler's payload: `declared`, else the `P` of `JobContext[P]`, else None."""
    if declared is not None:
        return declared
    parameters = list(inspect.signature(handler).parameters)
    if not parameters:
        return None
    hints = get_type_hints(handler)
    arguments = get_args(hints.get(parameters[0]))
    return arguments[0] if arguments else None


def _is_pydantic(of: Any) -> bool:
    return isinstance(of, type) and hasattr(of, "model_validate")


def _convert_pydantic(value: Any, to: Any) -> Any:
    try:
        return to.model_validate(value)
    except ValueError as bad:
        errors: list[Any] = getattr(bad, "errors", list)()
        where = errors[0]["loc"] if errors else ()
        path = "$" + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in where)
        told = errors[0]["msg"] if errors else str(bad)
        raise PayloadRefused(f"at {path}: {told}", path=path) from bad
