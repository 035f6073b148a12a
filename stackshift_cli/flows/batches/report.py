"""The output of a batch: ids on stdout, everything else on stderr.

Owns the counts. On a terminal, unless `-q` was given, a progress line is redrawn a few times a
second; it is erased before anything else is printed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from time import monotonic
from typing import Any, Final

from stackshift_cli.daemon.session import Session
from stackshift_cli.errors import OutputClosed
from stackshift_cli.output import messages
from stackshift_cli.output.safe_text import safe
from stackshift_cli.output.terminal import is_terminal
from stackshift_jobs.errors import OutputFailed, StackshiftError

_DRAW_SECONDS: Final = 0.25


class Report:
    """Prints the outcome of each line, the progress and the summary."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._draws = is_terminal(sys.stderr) and not session.options.quiet
        self._mixes = self._draws and is_terminal(sys.stdout)
        self._drawn_at = 0.0
        self._drawn = False
        self._began = monotonic()
        self.started = 0
        self.reused = 0
        self.bad = 0
        self.unknown = 0
        self.unread: OutputFailed | None = None
        """Why ids are no longer printed, if standard output is closed or cannot be written."""
        self.unwritten: OutputFailed | None = None
        """The same, unless it is merely closed, by somebody who needs no more of them."""

    def done(self, number: int, result: dict[str, Any]) -> None:
        """Print the run of a line: its id, or with `--json` an object."""
        if self._mixes:
            self.wipe()
        if result["reused"]:
            self.reused += 1
        else:
            self.started += 1
        if self._session.json:
            self._write(messages.compact({"line": number, **result}) + "\n")
        else:
            self._write(result["id"] + "\n")

    def flush(self) -> None:
        """Let the ids printed so far be read."""
        self._write("", flush=True)

    def _write(self, text: str, flush: bool = False) -> None:
        """Write `text` to standard output; what keeps it from that ends the batch, later."""
        try:
            sys.stdout.write(text)
            if flush:
                sys.stdout.flush()
        except OutputClosed:
            self.unread = OutputFailed("standard output was closed by its reader")
        except OutputFailed as bad:
            self.unread = self.unwritten = bad

    def refused(self, number: int, bad: StackshiftError) -> None:
        """Print why a line was refused: it is not a valid start, or the daemon rejected it."""
        self.bad += 1
        self.say(f"line {number}: error[{bad.code}]: {safe(bad.message)}")
        if self._session.json:
            messages.say(messages.compact({"line": number, "error": bad.as_json()}))

    def uncertain(self, numbers: list[int], bad: StackshiftError) -> None:
        """Print the numbers of lines whose outcome is unknown: their request failed with `bad`, and
        without an idempotency key they must not be sent again."""
        self.unknown += len(numbers)
        self.say(
            f"{lines(numbers)}: error[{bad.code}]: {safe(bad.message)}; "
            "may or may not have been started; not sent again without an idempotency key"
        )
        if self._session.json:
            for number in numbers:
                body = bad.as_json() | {"may_have_happened": True}
                messages.say(messages.compact({"line": number, "error": body}))

    def note(self, text: str) -> None:
        """Print a line on stderr unless `--quiet` was given."""
        self.wipe()
        self._session.say(text)

    def say(self, text: str) -> None:
        """Print a line on stderr, even with `--quiet`."""
        self.wipe()
        messages.say(text)

    def progress(self) -> None:
        """Redraw the progress line, if it is time to."""
        now = monotonic()
        if self._draws and now - self._drawn_at >= _DRAW_SECONDS:
            self._drawn_at, self._drawn = now, True
            sys.stderr.write(f"\r{self.counts()}\x1b[K")
            sys.stderr.flush()

    def wipe(self) -> None:
        """Erase the progress line."""
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._drawn = False

    def summary(self) -> None:
        """Print the counts. Off a terminal only if they say more than the ids do, and not with
        `--json`."""
        self.wipe()
        more = self.reused or self.bad or self.unknown
        if self._draws or (more and not self._session.json):
            from stackshift_jobs.values.durations import format_ms

            took = format_ms(round((monotonic() - self._began) * 1000))
            self._session.say(f"{self.counts()} in {took}")

    def counts(self) -> str:
        """`1,200 started, 3 bad`."""
        counts = [f"{self.started:,} started"]
        for count, word in (
            (self.reused, "reused"),
            (self.bad, "bad"),
            (self.unknown, "unknown"),
        ):
            if count:
                counts.append(f"{count:,} {word}")
        return ", ".join(counts)


def lines(numbers: Iterable[int]) -> str:
    """Ascending line numbers for people: `line 7`, `lines 3-5, 9`."""
    ranges = [str(a) if a == b else f"{a}-{b}" for a, b in _ranges(numbers)]
    one = len(ranges) == 1 and "-" not in ranges[0]
    return ("line " if one else "lines ") + ", ".join(ranges)


def _ranges(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    first = last = 0
    for number in numbers:
        if first and number != last + 1:
            yield first, last
            first = number
        first = first or number
        last = number
    if first:
        yield first, last
