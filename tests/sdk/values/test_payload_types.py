"""Payloads as typed values, and the JSON Schema of a type."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum, IntFlag
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypedDict

import fastjsonschema
import msgspec
import pydantic
import pytest

from stackshift_jobs.errors import PayloadRefused, Usage
from stackshift_jobs.values.payload_types import check_type, convert, schema
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


@dataclass
class Shift:
    """A time and a duration."""

    begins: datetime
    lasts: timedelta


NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
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


def test_type_of_which_nothing_can_be_made_is_refused_with_its_name_and_reason() -> None:
    """Before a value is at hand: both as the type of a payload and of a result."""

    class Thing:
        pass

    class Weight(Enum):
        HEAVY = 1.5

    @dataclass
    class Unknown:
        part: Nowhere  # type: ignore[name-defined]  # noqa: F821  # as under `TYPE_CHECKING`

    for of, reason in (
        (list[Thing], "Thing has no JSON form"),
        (Thing, "Thing has no JSON form"),
        (dict[str, Weight], "all str or all int"),
        (Unknown, "NameError: name 'Nowhere' is not defined"),
        ("Side", "not supported"),
    ):
        for use in (check_type, schema, partial(convert, GOOD)):
            with pytest.raises(Usage, match="nothing can be made of JSON") as refused:
                use(of)
            assert reason in str(refused.value)


@pytest.mark.parametrize(
    ("value", "to", "path", "reason"),
    [
        ({"a": [{"width": 1}, {"width": "x"}]}, dict[str, list[SideModel]], "$[...][1].width", ""),
        ({"one": 1}, dict[int, int], "$", "a key: "),
        ([1, "x"], list[timedelta], "$[1]", "duration"),
        ([{"begins": 1}], list[Shift], "$[0].begins", "datetime"),
        ([10**30], list[timedelta], "$[0]", "duration"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_refusal_names_the_place_whoever_reads_it(
    value: Any, to: Any, path: str, reason: str
) -> None:
    """A model within a list, a key, a number that is no duration."""
    with pytest.raises(PayloadRefused) as refused:
        convert(value, to, "the result of step 'a'")
    assert refused.value.path == path
    assert str(refused.value).startswith(
        f"the result of step 'a' does not fit its type at {path}: "
    )
    assert reason in str(refused.value)


class Account(pydantic.BaseModel):
    passwords: list[pydantic.SecretStr | None]


def test_what_pydantic_writes_instead_of_a_secret_is_not_read_as_one() -> None:
    """A job got ten asterisks for a password, without a word."""
    passwords = [pydantic.SecretStr("hunter2"), None, pydantic.SecretStr("")]
    assert convert({"passwords": ["hunter2", None, ""]}, Account).passwords == passwords
    written = plain(Account(passwords=[None, pydantic.SecretStr("hunter2")]))
    with pytest.raises(PayloadRefused) as refused:
        convert(written, Account, "the payload")
    assert refused.value.path == "$.passwords[1]"
    assert "hunter2" not in str(refused.value)
    assert "use stackshift_jobs.Secret" in str(refused.value)


def test_strict_model_reads_what_it_wrote() -> None:
    """It is JSON, so a strict model takes text for a datetime."""

    class Strict(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(strict=True)
        at: datetime

    assert convert(plain(Strict(at=NOON)), Strict) == Strict(at=NOON)


def test_number_stays_a_number_in_a_union_with_durations() -> None:
    """Nothing in the JSON says which of the two it was."""
    assert convert([1.5, None], list[float | timedelta | None]) == [1.5, None]


def test_object_and_any_take_everything() -> None:
    """As type checkers have it."""
    for to in (dict[str, object], dict[str, Any]):
        assert convert(GOOD, to) == GOOD
        checker(to)(GOOD)


class Shade(Enum):
    """An enum that disregards case."""

    RED = "red"

    @classmethod
    def _missing_(cls, value: object) -> Shade | None:
        return next((each for each in cls if each.value == str(value).lower()), None)


class Access(IntFlag):
    READ = 4
    WRITE = 2


@dataclass
class Paint:
    shade: Shade
    access: Access = Access.READ


class PaintModel(pydantic.BaseModel):
    shade: Shade
    access: Access = Access.READ


def split(value: Any) -> Any:
    """What is split where it is text."""
    return value.split(",") if isinstance(value, str) else value


class Tagged(pydantic.BaseModel):
    tags: Annotated[list[str], pydantic.BeforeValidator(split)]


class Counted(pydantic.BaseModel):
    count: Annotated[int, pydantic.WrapValidator(lambda v, read: 0 if v == "none" else read(v))]


class Moved(pydantic.BaseModel):
    city: str

    @pydantic.model_validator(mode="before")
    @classmethod
    def _of_old(cls, value: Any) -> Any:
        return {"city": value["town"]} if "town" in value else value


class Called(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    user: str = pydantic.Field(
        validation_alias=pydantic.AliasChoices(
            "user", "userName", pydantic.AliasPath("account", "name")
        )
    )


class Named(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(alias_generator=str.upper, populate_by_name=True)
    user: str


class Pair(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    first: str = pydantic.Field(validation_alias=pydantic.AliasPath("pair", 0))
    second: str = pydantic.Field(validation_alias=pydantic.AliasPath("pair", 1))


@pydantic.dataclasses.dataclass
class NamedData:
    user: str = pydantic.Field(validation_alias=pydantic.AliasChoices("user", "userName"))


@dataclass
class Holder:
    held: list[Called]
    moved: Moved | None = None


@pytest.mark.parametrize(
    ("of", "value"),
    [
        (Paint, {"shade": "RED", "access": 6}),
        (PaintModel, {"shade": "RED", "access": 6}),
        (Tagged, {"tags": "a,b"}),
        (Counted, {"count": "none"}),
        (Moved, {"town": "Ulm"}),
        (Called, {"user": "ada"}),
        (Called, {"userName": "ada"}),
        (Called, {"account": {"name": "ada"}}),
        (Named, {"USER": "ada"}),
        (Named, {"user": "ada"}),
        (NamedData, {"userName": "ada"}),
        (Pair, {"pair": ["a", "b"]}),
        (Holder, {"held": [{"userName": "ada"}], "moved": {"town": "Ulm"}}),
    ],
    ids=str,
)
def test_schema_accepts_what_functions_and_names_of_the_type_read(of: Any, value: Any) -> None:
    """A payload is refused at its start only if its job could not read it."""
    convert(value, of)
    checker(of)(value)


@pytest.mark.parametrize(
    ("of", "value"),
    [(Called, {}), (Named, {"usr": "ada"}), (Pair, {}), (Called, {"user": "a", "x": 1})],
    ids=str,
)
def test_schema_of_a_field_with_several_names_needs_one_of_them(of: Any, value: Any) -> None:
    """As the model does."""
    with pytest.raises(PayloadRefused):
        convert(value, of)
    with pytest.raises(fastjsonschema.JsonSchemaValueException):
        checker(of)(value)


def test_schema_still_says_what_a_function_makes_of_a_value() -> None:
    """People read it in `jobs schema`."""
    made = schema(Tagged)
    assert made is not None
    assert made["properties"]["tags"]["anyOf"] == [
        {"items": {"type": "string"}, "type": "array"},
        {},
    ]


@pydantic.dataclasses.dataclass
class Checked:
    """Which pydantic validates, and no other reader."""

    amount: Annotated[int, pydantic.Field(gt=0)]
    user: str = pydantic.Field(default="root", alias="userName")

    @pydantic.field_validator("user")
    @classmethod
    def _lower(cls, value: str) -> str:
        return value.lower()


@dataclass
class Order:
    lines: dict[str, Checked]


@pytest.mark.parametrize(
    ("of", "wrap"),
    [
        (Checked, lambda x: x),
        (list[Checked], lambda x: [x]),
        (Order, lambda x: {"lines": {"a": x}}),
    ],
    ids=["itself", "list", "dataclass"],
)
def test_dataclass_of_pydantic_is_read_by_pydantic(of: Any, wrap: Any) -> None:
    """With its validators, also as a part of another type; and its schema takes what is written."""
    made = convert(wrap({"amount": 3, "userName": "ADA"}), of)
    assert "user='ada'" in repr(made)
    written = plain(made)
    checker(of)(written)
    assert convert(written, of) == made
    with pytest.raises(PayloadRefused, match=r"amount.*greater than 0"):
        convert(wrap({"amount": 0}), of)


@dataclass
class Sale:
    """An ordinary dataclass, annotated for pydantic."""

    amount: Annotated[int, pydantic.Field(gt=0)]
    name: Annotated[str, pydantic.AfterValidator(str.lower)] = ""
    lasts: timedelta = timedelta(0)
    count: pydantic.PositiveInt = 1


@pytest.mark.parametrize("of", [Sale, list[Sale], Sale | None], ids=str)
def test_annotation_for_pydantic_is_not_passed_over(of: Any) -> None:
    """What it asks for is checked, and an ordinary dataclass still allows no other fields."""

    def made(**fields: Any) -> Any:
        return [fields] if of == list[Sale] else fields

    sale = convert(made(amount=3, name="ADA", lasts=1.5), of)
    assert "name='ada'" in repr(sale)
    written = plain(sale)
    checker(of)(written)
    assert convert(written, of) == sale
    for wrong in ({"amount": 0}, {"amount": 3, "count": 0}):
        with pytest.raises(PayloadRefused, match="greater than 0"):
            convert(made(**wrong), of)
    with pytest.raises(fastjsonschema.JsonSchemaValueException):
        checker(of)(made(amount=3, nmae="ada"))


class Weight(msgspec.Struct):
    """What pydantic cannot read, annotated for it."""

    grams: Annotated[int, pydantic.Field(gt=0)]


class Parcel(TypedDict):
    """The same, of Python's own before 3.12."""

    grams: Annotated[int, pydantic.Field(gt=0)]


