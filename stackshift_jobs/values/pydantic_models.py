"""Pydantic models: what is made of JSON, and their JSON Schema.

Pydantic belongs to the project, not to StackShift: it is used where a type of the project's is a
model, by the methods of that model, and imported only for a union of models. What is read is JSON,
and is validated as JSON: a strict model takes text for a datetime.
"""

from __future__ import annotations

import json
from typing import Any, get_args, get_origin, get_type_hints

from stackshift_jobs.errors import PayloadRefused


def is_model(of: Any) -> bool:
    """Is the type a pydantic model?"""
    return isinstance(of, type) and hasattr(of, "model_validate_json")


def mentions_models(of: Any, seen: frozenset[Any] = frozenset()) -> bool:
    """Is there a model in a type: among its arguments (`dict[str, list[Cat | Dog]]`) or, at any
    depth, in the annotations of a class? Raises what evaluating these raises."""
    if is_model(of):
        return True
    parts = get_args(of)
    of_class = get_origin(of) or of
    if isinstance(of_class, type) and of_class not in seen:
        seen |= {of_class}
        parts += tuple(get_type_hints(of_class, include_extras=True).values())
    return any(mentions_models(part, seen) for part in parts)


class AnyModel:
    """A type that pydantic alone can read, such as a union of two models, with the methods of a
    model. Raises what pydantic raises if it cannot either."""

    def __init__(self, of: Any) -> None:
        from pydantic import TypeAdapter

        adapter = TypeAdapter(of)
        self.model_validate_json = adapter.validate_json
        self.model_json_schema = adapter.json_schema


def read_model(value: Any, model: Any) -> Any:
    """The model made of `value` (plain JSON). Raises `PayloadRefused` with the path of the part
    that does not fit."""
    try:
        return model.model_validate_json(json.dumps(value))
    except ValueError as bad:
        errors: list[Any] = getattr(bad, "errors", list)()
        place = errors[0]["loc"] if errors else ()
        path = "$" + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in place)
        reason = errors[0]["msg"] if errors else str(bad)
        raise PayloadRefused(f"at {path}: {reason}", path=path) from bad


def model_schema(model: Any, name: str = "") -> dict[str, Any]:
    """The JSON Schema of a model. With a `name`, it is one to stand in the `$defs` of another
    schema under that name: what it defines itself are `NAME.Part`, and are still within it."""
    template = f"#/$defs/{name}.{{model}}" if name else "#/$defs/{model}"
    schema: dict[str, Any] = model.model_json_schema(ref_template=template)
    return schema
