"""What to write instead of a cron expression that is not one."""

from __future__ import annotations

import re
from typing import Final

_FORMS: Final = (
    'five fields such as "0 9 * * 1-5", or @hourly @daily @weekly @monthly @yearly, '
    '"@every 30m" or @reboot'
)
_BOUNDS: Final = (("0", "59"), ("0", "23"), ("1", "31"), ("1", "12"), ("0", "6"))
"""The first and the last of each field."""
_MONTHS: Final = (
    "jan",
    "feb",
    "mar",
    "apr",
    "may",
    "jun",
    "jul",
    "aug",
    "sep",
    "oct",
    "nov",
    "dec",
)
_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_NAMES: Final[tuple[tuple[str, ...], ...]] = ((), (), (), _MONTHS, _DAYS)
_RANGE: Final = re.compile(r"(?<![\w-])(\w+)-(\w+)(?![\w/-])")
_ZONE: Final = re.compile(r"(?:CRON_)?TZ=(\S+)\s")


def advice(expression: str) -> str:
    """The hint for `expression`, which is not a valid schedule."""
    if zone := _ZONE.match(expression):
        return f"the time zone is given beside it: timezone={zone[1]}, or --timezone {zone[1]}"
    fields = expression.split()
    if len(fields) == 6:
        return 'the fields begin with the minute; what ticks more often is written "@every 10s"'
    if len(fields) == 5:
        for place, field in enumerate(fields):
            if split := _split_range(field, place):
                return split
    return _FORMS


def _split_range(field: str, place: int) -> str:
    """The advice on a range of `field` that goes over its end, such as `22-4`; else empty."""
    names = _NAMES[place]
    for first, last in _RANGE.findall(field):
        least, most = _BOUNDS[place]
        begin, end = (_number(word, names, int(least)) for word in (first, last))
        if begin is None or end is None or begin <= end:
            continue
        if first.lower() in names and last.lower() in names:
            least, most = names[0], names[-1]
        before = first if first.lower() == most else f"{first}-{most}"
        after = last if last.lower() == least else f"{least}-{last}"
        return f"a range cannot go over the end; write {before},{after} for {first}-{last}"
    return ""


def _number(word: str, names: tuple[str, ...], least: int) -> int | None:
    if word.lower() in names:
        return names.index(word.lower()) + least
    return int(word) if word.isascii() and word.isdigit() else None