@pytest.mark.parametrize("of", [Weight] if sys.version_info >= (3, 12) else [Weight, Parcel])
def test_annotation_for_pydantic_that_it_cannot_read_is_refused(of: Any) -> None:
    """Nobody else would check what it asks for."""
    for make in (check_type, schema):
        with pytest.raises(Usage, match=r"nothing can be made of JSON as the type \w+: Pydantic"):
            make(of)


def test_path_is_read_from_its_text_alone() -> None:
    """A file that a step has written, by the name that it has."""
    assert convert({"at": "/srv/a"}, dict[str, Path]) == {"at": Path("/srv/a")}
    assert schema(list[Path]) == {"type": "array", "items": {"type": "string"}}
    with pytest.raises(PayloadRefused, match=r"\$\[0\]: must be the text of a path"):
        convert([3], list[Path])


@dataclass
class Positive:
    """A class that refuses a value itself."""

    number: int

    def __post_init__(self) -> None:
        if self.number < 1:
            raise ValueError("too small")


@pytest.mark.parametrize("what", ["", "the result of step 'count'"])
def test_cause_of_a_refusal_is_an_error_of_the_jobs_own_code(what: str) -> None:
    """It has a traceback that helps. What the library says would only be the same once more."""
    with pytest.raises(PayloadRefused) as refused:
        convert({"number": "three"}, Positive, what)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__
    with pytest.raises(PayloadRefused, match="too small") as refused:
        convert({"number": 0}, Positive, what)
    assert isinstance(refused.value.__cause__, ValueError)
    assert not isinstance(refused.value.__cause__, msgspec.ValidationError)
