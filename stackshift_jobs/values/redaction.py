"""Paths in a payload whose values are not to be shown: `card.number`, `items[].token`, `*.pin`.

Names are separated by points; `[]` stands for every item of an array, `*` for every member of an
object, and `$` alone for the whole payload. A path that leads nowhere in a payload changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from json import dumps
from typing import Any, Final

REDACTED: Final = "[redacted]"
ITEMS: Final = "[]"
ANY: Final = "*"
WHOLE: Final = "$"
_PATH: Final = re.compile(r"(?:\$\.?)?((?:[^.\[\]]+|\[\])(?:\[\]|\.[^.\[\]]+)*)")


@lru_cache(256)
def parts_of(path: str) -> tuple[str, ...]:
    """The parts of a path: `("items", "[]", "token")`. Raises `ValueError` if it is not one."""
    if path == WHOLE:
        return ()
    found = _PATH.fullmatch(path)
    if found is None:
        raise ValueError('a path such as "card.number" or "items[].token"')
    return tuple(re.findall(r"\[\]|[^.\[\]]+", found[1]))


def with_follow_ups(paths: Iterable[str]) -> tuple[str, ...]:
    """The paths, and the same below `payload`: that is where the payload of a run stands in the
    payload of its follow-up."""
    found = tuple(paths)
    inner = (path.removeprefix(WHOLE).removeprefix(".") for path in found if path != WHOLE)
    below = (f"payload{path}" if path[0] == "[" else f"payload.{path}" for path in inner)
    return (*found, *below)


def redacted(value: Any, paths: Iterable[str]) -> Any:
    """`value` (plain JSON) with `[redacted]` at each of the paths."""
    for path in paths:
        value = _without(value, parts_of(path))
    return value


def _without(value: Any, parts: tuple[str, ...]) -> Any:
    if not parts:
        return REDACTED
    first, rest = parts[0], parts[1:]
    if first == ITEMS:
        return [_without(item, rest) for item in value] if isinstance(value, list) else value
    if not isinstance(value, dict):
        return value
    return {
        name: _without(part, rest) if first in (name, ANY) else part for name, part in value.items()
    }


def values_at(value: Any, path: str) -> Iterator[str]:
    """The texts and numbers, as text, that are at a path or below it."""
    reached = [value]
    for part in parts_of(path):
        reached = [inner for each in reached for inner in _inner(each, part)]
    for each in reached:
        yield from _leaves(each)


def _inner(value: Any, part: str) -> Iterable[Any]:
    if part == ITEMS:
        return value if isinstance(value, list) else ()
    if not isinstance(value, dict):
        return ()
    return value.values() if part == ANY else [value[part]] if part in value else ()


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _leaves(part)
    elif isinstance(value, str):
        yield value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield dumps(value)
