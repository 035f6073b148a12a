"""What JSON may hold: the one encoder and the one checker for client, worker and daemon.

RFC 8259 with the loose ends tied: no NaN or Infinity, no duplicate keys, text that is valid
Unicode, nesting of at most 64, a bound on the size. Integers of any size are kept exactly.
Encoded text is ASCII, so that no payload can move a terminal or break a log line.

Python values that JSON lacks are encoded by the rules of `encoding`. Bytes, sets and everything
else are refused, with the path of the value.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from math import isfinite
from typing import Any, Final

from stackshift_jobs.errors import PayloadRefused
from stackshift_jobs.values.encoding import NoJsonForm, json_form, json_key
from stackshift_jobs.values.sizes import size_text

MAX_DEPTH: Final = 64
MAX_BYTES: Final = 1 << 20
"""Default limit for the encoded size of one value; `[limits] payload` changes it."""

_SCALARS: Final = frozenset((str, int, bool, type(None)))


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
            raise refuse(path, f"{value} is not a JSON number")
        return value
    try:
        nearer = form(value)
    except NoJsonForm as bad:
        raise refuse(path, str(bad)) from None
    return plain(nearer, path, depth, form)


def _key(key: Any, path: str) -> str:
    if type(key) is str:
        return key
    try:
        return json_key(key)
    except NoJsonForm as bad:
        raise refuse(path, str(bad)) from None


_encoder = json.JSONEncoder(
    ensure_ascii=True, allow_nan=False, separators=(",", ":"), check_circular=False
).encode


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
    cannot hold, for text that is not valid Unicode, and for more than `max_bytes` bytes, which the
    message says of `what`."""
    try:
        # Most counters and ids are integers: this takes a fifth of the time.
        text = str(value) if type(value) is int else _encoder(plain(value, form=form))
    except ValueError as bad:
        raise PayloadRefused(f"an integer is too long: {bad}", path="$") from bad
    if len(text) > max_bytes:
        raise too_large(what, len(text), max_bytes)
    if "\\ud" in text:
        _refuse_surrogates(plain(value, form=form))
    return text.encode("ascii")


def _refuse_surrogates(value: Any) -> None:
    """Raise `PayloadRefused` if text in `value` (plain JSON) contains a lone surrogate, which is
    not valid Unicode: `json` would write it as an escape that other programs refuse."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as bad:
        raise PayloadRefused("text is not valid Unicode (a lone surrogate)", path="$") from bad


def loads(text: str | bytes, max_bytes: int = MAX_BYTES, what: str = "the value") -> Any:
    """The value that JSON `text` holds; raises `PayloadRefused` for anything but strict JSON:
    invalid UTF-8, duplicate keys, NaN, nesting over 64, more than `max_bytes` bytes (of `what`)."""
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(raw) > max_bytes:
        raise too_large(what, len(raw), max_bytes)
    try:
        value = _decode(raw.decode("utf-8"))
    except PayloadRefused:
        raise
    except UnicodeDecodeError as bad:
        raise PayloadRefused(f"not valid UTF-8 at byte {bad.start}", path="$") from bad
    except RecursionError as bad:
        raise PayloadRefused(f"nested deeper than {MAX_DEPTH}", path="$") from bad
    except ValueError as bad:
        raise PayloadRefused(f"not valid JSON: {bad}", path="$") from bad
    checked = plain(value)
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


_decode: Final = json.JSONDecoder(
    object_pairs_hook=_no_duplicates, parse_constant=_no_constant
).decode


def read_back(value: Any, text: bytes) -> Any:
    """The value that a replay will read from `text`, which `dumps` made of `value`: no tuple, int
    key or dataclass, which the replay would lose."""
    return value if type(value) in _SCALARS else json.loads(text)


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
