"""`run.wait`: clients that wait for a run to finish."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Final, NamedTuple

from stackshiftd.core.state.state import Body, Run, Status
from stackshiftd.history.rows import RunRow
from stackshiftd.shell.methods.waiters import Wait, Waiters
from stackshiftd.shell.params import Answer
from stackshiftd.shell.views.run import OUTCOME_FIELDS, View
from stackshiftd.shell.work import Later

SMALL: Final = 512
"""A result of so many bytes is an answer at once."""


class _RunWait(NamedTuple):
    wait: Wait
    full: bool
    """Is the answer the whole run object?"""


class RunWaits:
    """Answers each wait once: when its run has finished, or when it times out."""

    def __init__(self, view: View, waiters: Waiters) -> None:
        self._view = view
        self._waiters = waiters
        self._by_run: dict[str, set[_RunWait]] = {}
        self._loop = asyncio.get_running_loop()

    def add(
        self, run: Run, timeout_ms: int | None, full: bool, answer: Answer, owner: object
    ) -> None:
        """Answer with the outcome of `run` (`full`: with the whole run object) when it has
        finished, or after `timeout_ms` with `{"timed_out": true, …}`. Raises `Busy` if the
        connection `owner` has too many waits."""
        wait = self._waiters.open("run.wait", owner, answer, lambda: self._drop(run.id, run_wait))
        run_wait = _RunWait(wait, full)
        self._by_run.setdefault(run.id, set()).add(run_wait)
        if timeout_ms is not None:
            self._loop.call_later(timeout_ms / 1000, self._time_out, run, run_wait)

    def finished(self, run: Run, row: RunRow) -> None:
        """Answer all waits for `run`, which has finished durably as `row` says."""
        for wait, full in self._by_run.pop(run.id, ()):
            self._waiters.close(wait)
            if full or run.status is not Status.COMPLETED or not _is_small(run.result):
                # Very many may wait for it: none of them holds the result until there is room.
                wait.answer(Later(partial(self._outcome, row, full)))
            else:
                wait.answer(self._view.outcome(run))

    def _outcome(self, row: RunRow, full: bool) -> dict[str, Any]:
        ended = self._view.at_end(row)
        return ended if full else {name: ended[name] for name in OUTCOME_FIELDS}

    def _time_out(self, run: Run, run_wait: _RunWait) -> None:
        if run_wait.wait.is_open:
            self._drop(run.id, run_wait)
            self._waiters.close(run_wait.wait)
            run_wait.wait.answer(
                {"timed_out": True, "run": run.id, "status": run.shown_status.value}
            )

    def _drop(self, run: str, run_wait: _RunWait) -> None:
        waits = self._by_run.get(run, set())
        waits.discard(run_wait)
        if not waits:
            self._by_run.pop(run, None)


def _is_small(result: Body | None) -> bool:
    return result is None or (isinstance(result, bytes) and len(result) <= SMALL)
