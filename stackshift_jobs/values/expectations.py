"""What is expected of a job: by when, or how often, a run of it has completed.

    every 6h                      within 6 hours of the last success
    hourly by :15                 each hour, 15 minutes past
    daily by 03:00                each day
    weekdays by 18:30             Monday to Friday
    mon, thu by 03:00             on these days (mon tue wed thu fri sat sun)
    weekly by mon 03:00           the same for one day
    monthly by 1 03:00            on this day of each month, 1 to 28

Times are those of the job's `timezone`. All but `every` are points in time, which a cron expression
has too.
"""

from __future__ import annotations

import re
from typing import Final

from stackshift_jobs.errors import Usage
from stackshift_jobs.values.durations import milliseconds

DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
LEAST_EVERY_MS: Final = 1000
HINT: Final = (
    '"daily by 03:00", "every 6h", "hourly by :15", "weekdays by 18:30", "mon, thu by 03:00" or '
    '"monthly by 1 03:00"'
)
_EVERY: Final = re.compile(r"every (\S+)")
_HOURLY: Final = re.compile(r"hourly by :([0-5]\d)")
_AT: Final = re.compile(
    r"(daily by|weekdays by|weekly by (?:\w{3})|monthly by (?:\d{1,2})|\w{3}(?:,\w{3})* by) "
    r"([01]?\d|2[0-3]):([0-5]\d)"
)


def check_expectation(text: object, what: str = "expect") -> str:
    """`text` in its usual form: lower case, single spaces. Raises `Usage` if it says nothing that
    can be expected."""
    usual = _usual(text) if isinstance(text, str) else ""
    try:
        if _EVERY.fullmatch(usual):
            valid = every_ms_of(usual) >= LEAST_EVERY_MS
        else:
            valid = bool(cron_of(usual))
    except (Usage, ValueError):
        valid = False
    if not valid:
        raise Usage(f"{what}: {text!r} is not an expectation", hint=f"write {HINT}")
    return usual


def _usual(text: str) -> str:
    return re.sub(r"\s*,\s*", ",", " ".join(text.lower().split()))


def every_ms_of(text: str) -> int:
    """The milliseconds of `every 6h`; 0 for an expectation that names times. Raises `Usage` for a
    duration that is not one."""
    found = _EVERY.fullmatch(text)
    return milliseconds(found[1]) if found else 0


def cron_of(text: str) -> str:
    """The cron expression of the times by which a success is expected. Raises `ValueError` if
    `text`, in its usual form, names none."""
    if found := _HOURLY.fullmatch(text):
        return f"{int(found[1])} * * * *"
    found = _AT.fullmatch(text)
    if found is None:
        raise ValueError(text)
    words, hour, minute = found[1].removesuffix(" by"), int(found[2]), int(found[3])
    kind, _, rest = words.partition(" by ")
    month_day, week_days = "*", "*"
    if kind == "weekdays":
        week_days = "1-5"
    elif kind == "monthly":
        if not 1 <= int(rest) <= 28:
            raise ValueError(text)
        month_day = str(int(rest))
    elif kind != "daily":
        named = [rest] if kind == "weekly" else kind.split(",")
        week_days = ",".join(str(DAYS.index(day)) for day in named)
    return f"{minute} {hour} {month_day} * {week_days}"
