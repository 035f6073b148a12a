"""`start_many` in batches: which runs are sent together, and the outcome of each.

Invariants: every item is in one batch or refused, and keeps its place; a batch is sent again only
if each of its runs has an idempotency key; the line of a batch fits any project's limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from stackshift_jobs.calls.runs import item_params
from stackshift_jobs.errors import DaemonUnavailable, StackshiftError, from_json
from stackshift_jobs.project.locate import Project
from stackshift_jobs.wire.request import encode
from stackshift_jobs.wire.retransmit import may_repeat
from stackshift_jobs.wire.unavailable import NO_ANSWER

BATCH: Final = 500
"""Runs in one `run.start_many`; the protocol allows 1,000."""
BATCH_BYTES: Final = 60 << 10
"""The most that a batch of several runs holds, so that its line fits any `[limits] payload`."""
IN_FLIGHT: Final = 8
"""Batches in flight at a time."""


class Batch(NamedTuple):
    """A part of `start_many`: the places of its items in the result, and its params."""

    places: list[int]
    body: bytes
    repeatable: bool


def batches(
    project: Project, items: Iterable[Any], refused: dict[int, StackshiftError]
) -> Iterator[Batch]:
    """Divide `items` into batches of at most `BATCH` runs and, unless a single run is larger,
    `BATCH_BYTES`.

    Items with and without an idempotency key go into different batches, so that those with one can
    be sent again. The error of an item that cannot be sent is put in `refused`, by its place.
    """
    places: list[int] = []
    parts: list[bytes] = []
    size, keyed = 0, False

    def batch() -> Batch:
        return Batch(places, b'{"runs":[' + b",".join(parts) + b"]}", keyed)

    for place, item in enumerate(items):
        try:
            params = item_params(item)
            encoded = encode(project, params)
        except StackshiftError as bad:
            refused[place] = bad
            continue
        has_key = may_repeat("run.start", params)
        full = len(places) == BATCH or size + len(encoded) > BATCH_BYTES
        if places and (full or has_key != keyed):
            yield batch()
            places, parts, size = [], [], 0
        keyed = has_key
        places.append(place)
        parts.append(encoded)
        size += len(encoded) + 1
    if places:
        yield batch()


def batch_results(
    batch: Batch, answer: Mapping[str, Any]
) -> Iterator[tuple[int, tuple[str, bool, StackshiftError | None]]]:
    """The id, `reused` and error of each item, by its place."""
    for place, result in zip(batch.places, answer["results"], strict=True):
        if (error := result.get("error")) is not None:
            yield place, ("", False, from_json(error))
        else:
            yield place, (result["id"], bool(result["reused"]), None)


def batch_failed(
    batch: Batch, bad: StackshiftError | TimeoutError
) -> Iterator[tuple[int, StackshiftError]]:
    """The error of a whole batch, once for each item."""
    if isinstance(bad, TimeoutError):
        bad = DaemonUnavailable(str(bad), reason=NO_ANSWER, may_have_happened=True)
    body = bad.as_json()
    for place in batch.places:
        yield place, from_json(body)
