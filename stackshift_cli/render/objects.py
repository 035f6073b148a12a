"""One object on a terminal: a line for each field, names and values aligned.

    name        media
    queued      4
    oldest      1.5s
    rate        100/m  (stackshift.toml)
    retry
      backoff   2s

How a value is written follows from its field's name, as in the protocol: `_ms` is a duration, `_at`
a time, `_bytes` a size. Fields that are null or empty are left out. A long
value goes on in the next line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from rich.cells import cell_len
from rich.text import Text

from stackshift_cli.arguments import Globals
from stackshift_cli.output.clock import Clock
from stackshift_cli.output.messages import shown
from stackshift_cli.output.safe_text import safe, safe_lines
from stackshift_cli.render.console import console
from stackshift_jobs.project.settings import format_size
from stackshift_jobs.values.durations import short_ms

_GAP: Final = 2
_WORDS: Final = {"depth": "queued"}
"""Fields that have another name on screens than in the protocol: as in lists."""
_TIMES: Final = ("_at", "_since", "_until")
_NO_NOTES: Final[Mapping[str, str]] = {}


class _Line(NamedTuple):
    label: str
    value: Text


def print_object(
    options: Globals,
    body: Mapping[str, Any],
    notes: Mapping[str, str] = _NO_NOTES,
    as_json: frozenset[str] = frozenset(),
) -> None:
    """Print `body`. `notes` are added to the values of the fields they are named after; the fields
    in `as_json` are shown as JSON."""
    clock, screen = Clock.now(), console(options)
    lines = list(_lines(body, notes, as_json, clock, ""))
    label = max((cell_len(line.label) for line in lines), default=0)
    room = max(20, screen.width - label - _GAP)
    for line in lines:
        first, *more = line.value.wrap(screen, room, overflow="fold") or [Text()]
        text = Text(line.label + " " * (label - cell_len(line.label) + _GAP), "dim")
        text.append_text(Text(style="default").append_text(first))
        text.rstrip()
        screen.print(text, soft_wrap=True)
        for rest in more:
            screen.print(Text(" " * (label + _GAP)).append_text(rest), soft_wrap=True)


def _lines(
    body: Mapping[str, Any],
    notes: Mapping[str, str],
    as_json: frozenset[str],
    clock: Clock,
    indent: str,
) -> Iterator[_Line]:
    for name, value in body.items():
        label = indent + _label(name)
        if name in as_json and value is not None:
            yield _Line(label, Text(shown(value)))
        elif isinstance(value, Mapping) and value:
            yield _Line(label, Text())
            yield from _lines(value, _NO_NOTES, as_json, clock, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for index, each in enumerate(value):
                facts = ", ".join(
                    f"{_label(key)} {_text(key, of, clock)}"
                    for key, of in each.items()
                    if of is not None
                )
                yield _Line("" if index else label, Text(facts))
        elif name in notes or value not in (None, "", [], {}):
            text = Text("none" if value is None else _text(name, value, clock))
            if note := notes.get(name):
                text.append(f"  ({note})", "dim")
            yield _Line(label, text)


def _label(name: str) -> str:
    name = _WORDS.get(name, name)
    return safe(name.removesuffix("_ms").removesuffix("_at").replace("_", " "))


def _text(name: str, value: Any, clock: Clock) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and name.endswith("_ms"):
        return short_ms(value)
    if isinstance(value, int) and name.endswith("bytes"):
        return size(value)
    if isinstance(value, str) and name.endswith(_TIMES):
        return clock.both(value)
    if isinstance(value, list):
        return ", ".join(_text("", each, clock) for each in value)
    return safe_lines(value) if isinstance(value, str) else shown(value)


def size(count: int) -> str:
    """Bytes with one decimal of the largest unit: `12.3 MiB`."""
    for unit, of in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= of:
            return f"{count / of:.1f} {unit}"
    return format_size(count)
