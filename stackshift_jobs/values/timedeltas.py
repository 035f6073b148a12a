"""Reads numbers of seconds as `timedelta`, at any depth, for msgspec, which does it for text only.

Where a value is a duration is known by its type alone, as `msgspec.inspect` describes it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any


def with_timedeltas(value: Any, kind: Any) -> Any:
    """`value` (plain JSON) with a `timedelta` wherever `kind`, the description of its type, has one
    and the value has a number.

    What does not fit is left as it is: msgspec then refuses it, with its place.
    """
    from msgspec import inspect

    match kind:
        case inspect.TimeDeltaType():
            return _timedelta(value)
        case inspect.Metadata():
            return with_timedeltas(value, kind.type)
        case inspect.UnionType():
            member = next((each for each in kind.types if _takes(each, value, kind.types)), None)
            return with_timedeltas(value, member)
        case inspect.DictType() if isinstance(value, dict):
            return {name: with_timedeltas(value[name], kind.value_type) for name in value}
        case inspect.TupleType() if isinstance(value, list):
            return _items(value, kind.item_types)
        case inspect.NamedTupleType() | inspect.StructType(array_like=True) if isinstance(
            value, list
        ):
            tag = [None] if getattr(kind, "tag", None) is not None else []
            return _items(value, [*tag, *(field.type for field in kind.fields)])
        case _ if isinstance(value, list) and hasattr(kind, "item_type"):
            return [with_timedeltas(each, kind.item_type) for each in value]
        case _ if isinstance(value, dict) and hasattr(kind, "fields"):
            kinds = {field.encode_name: field.type for field in kind.fields}
            return {name: with_timedeltas(value[name], kinds.get(name)) for name in value}
    return value


def _items(values: list[Any], kinds: Any) -> list[Any]:
    return [*map(with_timedeltas, values, kinds), *values[len(kinds) :]]


def _takes(kind: Any, value: Any, union: Any) -> bool:
    """Is `value` read as the member `kind` of a union? In a union that msgspec allows, at most one
    member takes lists, and one takes objects, apart from structs, which have tags."""
    from msgspec import inspect

    if isinstance(kind, inspect.Metadata):
        return _takes(kind.type, value, union)
    if isinstance(kind, inspect.StructType):
        return kind.array_like is isinstance(value, list) and kind.tag == _tag_in(value, kind)
    if isinstance(value, dict):
        return isinstance(kind, inspect.DictType | inspect.DataclassType | inspect.TypedDictType)
    if isinstance(value, list):
        lists = (inspect.TupleType, inspect.NamedTupleType)
        return isinstance(kind, lists) or hasattr(kind, "item_type")
    # A number is a number first.
    numbers = inspect.IntType | inspect.FloatType
    return isinstance(kind, inspect.TimeDeltaType) and not any(
        isinstance(each, numbers) for each in union
    )


def _tag_in(value: Any, kind: Any) -> Any:
    if isinstance(value, list):
        return value[0] if value and kind.tag is not None else None
    return value.get(kind.tag_field) if isinstance(value, dict) and kind.tag is not None else None


def _timedelta(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    try:
        return timedelta(seconds=value)
    except OverflowError:
        return value
