"""Why a payload does not fit the JSON Schema of its job, in words for whoever has written it.

The schema's checker knows rules; people know fields. So what a field is called instead, where it is
missing, and what may stand in its place, is said here, and values are shown as JSON.
"""

from __future__ import annotations

import difflib
import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from stackshift_jobs.values.json_schema import FORMATS, nodes

if TYPE_CHECKING:
    import fastjsonschema

_MOST_NAMED: Final = 5
"""So many fields of a kind are named; a payload may have any number."""
_SECRET: Final = 'a secret is given by reference: {"$env": "NAME"} or {"$file": "path"}'


class Refusal(NamedTuple):
    """The JSON path of the value that does not fit, and why it does not."""

    path: str
    why: str


def refusal(bad: fastjsonschema.JsonSchemaValueException, schema: dict[str, Any]) -> Refusal:
    """What the checker's error `bad` means; `schema` is the whole one that it was found with."""
    path = "$" + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in bad.path[1:])
    why = bad.message.removeprefix(bad.name or "").strip()
    definition = bad.definition if isinstance(bad.definition, dict) else {}
    if bad.rule == "required":
        why = _missing(bad.value, definition)
    elif bad.rule == "additionalProperties" and bad.rule_definition is False:
        own = sorted(definition.get("properties", ()))
        path += "." + min(bad.value.keys() - set(own))
        why = "not a field of the payload; its fields: " + (", ".join(own) or "none")
    elif bad.rule == "enum":
        why = "must be one of " + ", ".join(map(_shown, bad.rule_definition))
    elif bad.rule == "const":
        why = f"must be {_shown(bad.rule_definition)}"
    elif bad.rule == "anyOf" and all(each.keys() == {"required"} for each in bad.rule_definition):
        names = [each["required"][0] for each in bad.rule_definition]
        why = f"{_names(names, 'or')} is missing"
        why += _in_their_place(bad.value, names, _whole_of(definition, schema))
    elif bad.rule in ("anyOf", "oneOf"):
        meant = _meant(bad.rule_definition, definition.get("discriminator", {}), bad.value)
        if meant is not None and (inner := _refused_by(meant, bad.value, schema)) is not None:
            return Refusal(path + inner.path.removeprefix("$"), inner.why)
        why = _none_of(definition.get("discriminator", {}), bad.value)
    if definition.get("title") == "Secret":
        why = _SECRET
    return Refusal(path, why)


def _meant(options: list[Any], discriminator: dict[str, Any], value: Any) -> Any:
    """The one of several schemas that whoever wrote `value` had in mind; None if that is not
    known. One is named by the field that tells them apart, or stands beside `null` alone."""
    if discriminator and isinstance(value, dict):
        tag = value.get(discriminator["propertyName"])
        reference = discriminator.get("mapping", {}).get(tag if isinstance(tag, str) else str(tag))
        return reference and {"$ref": reference}
    others = [each for each in options if each.get("type") != "null"]
    return others[0] if len(others) == 1 and value is not None else None


def _refused_by(part: dict[str, Any], value: Any, schema: dict[str, Any]) -> Refusal | None:
    """Why a part of the schema does not take the value; None if it does."""
    import fastjsonschema

    check = fastjsonschema.compile(
        part | {"$defs": schema.get("$defs", {})}, use_default=False, formats=FORMATS
    )
    try:
        check(value)
    except fastjsonschema.JsonSchemaValueException as bad:
        return refusal(bad, schema)
    return None


def _none_of(discriminator: dict[str, Any], value: Any) -> str:
    """Why `value` is none of several: the field that tells them apart is missing, or names none."""
    if discriminator and isinstance(value, dict):
        name = discriminator["propertyName"]
        tags = ", ".join(map(_shown, discriminator.get("mapping", {})))
        if name not in value:
            return f"{name!r} is missing: one of {tags}"
        return f"{name!r} must be one of {tags}"
    return "is none of what it may be"


def _missing(value: dict[str, Any], definition: dict[str, Any]) -> str:
    """Which fields are missing in `value`, and which are there in their place."""
    missing = [name for name in definition["required"] if name not in value]
    why = f"{_names(missing)} {'is' if len(missing) == 1 else 'are'} missing"
    return why + _in_their_place(value, missing, definition)


def _whole_of(alternatives: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The part of `schema` that describes the object of which `alternatives` are the names that a
    field may have; without one, an object that may have any fields."""
    return next((each for each in nodes(schema) if alternatives in each.get("allOf", ())), {})


def _in_their_place(value: dict[str, Any], missing: list[str], definition: dict[str, Any]) -> str:
    """What `value` has in the place of the `missing` fields: any that is not a field, or, where
    others are allowed, one that is spelled like a missing one. Empty if it has none."""
    others = sorted(value.keys() - set(definition.get("properties", ())))
    alike = {name: near for name in others if (near := difflib.get_close_matches(name, missing, 1))}
    if definition.get("additionalProperties") is not False:
        others = list(alike)
    if not others:
        return ""
    why = f"; {_names(others)} {'is not a field' if len(others) == 1 else 'are not fields'}"
    meant = list(dict.fromkeys(near[0] for near in alike.values()))
    return f"{why}: did you mean {_names(meant)}?" if meant else why


def _names(names: list[str], conjunction: str = "and") -> str:
    shown = [repr(name) for name in names[:_MOST_NAMED]]
    more = [f"{len(names) - len(shown)} more"] if len(names) > len(shown) else []
    *first, last = [*shown, *more]
    return f"{', '.join(first)} {conjunction} {last}" if first else last


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
