"""The kinds of value that a setting can have: sizes, durations, rates, commands and others.

Owns how a value in a `stackshift.toml` is read; the table in `config` says which key has which
kind. A reader returns the value in its final unit, or raises a `ValueError` whose message completes
the sentence “… is not”.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from stackshift_jobs.errors import PayloadRefused, Usage
from stackshift_jobs.values.durations import milliseconds
from stackshift_jobs.values.redaction import parts_of
from stackshift_jobs.values.strict_json import dumps

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value: its name, the function that reads one (`ValueError` if it is not valid), and
    the unit with which the name of its field ends."""

    name: str
    read: Callable[[Any], Any]
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` starts per `per_ms` milliseconds; written `100/m`, `5/10s`."""

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
_HOST: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@-]{0,252}")
_TYPE_NAME: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_RATE: Final = re.compile(r"(\d+)\s*/\s*((?:\d+(?:\.\d+)?)?(?:ms|s|m|h|d|w))")


def parse_size(value: object) -> int:
    """Bytes in `64MiB`, `1GB`, `512` or 512; raises `ValueError`."""
    if type(value) is int and value >= 0:
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError('a size, such as "64MiB"')
    return int(match[1]) * _SIZE_UNIT[match[2]]


def parse_rate(value: object) -> Rate:
    """The rate in `100/m` or `5/10s`; raises `ValueError`."""
    match = _RATE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or int(match[1]) < 1:
        raise ValueError('a rate, such as "100/m" or "5/10s"')
    per = match[2] if match[2][0].isdigit() else "1" + match[2]
    per_ms = _duration(per)
    if per_ms < 1:
        raise ValueError('a rate per millisecond or longer, such as "100/m"')
    return Rate(int(match[1]), per_ms)


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


def _address(value: object) -> tuple[str, int]:
    """Host and port of `10.0.0.5:7433` or `[fd00::5]:7433`."""
    host, colon, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    is_port = port.isascii() and port.isdigit() and int(port) < 1 << 16
    if not (
        colon and bare and is_port and bare.isprintable() and (bare == host) == (":" not in bare)
    ):
        raise ValueError('an address such as "10.0.0.5:7433"')
    return bare, int(port)


def _host_name(value: object) -> str:
    if not isinstance(value, str) or not _HOST.fullmatch(value):
        raise ValueError('a name such as "app-1"')
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError("a list of strings")
    return tuple(_text(item) for item in value)


def _errors(value: object) -> tuple[str, ...]:
    if not all(map(_TYPE_NAME.fullmatch, names := _texts(value))):
        raise ValueError('a list of types of errors, such as ["ConnectionError", "ssl.SSLError"]')
    return names


def _parts(value: object) -> tuple[str, ...]:
    for path in (paths := _texts(value)):
        try:
            parts_of(path)
        except ValueError:
            raise ValueError('a list of paths such as "card.number" or "items[].token"') from None
    return paths


def _inside(value: object) -> tuple[str, ...]:
    """Paths below the project's root: modules are imported by their path relative to it."""
    for text in (paths := _texts(value)):
        path = PurePosixPath(text)
        if path.is_absolute() or ".." in path.parts or path == PurePosixPath("."):
            raise ValueError("a list of folders or files inside the project")
    return paths


def _directories(value: object) -> tuple[str, ...]:
    """As a list, or as in `PATH`. An empty directory would mean the working directory."""
    for text in (found := _texts(value.split(":") if isinstance(value, str) else value)):
        if ":" in text:
            raise ValueError("a list of directories, of which none contains a colon")
    if not found:
        raise ValueError("a list of directories with at least one")
    return found


def _host_names(value: object) -> tuple[str, ...]:
    """Names that can be arguments of `ssh` and parts of the names of workers."""
    names = _texts(value)
    if len(set(names)) < len(names) or not all(map(_HOST.fullmatch, names)):
        raise ValueError('a list of different hosts, such as ["local", "gpu-1"]')
    return names


def _umask(value: object) -> int:
    # Not a number: `umask = 22` would be 026.
    if not isinstance(value, str) or not re.fullmatch("0{0,2}[0-7]{2}", value):
        raise ValueError('a mask from "000" to "077", as a string')
    return int(value, 8)


def _command(value: object) -> tuple[str, ...]:
    try:
        argv = tuple(shlex.split(value)) if isinstance(value, str) else _texts(value)
    except ValueError:
        argv = ()
    if not argv:
        raise ValueError('a command, as a string or as a list: ["notify", "--failed"]')
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
        size_bytes = parse_size(value)
        if not low <= size_bytes <= high:
            raise ValueError(f"a size from {format_size(low)} to {format_size(high)}")
        return size_bytes

    return Kind("size", read, "_bytes")


def _database(value: object) -> str:
    if not isinstance(value, str) or not value.startswith(("postgresql://", "postgres://")):
        raise ValueError('the URL of a database, such as "postgresql://db-1,db-2/shop"')
    return value


def duration(low: str, high: str) -> Kind:
    """A duration from `low` to `high`, in ms."""
    low_ms, high_ms = _duration(low), _duration(high)

    def read(value: object) -> int:
        duration_ms = _duration(value)
        if not low_ms <= duration_ms <= high_ms:
            raise ValueError(f"a duration from {low} to {high}")
        return duration_ms

    return Kind("duration", read, "_ms")


def choice(*words: str) -> Kind:
    """One of `words`."""

    def read(value: object) -> str:
        if not isinstance(value, str) or value not in words:
            raise ValueError(" or ".join(f'"{word}"' for word in words))
        return value

    return Kind(" | ".join(f'"{word}"' for word in words), read)


def _object(value: object) -> str:
    # TOML has values that JSON has not; which ones is said where the payload is checked.
    if not isinstance(value, dict):
        raise ValueError('a table, such as {region = "north"}')
    try:
        return dumps(value).decode()
    except PayloadRefused as bad:
        raise ValueError(f"a value of JSON: {bad.message}") from None


def format_size(size: int) -> str:
    """A number of bytes as it would be written in the file: `64MiB`, `1000B`."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _SIZE_UNIT[unit] == 0:
            return f"{size // _SIZE_UNIT[unit]}{unit}"
    return f"{size}B"


TEXT: Final = Kind("text", _text)
PATH: Final = Kind("path", _text)
FLAG: Final = Kind("boolean", _flag)
ADDRESS: Final = Kind("address", _address)
HOST_NAME: Final = Kind("name of a host", _host_name)
TEXTS: Final = Kind("list of strings", _texts)
ERRORS: Final = Kind("list of types of errors", _errors)
PATHS: Final = Kind("list of paths", _inside)
PARTS: Final = Kind("list of paths in a payload", _parts)
DURATION: Final = Kind("duration", _duration, "_ms")
OBJECT: Final = Kind("table", _object)
DATABASE: Final = Kind("URL of a database", _database)
RATE: Final = Kind("rate", parse_rate)
COMMAND: Final = Kind("command", _command)
HOST_NAMES: Final = Kind("list of hosts", _host_names)
DIRECTORIES: Final = Kind("list of directories", _directories)
UMASK: Final = Kind("umask", _umask)
