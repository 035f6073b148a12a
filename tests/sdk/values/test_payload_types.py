"""Payloads as typed values, and the JSON Schema of a type."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypedDict

import fastjsonschema
import msgspec
import pydantic
import pytest

from stackshift_jobs.errors import PayloadRefused
from stackshift_jobs.values.payload_types import convert, schema
from stackshift_jobs.values.strict_json import plain


@dataclass
class Side:
    """The part of a payload, as a dataclass."""

    width: int


@dataclass
class AsDataclass:
    """A payload as a dataclass, with a default."""

    image: str
    sizes: list[Side]
    at: datetime | None = None


class SideDict(TypedDict):
    """The part of a payload, as a TypedDict."""

    width: int


class AsTypedDict(TypedDict):
    """A payload as a TypedDict."""

    image: str
    sizes: list[SideDict]


class SideStruct(msgspec.Struct):
    """The part of a payload, as a msgspec.Struct."""

    width: int


class AsStruct(msgspec.Struct):
    """A payload as a msgspec.Struct."""

    image: str
    sizes: list[SideStruct]


class SideModel(pydantic.BaseModel):
    """The part of a payload, as a pydantic model."""

    width: int


class AsModel(pydantic.BaseModel):
    """A payload as a pydantic model."""

    image: str
    sizes: list[SideModel]


TYPES = [AsDataclass, AsTypedDict, AsStruct, AsModel]
GOOD = {"image": "img_1", "sizes": [{"width": 64}]}
BAD: list[tuple[Any, str]] = [
    ({"image": "img_1", "sizes": [{"width": 64}, {"width": "wide"}]}, "$.sizes[1].width"),
    ({"image": 7, "sizes": []}, "$.image"),
    ({"image": "img_1", "sizes": {}}, "$.sizes"),
]


def checker(of: Any) -> Any:
    """What refuses a value that the schema of the type `of` does not take."""
    made = schema(of)
    assert made is not None
    return fastjsonschema.compile(made, use_default=False)


@pytest.mark.parametrize("to", TYPES)
def test_payload_becomes_the_type_and_is_encoded_back(to: Any) -> None:
    """Nothing is lost in either direction."""
    made = convert(GOOD, to)
    if to is AsTypedDict:
        assert made == GOOD
    else:
        assert isinstance(made, to)
        assert made.sizes[0].width == 64
    back = plain(made)
    assert {name: back[name] for name in GOOD} == GOOD


@pytest.mark.parametrize("to", TYPES)
@pytest.mark.parametrize(("value", "path"), BAD)
def test_payload_that_does_not_fit_is_refused_with_its_place(
    to: Any, value: Any, path: str
) -> None:
    """The place is a JSON path, whichever library checks."""
    with pytest.raises(PayloadRefused) as refused:
        convert(value, to)
    assert refused.value.path == path


@pytest.mark.parametrize("to", TYPES)
def test_missing_field_is_refused(to: Any) -> None:
    """The error names the field."""
    with pytest.raises(PayloadRefused) as refused:
        convert({"image": "img_1"}, to)
    assert "sizes" in str(refused.value) + refused.value.path


@pytest.mark.parametrize("to", TYPES)
def test_schema_says_what_the_type_says(to: Any) -> None:
    """The daemon checks payloads with it and knows nothing of Python types."""
    check = checker(to)
    check(GOOD)
    for value, _ in (*BAD, ({"image": "img_1"}, "")):
        with pytest.raises(fastjsonschema.JsonSchemaValueException):
            check(value)


@pytest.mark.parametrize(
    ("to", "value"),
    [
        (AsDataclass, GOOD | {"colour": 1}),
        (AsDataclass, {"image": "img_1", "sizes": [{"width": 64, "height": 1}]}),
        (AsTypedDict, GOOD | {"colour": 1}),
        (list[Side] | None, [{"width": 64, "height": 1}]),
        (dict[str, AsTypedDict], {"a": {"image": "i", "sizes": [{"width": 1, "x": 1}]}}),
    ],
)
def test_schema_of_a_dataclass_or_typed_dict_allows_no_other_fields(to: Any, value: Any) -> None:
    """At any depth, so that a misspelt field is not dropped silently."""
    with pytest.raises(fastjsonschema.JsonSchemaValueException):
        checker(to)(value)


def test_struct_decides_itself_whether_it_allows_other_fields() -> None:
    """It does so with msgspec's own setting, which its users know."""

    class Closed(msgspec.Struct, forbid_unknown_fields=True):
        image: str

    checker(AsStruct)(GOOD | {"colour": 1})
    with pytest.raises(fastjsonschema.JsonSchemaValueException):
        checker(Closed)({"image": "i", "colour": 1})


@pytest.mark.parametrize("to", [None, Any])
def test_no_type_leaves_the_value_as_it_is(to: Any) -> None:
    """Then there is no schema either."""
    assert convert(GOOD, to) is GOOD
    assert schema(to) is None
