"""What is said of a payload that does not fit its job's type."""

from __future__ import annotations

from typing import Any

import fastjsonschema
import pytest

from stackshiftd.shell.payload_refusal import refusal

ORDER = {
    "type": "object",
    "properties": {"items": {"type": "array"}, "customer": {}, "size": {"enum": ["S", "L", 3]}},
    "required": ["items", "customer"],
    "additionalProperties": False,
}
OPEN = ORDER | {"additionalProperties": True}


def why(schema: dict[str, Any], value: Any) -> tuple[str, str]:
    """The path and the reason for which `value` does not fit `schema`."""
    with pytest.raises(fastjsonschema.JsonSchemaValueException) as refused:
        fastjsonschema.compile(schema, use_default=False)(value)
    return refusal(refused.value, schema)


@pytest.mark.parametrize(
    ("schema", "value", "reason"),
    [
        (ORDER, {}, "'items' and 'customer' are missing"),
        (ORDER, {"items": []}, "'customer' is missing"),
        (
            ORDER,
            {"itms": [], "customer": 1},
            "'items' is missing; 'itms' is not a field: did you mean 'items'?",
        ),
        (ORDER, {"x": 1, "customer": 1}, "'items' is missing; 'x' is not a field"),
        (
            OPEN,
            {"itms": [], "custmer": 1, "x": 1},
            "'items' and 'customer' are missing; 'custmer' and 'itms' are not fields:"
            " did you mean 'customer' and 'items'?",
        ),
        (OPEN, {"x": [], "customer": 1}, "'items' is missing"),
    ],
)
def test_missing_fields_are_named_with_what_stands_in_their_place(
    schema: dict[str, Any], value: Any, reason: str
) -> None:
    """What is not a field is named where no others are allowed, else if it is a misspelling."""
    assert why(schema, value) == ("$", reason)


def test_values_are_shown_as_json() -> None:
    """Not as Python writes them."""
    order: dict[str, Any] = {"items": [], "customer": None}
    assert why(ORDER, order | {"size": "M"}) == ("$.size", 'must be one of "S", "L", 3')
    assert why({"items": {"const": True}}, [False]) == ("$[0]", "must be true")
    none = why({"anyOf": [{"type": "boolean"}, {"type": "string"}]}, 1)
    assert none == ("$", "is none of what it may be")


def test_field_that_is_none_is_refused_with_those_that_are() -> None:
    """The path names it."""
    reason = "not a field of the payload; its fields: customer, items, size"
    assert why(ORDER, {"items": [], "customer": 1, "a": 2}) == ("$.a", reason)


def test_names_are_bounded() -> None:
    """A payload may have any number of fields."""
    value = {f"f{number}": 1 for number in range(1000)}
    _, reason = why(ORDER, value)
    assert reason.endswith("'f101' and 995 more are not fields")


SHAPE: dict[str, Any] = {
    "type": "object",
    "properties": {"side": {"type": "integer"}, "kind": {"const": "square"}},
    "required": ["side", "kind"],
}
NAMED = {"anyOf": [{"required": ["number"]}, {"required": ["No"]}]}
SHAPES: dict[str, Any] = {
    "properties": {
        "maybe": {"anyOf": [{"$ref": "#/$defs/Square"}, {"type": "null"}]},
        "one": {
            "oneOf": [{"$ref": "#/$defs/Square"}, {"type": "null"}, {"type": "boolean"}],
            "discriminator": {
                "propertyName": "kind",
                "mapping": {"square": "#/$defs/Square", "cube": "#/$defs/Square"},
            },
        },
        "named": {"allOf": [NAMED], "properties": {"number": {}, "No": {}}},
        "closed": {
            "allOf": [{"anyOf": [{"required": ["sku"]}, {"required": ["code"]}]}],
            "properties": {"sku": {}, "code": {}, "size": {}},
            "additionalProperties": False,
        },
    },
    "$defs": {"Square": SHAPE},
}


@pytest.mark.parametrize(
    ("value", "path", "reason"),
    [
        ({"maybe": {"side": "3", "kind": "square"}}, "$.maybe.side", "must be integer"),
        ({"maybe": {"side": 3}}, "$.maybe", "'kind' is missing"),
        ({"maybe": 3}, "$.maybe", "must be object"),
        ({"one": {"side": "3", "kind": "square"}}, "$.one.side", "must be integer"),
        ({"one": {"side": 3}}, "$.one", """'kind' is missing: one of "square", "cube\""""),
        ({"one": {"kind": "ball"}}, "$.one", """'kind' must be one of "square", "cube\""""),
        ({"one": 3}, "$.one", "is none of what it may be"),
        ({"named": {}}, "$.named", "'number' or 'No' is missing"),
        ({"named": {"x": 1}}, "$.named", "'number' or 'No' is missing"),
        (
            {"named": {"numbr": 1}},
            "$.named",
            "'number' or 'No' is missing; 'numbr' is not a field: did you mean 'number'?",
        ),
        (
            {"closed": {"size": 1, "skU": 1, "x": 2}},
            "$.closed",
            "'sku' or 'code' is missing; 'skU' and 'x' are not fields: did you mean 'sku'?",
        ),
    ],
)
def test_part_that_does_not_fit_is_named_within_what_was_meant(
    value: dict[str, Any], path: str, reason: str
) -> None:
    """Where a value may be one of several, the field that tells them apart says which."""
    assert why(SHAPES, value) == (path, reason)
