"""The JSON Schema of pydantic models that accepts whatever they read.

Pydantic describes what a model holds. A model may read more: what functions of the project's make
of a value before pydantic looks at it, a field under any of several names, and the members that an
enum finds by itself. A payload that its job can read must not be refused before the job sees it; so
here the schema leaves such parts to the model, which is asked in the worker.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from stackshift_jobs.values.json_schema import finds_others


@lru_cache(1)
def schema_generator() -> Any:
    """The class that pydantic makes schemas with, made once pydantic is needed."""
    from pydantic.json_schema import GenerateJsonSchema

    class Reading(GenerateJsonSchema):
        def function_before_schema(self, schema: Any) -> Any:
            return _or_anything(schema, super().function_before_schema(schema))

        def function_wrap_schema(self, schema: Any) -> Any:
            return _or_anything(schema, super().function_wrap_schema(schema))

        def enum_schema(self, schema: Any) -> Any:
            made = super().enum_schema(schema)
            return {"examples": made["enum"]} if finds_others(schema["cls"]) else made

        def model_schema(self, schema: Any) -> Any:
            fields, config = schema["cls"].model_fields, schema["cls"].model_config
            by_name = bool(config.get("populate_by_name") or config.get("validate_by_name"))
            return _by_all_names(super().model_schema(schema), fields, by_name)

        def dataclass_schema(self, schema: Any) -> Any:
            made = super().dataclass_schema(schema)
            fields = getattr(schema["cls"], "__pydantic_fields__", None)
            if fields is None:  # An ordinary one.
                return made | {"additionalProperties": False}
            return _by_all_names(made, fields, by_name=True)  # By them, it is written.

    return Reading


def _or_anything(schema: Any, made: Any) -> Any:
    """What a function makes of a value is known to the function alone, unless it says what it takes
    (`json_schema_input_type`). What it makes of it still stands in the schema, for people."""
    return made if "json_schema_input_schema" in schema else {"anyOf": [made, {}]}


def _by_all_names(made: Any, fields: dict[str, Any], by_name: bool) -> Any:
    """The schema `made` of an object, with each of the names by which a field may come."""
    properties = made.get("properties", {})
    required = made.get("required", [])
    chosen = set(properties)  # By pydantic: one name of each field.
    alternatives = []
    for name, field in fields.items():
        members = _members(name, field, by_name)
        known = next((each for each in (*members, name) if each in chosen), None)
        if known is None or list(members) == [known]:
            continue
        field_schema = properties[known] if known in members else properties.pop(known)
        for member, is_field in members.items():
            properties.setdefault(member, field_schema if is_field else {})
        if known in required:
            required.remove(known)
            alternatives.append({"anyOf": [{"required": [member]} for member in members]})
    if alternatives:
        made["allOf"] = alternatives
    if not required:
        made.pop("required", None)
    return made


def _members(name: str, field: Any, by_name: bool) -> dict[str, bool]:
    """The members of an object in which a field is looked for. Is each the field itself, or does a
    path lead from it to the field?"""
    read = field.validation_alias or field.alias or name
    members: dict[str, bool] = {}
    for each in [*getattr(read, "choices", [read]), *([name] if by_name else [])]:
        path = [each] if isinstance(each, str) else each.path
        members[path[0]] = members.get(path[0], False) or len(path) == 1
    return members
