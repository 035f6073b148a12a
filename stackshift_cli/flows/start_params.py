"""The params of `run.start`, and values in general, from the options of a command line.

The fast path and the Typer path both use this module, so a command line means the same on both.
"""

from __future__ import annotations

import os

from stackshift_cli.arguments import Given, check_new, option
from stackshift_jobs.errors import PayloadRefused, StackshiftError, Usage
from stackshift_jobs.values import json_text
from stackshift_jobs.values.limits import MAX_ATTEMPTS, MAX_PAYLOAD_BYTES, MAX_PRIORITY

TYPE_CHECKING = False  # See `stackshift_jobs.errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    from typing import Any, Final


def start_params(given: Given) -> tuple[dict[str, Any], list[str]]:
    """The params of `run.start`, and notes for the person.

    Reads standard input or a file if `--payload` names one. Raises `Usage` or `PayloadRefused`.
    """
    job = given.text("job")
    if not job:
        raise Usage("the name of a job is missing", hint="stackshift jobs list")
    params: dict[str, Any] = {"job": job}
    for name in ("queue", "unique", "on_duplicate"):
        if (text := given.text(name)) is not None:
            params[name] = text
    if (delay_ms := given.duration_ms("delay")) is not None:
        params["delay_ms"] = delay_ms
    for name in ("ttl", "deadline"):
        if (ms := given.positive_ms(name)) is not None:
            params[f"{name}_ms"] = ms
    params |= _key(given) | _after(given)
    if (priority := given.whole("priority", -MAX_PRIORITY, MAX_PRIORITY)) is not None:
        params["priority"] = priority
    if (attempts := given.whole("max_attempts", 1, MAX_ATTEMPTS)) is not None:
        params["max_attempts"] = attempts
    if given.texts("label"):
        params["labels"] = given.pairs("label")
    notes = _due(given, params)
    if (payload := payload_given(given)) is not NO_PAYLOAD:
        params["payload"] = payload
    return params, [*notes, *field_notes(given)]


def _after(given: Given) -> dict[str, Any]:
    """The params of a start that begins after other runs; none if it does not."""
    after = given.texts("after")
    if not after:
        if given.flag("even_if_failed"):
            raise Usage("--even-if-failed requires --after")
        return {}
    if given.text("delay") is not None or given.text("at") is not None:
        raise Usage("--after cannot be used with --delay or --at")
    return {"after": after} | ({"even_if_failed": True} if given.flag("even_if_failed") else {})


def _key(given: Given) -> dict[str, Any]:
    """The params of the idempotency key, if there is one."""
    key = given.text("idempotency_key")
    if key is None:
        for name in ("idempotency_ttl", "retry_failed"):
            if name in given.given():
                raise Usage(f"{option(name)} requires --idempotency-key")
        return {}
    params: dict[str, Any] = {"idempotency_key": key}
    if (ms := given.duration_ms("idempotency_ttl")) is not None:
        params["idempotency_ttl_ms"] = ms
    if given.flag("retry_failed"):
        params["retry_failed"] = True
    return params


def move_params(given: Given) -> tuple[dict[str, Any], list[str]]:
    """The params of `run.move` apart from the run, and notes for the person. Raises `Usage`."""
    params: dict[str, Any] = {}
    if given.flag("now"):
        params["now"] = True
    if (delay := given.duration_ms("delay")) is not None:
        params["delay_ms"] = delay
    notes = _due(given, params)
    if len(params) > 1:
        raise Usage("only one of --now, --delay and --at can be given")
    if (priority := given.whole("priority", -MAX_PRIORITY, MAX_PRIORITY)) is not None:
        params["priority"] = priority
    if (queue := given.text("queue")) is not None:
        params["queue"] = queue
    if not params:
        raise Usage(
            "where to move the run is missing",
            hint="--now, --delay D, --at T, --priority N or --queue Q",
        )
    return params, notes


def _due(given: Given, params: dict[str, Any]) -> list[str]:
    text = given.text("at")
    if text is None:
        return []
    if given.text("delay") is not None:
        raise Usage("--delay and --at cannot be used together")
    params["scheduled_at"], notes = moment(text)
    return notes


