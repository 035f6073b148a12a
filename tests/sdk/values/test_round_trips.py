"""What is written as a type is read back as it, at any depth, and its schema accepts it.

A table of types and nestings; Hypothesis makes the values.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar
from uuid import UUID

import fastjsonschema
import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stackshift_jobs.values.json_schema import FORMATS
from stackshift_jobs.values.payload_types import convert, schema
from stackshift_jobs.values.strict_json import dumps

T = TypeVar("T")


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Size(IntEnum):
    SMALL = 1
    LARGE = 2


class Kind(StrEnum):
    CAT = "cat"


@dataclass(frozen=True)
class Shift:
    begins: datetime
    lasts: timedelta
    note: str | None = None


class Line(pydantic.BaseModel):
    sku: str = pydantic.Field(alias="stockKeepingUnit")
    lasts: timedelta
    begins: datetime
    opens: time
    price: Decimal
    pair: tuple[int, str]


class Leg(TypedDict):
    lasts: timedelta
    line: NotRequired[Line]


class Point(NamedTuple):
    at: time
    lasts: timedelta = timedelta()


class Parcel(msgspec.Struct, rename="camel"):
    sent_on: date
    takes_long: timedelta
    line: Line | None = None


class Circle(msgspec.Struct, tag=True):
    lasts: timedelta


class Square(msgspec.Struct, tag=True):
    side: int


class Row(msgspec.Struct, array_like=True, tag="row"):
    lasts: timedelta
    shift: Shift


class Cat(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"
    sleeps: timedelta


class Dog(pydantic.BaseModel):
    kind: Literal["dog"] = "dog"
    barks: int


@dataclass(frozen=True)
class Owner:
    """What msgspec does not read: a union of models."""

    pet: Cat | Dog
    since: timedelta


class Area(pydantic.BaseModel, extra="forbid"):
    """What would refuse the field that it computes."""

    side: int

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def area(self) -> int:
        return self.side**2


@pydantic.dataclasses.dataclass
class Ruled:
    """A dataclass that pydantic reads."""

    lasts: timedelta
    price: Decimal
    lines: list[Line]
    note: str = pydantic.Field(default="", alias="remark")


class Plan(pydantic.BaseModel):
    areas: dict[str, list[Area]]
    notes: pydantic.Json[list[int]]
    made_by: str = pydantic.Field("", validation_alias=pydantic.AliasChoices("madeBy", "author"))


class Renamed(pydantic.BaseModel):
    """Whose fields are read by other names than they are written by."""

    one: int = pydantic.Field(serialization_alias="first")
    two: int = pydantic.Field(validation_alias="zwei", serialization_alias="second")
    three: int = pydantic.Field(
        validation_alias=pydantic.AliasChoices("drei", "tres"), serialization_alias="tres"
    )


class Ids(pydantic.RootModel[list[Renamed]]):
    pass


class Nest(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(alias_generator=lambda name: name.upper())
    by_name: dict[str, Renamed]
    listed: list[tuple[int, Renamed]]
    ids: Ids
    other: Renamed | None = None


class Page(pydantic.BaseModel, Generic[T]):
    items: list[T]


@dataclass(frozen=True)
class Box(Generic[T]):
    content: T
    more: list[Box[T]]


# A number of seconds holds microseconds exactly for a hundred years.
durations = st.timedeltas(timedelta(days=-36_500), timedelta(days=36_500))
offsets = st.integers(-23 * 60, 23 * 60).map(lambda m: timezone(timedelta(minutes=m)))
moments = st.datetimes(timezones=st.none() | offsets)
prices = st.decimals(0, 10**6, places=2)
shifts = st.builds(Shift, moments, durations, st.none() | st.text(max_size=5))
lines = st.builds(
    Line,
    stockKeepingUnit=st.text(max_size=5),
    lasts=durations,
    begins=moments,
    opens=st.times(),
    price=prices,
    pair=st.tuples(st.integers(-9, 9), st.text(max_size=3)),
)
renamed = st.builds(Renamed, one=st.integers(0, 9), zwei=st.just(2), drei=st.just(3))
sleepers = st.builds(Cat, sleeps=durations)
LEAVES: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "timedelta": (timedelta, durations),
    "datetime": (datetime, moments),
    "date": (date, st.dates()),
    "time": (time, st.times()),
    "decimal": (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    "uuid": (UUID, st.uuids()),
    "path": (Path, st.text("a/.é ").map(Path)),
    "enum": (Colour, st.sampled_from(Colour)),
    "int enum": (Size, st.sampled_from(Size)),
    "str enum": (Kind, st.sampled_from(Kind)),
    "float": (float, st.floats(allow_nan=False, allow_infinity=False)),
    "int": (int, st.integers(-(2**63), 2**63 - 1)),
    "dataclass": (Shift, shifts),
    "model": (Line, lines),
    "typed dict": (
        Leg,
        st.fixed_dictionaries({"lasts": durations}, optional={"line": lines}),
    ),
    "named tuple": (Point, st.builds(Point, st.times(), durations)),
    "struct": (Parcel, st.builds(Parcel, st.dates(), durations, st.none() | lines)),
    "tagged structs": (
        Circle | Square,
        st.builds(Circle, durations) | st.builds(Square, st.integers(0, 9)),
    ),
    "array-like struct": (Row, st.builds(Row, durations, shifts)),
    "models": (Cat | Dog, sleepers | st.builds(Dog, barks=st.integers())),
    "models in a dataclass": (
        Owner,
        st.builds(Owner, st.builds(Dog, barks=st.integers()), durations),
    ),
    "dataclass of pydantic": (
        Ruled,
        st.builds(
            Ruled,
            durations,
            prices,
            st.lists(lines, max_size=1),
            remark=st.text(max_size=3),
        ),
    ),
    "computed field": (Area, st.builds(Area, side=st.integers(0, 9))),
    "models that write otherwise": (
        Plan,
        st.builds(
            Plan,
            areas=st.dictionaries(
                st.text(max_size=2), st.lists(st.builds(Area, side=st.integers(0, 9)), max_size=2)
            ),
            notes=st.lists(st.integers(-9, 9), max_size=2).map(json.dumps),
            madeBy=st.text(max_size=3),
        ),
    ),
    "other names": (Renamed, renamed),
    "other names within": (
        Nest,
        st.builds(
            Nest,
            BY_NAME=st.dictionaries(st.text(max_size=2), renamed, max_size=2),
            LISTED=st.lists(st.tuples(st.integers(0, 9), renamed), max_size=2),
            IDS=st.lists(renamed, max_size=2).map(Ids),
            OTHER=st.none() | renamed,
        ),
    ),
    "generic model": (Page[Cat], st.builds(Page[Cat], items=st.lists(sleepers, max_size=2))),
    "int keys": (
        dict[int, str],
        st.dictionaries(st.integers(-9, 9), st.text(max_size=3), max_size=2),
    ),
    "uuid keys": (dict[UUID, int], st.dictionaries(st.uuids(), st.integers(0, 9), max_size=2)),
    "date keys": (dict[date, int], st.dictionaries(st.dates(), st.integers(0, 9), max_size=2)),
    "time keys": (dict[datetime, int], st.dictionaries(moments, st.integers(0, 9), max_size=2)),
    "price keys": (dict[Decimal, int], st.dictionaries(prices, st.integers(0, 9), max_size=2)),
    "enum keys": (dict[Size, timedelta], st.dictionaries(st.sampled_from(Size), durations)),
    "generic": (
        Box[timedelta],
        st.builds(Box, durations, st.lists(st.builds(Box, durations, st.just([])), max_size=2)),
    ),
}
# To a type checker, a type that is made of a variable is none.
a_list: Any = list
a_dict: Any = dict
a_tuple: Any = tuple
a_box: Any = Box
NESTINGS: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    "alone": lambda of, values: (of, values),
    "list": lambda of, values: (a_list[of], st.lists(values, max_size=2)),
    "optional": lambda of, values: (of | None, st.none() | values),
    "dict": lambda of, values: (
        a_dict[str, of],
        st.dictionaries(st.text(max_size=2), values, max_size=2),
    ),
    "int dict": lambda of, values: (
        a_dict[int, of],
        st.dictionaries(st.integers(0, 9), values, max_size=2),
    ),
    "tuple": lambda of, values: (a_tuple[of, int], st.tuples(values, st.integers(0, 9))),
    "box": lambda of, values: (a_box[of], st.builds(Box, values, st.just([]))),
    "deep": lambda of, values: (
        a_dict[str, a_list[of | None]],
        st.dictionaries(st.text(max_size=2), st.lists(st.none() | values, max_size=2), max_size=2),
    ),
}


@pytest.mark.parametrize("nesting", NESTINGS)
@pytest.mark.parametrize("leaf", LEAVES)
@settings(max_examples=200 if os.environ.get("STACKSHIFT_LONG") == "1" else 12)
@given(data=st.data())
def test_value_is_read_back_as_it_was_written(leaf: str, nesting: str, data: Any) -> None:
    """The same value of the same type, by way of JSON text; and a start would accept it."""
    of, values = NESTINGS[nesting](*LEAVES[leaf])
    value = data.draw(values)
    written = json.loads(dumps(value))
    back = convert(written, of)
    assert back == value
    assert type(back) is type(value)
    accepts(f"{leaf}/{nesting}", of)(written)


compiled: dict[str, Callable[[Any], Any]] = {}


def accepts(case: str, of: Any) -> Callable[[Any], Any]:
    """What raises for a value that the schema of `of` refuses, made once for each case, since to
    compile a schema takes longer than all else here."""
    if case not in compiled:
        made = schema(of)
        assert made is not None
        compiled[case] = fastjsonschema.compile(made, use_default=False, formats=FORMATS)
    return compiled[case]
