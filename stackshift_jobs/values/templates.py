"""Templates over a payload: `customer:{customerId}`, `{account.id}/{region}`.

Text with paths in braces; `{{` and `}}` stand for braces. What a path leads to is put in as text:
strings as they are, numbers and booleans as JSON writes them.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from stackshift_jobs.errors import PayloadRefused

_PART: Final = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|[^{}]+")


def fields_of(template: str) -> list[str] | None:
    """The paths that the template asks for; None if it is none."""
    found: list[str] = []
    end = 0
    for part in _PART.finditer(template):
        if part.start() != end:
            return None
        end = part.end()
        if part[1] is not None:
            if not all(part[1].split(".")):
                return None
            found.append(part[1])
    return found if end == len(template) else None


def fill(template: str, payload: Any) -> str:
    """The template with the payload's values in it. Raises `PayloadRefused` that names the path of
    what is not there, or is no string, number or boolean."""

    def text(part: re.Match[str]) -> str:
        if part[1] is None:
            return part[0][0] if part[0] in ("{{", "}}") else part[0]
        return _value(payload, part[1], template)

    return _PART.sub(text, template)


def _value(payload: Any, path: str, template: str) -> str:
    value = payload
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            raise _refused(path, template, "is not there")
        value = value[name]
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    raise _refused(path, template, f"is {json.dumps(value)[:40]}")


def _refused(path: str, template: str, why: str) -> PayloadRefused:
    return PayloadRefused(
        f"payload at $.{path}: {why}, and the concurrency key {template!r} needs its text",
        hint="a string, a number or a boolean",
        path=f"$.{path}",
    )