def moment(text: str) -> tuple[str, list[str]]:
    """The time `text` as RFC 3339 in UTC; for a time without an offset, which is taken as local
    time, also a note that says so. Raises `Usage`."""
    from stackshift_jobs.values.durations import parse_datetime, parse_time, rfc3339

    at = rfc3339(parse_time(text))
    local = parse_datetime(text).tzinfo is None
    return at, [f"{text} has no UTC offset; taken as local time: {at}"] if local else []


NO_PAYLOAD: Final = object()
_IN_PYTHON: Final = {"True": "true", "False": "false", "None": "null"}
"""What JSON calls values that Python calls otherwise."""
_JSON_HINT: Final = "pass JSON, quoted for the shell"


def payload_given(given: Given) -> Any:
    """The payload that `--payload` and `--field` give; `NO_PAYLOAD` if neither was given. Raises
    `Usage` or `PayloadRefused`."""
    text, fields = given.text("payload"), given.texts("field")
    value = NO_PAYLOAD if text is None else _payload(text)
    if not fields:
        return value
    if value is NO_PAYLOAD:
        value = {}
    if not isinstance(value, dict):
        raise Usage(
            "-F adds fields to an object, and the payload is not one",
            hint="remove -F, or pass an object with -p",
        )
    seen: set[str] = set()
    for field in fields:
        key, new = _field(field)
        check_new(seen, key, "-F")
        seen.add(key)
        value[key] = new
    return value


def _payload(text: str) -> Any:
    if text.startswith("="):  # `-p={}`: only the long form of an option takes an equals sign.
        raise Usage(f"-p takes JSON, not {text!r}", hint="without =: -p JSON, or --payload=JSON")
    data = _read(text, "the payload")
    try:
        return _load(data, "--payload")
    except PayloadRefused as bad:
        bad.hint = _payload_hint(text)
        raise


def _payload_hint(text: str) -> str:
    """What to pass instead of `text`, which is not JSON."""
    import shlex

    if text[:1] in ("-", "@", "{", "[", '"', "'") or not text.isprintable():
        return _JSON_HINT
    if (word := _IN_PYTHON.get(text)) is not None:
        return f"did you mean {word}?"
    if os.path.isfile(text):  # noqa: PTH113 - as in `field_notes`
        return f"for what is in the file: -p {shlex.quote('@' + text)}"
    key, equals, _ = text.partition("=")
    if equals and key.removesuffix(":").isidentifier():
        return f"for a field of an object: -F {shlex.quote(text)}"
    import json

    return f"did you mean {shlex.quote(json.dumps(text, ensure_ascii=False))}?"


def _field(text: str) -> tuple[str, Any]:
    """`k=v` is text, `k:=json` is JSON: whichever sign comes first in `text` decides."""
    key, equals, value = text.partition("=")
    if not equals or key in ("", ":"):
        raise Usage(f"-F takes K=TEXT or K:=JSON, not {text!r}")
    if key.endswith(":"):
        key, data = key[:-1], value.encode("utf-8", "surrogateescape")
        hint = f"for text, without the colon: -F {key}=TEXT"
        if value.startswith("@"):
            hint = f"for what is in a file: {_from_file(f'{key}:', value)}"
        return key, _load(data, f"-F {key}", hint=hint)
    return key, value


def field_notes(given: Given) -> list[str]:
    """Notes for the person about fields whose text is probably meant as something else: other
    programs read the file if a field is `name=@file`."""
    notes = []
    for field in given.texts("field"):
        key, _, value = field.partition("=")
        if value[:1] == "@" and not key.endswith(":") and os.path.isfile(value[1:]):  # noqa: PTH113
            from stackshift_cli.output.safe_text import safe

            text = (
                f"note: the field {key} is the text {value!r}; "
                f"for what is in the file: {_from_file(key, value)}"
            )
            notes.append(safe(text))
    return notes


def _from_file(key: str, value: str) -> str:
    """The option that gives the field `key` what is in the file, for a `value` like `@FILE`."""
    import shlex

    return f'-F {key}="$(cat {shlex.quote(value[1:] or "FILE")})"'


