"""Classes of attrs are written as dataclasses are, and read back."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import fastjsonschema
import pytest

from stackshift_jobs.errors import PayloadRefused
from stackshift_jobs.values.json_schema import FORMATS
from stackshift_jobs.values.payload_types import convert, schema
from stackshift_jobs.values.strict_json import plain

attrs: Any = pytest.importorskip("attrs")


@attrs.define
class Shift:
    lasts: timedelta
    hours: list[int] = attrs.field(factory=list, validator=attrs.validators.max_len(2))
    _breaks: int = 1
    kind: str = attrs.field(init=False, default="day")


@attrs.frozen(kw_only=True)
class Week(Shift):
    shifts: dict[str, Shift | None]


# To a type checker that does not know attrs, the classes take no arguments.
shift: Any = Shift
week: Any = Week
WEEK = week(
    lasts=timedelta(days=5),
    shifts={"monday": shift(timedelta(hours=8), [8], breaks=2), "sunday": None},
)


def test_class_of_attrs_is_read_back_as_it_was_written() -> None:
    """Whole, with what it inherits and the classes in it; and a start would accept it."""
    written = plain(WEEK)
    monday = {"lasts": 28800.0, "hours": [8], "_breaks": 2, "kind": "day"}
    assert written["shifts"] == {"monday": monday, "sunday": None}
    assert convert(written, Week) == WEEK
    assert convert([written], list[Week]) == [WEEK]
    made = schema(Week)
    assert made is not None
    fastjsonschema.compile(made, use_default=False, formats=FORMATS)(written)


def test_validator_of_attrs_refuses_a_value() -> None:
    """As it does where the class is called."""
    with pytest.raises(PayloadRefused, match="Length of 'hours' must be <= 2"):
        convert({"lasts": 1, "hours": [1, 2, 3]}, Shift)
