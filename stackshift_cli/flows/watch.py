"""Watching a run until it ends: silently (`start --wait`) or showing it (`runs tail RUN`).

Ctrl-C ends the watching, never the run: a message says so, and the exit status is 130. So does a
reader that closes standard output. Otherwise
the status of the run decides: 0 completed, 1 failed, 7 cancelled.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from stackshift_cli.daemon.feed import Deadline, End, FeedRecord, follow
from stackshift_cli.daemon.session import Session
from stackshift_cli.errors import DETACHED, OutputClosed, WatchedRunFailed
from stackshift_cli.output import messages
from stackshift_cli.output.safe_text import safe
from stackshift_cli.output.terminal import draws
from stackshift_cli.render import tsv
from stackshift_jobs.errors import (
    DaemonUnavailable,
    NotFound,
    OutputFailed,
    RunCancelled,
    StackshiftError,
    error_text,
)
from stackshift_jobs.values.limits import FINISHED

if TYPE_CHECKING:
    from stackshift_cli.timeline.happenings import Facts

_NO_ERROR: Final = {"type": "error", "message": ""}


def exit_of(run: dict[str, Any]) -> int:
    """The exit status for a finished run: 0 completed, 1 failed, 7 cancelled."""
    return {"failed": 1, "cancelled": 7}.get(str(run["status"]), 0)


def finish(session: Session, run: dict[str, Any]) -> int:
    """Return 0 if the run completed, and say as which run it continues, if it does; otherwise raise
    `WatchedRunFailed` or `RunCancelled`."""
    if run["status"] == "failed":
        raise WatchedRunFailed(run["id"], run.get("error") or _NO_ERROR, failure(session, run))
    if run["status"] == "cancelled":
        raise RunCancelled(run["id"], str(run.get("why") or ""))
    say_continued(session, run)
    return 0


def say_continued(session: Session, run: dict[str, Any]) -> None:
    """Say as which run `run` continues, if it does: who waits for it does not follow that one."""
    if run.get("continued_as"):
        session.say(f"{run['id']} continues as {run['continued_as']}")


def failure(session: Session, run: dict[str, Any]) -> list[str]:
    """Where the failed run `run` failed, in lines to print below its error: the last frames of the
    project's code, or with `-v` the whole traceback."""
    from stackshift_cli.timeline.failure import summary

    traceback = str((run.get("error") or _NO_ERROR).get("traceback") or "")
    if session.options.verbose:
        return traceback.splitlines()
    return summary(traceback, session.project.root_text)


@contextmanager
def detaching(session: Session, run_id: str) -> Iterator[None]:
    """On Ctrl-C, or when standard output cannot be written any more, say that the run continues;
    the exit status is not one that tells how the run has ended. Of one that has ended, the reader
    who closed standard output has seen enough: the status is that of the run."""
    try:
        yield
    except (KeyboardInterrupt, OutputClosed, OutputFailed) as bad:
        if isinstance(bad, OutputClosed):
            if (status := _ended(session, run_id)) is not None:
                bad.status = status
                raise
            bad.status = DETACHED
        messages.say(f"Detached; {run_id} continues")
        if isinstance(bad, KeyboardInterrupt):
            session.say(f"hint: stackshift runs tail {run_id}")
        raise


def _ended(session: Session, run_id: str) -> int | None:
    """The status that says how the run has ended; None if it has not, or if nobody knows."""
    try:
        run = session.call("run.get", {"run": run_id})
    except StackshiftError:
        return None
    return exit_of(run) if run["status"] in FINISHED else None


def wait_until_end(session: Session, run_id: str, deadline: Deadline) -> dict[str, Any]:
    """Wait until the run `run_id` has ended and return the run object. Its progress and the retries
    of its steps are printed on stderr meanwhile. Raises `TimedOut` at `deadline`."""
    progress = Progress(session)
    with detaching(session, run_id):
        for happening in follow(session, {"run": run_id}):
            if isinstance(happening, End):
                return happening.run
            if isinstance(happening, FeedRecord):
                progress.take(happening.body)
            deadline.check(run_id)
    raise AssertionError("a feed of a run ends with the run")


class Progress:
    """Says how far a run is, and which tries have failed, numbered as in its picture."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._failed: Counter[str] = Counter()

    def take(self, record: dict[str, Any]) -> None:
        """Say what `record` tells of that, if anything."""
        if record["kind"] == "progress.reported":
            done, total = record.get("done") or 0, record.get("total")
            of = f"/{total:g}" if total else ""
            self._session.say(f"{done:g}{of} {safe(str(record.get('message') or ''))}".rstrip())
        elif record["kind"] == "step.failed":
            self._failed[record["step"]] += 1
            self._say_failed(record, f"{record['step']}, try {self._failed[record['step']]}")
        elif record["kind"] == "attempt.failed":
            self._say_failed(record, f"attempt {record['attempt']}")

    def _say_failed(self, record: dict[str, Any], what: str) -> None:
        if record.get("retry_at"):
            error = record.get("error") or {}
            failure = safe(f"{what}: {error_text(error.get('type'), error.get('message'))}")
            self._session.say(f"{failure}; retrying at {messages.moment(record['retry_at'])}")


def show_until_end(
    session: Session, run_id: str, opening: dict[str, Any], deadline: Deadline
) -> dict[str, Any]:
    """Show the run `run_id` until it ends and return the run object.

    On a terminal its timeline is redrawn in place. A pipe gets one line per record (with `--json`
    one object) of the feed that is opened with the params `opening`. Raises `TimedOut` at
    `deadline`.
    """
    with detaching(session, run_id):
        if draws(session.options):
            from stackshift_cli.render.live import draw_until_end

            return draw_until_end(session, run_id, deadline)
        printer = RecordPrinter(session)
        for happening in follow(session, opening):
            if isinstance(happening, End):
                return happening.run
            if isinstance(happening, FeedRecord):
                printer.print(happening.body)
            deadline.check(run_id)
    raise AssertionError("a feed of a run ends with the run")


class RecordPrinter:
    """Prints records one by one, each flushed: drawn on a terminal, else as lines of TSV, with
    `--json` as objects."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._print = self._plain
        if draws(session.options):
            from stackshift_cli.render.stream import Stream

            self._print = Stream(session.options, self._facts).print

    def print(self, record: Mapping[str, Any]) -> None:
        """Print one record."""
        self._print(record)
        sys.stdout.flush()

    def _plain(self, record: Mapping[str, Any]) -> None:
        body = dict(record)
        messages.data(messages.compact(body) if self._session.json else tsv.record(body))

    def _facts(self, run: str) -> Facts | None:
        """Job and beginning of a run, empty if it was removed; None if the daemon is gone for a
        moment: whoever follows it waits for it and reports it."""
        from stackshift_cli.timeline.happenings import Facts

        try:
            found = self._session.call("run.get", {"run": run})
        except NotFound:
            return Facts("", "")
        except DaemonUnavailable:
            return None
        return Facts(found["job"], found["created_at"])
