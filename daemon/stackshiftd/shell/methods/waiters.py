"""Clients that wait for a run to finish."""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from stackshift_jobs.errors import Busy
from stackshiftd.core.state.state import Run
from stackshiftd.core.why import shown_status
from stackshiftd.shell.params import Answer
from stackshiftd.shell.views.run import View

MAX_WAITS: Final = 10_000
"""Of one connection at a time."""


class _Wait(NamedTuple):
    owner: object
    full: bool


class Waiters:
    """Answers each waiter once: when its run has finished, or when its time has passed. Those of a
    connection that is gone are forgotten with it."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._waiting: dict[str, dict[Answer, _Wait]] = {}
        self._of: dict[object, dict[Answer, str]] = {}
        self._loop = asyncio.get_running_loop()

    def add(
        self, run: Run, timeout_ms: int | None, full: bool, answer: Answer, owner: object
    ) -> None:
        """Answer `owner` with how `run` has ended when it has (`full`: the whole run object); after
        `timeout_ms` say that it has not. Raises `Busy` for more than `MAX_WAITS` at a time."""
        owned = self._of.setdefault(owner, {})
        if len(owned) >= MAX_WAITS:
            raise Busy(f"{MAX_WAITS} waits on one connection", hint="use another connection")
        owned[answer] = run.id
        self._waiting.setdefault(run.id, {})[answer] = _Wait(owner, full)
        if timeout_ms is not None:
            self._loop.call_later(timeout_ms / 1000, self._give_up, run, answer)

    def finished(self, run: Run) -> None:
        """The run has finished, durably."""
        waiting = self._waiting.pop(run.id, None)
        if waiting:
            for answer, wait in waiting.items():
                self._disown(wait.owner, answer)
                answer(self._view.of_run(run) if wait.full else self._view.outcome(run))

    def forget(self, owner: object) -> None:
        """The owner is gone."""
        for answer, run in self._of.pop(owner, {}).items():
            self._take(run, answer)

    def _give_up(self, run: Run, answer: Answer) -> None:
        owner = self._take(run.id, answer)
        if owner is not None:
            self._disown(owner, answer)
            answer({"timed_out": True, "run": run.id, "status": shown_status(run).value})

    def _take(self, run: str, answer: Answer) -> object | None:
        """Take a waiter out, if it is still there; whose it was."""
        waiting = self._waiting.get(run, {})
        wait = waiting.pop(answer, None)
        if not waiting:
            self._waiting.pop(run, None)
        return wait.owner if wait is not None else None

    def _disown(self, owner: object, answer: Answer) -> None:
        owned = self._of.get(owner, {})
        owned.pop(answer, None)
        if not owned:
            self._of.pop(owner, None)
