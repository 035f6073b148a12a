"""What JSON may hold: the one encoder and the one checker for client, worker and daemon.

RFC 8259 with the loose ends tied: no NaN or Infinity, no duplicate keys, text that is valid
Unicode, nesting of at most 64, a bound on the size. Integers of up to `MAX_DIGITS` digits are kept
exactly, and longer ones are refused. Encoded text is ASCII, so that no payload can move a terminal
or break a log line; its size is counted as if it were UTF-8, in which users write it.

Python values that JSON lacks are encoded by the rules of `encoding`. Bytes, sets and everything
else are refused, with the path of the value.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from json import JSONDecoder
from json import dumps as _write
from json import loads as _read
from math import isfinite
from typing import Any, Final

from stackshift_jobs.errors import PayloadRefused
from stackshift_jobs.values import json_text
from stackshift_jobs.values.encoding import NoJsonForm, json_form, json_key
from stackshift_jobs.values.limits import MAX_DIGITS
from stackshift_jobs.values.sizes import size_text

MAX_DEPTH: Final = 64
MAX_BYTES: Final = 1 << 20
"""Default limit for the encoded size of one value; `[limits] payload` changes it."""

_SCALARS: Final = frozenset((str, int, bool, type(None)))
_TOO_LONG: Final = f"an integer has more than {MAX_DIGITS} digits"
_BOUND: Final = 10**MAX_DIGITS
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def refuse(path: str, why: str) -> PayloadRefused:
    """The error for the part of a value at `path`."""
    return PayloadRefused(f"at {path}: {why}", path=path)


def plain(
    value: Any, path: str = "$", depth: int = 0, form: Callable[[Any], Any] = json_form
) -> Any:
    """`value` as dict, list, str, int, float, bool and None only, as JSON would hold it; `form`
    takes what JSON lacks a step nearer to it.

    Raises `PayloadRefused` with the path of what JSON cannot hold.
    """
    kind = type(value)
    if kind in _SCALARS:
        return value
    if depth >= MAX_DEPTH:
        raise refuse(path, f"nested deeper than {MAX_DEPTH}")
    if kind is dict:
        members = {
            _key(k, path): v if type(v) in _SCALARS else plain(v, f"{path}.{k}", depth + 1, form)
            for k, v in value.items()
        }
        if len(members) != len(value):
            raise refuse(path, "two keys are the same text in JSON")
        return members
    if kind is list or kind is tuple:
        return [
            v if type(v) in _SCALARS else plain(v, f"{path}[{i}]", depth + 1, form)
            for i, v in enumerate(value)
        ]
    if kind is float:
        if not isfinite(value):
            most = "" if value != value else "; the largest is 1.8e308"
            raise refuse(path, f"{value} is not a JSON number{most}")
        return value
    try:
        nearer = form(value)
    except NoJsonForm as bad:
        raise refuse(path, str(bad)) from None
    return plain(nearer, path, depth, form)


def _key(key: Any, path: str) -> str:
    if type(key) is str:
        return key
    if isinstance(key, int) and not -_BOUND < key < _BOUND:
        raise refuse(path, _TOO_LONG)
    try:
        return json_key(key)
    except NoJsonForm as bad:
        raise refuse(path, str(bad)) from None


_encoder: Final = json_text.encoder(ensure_ascii=True, allow_nan=False)


def too_large(what: str, size: int, limit: int) -> PayloadRefused:
    """The error for `what` (`the payload`), which has too many bytes of JSON."""
    return PayloadRefused(
        f"{what} is {size:,} bytes of JSON, the limit is {size_text(limit)}",
        hint="store it elsewhere and pass its location, or raise [limits] payload",
        path="$",
    )


def dumps(
    value: Any,
    max_bytes: int = MAX_BYTES,
    what: str = "the value",
    form: Callable[[Any], Any] = json_form,
) -> bytes:
    """`value` as ASCII JSON, by way of `form`; raises `PayloadRefused` (with `.path`) for what JSON
    cannot hold, for text that is not valid Unicode, for integers that are too long, and for more
    than `max_bytes` bytes of UTF-8, which the message says of `what`."""
    try:
        # Most counters and ids are integers: this takes a fifth of the time.
        text = str(value) if type(value) is int else _encoder(plain(value, form=form))
    except ValueError as bad:  # Python itself does not write an integer of this length.
        _refuse_long_integers(plain(value, form=form))
        raise PayloadRefused(f"an integer cannot be written: {bad}", path="$") from bad
    body = text.encode("ascii")
    # Shorter in UTF-8 than in ASCII, and never longer.
    if len(body) > max_bytes and (size := json_size(body)) > max_bytes:
        raise too_large(what, size, max_bytes)
    if "\\ud" in text:
        _refuse_surrogates(plain(value, form=form))
    if _may_be_long(body):
        _refuse_long_integers(plain(value, form=form))
    return body


_ESCAPE: Final = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|.)")


def json_size(body: bytes) -> int:
    """The bytes that `body`, JSON as `dumps` writes it, has in UTF-8: the size of a value, by which
    limits count."""
    size = len(body)
    if b"\\u" in body:
        size -= sum(_saved(int(code, 16)) for code in _ESCAPE.findall(body) if code)
    return size


def _saved(code: int) -> int:
    """How much shorter than `\\uXXXX` a character is in UTF-8, or a half of one above 16 bits."""
    if code < 0x20:
        return 0  # Control characters are always escaped.
    if code < 0x80:
        return 5
    return 4 if code < 0x800 or 0xD800 <= code < 0xE000 else 3


_DIGITS: Final = re.compile(rb"[0-9]{%d}" % (MAX_DIGITS + 1))


def _may_be_long(text: bytes) -> bool:
    """Could JSON `text` contain an integer that is too long? (It may be digits within a string.)"""
    return len(text) > MAX_DIGITS and _DIGITS.search(text) is not None


def _refuse_long_integers(value: Any, path: str = "$") -> None:
    """Raise `PayloadRefused`, with the path, if plain `value` contains an integer that is too
    long."""
    if type(value) is int and not -_BOUND < value < _BOUND:
        raise refuse(path, _TOO_LONG)
    if type(value) is dict:
        for key, member in value.items():
            _refuse_long_integers(member, f"{path}.{key}")
    if type(value) is list:
        for number, item in enumerate(value):
            _refuse_long_integers(item, f"{path}[{number}]")


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise PayloadRefused(_TOO_LONG, path="$")
    return int(digits)


def _refuse_surrogates(value: Any) -> None:
    """Raise `PayloadRefused` if text in `value` (plain JSON) contains a lone surrogate, which is
    not valid Unicode: `json` would write it as an escape that other programs refuse."""
    try:
        _write(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as bad:
        raise refuse(
            _surrogate_at(value, "$"), "text is not valid Unicode (a lone surrogate)"
        ) from bad


def _surrogate_at(value: Any, path: str) -> str:
    """The path of the first text in `value` (plain JSON) with a lone surrogate; that of its object
    if it is a key; empty if there is none."""
    if type(value) is str:
        return path if _SURROGATE.search(value) else ""
    if type(value) is dict:
        if any(_SURROGATE.search(key) for key in value):
            return path
        parts = ((f"{path}.{key}", part) for key, part in value.items())
    elif type(value) is list:
        parts = ((f"{path}[{number}]", part) for number, part in enumerate(value))
    else:
        return ""
    return next(filter(None, (_surrogate_at(part, place) for place, part in parts)), "")


def loads(text: str | bytes, max_bytes: int = MAX_BYTES, what: str = "the value") -> Any:
    """The value that JSON `text` holds; raises `PayloadRefused` for anything but strict JSON:
    invalid UTF-8, duplicate keys, NaN, nesting over 64, integers that are too long, and more than
    `max_bytes` bytes (of `what`), white space and needless escapes not counted."""
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    try:
        value = _decode(raw)
    except PayloadRefused:
        raise
    except UnicodeDecodeError as bad:
        raise PayloadRefused(f"not valid UTF-8 at byte {bad.start}", path="$") from bad
    except RecursionError as bad:
        raise PayloadRefused(f"nested deeper than {MAX_DEPTH}", path="$") from bad
    except ValueError as bad:
        raise PayloadRefused(f"not valid JSON: {bad}", path="$") from bad
    checked = plain(value)
    if len(raw) > max_bytes and (size := json_size(_encoder(checked).encode())) > max_bytes:
        raise too_large(what, size, max_bytes)
    if b"\\ud" in raw or b"\\uD" in raw:
        _refuse_surrogates(checked)
    return checked


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
        raise PayloadRefused(f"the key {twice!r} occurs twice in one object", path="$")
    return members


def _no_constant(name: str) -> Any:
    raise PayloadRefused(f"{name} is not a JSON number", path="$")


_decode_short: Final = json_text.decoder(
    object_pairs_hook=_no_duplicates, parse_constant=_no_constant
)
_decode_long: Final = JSONDecoder(
    object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_int=_integer
).decode
"""The same for a text with many digits, whose numbers are checked before they are converted, which
takes long for very many; and for one that is not JSON, since its errors say where."""


def _decode(raw: bytes) -> Any:
    text = raw.decode("utf-8")
    if not _may_be_long(raw):
        try:
            return _decode_short(text)
        except json_text.NotJson:
            pass
    return _decode_long(text)


def read_back(value: Any, text: bytes) -> Any:
    """The value that a replay will read from `text`, which `dumps` made of `value`: no tuple, int
    key or dataclass, which the replay would lose."""
    return value if type(value) in _SCALARS else _read(text)


def same(a: Any, b: Any) -> bool:
    """Are `a` and `b` equal as JSON? The order of keys does not matter, numbers are compared by
    value, and `true` is not `1`."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a == b
    return type(a) is type(b) and bool(a == b)


