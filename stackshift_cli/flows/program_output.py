"""The output of a run of `exec`, passed through as it comes, and the exit status of its program.

What the program prints is text in the run's log, from where a follower reads it: so one that comes
later, or back after the daemon was restarted, sees all of it once. The log is bounded, and it is
text. If some of standard output is missing there, or is not as it was printed, that is said, and
the status is not one of success.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any, Final

from stackshift_cli.daemon.feed import End, FeedRecord, follow, until_back
from stackshift_cli.daemon.session import Session
from stackshift_cli.errors import OutputCut
from stackshift_cli.flows.watch import Progress, detaching, finish
from stackshift_cli.output import messages
from stackshift_jobs.errors import DaemonUnavailable, RunFailed

TIMED_OUT: Final = 124
_NOT_RUN: Final = {"FileNotFoundError": 127, "PermissionError": 126, "OSError": 126}
"""The statuses that shells use for a program that cannot be started, by the type of the error."""
_PAGE: Final = 1000


def pass_through(session: Session, run_id: str, *, tells: bool) -> dict[str, Any]:
    """Write what the program of the run `run_id` prints on our own standard output and error until
    the run has ended, and return the run object. With `tells`, also say its retries. Raises
    `OutputCut` if it succeeded and not all of its standard output is there."""
    output = _Output(session, run_id)
    progress = Progress(session) if tells else None
    with detaching(session, run_id):
        for happening in follow(session, {"run": run_id}):
            if isinstance(happening, End):
                output.copy_rest()
                output.check(happening.run)
                return happening.run
            with suppress(DaemonUnavailable):  # The feed notices it too, and waits.
                output.copy()
            if progress is not None and isinstance(happening, FeedRecord):
                progress.take(happening.body)
    raise AssertionError("a feed of a run ends with the run")


def exit_status(session: Session, run: dict[str, Any]) -> int:
    """The exit status of the program of the finished `run`: 128 + N if signal N ended it, 124 if
    its time was up, 127 if there is no such program, 126 if it cannot be started. Raises what
    `finish` raises for a run that did not end by its program."""
    error = run.get("error") or {}
    status = error.get("exit_code")
    if status is None and run["status"] == "failed":
        status = _NOT_RUN.get(error.get("type", ""))
        if status is None and error.get("type") in ("TimeoutError", "HeartbeatTimeout"):
            status = TIMED_OUT
        if status is not None:
            messages.error(RunFailed(run["id"], error), session.json)
    if status is None:
        return finish(session, run)
    return 128 - int(status) if int(status) < 0 else int(status)


class _Output:
    """The log of a run, of which the lines before `after` were written."""

    def __init__(self, session: Session, run_id: str) -> None:
        self._session = session
        self._run = run_id
        self._after: Any = 0
        self._is_cut = False
        self._missing: list[str] = []
        """The machines that have output, too, and do not answer."""

    def copy(self) -> None:
        """Write what has come since."""
        while True:
            params = {"run": self._run, "after": self._after, "limit": _PAGE}
            page = self._session.call("run.logs", params)
            for line in page["lines"]:
                self._write(line)
            self._after = page["next"]
            self._missing = page.get("elsewhere", [])
            sys.stdout.flush()
            if not page["more"]:
                return

    def copy_rest(self) -> None:
        """Write what is left of the log of a run that has ended."""
        try:
            self.copy()
        except DaemonUnavailable as bad:
            for _ in until_back(self._session, bad):
                pass
            self.copy()

    def _write(self, line: dict[str, Any]) -> None:
        if self._session.json:
            messages.data(messages.compact(line))
            return
        if line.get("cut"):
            self._is_cut = self._is_cut or line["stream"] == "stdout"
            if line["level"]:
                messages.say(line["message"])
                return
        text = line["message"] + ("" if line["unfinished"] else "\n")
        if line["stream"] == "stdout":
            sys.stdout.write(text)
            return
        sys.stdout.flush()  # They may be one terminal or file, where the order is seen.
        sys.stderr.write(text)

    def check(self, run: dict[str, Any]) -> None:
        """Raise `OutputCut` if the run has succeeded, and standard output is not complete."""
        if self._is_cut and run["status"] == "completed":
            raise OutputCut(
                "the program succeeded, but not all that it printed was kept as it was",
                hint="it is long, or no UTF-8 text; let it write to a file: -- sh -c 'COMMAND > "
                "FILE'",
            )
        if self._missing and run["status"] == "completed":
            raise OutputCut(
                f"the program succeeded, but what it printed on {', '.join(self._missing)} is "
                "missing: there is no answer from there",
                hint=f"stackshift runs logs {run['id'][-6:]}",
            )
