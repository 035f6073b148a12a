"""The JSON form of what JSON lacks, and what is said of a value that has none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import numpy
import pydantic
import pytest

from stackshift_jobs.errors import PayloadRefused
from stackshift_jobs.values.payload_types import convert
from stackshift_jobs.values.strict_json import dumps, plain


@dataclass
class Part:
    """A dataclass with a field that may be absent."""

    size: int
    colour: str | msgspec.UnsetType = msgspec.UNSET


class Size(IntEnum):
    SMALL = 1


class Pair(Enum):
    BOTH = (1, "a")


class Aliased(pydantic.BaseModel):
    long_name: int = pydantic.Field(alias="longName")


class Tagged(msgspec.Struct, tag="t", tag_field="kind", rename="camel"):
    long_name: int


class Row(msgspec.Struct, array_like=True, tag="row"):
    size: int


ID = "12345678-1234-5678-1234-567812345678"


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (timedelta(minutes=1, microseconds=1), 60.000001),
        (datetime.fromisoformat("2026-01-05T08:00:00"), "2026-01-05T08:00:00"),
        (date(2026, 1, 5), "2026-01-05"),
        (time(8, 30), "08:30:00"),
        (Decimal("1.10"), "1.10"),
        (UUID(ID), ID),
        (Size.SMALL, 1),
        (Pair.BOTH, [1, "a"]),
        (Part(1), {"size": 1}),
        (Part(1, "red"), {"size": 1, "colour": "red"}),
        (Aliased(longName=1), {"longName": 1}),
        (Tagged(1), {"kind": "t", "longName": 1}),
        (Row(1), ["row", 1]),
        ({Size.SMALL: "a", None: "b", False: "c"}, {"1": "a", "null": "b", "false": "c"}),
    ],
    ids=str,
)
def test_value_has_its_json_form(value: Any, form: Any) -> None:
    """Alone and within lists and dicts."""
    assert plain(value) == form
    assert plain({"deep": [value, (value,)]}) == {"deep": [form, [form]]}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (numpy.float32(1.5), b"1.5"),
        (numpy.float64(2.5), b"2.5"),
        (numpy.int64(-3), b"-3"),
        (numpy.uint8(3), b"3"),
        (numpy.bool_(True), b"true"),
        ({numpy.int64(3): numpy.bool_(False)}, b'{"3":false}'),
    ],
    ids=repr,
)
def test_numpy_scalar_is_a_number_or_a_boolean(value: Any, text: bytes) -> None:
    """As which of numpy's many types it was computed is lost."""
    assert dumps(value) == text


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (numpy.float32("nan"), "nan is not a JSON number"),
        (numpy.array([1]), "JSON cannot represent a ndarray"),
        (numpy.datetime64("2026-01-05"), "JSON cannot represent a datetime64"),
        (numpy.longdouble(1), "JSON cannot represent a longdouble"),
        ({numpy.float32(1): 1}, "is a float32, not text"),
    ],
    ids=repr,
)
def test_what_numpy_has_and_json_lacks_is_refused(value: Any, reason: str) -> None:
    """With its place, as everything that JSON cannot hold."""
    with pytest.raises(PayloadRefused, match=reason):
        dumps([value])


class Located:
    """What has a path, as the entries of `os.scandir` do."""

    def __fspath__(self) -> str:
        return "/srv"

    def __repr__(self) -> str:
        return "Located()"  # Without an address, so that each process gives the test one name.


@pytest.mark.parametrize(
    ("value", "instead"),
    [
        ({1}, "a set: make a list of it"),
        (range(3), "a range: make a list of it"),
        (MappingProxyType({"a": 1}), "a mappingproxy: make a dict of it"),
        (Located(), "a Located: make text of it, str(...)"),
        (b"x", "a bytes: make text of it, or keep it in a file and hand on where that is"),
        (..., "an ellipsis"),
        (list, "a type"),
    ],
    ids=repr,
)
def test_what_json_lacks_is_refused_with_what_to_do(value: Any, instead: str) -> None:
    """If there is anything that is usually meant."""
    with pytest.raises(PayloadRefused) as refused:
        dumps({"a": value})
    assert str(refused.value) == f"at $.a: JSON cannot represent {instead}"


def test_offset_with_seconds_is_written_as_the_same_moment_in_utc() -> None:
    """RFC 3339 has no such offset, and Amsterdam had one until 1937."""
    old = datetime(1930, 6, 1, 12, tzinfo=ZoneInfo("Europe/Amsterdam"))
    assert old.utcoffset() == timedelta(hours=1, minutes=19, seconds=32)
    assert plain(old) == "1930-06-01T10:40:28+00:00"
    assert convert(plain(old), datetime) == old


async def coroutine() -> int:
    return 1


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (coroutine, "the coroutine coroutine, .* was called and not awaited"),
        (generator, "the generator generator, .* return list"),
        (async_generator, "the async generator async_generator, .* async for"),
    ],
)
def test_what_is_not_a_value_yet_is_named(make: Callable[[], Any], words: str) -> None:
    """A forgotten `await`, or a `yield`: the message says which, and what to do."""
    value = make()
    with pytest.raises(PayloadRefused, match=words) as refused:
        plain({"a": [value]})
    assert refused.value.path == "$.a[0]"
    if hasattr(value, "close"):
        value.close()
