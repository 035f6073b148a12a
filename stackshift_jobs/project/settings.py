"""What a setting can hold: sizes, durations, rates, commands, and the words for when it does not.

Owns how a value in a `stackshift.toml` is read. Which key holds which kind is the table's in
`config`. A reader gives the value in its final unit, or raises `ValueError` whose message goes on
from “… is not”.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from stackshift_jobs.errors import Usage
from stackshift_jobs.values.durations import milliseconds

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of value: how it is called, what `read` makes of it (`ValueError` if it is not one),
    and the unit that its field's name ends in."""

    name: str
    read: Callable[[Any], Any]
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` starts in `per_ms`; written `100/m`, `5/10s`."""

    count: int
    per_ms: int


_SIZE: Final = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB|kB|MB|GB)?")
_SIZE_UNIT: Final = {
    None: 1,
    "B": 1,
    "KiB": KIB,
    "MiB": MIB,
    "GiB": GIB,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
}
_RATE: Final = re.compile(r"(\d+)\s*/\s*((?:\d+(?:\.\d+)?)?(?:ms|s|m|h|d|w))")


def parse_size(value: object) -> int:
    """Bytes in `64MiB`, `1GB`, `512` or 512; raises `ValueError`."""
    if type(value) is int and value >= 0:
        return value
    found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError('a size, such as "64MiB"')
    return int(found[1]) * _SIZE_UNIT[found[2]]


def parse_rate(value: object) -> Rate:
    """The rate that `100/m` or `5/10s` says; raises `ValueError`."""
    found = _RATE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None or int(found[1]) < 1:
        raise ValueError('a rate, such as "100/m" or "5/10s"')
    per = found[2] if found[2][0].isdigit() else "1" + found[2]
    per_ms = _duration(per)
    if per_ms < 1:
        raise ValueError('a rate over at least a millisecond, such as "100/m"')
    return Rate(int(found[1]), per_ms)


def _duration(value: object) -> int:
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise Usage("not a duration")
        return milliseconds(value)
    except (Usage, ValueError, OverflowError):
        raise ValueError('a duration of at most 10 years, such as "10s" or "30d"') from None


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError("printable text")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError("a list of texts")
    return tuple(_text(one) for one in value)


def _inside(value: object) -> tuple[str, ...]:
    """Modules are imported by their path from the project's root, so they must lie under it."""
    for one in (paths := _texts(value)):
        path = PurePosixPath(one)
        if path.is_absolute() or ".." in path.parts or path == PurePosixPath("."):
            raise ValueError("a list of folders or files inside the project")
    return paths


def _command(value: object) -> tuple[str, ...]:
    try:
        argv = tuple(shlex.split(value)) if isinstance(value, str) else _texts(value)
    except ValueError:
        argv = ()
    if not argv:
        raise ValueError('a command, as text or as a list: ["notify", "--failed"]')
    return argv


def whole(low: int, high: int) -> Kind:
    """A whole number from `low` to `high`."""

    def read(value: object) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return Kind("integer", read)


def number(low: float, high: float) -> Kind:
    """A number from `low` to `high`."""

    def read(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"a number from {low:g} to {high:g}")
        if not low <= value <= high:
            raise ValueError(f"a number from {low:g} to {high:g}")
        return float(value)

    return Kind("number", read)


def size(low: int, high: int) -> Kind:
    """A number of bytes from `low` to `high`."""

    def read(value: object) -> int:
        read_bytes = parse_size(value)
        if not low <= read_bytes <= high:
            raise ValueError(f"a size from {format_size(low)} to {format_size(high)}")
        return read_bytes

    return Kind("size", read, "_bytes")


def choice(*words: str) -> Kind:
    """One of `words`."""

    def read(value: object) -> str:
        if not isinstance(value, str) or value not in words:
            raise ValueError(" or ".join(f'"{word}"' for word in words))
        return value

    return Kind(" | ".join(f'"{word}"' for word in words), read)


def format_size(size: int) -> str:
    """Bytes as one would write them: `64MiB`, `1000B`."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _SIZE_UNIT[unit] == 0:
            return f"{size // _SIZE_UNIT[unit]}{unit}"
    return f"{size}B"


TEXT: Final = Kind("text", _text)
PATH: Final = Kind("path", _text)
FLAG: Final = Kind("boolean", _flag)
TEXTS: Final = Kind("list of texts", _texts)
PATHS: Final = Kind("list of paths", _inside)
DURATION: Final = Kind("duration", _duration, "_ms")
RATE: Final = Kind("rate", parse_rate)
COMMAND: Final = Kind("command", _command)
