"""`dead list|retry|discard`: runs that failed for good, and what becomes of them.

Many runs are acted on a page at a time, each page one request that is durable when it is answered;
ids are printed as pages are done. Who interrupts it leaves some done, and the others as they were.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, Final

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.session import Session
from stackshift_cli.output import messages
from stackshift_cli.output.confirm import can_ask, confirmed
from stackshift_cli.verbs.runs import listed
from stackshift_jobs.errors import StackshiftError, Usage, from_json

PAGE_RUNS: Final = 500
_TEMPORARY: Final = 75
"""What is refused for want of room is refused to all that would follow."""


def list_(session: Session, given: Given) -> int:
    """`dead list`: as `runs list`."""
    return listed(session, given, {"dead": True})


def retry(session: Session, given: Given) -> int:
    """`dead retry RUN...|--all`: send them on; all of them only after a yes."""
    return _act(session, given, "dead.retry", "retry", "retried", asks=given.flag("all"))


def discard(session: Session, given: Given) -> int:
    """`dead discard RUN...|--all`: take them out of the dead letter, after a yes."""
    return _act(session, given, "dead.discard", "discard", "discarded", asks=True)


def _act(session: Session, given: Given, method: str, verb: str, done: str, *, asks: bool) -> int:
    runs = list(dict.fromkeys(given.texts("runs")))
    everything = given.flag("all")
    _check(given, runs, everything)
    filters = {name: text for name in ("queue", "job") if (text := given.text(name)) is not None}
    counted: dict[str, Any] = {"count": len(runs)}
    if everything:
        counted = session.call("dead.count", filters)
        if counted["count"] == 0 and (given.flag("yes") or can_ask()):
            session.say("nothing of that is in the dead letter" if filters else _NOTHING)
            if session.json:
                messages.data("[]")
            return 0
    if asks and not confirmed(f"{verb} {_runs(counted['count'])}", given.flag("yes")):
        return 0
    if everything:
        # Those that were asked about, and not what fails in the meantime.
        pages = _all(session, method, {**filters, "until": counted["at"]})
    else:
        pages = _named(session, method, runs)
    told = _Told(session)
    try:
        for page in pages:
            told.take(page)
            if told.refused:
                break
    finally:
        told.end()
    if everything:
        session.say(f"{_runs(len(told.done))} {done}")
    return told.status


_NOTHING: Final = "nothing is in the dead letter"


def _check(given: Given, runs: list[str], everything: bool) -> None:
    if everything == bool(runs):
        raise Usage("name runs, or say --all", hint="stackshift dead list")
    if runs and (given.text("queue") is not None or given.text("job") is not None):
        raise Usage("--queue and --job go with --all")


def _runs(count: int) -> str:
    return f"{count} run" if count == 1 else f"{count} runs"


def _named(session: Session, method: str, runs: list[str]) -> Iterator[list[dict[str, Any]]]:
    for at in range(0, len(runs), PAGE_RUNS):
        yield session.call(method, {"runs": runs[at : at + PAGE_RUNS]})["results"]


def _all(session: Session, method: str, params: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    cursor: str | None = None
    while True:
        after = {"cursor": cursor} if cursor is not None else {}
        page = session.call(method, {"all": True, "limit": PAGE_RUNS, **params, **after})
        yield page["results"]
        cursor = page["cursor"]
        if cursor is None:
            return


class _Told:
    """What became of the runs so far: each on its own; the first that could not be decides the
    status."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.done: list[dict[str, Any]] = []
        self.status = 0
        self.refused = False

    def take(self, results: list[dict[str, Any]]) -> None:
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

    def end(self) -> None:
        """Also of what was interrupted: what is done is done."""
        if self._session.json:
            messages.data(messages.compact(self.done))
