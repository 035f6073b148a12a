"""Pydantic models: what is made of JSON, their JSON form, and their JSON Schema.

Pydantic belongs to the project, not to StackShift: it is used where a type of the project's is a
model, by the methods of that model, and imported only for a union of models. What is read is JSON,
and is validated as JSON: a strict model takes text for a datetime.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import lru_cache
from inspect import signature
from json import dumps
from typing import Any, Final, get_args, get_origin, get_type_hints

from stackshift_jobs.errors import PayloadRefused
from stackshift_jobs.values.pydantic_schema import schema_generator

_ASTERISKS: Final = "*" * 10
"""What pydantic writes instead of a secret."""


def is_model(of: Any) -> bool:
    """Is the type a pydantic model?"""
    return isinstance(of, type) and hasattr(of, "model_validate_json")


def write_model(model: Any) -> Any:
    """The JSON form of a model, as it is read, and as its schema says: by the aliases of its fields
    for reading, where they have others for writing. Raises `ValueError`, as serializers do."""
    kind: Any = type(model)
    written = model.model_dump(mode="json", by_alias=True, round_trip=_refuses_what_it_writes(kind))
    return _as_read(model, written) if _reads_other_names(kind) else written


@lru_cache(256)
def _refuses_what_it_writes(model: Any) -> bool:
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


@lru_cache(256)
def _reads_other_names(model: Any) -> bool:
    """Does the model, or one in it, write a field by another name than it reads it by?"""
    return any(_read_names(part) for part in _parts_of(model, set()) if is_model(part))


@lru_cache(256)
def _read_names(model: Any) -> dict[str, str]:
    """The names by which fields are written, with those by which they are read, where these differ.
    A field that is read from a path has none."""
    names = {}
    for name, field in model.model_fields.items():
        written = field.serialization_alias or field.alias or name
        read = field.validation_alias or field.alias or name
        choices = [each for each in getattr(read, "choices", [read]) if isinstance(each, str)]
        if choices and written != choices[0]:  # The schema knows the first alone.
            names[written] = choices[0]
    return names


def _as_read(value: Any, written: Any) -> Any:
    """What a model, or a part of one, has `written`, with the names by which it is read. What a
    serializer of the project's has made of it stays as it is."""
    if is_model(type(value)):
        if not isinstance(written, dict):
            return _as_read(value.root, written) if hasattr(value, "root") else written
        kind: Any = type(value)
        fields = {
            field.serialization_alias or field.alias or name: name
            for name, field in kind.model_fields.items()
        }
        read = _read_names(kind)
        return {
            read.get(key, key): _as_read(getattr(value, fields.get(key, ""), None), part)
            for key, part in written.items()
        }
    if isinstance(value, dict) and isinstance(written, dict) and len(value) == len(written):
        pairs = zip(value.values(), written.items(), strict=True)
        return {key: _as_read(part, made) for part, (key, made) in pairs}
    if isinstance(value, list | tuple) and isinstance(written, list) and len(value) == len(written):
        return [_as_read(part, made) for part, made in zip(value, written, strict=True)]
    return written


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


def is_dataclass(of: Any) -> bool:
    """Is the type a dataclass of pydantic's?"""
    return isinstance(of, type) and "__pydantic_validator__" in vars(of) and not is_model(of)


def is_for_pydantic(part: Any) -> bool:
    """Is the part of a type a dataclass of pydantic's, or what an annotation says to pydantic, such
    as `Field(gt=0)` or a validator? Other readers would pass over what it asks for."""
    says = type(part).__module__.partition(".")[0] in ("pydantic", "annotated_types")
    return is_dataclass(part) or (says and not isinstance(part, type))


def mentions(is_meant: Callable[[Any], bool], of: Any, seen: frozenset[Any] = frozenset()) -> bool:
    """Is there one that is meant in a type: among its arguments (`dict[str, list[Cat | Dog]]`) or,
    at any depth, in the annotations of a class? Raises what evaluating these raises."""
    if is_meant(of):
        return True
    parts = get_args(of)
    of_class = get_origin(of) or of
    if isinstance(of_class, type) and of_class not in seen and not is_model(of_class):
        seen |= {of_class}
        parts += tuple(get_type_hints(of_class, include_extras=True).values())
    return any(mentions(is_meant, part, seen) for part in parts)


class AnyModel:
    """A type that pydantic alone can read, such as a union of two models, with the methods of a
    model. Raises what pydantic raises if it cannot either."""

    def __init__(self, of: Any) -> None:
        from pydantic import TypeAdapter

        adapter = TypeAdapter(of)
        self.of = of
        self.model_validate_json = adapter.validate_json
        self.model_json_schema = adapter.json_schema


def read_model(value: Any, model: Any) -> Any:
    """The model made of `value` (plain JSON). Raises `PayloadRefused` with the path of the part
    that does not fit."""
    secrets: dict[str, Any] = {}

    def put_aside(secret: Any) -> Any:
        reference = secret.reference.as_json()
        secrets[dumps(reference)] = secret
        return reference

    reading = _secrets.set(secrets)
    try:
        text = dumps(value, default=put_aside)
        made = model.model_validate_json(text, **_names(model))
        if _has_hidden_parts(getattr(model, "of", model)) and (hidden := _hidden(made, "$")):
            raise PayloadRefused(
                f"at {hidden}: this is what pydantic writes instead of a secret, and not the "
                "secret: let the function that needs it read it, or use stackshift_jobs.Secret",
                path=hidden,
            )
        return made
    except ValueError as bad:
        errors: list[Any] = getattr(bad, "errors", list)()
        place = errors[0]["loc"] if errors else ()
        path = "$" + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in place)
        reason = errors[0]["msg"] if errors else str(bad)
        raise PayloadRefused(f"at {path}: {reason}", path=path) from bad
    finally:
        _secrets.reset(reading)


@lru_cache(256)
def _has_hidden_parts(model: Any) -> bool:
    """Is there a `SecretStr` or the like in a model?"""
    return any(hasattr(part, "get_secret_value") for part in _parts_of(model, set()))


def _hidden(made: Any, path: str) -> str:
    """The path of the first secret of pydantic's in what was made that is only asterisks; empty if
    there is none."""
    if hasattr(made, "get_secret_value"):
        held = made.get_secret_value()
        return path if held in (_ASTERISKS, _ASTERISKS.encode()) else ""
    if is_model(type(made)):
        parts = [(f"{path}.{name}", getattr(made, name)) for name in type(made).model_fields]
    elif isinstance(made, dict):
        parts = [(f"{path}.{key}", part) for key, part in made.items()]
    elif isinstance(made, list | tuple):
        parts = [(f"{path}[{index}]", part) for index, part in enumerate(made)]
    else:
        parts = []
    return next(filter(None, (_hidden(part, place) for place, part in parts)), "")


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
            value = (_secrets.get() or {}).get(dumps(value))
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
    schema: dict[str, Any] = model.model_json_schema(
        ref_template=template, schema_generator=schema_generator()
    )
    return schema
