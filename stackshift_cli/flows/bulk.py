"""Changes of many runs: page by page. Each page is durable when it is answered, and printed then;
an interrupted command leaves the remaining runs as they were.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any, Final

from stackshift_cli.arguments import Given, option
from stackshift_cli.daemon.session import Session
from stackshift_cli.flows.run_filters import FILTERS, run_filters
from stackshift_cli.flows.unknown_names import say_unknown
from stackshift_cli.output import messages
from stackshift_cli.output.confirm import can_ask, confirmed
from stackshift_jobs.errors import StackshiftError, Usage, from_json
from stackshift_jobs.values.quantities import quantity

PAGE_RUNS: Final = 500
_TEMPORARY: Final = 75
"""The exit status of a refusal for lack of room, which all following runs would get too."""


class Outcome:
    """What happened to the runs so far. Each is independent; the first that failed decides the exit
    status."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.done: list[dict[str, Any]] = []
        self.status = 0
        self.refused = False

    def take_all(self, pages: Iterable[list[dict[str, Any]]]) -> None:
        """Print the results of pages until one of them was refused for lack of room; with `--json`
        print the runs done so far at the end, even after an interruption."""
        try:
            for page in pages:
                self._take(page)
                if self.refused:
                    break
        finally:
            if self._session.json:
                messages.data(messages.compact(self.done))

    def _take(self, results: list[dict[str, Any]]) -> None:
        for result in results:
            if "error" in result:
                self._fail(from_json(result["error"]))
                continue
            self.done.append(result)
            if not self._session.json:
                messages.data(result["id"])
        sys.stdout.flush()

    def _fail(self, bad: StackshiftError) -> None:
        status = messages.error(bad, self._session.json)
        self.status = self.status or status
        self.refused = self.refused or status == _TEMPORARY


def pages_of(
    session: Session, method: str, params: dict[str, Any]
) -> Iterator[list[dict[str, Any]]]:
    """The results of `method`, requested with `params` for page after page."""
    cursor: str | None = None
    while True:
        after = {"cursor": cursor} if cursor is not None else {}
        page = session.call(method, {"limit": PAGE_RUNS, **params, **after})
        yield page["results"]
        cursor = page["cursor"]
        if cursor is None:
            return


def change_all(
    session: Session,
    given: Given,
    method: str,
    verb: str,
    done: str,
    terms: dict[str, Any] | None = None,
) -> int:
    """Change all runs that match the filters, after confirmation: those that were counted, and none
    that was created since. `terms` are further params of `method`."""
    filters = run_filters(session, given)
    counted = session.call(method, {**filters, "dry_run": True})
    if counted["count"] == 0 and (given.flag("yes") or can_ask()):
        say_unknown(session, filters)
        session.say("no matching runs")
        if session.json:
            messages.data("[]")
        return 0
    if not confirmed(f"{verb} {quantity(counted['count'], 'run')}", given.flag("yes")):
        return 0
    until = min(filters.get("until", counted["at"]), counted["at"])  # They sort as text.
    outcome = Outcome(session)
    outcome.take_all(pages_of(session, method, {**filters, **(terms or {}), "until": until}))
    session.say(f"{quantity(len(outcome.done), 'run')} {done}")
    return outcome.status


def check_selection(given: Given) -> bool:
    """True if `--all` selects the runs, and False if they are named. Raises `Usage` for neither,
    both, or filters without `--all`."""
    everything = given.flag("all")
    if everything == bool(given.texts("runs")):
        raise Usage("give either runs or --all", hint="stackshift runs list")
    filters = [name for name in FILTERS if name in given.given()]
    if filters and not everything:
        raise Usage(f"{option(filters[0])} can only be used with --all")
    return everything