def value_given(text: str) -> tuple[Any, bool]:
    """The value that the argument VALUE stands for: JSON, or the text itself if it is not JSON; and
    whether it is text although it begins like an object or a list, which is probably a mistake. `-`
    reads standard input, without the end of its last line.

    Raises `PayloadRefused` for what is JSON but is refused everywhere, and for `NaN`, `Infinity`
    and `-Infinity`: many programs write them for numbers, and would read a text.
    """
    if text == "-":
        data = _read(text, "the value")
        try:
            text = data.decode("utf-8").removesuffix("\n")
        except UnicodeDecodeError:
            return _load(data, "the value"), False
    try:
        value = _decode(text)
    except json_text.NotJson:
        return text, text.lstrip()[:1] in ("{", "[")
    except _NoNumber as bad:
        if text.strip() != str(bad):  # Such as `[NaN]`, or `NaN of them`.
            return text, text.lstrip()[:1] in ("{", "[")
        raise PayloadRefused(
            f"the value: {bad} is not a JSON number",
            hint=f"to store it as text: '\"{bad}\"'",
            path="$",
        ) from bad
    except (ValueError, RecursionError):
        # JSON that we refuse, for a duplicate key or an endless number; it must not become text.
        return _load(text.encode("utf-8", "surrogateescape"), "the value"), False
    return value, False


def number_given(name: str, text: str) -> int | float:
    """The number `text` given for the option `name`; raises `Usage` if it is not a finite
    number."""
    try:
        number = _decode(text)
    except (ValueError, RecursionError):
        number = None
    if type(number) not in (int, float) or number - number != 0:
        raise Usage(f"--{name} takes a number, not {text!r}")
    finite: int | float = number
    return finite


_BOM: Final = b"\xef\xbb\xbf"
_EMPTY: Final = {"the payload": "pass {}, or remove -p if there is no payload"}
"""The hint if nothing is given, by what it should be."""


def _read(text: str, what: str) -> bytes:
    """The bytes of `what` (`the payload`): standard input for `-`, a file for `@FILE`, else `text`
    itself."""
    if text == "-":
        from stackshift_cli.output.streams import standard_input

        data = standard_input(what).read(MAX_PAYLOAD_BYTES + 1)
    elif text.startswith("@"):
        try:
            with open(text[1:], "rb") as file:  # noqa: PTH123 - pathlib costs the fast path 3 ms
                data = file.read(MAX_PAYLOAD_BYTES + 1)
        except OSError as bad:
            hint = "for standard input, without the @: -p -" if text == "@-" else ""
            raise Usage(f"cannot read {what} from {text[1:]}: {bad.strerror}", hint=hint) from bad
    else:
        data = text.encode("utf-8", "surrogateescape")
    data = data.removeprefix(_BOM)  # Editors write one at the beginning of a file.
    if not data.strip():
        raise PayloadRefused(
            _empty(text, what), hint=_EMPTY.get(what, "pass null or another value"), path="$"
        )
    if len(data) > MAX_PAYLOAD_BYTES:
        raise PayloadRefused(
            f"{what} is larger than {MAX_PAYLOAD_BYTES >> 20} MiB, the most that can be allowed",
            path="$",
        )
    return data


def _empty(text: str, what: str) -> str:
    if text == "-":
        return f"cannot read {what} from standard input: it is empty"
    return f"{text[1:]} is empty" if text.startswith("@") else f"{what} is empty"


def _load(data: bytes, what: str, hint: str = _JSON_HINT) -> Any:
    try:
        return _decode(data.decode("utf-8"))
    except (ValueError, RecursionError):
        # Not plain JSON: `strict_json` decides and words the error. Importing it takes as long as
        # the rest of a start, and a payload that passes here is checked again when it is encoded.
        from stackshift_jobs.values import strict_json
    try:
        return strict_json.loads(data, MAX_PAYLOAD_BYTES)
    except StackshiftError as bad:
        raise PayloadRefused(f"{what}: {bad.message}", hint=hint, **bad.fields) from bad


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("duplicate key")
    return value


class _NoNumber(ValueError):
    """NaN or Infinity, which are not JSON."""


def _no_constant(name: str) -> Any:
    raise _NoNumber(name)


_decode: Final = json_text.decoder(object_pairs_hook=_object, parse_constant=_no_constant)
