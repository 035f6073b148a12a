"""Templates over a payload: `customer:{customerId}`, `{account.id}/{region}`.

Text with paths in braces; `{{` and `}}` are literal braces. A path is replaced by the value that it
leads to: a string as it is, a number or a boolean as in JSON.
"""

from __future__ import annotations

import re
from json import dumps
from typing import Any, Final

from stackshift_jobs.errors import PayloadRefused

_PART: Final = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|[^{}]+")


def fields_of(template: str) -> list[str] | None:
    """The paths in the template; None if the template is not valid."""
    paths: list[str] = []
    end = 0
    for part in _PART.finditer(template):
        if part.start() != end:
            return None
        end = part.end()
        if part[1] is not None:
            if not all(part[1].split(".")):
                return None
            paths.append(part[1])
    return paths if end == len(template) else None


def fill(template: str, payload: Any, what: str = "key") -> str:
    """The template of `what` with the payload's values filled in. Raises `PayloadRefused` with the
    path of a value that is missing or is not a string, number or boolean."""

    def text(part: re.Match[str]) -> str:
        if part[1] is None:
            return part[0][0] if part[0] in ("{{", "}}") else part[0]
        return _value(payload, part[1], f"{what} {template!r}")

    return _PART.sub(text, template)


def _value(payload: Any, path: str, key: str) -> str:
    value = payload
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            raise _refused(path, key, "is missing")
        value = value[name]
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return dumps(value)
    raise _refused(path, key, f"is {dumps(value)[:40]}")


def _refused(path: str, key: str, why: str) -> PayloadRefused:
    return PayloadRefused(
        f"payload at $.{path} {why}, and the {key} needs it",
        hint="pass a string, a number or a boolean",
        path=f"$.{path}",
    )
