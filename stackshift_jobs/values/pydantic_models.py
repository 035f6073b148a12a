"""Pydantic models: what is made of JSON, and their JSON Schema.

Pydantic belongs to the project, not to StackShift: it is used where a type of the project's is a
model, by the methods of that model, and imported only for a union of models. What is read is JSON,
and is validated as JSON: a strict model takes text for a datetime.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextvars import ContextVar
from functools import lru_cache
from inspect import signature
from typing import Any, Final, get_args, get_origin, get_type_hints

from stackshift_jobs.errors import PayloadRefused


def is_model(of: Any) -> bool:
    """Is the type a pydantic model?"""
    return isinstance(of, type) and hasattr(of, "model_validate_json")


@lru_cache(256)
def refuses_what_it_writes(model: Any) -> bool:
    """Would a model not read what it writes: because it, or a model in it, forbids other fields and
    writes computed ones, or writes what a `Json` field has read? Then pydantic can write it
    otherwise (`round_trip`), without the computed fields."""
    return any(map(_writes_otherwise, _parts_of(model, set())))


def _writes_otherwise(part: Any) -> bool:
    if is_model(part):
        forbids = part.model_config.get("extra") == "forbid"
        return forbids and bool(part.model_computed_fields)
    kind = part if isinstance(part, type) else type(part)
    return kind.__name__ == "Json" and kind.__module__.partition(".")[0] == "pydantic"


def _parts_of(of: Any, seen: set[int]) -> Iterator[Any]:
    """A type of a model's field and all parts of it, each once: arguments, and the fields of models
    with what they are annotated with."""
    if id(of) in seen:
        return
    seen.add(id(of))
    yield of
    parts = get_args(of)
    if is_model(of):
        fields = getattr(of, "model_fields", {}).values()
        parts += tuple(part for field in fields for part in (field.annotation, *field.metadata))
    for part in parts:
        yield from _parts_of(part, seen)


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
    secrets: dict[str, Any] = {}

    def put_aside(secret: Any) -> Any:
        reference = secret.reference.as_json()
        secrets[json.dumps(reference)] = secret
        return reference

    reading = _secrets.set(secrets)
    try:
        text = json.dumps(value, default=put_aside)
        return model.model_validate_json(text, **_names(model))
    except ValueError as bad:
        errors: list[Any] = getattr(bad, "errors", list)()
        place = errors[0]["loc"] if errors else ()
        path = "$" + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in place)
        reason = errors[0]["msg"] if errors else str(bad)
        raise PayloadRefused(f"at {path}: {reason}", path=path) from bad
    finally:
        _secrets.reset(reading)


@lru_cache(256)
def _names(model: Any) -> dict[str, bool]:
    """How fields are found: by alias, and by name, since a field with an alias for reading alone is
    written by its name. Pydantic before 2.11 has no such choice."""
    can_choose = "by_name" in signature(model.model_validate_json).parameters
    return {"by_alias": True, "by_name": True} if can_choose else {}


_secrets: Final[ContextVar[dict[str, Any] | None]] = ContextVar("stackshift_reading", default=None)
"""The secrets in the value that is being read, by their references, which stand in their place: a
model is read from JSON, which cannot hold them."""


def secret_schema(of: type, why: str) -> Any:
    """Pydantic's schema of the type of secrets, `of`: `read_model` puts each where its reference
    stands, and none is ever written. `why` is said of any other value."""
    from pydantic_core import PydanticCustomError, core_schema

    def read(value: Any) -> Any:
        if isinstance(value, dict):
            value = (_secrets.get() or {}).get(json.dumps(value))
        if not isinstance(value, of):
            raise PydanticCustomError("secret", "{why}", {"why": why})
        return value

    def write(_value: Any) -> Any:
        raise ValueError(f"a {of.__name__} is never recorded")

    return core_schema.no_info_plain_validator_function(
        read,
        serialization=core_schema.plain_serializer_function_ser_schema(write, when_used="json"),
    )


def model_schema(model: Any, name: str = "") -> dict[str, Any]:
    """The JSON Schema of a model. With a `name`, it is one to stand in the `$defs` of another
    schema under that name: what it defines itself are `NAME.Part`, and are still within it."""
    template = f"#/$defs/{name}.{{model}}" if name else "#/$defs/{model}"
    schema: dict[str, Any] = model.model_json_schema(ref_template=template)
    return schema
