"""`runs tail|wait`: follow runs, and wait until they end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.feed import TICK_SECONDS, Deadline, FeedRecord, follow
from stackshift_cli.daemon.session import Session
from stackshift_cli.errors import OutputClosed
from stackshift_cli.flows.run_filters import time_ago
from stackshift_cli.flows.watch import RecordPrinter, exit_of, say_continued, show_until_end
from stackshift_cli.output import messages
from stackshift_cli.output.terminal import draws
from stackshift_cli.render import tsv
from stackshift_jobs.errors import DaemonUnavailable, Usage

_SILENCE_SECONDS: Final = 1.0
TAIL_RECORDS: Final = 10
"""How many records `tail --no-follow` shows without `-n` or `--since`."""


def tail(session: Session, given: Given) -> int:
    """`runs tail [RUN]`: print the records of a run, or of all runs, as they become durable. The
    end of the run RUN decides the exit status."""
    opening = opening_given(session, given)
    run = given.text("run")
    if run is not None:
        return _tail_run(session, given, run, opening)
    return tail_records(session, opening, given.flag("no_follow"), "Detached; all runs continue")


def opening_given(session: Session, given: Given) -> dict[str, Any]:
    """The params of `feed.open` that say where the feed begins, from `--since` and `-n`."""
    if given.text("since") is not None and given.text("lines") is not None:
        raise Usage("--since and -n cannot be used together")
    opening: dict[str, Any] = {}
    if (since := time_ago(session, given, "since")) is not None:
        opening["since"] = since
    if (last := given.whole("lines", 0, 1_000_000)) is not None:
        opening["last"] = last
    return opening


def tail_records(
    session: Session,
    opening: dict[str, Any],
    no_follow: bool,
    detached: str,
    is_shown: Callable[[dict[str, Any]], bool] = lambda _: True,
) -> int:
    """Print the records of the feed opened with `opening` for which `is_shown` is true: as they
    become durable, or with `no_follow` those there are now. `detached` is the message on Ctrl-C."""
    if not no_follow:
        return _tail_all(session, opening, detached, is_shown)
    begins = opening.keys() & {"since", "since_seq", "last"}
    if not begins:
        opening = {**opening, "last": TAIL_RECORDS}
    return _print_recent(session, opening, is_shown)


def _tail_run(session: Session, given: Given, run: str, opening: dict[str, Any]) -> int:
    if given.flag("no_follow"):
        detail = session.detail(run)
        records = [r for r in detail["timeline"] if r["at"] >= opening.get("since", "")]
        printer = RecordPrinter(session)
        for record in records[-opening["last"] or len(records) :] if "last" in opening else records:
            printer.print(record)
        return 0
    # The full id, since `@last` could name another run after a reconnection.
    run_id = session.call("run.get", {"run": run})["id"]
    ended = show_until_end(session, run_id, {"run": run_id, **opening}, Deadline(None))
    status = exit_of(ended)
    try:
        if session.json:
            messages.data(messages.compact({"run": ended, "exit": status}))
        elif not draws(session.options):
            messages.data(tsv.ending(ended, status))
    except OutputClosed as closed:
        closed.status = status
        raise
    return status


def _tail_all(
    session: Session,
    opening: dict[str, Any],
    detached: str,
    is_shown: Callable[[dict[str, Any]], bool],
) -> int:
    printer = RecordPrinter(session)
    try:
        for happening in follow(session, opening):
            if isinstance(happening, FeedRecord) and is_shown(happening.body):
                printer.print(happening.body)
    except KeyboardInterrupt:
        messages.say(detached)
        raise
    return 0


def _print_recent(
    session: Session, opening: dict[str, Any], is_shown: Callable[[dict[str, Any]], bool]
) -> int:
    """Print the feed up to the record that is the newest durable one now."""
    newest = int(session.call("journal.stats")["durable_seq"])
    printer = RecordPrinter(session)
    silence = 0
    for happening in follow(session, opening):
        if not isinstance(happening, FeedRecord):
            # Feeds leave some records out. If the newest is one of them, nothing more arrives.
            silence += 1
            if silence * TICK_SECONDS >= _SILENCE_SECONDS:
                return 0
            continue
        silence = 0
        if int(happening.body["seq"]) <= newest and is_shown(happening.body):
            printer.print(happening.body)
        if int(happening.body["seq"]) >= newest:
            return 0
    return 0


def wait(session: Session, given: Given) -> int:
    """`runs wait RUN...`: print id and status of each run as it ends. In the exit status, failed
    outranks cancelled. Raises `TimedOut` after `--timeout`."""
    deadline = Deadline(given.duration_ms("timeout"))
    runs = [session.call("run.get", {"run": run}) for run in given.texts("runs")]
    left = dict.fromkeys(run["id"] for run in runs)
    statuses: set[int] = set()
    try:
        while left:
            for run in _ended(session, list(left), deadline):
                del left[run["id"]]
                statuses.add(exit_of(run))
                text = messages.compact(run) if session.json else f"{run['id']}\t{run['status']}"
                messages.data(text)
                sys.stdout.flush()
                say_continued(session, run)
                if given.flag("any"):
                    return exit_of(run)
    except KeyboardInterrupt:
        messages.say(f"Detached; {', '.join(left)} continue{'s' if len(left) == 1 else ''}")
        session.say(f"hint: stackshift runs wait {' '.join(left)}")
        raise
    return 1 if 1 in statuses else max(statuses, default=0)


def _ended(session: Session, runs: list[str], deadline: Deadline) -> Any:
    """Yield those of `runs` that have ended, as they end. If the connection breaks, wait for a new
    one and stop early."""
    connection = session.connection()
    try:
        for run in runs:
            connection.send("run.wait", {"run": run, "full": True})
        for _ in runs:
            yield connection.receive(deadline.left()).value()
    except TimeoutError:
        raise deadline.passed(", ".join(runs)) from None
    except DaemonUnavailable as bad:
        _wait_for_daemon(session, bad, deadline, runs)


def _wait_for_daemon(
    session: Session, bad: DaemonUnavailable, deadline: Deadline, runs: list[str]
) -> None:
    from stackshift_cli.daemon.feed import until_back

    for _ in until_back(session, bad):
        deadline.check(", ".join(runs))
