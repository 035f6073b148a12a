"""JSON without the import of `json`, for commands that end sooner than that is loaded.

The package `json` is written in C but for its errors and settings, and these import `re`: 6 ms, a
quarter of a `stackshift start`. So this module puts together what `json` does, from the same C
functions: the same values and the same text. They are CPython's own (`_json`), and could change:
where they are missing, or take other settings, `json` itself does the work.
"""

from __future__ import annotations

TYPE_CHECKING = False  # See `errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_SPACE = " \t\n\r"


class NotJson(ValueError):
    """The text is not JSON."""


class _Settings:
    """What `json.scanner` reads of a `JSONDecoder`."""

    __slots__ = ("object_pairs_hook", "parse_constant")
    strict = True
    object_hook = None
    parse_float = float
    parse_int = int

    def __init__(
        self,
        object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None,
        parse_constant: Callable[[str], Any],
    ) -> None:
        self.object_pairs_hook = object_pairs_hook
        self.parse_constant = parse_constant


def decoder(
    *,
    object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None,
    parse_constant: Callable[[str], Any] = float,
) -> Callable[[str], Any]:
    """A function that does as `json.loads` with these settings, but for its errors: it raises
    `NotJson`, what the settings raise, `ValueError` for an integer of too many digits, and
    `RecursionError`. By default, the constants that JSON lacks are numbers, as with `json`."""

    def decode_with_json(text: str) -> tuple[Any, int]:
        from json import JSONDecodeError, JSONDecoder

        decoder = JSONDecoder(object_pairs_hook=object_pairs_hook, parse_constant=parse_constant)
        try:
            return decoder.raw_decode(text)
        except JSONDecodeError as bad:
            raise NotJson(str(bad)) from None

    settings: Any = _Settings(object_pairs_hook, parse_constant)
    try:
        from _json import make_scanner

        scan: Callable[[str, int], tuple[Any, int]] | None = make_scanner(settings)
    except (ImportError, AttributeError, TypeError):
        scan = None

    def decode(text: str) -> Any:
        text = text.strip(_SPACE)
        try:
            value, end = scan(text, 0) if scan else decode_with_json(text)
        except StopIteration:
            raise NotJson("a value is missing") from None
        except (ValueError, SystemError):
            # `json` words the mistake. Its error is what the C function wants to raise too; that of
            # CPython 3.11 does not import it, and so raises nothing, which is a `SystemError`.
            value, end = decode_with_json(text)
        if end != len(text):
            raise NotJson("there is more than one value")
        return value

    return decode


def encoder(
    *, ensure_ascii: bool, allow_nan: bool, default: Callable[[Any], Any] | None = None
) -> Callable[[Any], str]:
    """A function that returns the JSON of a value, without blanks, as `json.dumps` does with these
    settings. It does not look for cycles: they end in a `RecursionError`."""
    try:
        import _json

        write = _json.make_encoder(
            None,
            default or _refuse,
            _json.encode_basestring_ascii if ensure_ascii else _json.encode_basestring,
            None,
            ":",
            ",",
            False,
            False,
            allow_nan,
        )
    except (ImportError, AttributeError, TypeError):
        import json

        return json.JSONEncoder(
            ensure_ascii=ensure_ascii,
            allow_nan=allow_nan,
            check_circular=False,
            default=default,
            separators=(",", ":"),
        ).encode

    def encode(value: Any) -> str:
        return "".join(write(value, 0))

    return encode


def _refuse(value: Any) -> Any:
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


loads = decoder()
