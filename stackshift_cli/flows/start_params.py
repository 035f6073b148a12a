"""What a `start` asks of the daemon: the params of `run.start`, from the options given.

The short path and the Typer path both come here, so one command line means one thing.
"""

from __future__ import annotations

import json
from typing import Any, Final

from stackshift_cli.arguments import Given
from stackshift_jobs.errors import PayloadRefused, StackshiftError, Usage
from stackshift_jobs.values.limits import MAX_PAYLOAD_BYTES, MAX_PRIORITY

"""The highest value that `[limits] payload` can have; more is not even read from a file."""
_MAX_ATTEMPTS: Final = 1_000_000


def start_params(given: Given) -> tuple[dict[str, Any], list[str]]:
    """The params of `run.start`, and what should be said to the person on the way.

    Reads standard input or a file where `--payload` says so. Raises `Usage` or `PayloadRefused`.
    """
    job = given.text("job")
    if not job:
        raise Usage("start needs the name of a job", hint="stackshift jobs list")
    params: dict[str, Any] = {"job": job}
    for name in ("queue", "idempotency_key"):
        if (text := given.text(name)) is not None:
            params[name] = text
    for name in ("idempotency_ttl", "delay"):
        if (ms := given.duration_ms(name)) is not None:
            params[f"{name}_ms"] = ms
    if "idempotency_ttl_ms" in params and "idempotency_key" not in params:
        raise Usage("--idempotency-ttl is for a start with a key", hint="add --idempotency-key K")
    if (priority := given.whole("priority", -MAX_PRIORITY, MAX_PRIORITY)) is not None:
        params["priority"] = priority
    if (attempts := given.whole("max_attempts", 1, _MAX_ATTEMPTS)) is not None:
        params["max_attempts"] = attempts
    if given.texts("label"):
        params["labels"] = given.pairs("label")
    notes = _due(given, params)
    if (payload := payload_given(given)) is not _NONE:
        params["payload"] = payload
    return params, notes


def _due(given: Given, params: dict[str, Any]) -> list[str]:
    text = given.text("at")
    if text is None:
        return []
    if given.text("delay") is not None:
        raise Usage("--delay and --at exclude each other")
    params["scheduled_at"], notes = moment(text)
    return notes


def moment(text: str) -> tuple[str, list[str]]:
    """The time `text` in UTC, and the note that it was taken as local time, where it was."""
    from datetime import datetime

    from stackshift_jobs.values.durations import parse_time, rfc3339

    at = rfc3339(parse_time(text))
    local = datetime.fromisoformat(text).tzinfo is None
    return at, [f"{text} is taken as local time: {at}"] if local else []


_NONE: Final = object()


def payload_given(given: Given) -> Any:
    """The payload of `--payload` and `--field`; `NO_PAYLOAD` where neither was given."""
    text, fields = given.text("payload"), given.texts("field")
    value = _NONE if text is None else _load(_read(text, "the payload"), "--payload")
    if not fields:
        return value
    if value is _NONE:
        value = {}
    if not isinstance(value, dict):
        raise Usage("-F adds fields to an object", hint="leave out -F, or give -p an object")
    for field in fields:
        key, new = _field(field)
        value[key] = new
    return value


NO_PAYLOAD: Final = _NONE


def _field(text: str) -> tuple[str, Any]:
    """`k=v` is text, `k:=json` is JSON: whichever sign comes first in `text` decides."""
    key, equals, value = text.partition("=")
    if not equals or key in ("", ":"):
        raise Usage(f"-F takes k=TEXT or k:=JSON, not {text!r}")
    if key.endswith(":"):
        return key[:-1], _load(value.encode("utf-8", "surrogateescape"), f"-F {key[:-1]}")
    return key, value


def value_given(text: str) -> tuple[Any, bool]:
    """The value that the argument VALUE stands for, and whether it is text for not being JSON,
    though it begins as an object or a list does. `-` stands for what standard input holds, without
    the end of its last line."""
    if text == "-":
        data = _read(text, "the value")
        try:
            text = data.decode("utf-8").removesuffix("\n")
        except UnicodeDecodeError:
            return _load(data, "the value"), False
    try:
        made = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except (json.JSONDecodeError, _NoNumber):
        return text, text.lstrip()[:1] in ("{", "[")
    except (ValueError, RecursionError):
        # JSON that we do not take: a key that stands twice, an endless number. Not text by mistake.
        return _load(text.encode("utf-8", "surrogateescape"), "the value"), False
    return made, False


def number_given(name: str, text: str) -> int | float:
    """The number given for the option `name`, exactly; raises `Usage` if it is none."""
    try:
        number = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        number = None
    if type(number) not in (int, float) or number - number != 0:
        raise Usage(f"--{name} takes a number, not {text!r}")
    made: int | float = number
    return made


_EMPTY: Final = {"the payload": "pass {}, or leave -p out where there is no payload"}
"""What to do instead of giving nothing for it."""


def _read(text: str, what: str) -> bytes:
    """The bytes of `what`: from standard input, from a file, or as they stand."""
    if text == "-":
        from stackshift_cli.output.streams import standard_input

        data = standard_input(what).read(MAX_PAYLOAD_BYTES + 1)
    elif text.startswith("@"):
        try:
            with open(text[1:], "rb") as file:  # noqa: PTH123 - pathlib costs the short path 3 ms
                data = file.read(MAX_PAYLOAD_BYTES + 1)
        except OSError as bad:
            raise Usage(f"cannot read {what} from {text[1:]}: {bad.strerror}") from bad
    else:
        data = text.encode("utf-8", "surrogateescape")
    if text == "-" and not data.strip():
        raise PayloadRefused(
            f"standard input, which is to be {what}, is empty",
            hint=_EMPTY.get(what, "pass null, or another value"),
            path="$",
        )
    if len(data) > MAX_PAYLOAD_BYTES:
        raise PayloadRefused(f"{what} is over {MAX_PAYLOAD_BYTES} bytes", path="$")
    return data


def _load(data: bytes, what: str) -> Any:
    try:
        return json.loads(
            data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_constant
        )
    except (ValueError, RecursionError):
        # Not plain: `strict` judges it and words the error. Importing it takes as long as the rest
        # of a start, and a payload that gets past here is judged again when it is encoded.
        from stackshift_jobs.values import strict_json
    try:
        return strict_json.loads(data, MAX_PAYLOAD_BYTES)
    except StackshiftError as bad:
        raise PayloadRefused(
            f"{what}: {bad.message}", hint="it must be JSON; quote it for the shell", **bad.fields
        ) from bad


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key stands twice")
    return made


class _NoNumber(ValueError):
    """NaN or Infinity: no JSON."""


def _no_constant(name: str) -> Any:
    raise _NoNumber(name)
