"""The JSON form of Python values that JSON lacks.

`json_form` takes one step: a dataclass becomes a dict of its fields, whatever these are, and
`strict_json.plain` goes on with the parts. What is written here is read back by `payload_types`, at
any depth. Nothing is imported for it: numpy, msgspec, attrs and pydantic are recognized by the
attributes that their values have.

| Python | JSON |
|---|---|
| dataclass, class of attrs, pydantic model | object |
| `msgspec.Struct` | object, or array with `array_like` |
| tuple, NamedTuple | array |
| enum | its value |
| `datetime`, `date`, `time` | RFC 3339 text |
| `timedelta` | number of seconds |
| `UUID`, `Decimal`, path of `pathlib` | text |
| numpy scalar | number or boolean |

A `Secret` has no form; in the payload of a run it is the reference that it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from inspect import isasyncgen, iscoroutine, isgenerator
from json import dumps
from os import PathLike
from pathlib import PurePath
from typing import Any, Final
from uuid import UUID

from stackshift_jobs.values import pydantic_models
from stackshift_jobs.values.secrets import Secret

_NUMPY_KINDS: Final = frozenset("biuf")
"""The letters of numpy's booleans, integers, unsigned integers and floats."""


_BASES: Final[tuple[tuple[type, Callable[[Any], Any]], ...]] = (
    (str, str),
    (int, int),
    (float, float),
    (dict, dict),
    (list, list),
    (tuple, list),
)
"""What subclasses of the types that JSON has become."""


class NoJsonForm(TypeError):
    """JSON has no form for the value; the text says what it is, and what to do."""


def json_form(value: Any) -> Any:
    """`value`, one step nearer to JSON: a str, int, float, bool, None, list or dict whose parts may
    be anything. Raises `NoJsonForm`."""
    if isinstance(value, Enum):
        return value.value
    for base, make in _BASES:
        if isinstance(value, base):
            return make(value)
    if isinstance(value, datetime):
        return _in_whole_minutes(value).isoformat()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, UUID | Decimal | PurePath):
        return str(value)
    if isinstance(value, Secret):
        raise NoJsonForm(_what_secret(value))
    return _form_of_parts(value)


def payload_form(value: Any) -> Any:
    """As `json_form`, for the payload of a run: a secret that a payload has named is its reference
    again, which the worker of that run resolves."""
    if isinstance(value, Secret) and value.reference is not None:
        return value.reference.as_json()
    return json_form(value)


def json_key(key: Any) -> str:
    """The text of a key of an object: as `json` writes it, True is `true` and 1 is `1`. Raises
    `NoJsonForm` for what is neither text, an integer, a boolean, None, nor written as text."""
    if isinstance(key, Enum):
        return json_key(key.value)
    if isinstance(key, str):
        return str(key)
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    if isinstance(key, int):
        return str(int(key))
    if _is_numpy_scalar(key) and not isinstance(key.item(), float):
        return json_key(key.item())
    if isinstance(key, date | time | UUID | Decimal | PurePath):
        return str(json_form(key))
    raise NoJsonForm(f"key {key!r} is a {type(key).__name__}, not text")


def _in_whole_minutes(when: datetime) -> datetime:
    """The same time with an offset that RFC 3339 can hold. Before about 1900, the offsets of many
    zones had seconds."""
    offset = when.utcoffset()
    return when if offset is None or not offset.seconds % 60 else when.astimezone(UTC)


def _form_of_parts(value: Any) -> Any:
    kind: Any = type(value)
    if is_dataclass(value) and not isinstance(value, type):
        members = ((field.name, getattr(value, field.name)) for field in fields(value))
        return dict(_given(members))
    if hasattr(kind, "__attrs_attrs__"):
        members = ((each.name, getattr(value, each.name)) for each in kind.__attrs_attrs__)
        return dict(_given(members))
    if hasattr(kind, "__struct_encode_fields__"):
        return _form_of_struct(value)
    if hasattr(kind, "model_dump"):
        try:
            return pydantic_models.write_model(value)
        except ValueError as bad:  # Of a serializer, such as that of a `Secret`.
            raise NoJsonForm(f"the model {kind.__name__} cannot be written: {bad}") from bad
    if _is_numpy_scalar(value):
        return value.item()
    raise NoJsonForm(_what_it_is(value))


def _form_of_struct(value: Any) -> Any:
    """A `msgspec.Struct` as msgspec itself encodes it: with its tag, which a union is read by."""
    kind = type(value)
    config = kind.__struct_config__
    attributes = [getattr(value, name) for name in kind.__struct_fields__]
    if config.array_like:
        return attributes if config.tag is None else [config.tag, *attributes]
    members = _given(zip(kind.__struct_encode_fields__, attributes, strict=True))
    return dict(members) if config.tag is None else {config.tag_field: config.tag, **dict(members)}


def _given(members: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The members without those that are `msgspec.UNSET`, which means that they are absent."""
    return ((name, value) for name, value in members if type(value).__name__ != "UnsetType")


def _is_numpy_scalar(value: Any) -> bool:
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    return (
        kind in _NUMPY_KINDS
        and getattr(value, "ndim", None) == 0
        # The widest floats have no counterpart in Python: numpy returns them as they are.
        and isinstance(value.item(), bool | int | float)
    )


def _what_secret(secret: Secret) -> str:
    if secret.reference is None:
        return f"{secret} is never recorded: hand on what others need to get it themselves"
    reference = dumps(secret.reference.as_json())
    return f"{secret} is never recorded: hand on its reference, {reference}"


def _what_it_is(value: Any) -> str:
    if iscoroutine(value):
        return (
            f"this is the coroutine {value.__qualname__}, not its result: an `async def` function "
            "was called and not awaited"
        )
    if isgenerator(value):
        return f"this is the generator {value.__qualname__}, not its values: return list(...) of it"
    if isasyncgen(value):
        return (
            f"this is the async generator {value.__qualname__}, not its values: return "
            "[each async for each in ...]"
        )
    name = type(value).__name__
    article = "an" if name[0] in "AEIOUaeiou" else "a"
    return f"JSON cannot represent {article} {name}{_instead_of(value)}"


def _instead_of(value: Any) -> str:
    if isinstance(value, PathLike):
        return ": make text of it, str(...)"
    if isinstance(value, bytes | bytearray | memoryview):
        return ": make text of it, or keep it in a file and hand on where that is"
    if isinstance(value, Mapping):
        return ": make a dict of it"
    if isinstance(value, Iterable) and not isinstance(value, type):
        return ": make a list of it"
    return ""
