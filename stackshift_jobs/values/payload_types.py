"""Converts JSON to the types of a project, and makes the JSON Schema of such a type.

What `encoding` has written is read back as its type, at any depth: dataclasses, TypedDicts,
NamedTuples, msgspec structs, pydantic models, enums, times, and the built-in types.

msgspec does the work. Every worker has it, because the daemon depends on it; it is imported when
first needed, so that the SDK itself depends on nothing. Some things are added to it. A number of
seconds becomes a `timedelta`, which msgspec reads from text only. A part that is a pydantic model
is read by the model, and a path is made of its text. A `Secret` stays what it is, and is read from
nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import PurePath
from typing import Any, Final

from stackshift_jobs.errors import PayloadRefused, Usage
from stackshift_jobs.values import json_schema, pydantic_models
from stackshift_jobs.values.secrets import REFERENCE_SCHEMA, Secret
from stackshift_jobs.values.timedeltas import with_timedeltas

_PLACE: Final = re.compile(r" - at (`key` in )?`(\$[^`]*)`$")
MAX_TYPES: Final = 256
"""Types whose description is remembered."""


def convert(value: Any, to: Any, what: str = "") -> Any:
    """Convert `value` (plain JSON) to the type `to`; None and `Any` leave it as it is.

    Raises `PayloadRefused` with the path of the part that does not fit, and with `what` the value
    is; and `Usage` if nothing can be made of JSON as this type.
    """
    if to is None or to is Any:
        return value
    described = _description(to)
    try:
        if isinstance(described, _Msgspec):
            return _read(value, to, described)
        return pydantic_models.read_model(value, described)
    except PayloadRefused as bad:
        if not what:
            raise
        message = f"{what} does not fit its type {bad.message}"
        raise PayloadRefused(message, path=bad.path) from bad.__cause__


def check_type(of: Any) -> None:
    """Raise `Usage` if nothing can be made of JSON as the type `of`, and say why."""
    if of is not None and of is not Any:
        _description(of)


def schema(of: Any) -> dict[str, Any] | None:
    """The JSON Schema of a type; None for `None` and `Any`. It accepts whatever `encoding` writes
    for a value of the type, and whatever functions of the type's own make one of. Raises `Usage` if
    nothing can be made of JSON as this type.

    A dataclass and a TypedDict allow no other fields than their own, because a misspelt one would
    be dropped silently. A `msgspec.Struct` (`forbid_unknown_fields`) and a pydantic model (`extra`)
    decide for themselves.
    """
    if of is None or of is Any:
        return None
    described = _description(of)
    try:
        if isinstance(described, _Msgspec):
            made = _schema_by_msgspec(of, described)
        else:
            made = pydantic_models.model_schema(described)
    except Exception as bad:  # A model can raise anything when its schema is made.
        raise _unreadable(of, bad) from bad
    return json_schema.without_new_keywords(json_schema.allow_seconds(made))


def _schema_by_msgspec(of: Any, described: _Msgspec) -> dict[str, Any]:
    import msgspec

    models: dict[Any, str] = {}

    def refer(custom: Any) -> dict[str, Any]:
        if custom is object:
            return {"$comment": "anything"}  # msgspec takes an empty schema for a missing one.
        if custom is Secret:
            return dict(REFERENCE_SCHEMA)
        if _is_path(custom):
            return {"type": "string"}
        # The name of a generic model has brackets, which a reference would have to escape.
        plain_name = re.sub(r"\W", "_", custom.__name__)
        name = models.setdefault(custom, f"{plain_name}.{len(models) + 1}")
        return {"$ref": f"#/$defs/{name}"}

    made = msgspec.json.schema(of, schema_hook=refer)
    json_schema.close(made, described.closed)
    json_schema.leave_open(made, described.open_enums)
    for model, name in models.items():
        part = pydantic_models.model_schema(model, name)
        inner = part.pop("$defs", {})
        definitions = made.setdefault("$defs", {})
        definitions[name] = part
        definitions.update({f"{name}.{each}": inner[each] for each in inner})
    return made


# --- What a type is ------------------------------------------------------------------------


class _Msgspec:
    """A type that msgspec can read. `kind` is its description by `msgspec.inspect`, `closed` are
    the names of the dataclasses and TypedDicts in it, `open_enums` those of its enums that take
    other values than those of their members."""

    def __init__(self, of: Any) -> None:
        import msgspec

        self.kind = msgspec.inspect.type_info(of)
        kinds = list(_kinds(self.kind, set()))
        for kind in kinds:
            if isinstance(kind, msgspec.inspect.CustomType) and not _is_readable(kind.cls):
                raise TypeError(f"{kind.cls.__qualname__} has no JSON form that could be read")
        self.has_timedelta = any(isinstance(k, msgspec.inspect.TimeDeltaType) for k in kinds)
        own = (msgspec.inspect.DataclassType, msgspec.inspect.TypedDictType)
        self.closed = {kind.cls.__name__ for kind in kinds if isinstance(kind, own)}
        enums = [kind.cls for kind in kinds if isinstance(kind, msgspec.inspect.EnumType)]
        self.open_enums = {each.__name__ for each in enums if json_schema.finds_others(each)}


def _description(of: Any) -> Any:
    """What reads the type: a `_Msgspec` or a pydantic model. Raises `Usage` if nothing does."""
    try:
        return _remembered(of)
    except TypeError:  # It cannot be hashed: its annotations may hold anything.
        return _described(of)


@lru_cache(MAX_TYPES)
def _remembered(of: Any) -> Any:
    return _described(of)


def _described(of: Any) -> Any:
    if pydantic_models.is_model(of):
        return of
    if _is_for_pydantic(of):
        try:
            return pydantic_models.AnyModel(of)
        except Exception as bad:  # Nothing else would hold to what the annotations ask for.
            raise _unreadable(of, bad) from bad
    try:
        return _Msgspec(of)
    except Exception as bad:  # A name that annotations use and nobody defines is a `NameError`.
        why = bad
    with suppress(Exception):  # If neither can, msgspec gives its reason in fewer words.
        if pydantic_models.mentions(pydantic_models.is_model, of):
            return pydantic_models.AnyModel(of)
    raise _unreadable(of, why) from why


def _is_for_pydantic(of: Any) -> bool:
    """Does an annotation say something to pydantic? If one cannot be evaluated, msgspec says so."""
    try:
        return pydantic_models.mentions(pydantic_models.is_for_pydantic, of)
    except Exception:
        return False


def _unreadable(of: Any, why: Exception) -> Usage:
    name = of.__qualname__ if isinstance(of, type) else str(of)
    first_line = str(getattr(why, "message", why)).partition("\n")[0]
    reason = first_line if isinstance(why, TypeError) else f"{type(why).__name__}: {first_line}"
    return Usage(f"nothing can be made of JSON as the type {name}: {reason}")


def _is_readable(custom: Any) -> bool:
    return custom in (object, Secret) or _is_path(custom) or pydantic_models.is_model(custom)


def _is_path(custom: Any) -> bool:
    """Is it a class of `pathlib`? Of these, msgspec knows none."""
    return isinstance(custom, type) and issubclass(custom, PurePath)


def _kinds(kind: Any, seen: set[int]) -> Iterator[Any]:
    """The description of a type and those of all its parts, each once."""
    import msgspec

    if id(kind) in seen or not isinstance(kind, msgspec.Struct | tuple):
        return
    seen.add(id(kind))
    if isinstance(kind, tuple):
        parts = kind
    else:
        yield kind
        names = (name for name in kind.__struct_fields__ if name not in ("cls", "default"))
        parts = tuple(getattr(kind, name) for name in names)
    for part in parts:
        yield from _kinds(part, seen)


# --- Reading -------------------------------------------------------------------------------


def _read(value: Any, to: Any, described: _Msgspec) -> Any:
    import msgspec

    try:
        spelled = with_timedeltas(value, described.kind) if described.has_timedelta else value
        return msgspec.convert(spelled, to, str_keys=True, dec_hook=_read_custom)
    except msgspec.ValidationError as bad:
        # What a class of the job's raised says more; msgspec's own error says the same again.
        raise _refused(bad) from None if isinstance(bad.__cause__, _Inside) else bad.__cause__


class _Inside(ValueError):
    """A part that its own model refuses: msgspec adds where the part is."""

    def __init__(self, refused: PayloadRefused) -> None:
        super().__init__(refused.message)
        self.refused = refused


def _read_custom(to: Any, value: Any) -> Any:
    """Read a part that msgspec does not know; called by msgspec."""
    if to is object:
        return value
    if to is Secret:
        if isinstance(value, Secret):
            return value
        raise ValueError('must be {"$env": "NAME"} or {"$file": "path"}')
    if _is_path(to):
        if isinstance(value, str):
            return to(value)
        raise ValueError("must be the text of a path")
    try:
        return pydantic_models.read_model(value, to)
    except PayloadRefused as refused:
        raise _Inside(refused) from refused


def _refused(bad: Exception) -> PayloadRefused:
    reason = str(bad)
    place = _PLACE.search(reason)
    path = place[2] if place else "$"
    reason = reason[: place.start()] if place else reason
    if place and place[1]:
        reason = f"a key: {reason}"
    if isinstance(bad.__cause__, _Inside):
        inner = bad.__cause__.refused
        path += inner.path.removeprefix("$")
        reason = inner.message.removeprefix(f"at {inner.path}: ")
    return PayloadRefused(f"at {path}: {reason}", path=path)
