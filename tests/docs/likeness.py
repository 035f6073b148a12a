"""Is what a command printed what the page says? Not to the letter: ids, times, durations and sizes
of bars differ from one day to the next, and a page may leave lines out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

_VARYING: Final = (
    # Before durations, as which "693341d6" would pass.
    (re.compile(r'"crc":"[0-9a-f]{8}"'), "CRC"),
    (re.compile(r"run_[0-9a-hjkmnp-tv-z]{26}"), "RUN"),
    (re.compile(r"run_…[0-9a-hjkmnp-tv-z]{6}"), "RUN"),
    # A row of a list of runs: its mark, then the end of its id.
    (re.compile(r"^(\S +)[0-9a-hjkmnp-tv-z]{6}(?=  )"), r"\1RUN"),
    (re.compile(r"evt_([0-9a-hjkmnp-tv-z]{26}|…[0-9a-hjkmnp-tv-z]{6})"), "EVT"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z?"), "TIME"),
    (re.compile(r"\b\d\d [A-Z][a-z]{2} \d\d:\d\d\b|\b\d{4}-\d\d-\d\d \d\d:\d\d\b"), "TIME"),
    (re.compile(r"\b\d\d:\d\d:\d\d(\.\d+)?\b"), "TIME"),
    # A row of a history: the number of its record, then its time.
    (re.compile(r"^\d+ +(?=TIME )"), "SEQ "),
    (re.compile(r"(?<=, )now\b"), "in SOME"),
    (re.compile(r"\bpid \d+"), "pid N"),
    (re.compile(r"\bcode(=| )[0-9a-f]{7}"), "code"),
    (re.compile(r"(?<![\w.])(\d+(\.\d+)?(ms|s|m|h|d)\d*(s|m|h)?)(?![\w.])"), "SOME"),
    # What is listed as due has perhaps been due before already.
    (re.compile(r"(?<=, in SOME) +SOME ago +completed\b"), ""),
    (re.compile(r"\d+(\.\d+)? (B|KiB|MiB|GiB)\b"), "SIZE"),
    (re.compile(r'"(seq|wm)":\d+'), "SEQ"),
    (re.compile(r"\b\d+(\s+records)\b"), r"N\1"),
    # Bars of a picture; the axis above them.
    (re.compile(r"[░█▓⌇·]+( +[░█▓⌇·]+)*"), " "),
    (re.compile(r"^ *STEP .*$"), "STEP"),
    (re.compile(r"\s+"), " "),
)
_MOST_LINES: Final = 5
"""Of a message that was broken."""
_REST: Final = "…"
"""On a page: anything may stand here."""


def settled(line: str) -> str:
    """A line with all that varies replaced by a word."""
    for pattern, word in _VARYING:
        line = pattern.sub(word, line)
    return line.strip()


def matches(wanted: str, printed: str) -> bool:
    """Does the line `printed` say what the page's line does?"""
    parts = [re.escape(part) for part in settled(wanted).split(_REST)]
    return re.fullmatch(".*".join(parts), settled(printed)) is not None


def missing(wanted: Iterable[str], printed: Iterable[str]) -> str | None:
    """The first line of the page that was not printed; None if all were. Each line printed
    stands for one of the page. The order is free: steps that run at the same time change places.
    A message that a terminal breaks between words is one line of the page."""
    left = list(printed)
    for line in filter(str.strip, wanted):
        found = next((part for part in _whole(left) if matches(line, " ".join(part))), None)
        if found is None:
            return line
        at = left.index(found[0])
        del left[at : at + len(found)]
    return None


def _whole(printed: list[str]) -> Iterator[list[str]]:
    """The lines, and then those that go on in lines that are set in, with these."""
    yield from ([line] for line in printed)
    for at in range(len(printed)):
        for end in range(at + 2, min(at + _MOST_LINES, len(printed)) + 1):
            if not printed[end - 1].startswith("  "):
                break
            yield printed[at:end]
