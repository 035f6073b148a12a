"""The output of a run on several machines: in which order, and what of it makes the next page.

Each machine has a file of what the run has printed while its daemon led. The run's executions, of
which the journal has the order, tell the order of the lines. Only where an attempt has come back to
a machine, what it printed before and after is told apart by the time of the line. A handler that
goes on on another machine prints there again what it printed before; as in the file of one machine,
that is shown once.

A page has the lines of one machine, up to where those of another one come first. So a place in the
whole is a number of lines for each machine, and no line is left out or comes twice, whatever is
written meanwhile and whoever does not answer for a while.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from stackshift_jobs.values.durations import parse_time
from stackshiftd.shell.views.log_lines import Page


class Execution(NamedTuple):
    """An execution of an attempt that began at `at_us`, while the daemon on `host` led."""

    attempt: int
    host: str
    at_us: int


class Spell(NamedTuple):
    """Executions in a row on one machine: of the attempts `first` to `last`, from `at_us` on."""

    host: str
    first: int
    last: int
    at_us: int


class Executions:
    """Those of a run, in order."""

    def __init__(self, executions: Iterable[Execution]) -> None:
        self._spells: list[Spell] = []
        for attempt, host, at_us in executions:
            if not host:
                continue
            if self._spells and self._spells[-1].host == host:
                self._spells[-1] = self._spells[-1]._replace(last=attempt)
            else:
                self._spells.append(Spell(host, attempt, attempt, at_us))

    @property
    def hosts(self) -> tuple[str, ...]:
        """The machines that may have output of the run, in the order of their first execution."""
        return tuple(dict.fromkeys(each.host for each in self._spells))

    def number_of(self, host: str, line: Mapping[str, Any]) -> int:
        """Which spell has printed a line that is in the log of `host`; -1 if none did."""
        attempt = line["attempt"]
        known = [
            number
            for number, each in enumerate(self._spells)
            if each.host == host and each.first <= attempt
        ]
        while len(known) > 1 and self._spells[known[-1]].first == attempt:
            # The attempt goes on here after it was elsewhere: was this printed before that?
            if self._spells[known[-1]].at_us <= parse_time(line["at"]):
                break
            known.pop()
        return known[-1] if known else -1

    def printed_before(self, host: str, line: Mapping[str, Any]) -> Printed | None:
        """Who may have printed a line of the log of `host`, which each pass of its handler prints,
        before: None if nobody has."""
        number = self.number_of(host, line)
        attempt = line["attempt"]
        others = {
            each.host
            for each in self._spells[: max(number, 0)]
            if each.host != host and each.first <= attempt <= each.last
        }
        if not others:
            return None
        return Printed(attempt, self._spells[number].at_us, frozenset(others))


class Printed(NamedTuple):
    """What `hosts` have printed in an attempt until `until_us`, when it went on elsewhere."""

    attempt: int
    until_us: int
    hosts: frozenset[str]


class Choice(NamedTuple):
    """The machine whose lines come next, and how many of them."""

    host: str
    lines: int


def next_lines(pages: Mapping[str, Page], executions: Executions) -> Choice | None:
    """Which of the pages, which begin where each machine's lines were read to, has the lines that
    come next; None if none has any."""
    numbers = {
        host: [executions.number_of(host, line) for line in page.lines]
        for host, page in pages.items()
        if page.lines
    }
    if not numbers:
        return None
    host = min(numbers, key=lambda each: numbers[each][0])
    until = min((n[0] for each, n in numbers.items() if each != host), default=None)
    if until is None:
        return Choice(host, len(numbers[host]))
    later = (count for count, number in enumerate(numbers[host]) if number > until)
    return Choice(host, next(later, len(numbers[host])))
