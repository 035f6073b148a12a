"""Rows that spans are added to: the part of a timeline's fold that knows no kinds of records.

Invariants: a row has at most one open span; the spans of a row are not sorted; a call that is made
again after it was withdrawn begins with an empty row.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stackshift_cli.timeline.intervals import Interval, Kind
from stackshift_cli.timeline.model import Row, Try
from stackshift_jobs.values.durations import from_rfc3339
from stackshift_jobs.values.identities import own_part


class Rows:
    """The rows by their keys, and the spans that are open."""

    def __init__(self, start_us: int) -> None:
        self.rows: dict[str, Row] = {}
        self.open: dict[str, tuple[Kind, int]] = {}
        self.busy_since_us = start_us
        """Since when the handler may have been outside of its steps."""
        self.dispatched_us = start_us
        """When the handler began to execute, or to execute again."""
        self.withdrawn: set[str] = set()
        """Rows of calls that were withdrawn. One that is made again begins with an empty row."""

    def row(self, name: str) -> Row:
        """The row `name`, which is created if it is new, or its call was withdrawn."""
        if name in self.withdrawn:
            self.withdrawn.discard(name)
            del self.rows[name]
        return self.rows.setdefault(name, Row(name))

    def begin(self, name: str, kind: Kind, at_us: int) -> Row:
        """Open a span of `kind` in the row `name` at `at_us`."""
        self.close(name, at_us)
        self.open[name] = (kind, at_us)
        return self.row(name)

    def close(self, name: str, at_us: int, kind: Kind | None = None) -> None:
        """Close the open span of `name`, if there is one, as `kind` or as the kind it was opened
        with."""
        if name in self.open:
            open_kind, start_us = self.open.pop(name)
            self.add(name, kind or open_kind, start_us, at_us)

    def add(self, name: str, kind: Kind, start_us: int, end_us: int) -> None:
        """Add a closed span to the row `name`."""
        self.row(name).spans.append(Interval(kind, start_us, max(start_us, end_us)))

    def failed_try(self, row: Row, record: dict[str, Any], took_ms: int) -> None:
        """Add a failed try, with the error of `record`."""
        error = record.get("error") or {}
        row.tries.append(
            Try(
                number=len(row.tries) + 1,
                type=str(error.get("type") or error.get("code") or "error"),
                message=str(error.get("message") or ""),
                took_ms=took_ms,
                retry_ms=None,
                traceback=str(error.get("traceback") or ""),
            )
        )

    def back_off(self, row: Row, at_us: int, retry_at: str) -> None:
        """Begin the backoff after the last failed try of `row`."""
        retry_ms = (from_rfc3339(retry_at) - at_us) // 1000
        row.tries[-1] = replace(row.tries[-1], retry_ms=retry_ms)
        row.status = "retrying"
        self.begin(row.key, Kind.BACKOFF, at_us)

    def annotate(self, row: Row, words: str) -> None:
        """Note what a row is about, unless its name says so."""
        named = f"event {own_part(row.key)}"
        if words == named or words.startswith(f"{named} ["):
            words = words[len(named) + 1 :]
        row.note = "" if words == row.name else words