def canonical(value: Any) -> bytes:
    """The same bytes for all values that `same` finds equal: sorted keys, whole floats as integers.

    Digests are made of it. `value` is plain JSON.
    """
    return _encoder(_settled(value)).encode("ascii")


def _settled(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _settled(value[k]) for k in sorted(value)}
    if isinstance(value, list):
        return [_settled(v) for v in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def difference(old: Any, new: Any, path: str = "$", limit: int = 10) -> list[str]:
    """What changed between two JSON values, one line for each path: `$.imageId: "a" → "b"`.

    At most `limit` lines; if there would be more, the last one says how many.
    """
    lines: list[str] = []
    _differ(old, new, path, lines)
    return (
        lines if len(lines) <= limit else [*lines[: limit - 1], f"… {len(lines) - limit + 1} more"]
    )


def _differ(old: Any, new: Any, path: str, lines: list[str]) -> None:
    if same(old, new):
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            place = f"{path}.{key}"
            if key not in new:
                lines.append(f"{place}: {_shown(old[key])} → absent")
            elif key not in old:
                lines.append(f"{place}: absent → {_shown(new[key])}")
            else:
                _differ(old[key], new[key], place, lines)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            _differ(a, b, f"{path}[{i}]", lines)
    else:
        lines.append(f"{path}: {_shown(old)} → {_shown(new)}")


def _shown(value: Any) -> str:
    text = _encoder(value)
    return text if len(text) <= 80 else text[:77] + "..."
