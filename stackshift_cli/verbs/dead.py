"""`dead list|retry|discard`: the dead letter, which holds the runs that failed for good.

Many runs are processed in pages. Each page is one request that is durable when it is answered, and
its ids are printed then. An interrupted command leaves the remaining runs as they were.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.session import Session
from stackshift_cli.flows.bulk import PAGE_RUNS, Outcome, pages_of
from stackshift_cli.flows.unknown_names import say_unknown
from stackshift_cli.output import messages
from stackshift_cli.output.confirm import can_ask, confirmed
from stackshift_cli.verbs.runs import DEAD_EMPTY, DEAD_NO_MATCH, listed
from stackshift_jobs.errors import Usage
from stackshift_jobs.values.quantities import quantity


def list_(session: Session, given: Given) -> int:
    """`dead list`: like `runs list`, for the runs in the dead letter."""
    return listed(session, given, {"dead": True})


def retry(session: Session, given: Given) -> int:
    """`dead retry RUN...|--all`: retry them; `--all` asks for confirmation."""
    return _act(session, given, "dead.retry", "retry", "retried", asks=given.flag("all"))


def discard(session: Session, given: Given) -> int:
    """`dead discard RUN...|--all`: remove them from the dead letter, after confirmation."""
    return _act(session, given, "dead.discard", "discard", "discarded", asks=True)


def _act(session: Session, given: Given, method: str, verb: str, done: str, *, asks: bool) -> int:
    runs = list(dict.fromkeys(given.texts("runs")))
    everything = given.flag("all")
    _check(given, runs, everything)
    filters = {name: text for name in ("queue", "job") if (text := given.text(name)) is not None}
    total: dict[str, Any] = {"count": len(runs)}
    if everything:
        total = session.call("dead.count", filters)
        if total["count"] == 0 and (given.flag("yes") or can_ask()):
            say_unknown(session, filters)
            session.say(DEAD_NO_MATCH if filters else DEAD_EMPTY)
            if session.json:
                messages.data("[]")
            return 0
    if asks and not confirmed(f"{verb} {quantity(total['count'], 'run')}", given.flag("yes")):
        return 0
    if everything:
        # Only the runs that were counted and confirmed, not those that fail in the meantime.
        pages = pages_of(session, method, {"all": True, **filters, "until": total["at"]})
    else:
        pages = _named(session, method, runs)
    outcome = Outcome(session)
    outcome.take_all(pages)
    if everything:
        session.say(f"{quantity(len(outcome.done), 'run')} {done}")
    return outcome.status


def _check(given: Given, runs: list[str], everything: bool) -> None:
    if everything == bool(runs):
        raise Usage("give either runs or --all", hint="stackshift dead list")
    if runs and (given.text("queue") is not None or given.text("job") is not None):
        raise Usage("--queue and --job can only be used with --all")


def _named(session: Session, method: str, runs: list[str]) -> Iterator[list[dict[str, Any]]]:
    for at in range(0, len(runs), PAGE_RUNS):
        yield session.call(method, {"runs": runs[at : at + PAGE_RUNS]})["results"]
