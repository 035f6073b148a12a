"""The detail of a run, `steps`, `attempts` and `timeline`, in pages.

A run may have very many records, and its results may be large. So this is work in parts
(`shell.work`), and holds no large result that is not on its page.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, Final, NamedTuple

from msgspec import Raw

from stackshift_jobs.errors import Usage
from stackshiftd.core.records import Entry
from stackshiftd.core.state.entries import PAGE_BYTES, encode
from stackshiftd.shell.views.steps import Steps
from stackshiftd.shell.work import Work

LARGE: Final = 512
"""A result of so many bytes is read again for its page, rather than held until then."""
BODIES: Final = ("result", "checkpoint")
"""The fields of a step that may be large."""
PARTS: Final = ("steps", "attempts", "timeline")
"""What pages contain, in this order."""


class Position(NamedTuple):
    """Where a page begins: in which of `PARTS`, and after what: a number of steps or attempts, or
    the sequence number of a record."""

    part: str
    after: int


BEGINNING: Final = Position("steps", 0)


def position(cursor: str | None) -> Position:
    """The position that `cursor` (such as `timeline:4711`) stands for. Raises `Usage`."""
    if cursor is None:
        return BEGINNING
    part, _, after = cursor.partition(":")
    if part not in PARTS or not (after.isascii() and after.isdecimal() and len(after) < 20):
        raise Usage(f"{cursor!r} is not a cursor of a previous page")
    return Position(part, int(after))


class Spilled(NamedTuple):
    """A large result, which is in the record at `place`."""

    place: int


Placed = Iterator[tuple[int | None, Entry] | None]
"""Records with their places (see `lookup.Lookup.read`), in parts."""


class Page:
    """A page of a run's detail in the making; full once it exceeds `PAGE_BYTES`."""

    def __init__(self) -> None:
        self.lists: dict[str, list[Raw]] = {name: [] for name in PARTS}
        self.bytes = 0
        self.cursor: str | None = None

    def add(self, part: str, shown: bytes, place: int) -> bool:
        """Add an item; true if the page is full, and ends after `place`."""
        self.lists[part].append(Raw(shown))
        self.bytes += len(shown)
        if self.bytes > PAGE_BYTES:
            self.cursor = f"{part}:{place}"
        return self.cursor is not None

    def result(self) -> dict[str, Any]:
        """The page as the protocol shows it."""
        return {**self.lists, "cursor": self.cursor}


def detail(
    read: Callable[[int], Placed],
    at: Callable[[int], Entry | None],
    since: Position,
    entry_json: Callable[[Entry], bytes],
    beats: Mapping[str, str],
) -> Work:
    """The work that leads to a page of `steps`, `attempts` and `timeline` of a run, as JSON values,
    with the `cursor` of the next page. `read` reads the run's records after a sequence number, `at`
    the one at a place; `entry_json` says how an entry is shown,
    and `beats` when the functions of steps have last beaten."""
    page = Page()
    if since.part != "timeline":
        steps = yield from _projected(read(0))
        skipped = since.after if since.part == "steps" else len(steps.by_name)
        for number, name in enumerate(list(steps.by_name)[skipped:], skipped + 1):
            shown = _with_bodies(steps.by_name[name], at) | {"last_beat_at": beats.get(name)}
            if page.add("steps", encode(shown), number):
                return page.result()
            yield None
        skipped = since.after if since.part == "attempts" else 0
        for number, attempt in enumerate(steps.attempts[skipped:], skipped + 1):
            if page.add("attempts", encode(attempt), number):
                return page.result()
        yield None
    for placed in read(since.after if since.part == "timeline" else 0):
        if placed is None:
            yield None
        elif page.add("timeline", entry_json(placed[1]), placed[1].seq):
            break
    return page.result()


def _projected(records: Placed) -> Generator[None, None, Steps]:
    """The steps that `records` lead to, without their large results."""
    steps = Steps()
    for placed in records:
        if placed is None:
            yield None
            continue
        place, entry = placed
        steps.add(entry)
        step = steps.by_name.get(getattr(entry.record, "step", None) or "")
        if step is None or place is None:
            continue
        for field in BODIES:
            if isinstance(step[field], Raw) and memoryview(step[field]).nbytes > LARGE:
                step[field] = Spilled(place)
    return steps


def _with_bodies(step: dict[str, Any], at: Callable[[int], Entry | None]) -> dict[str, Any]:
    """The step with its large bodies, which are found by applying their records again."""
    return step | {
        field: _body(step, field, at) for field in BODIES if isinstance(step[field], Spilled)
    }


def _body(step: dict[str, Any], field: str, at: Callable[[int], Entry | None]) -> Any:
    entry = at(step[field].place)
    again = Steps()
    again.by_name[step["name"]] = step | {field: None}
    if entry is not None:
        again.add(entry)
    return again.by_name[step["name"]][field]
