"""The five fields of a crontab line: whether cron would take them.

The rules are those of Debian's cron (Vixie's 3.0pl1 with its patches), which is stricter than most
libraries: a step needs a range or a star, names are of three letters, and a range ascends. What
cron refuses is refused here, because a line that never ran must not begin to.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

NICKNAMES: Final = (
    *("@reboot", "@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight"),
    "@hourly",
)
_MONTHS: Final = (
    *("jan", "feb", "mar", "apr", "may", "jun"),
    *("jul", "aug", "sep", "oct", "nov", "dec"),
)
_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_ITEM: Final = re.compile(r"(\*|(\w+)(?:-(\w+))?)(?:/(\w+))?")


class Field(NamedTuple):
    """A field: its name, the numbers that it may have, and names that stand for the first of
    them."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()


FIELDS: Final = (
    Field("minute", 0, 59),
    Field("hour", 0, 23),
    Field("day of month", 1, 31),
    Field("month", 1, 12, _MONTHS),
    Field("day of week", 0, 7, _DAYS),
)


def refusal(fields: list[str]) -> str:
    """Why cron would not take these five fields, in words; empty if it would."""
    for field, text in zip(FIELDS, fields, strict=True):
        for item in text.split(","):
            if why := _item_refusal(field, item):
                return f"{field.name} {text!r}: {why}"
    return ""


def _item_refusal(field: Field, text: str) -> str:
    item = _ITEM.fullmatch(text)
    if item is None:
        return f"{text!r} is not a number, a range or *"
    whole, first, last, step = item.groups()
    if step is not None:
        if not _is_number(step) or int(step) == 0:
            return f"{step!r} cannot be a step"
        if whole != "*" and last is None:
            return "a step needs a range or *"
    if whole == "*":
        return ""
    numbers = [_number(field, word) for word in (first, last) if word is not None]
    for word, number in zip((first, last), numbers, strict=False):
        if number is None:
            return f"{word!r} is not between {field.low} and {field.high}"
    if len(numbers) == 2 and numbers[0] > numbers[1]:  # type: ignore[operator]
        return "a range must ascend"
    return ""


def _number(field: Field, word: str) -> int | None:
    """The number that a word stands for; None if it stands for none in this field."""
    if word.lower() in field.names:
        return field.names.index(word.lower()) + field.low
    number = int(word) if _is_number(word) else -1
    return number if field.low <= number <= field.high else None


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit()
