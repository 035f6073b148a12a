"""Clients that wait for a run to finish."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from stackshift_jobs.errors import Busy
from stackshiftd.core.state import Run
from stackshiftd.core.why import shown_status
from stackshiftd.shell.params import Answer

MAX_WAITS: Final = 10_000
"""Of one connection at a time."""


class Waiters:
    """Answers each waiter once: when its run has finished, or when its time has passed. Those of a
    connection that is gone are forgotten with it."""

    def __init__(self, run_object: Callable[[Run], dict[str, Any]]) -> None:
        self._run_object = run_object
        self._waiting: dict[str, dict[Answer, object]] = {}
        self._of: dict[object, dict[Answer, str]] = {}
        self._loop = asyncio.get_running_loop()

    def add(self, run: Run, timeout_ms: int | None, answer: Answer, owner: object) -> None:
        """Answer `owner` with the run object when `run` has finished; after `timeout_ms` say that
        it has not. Raises `Busy` for more than `MAX_WAITS` at a time."""
        owned = self._of.setdefault(owner, {})
        if len(owned) >= MAX_WAITS:
            raise Busy(f"{MAX_WAITS} waits on one connection", hint="use another connection")
        owned[answer] = run.id
        self._waiting.setdefault(run.id, {})[answer] = owner
        if timeout_ms is not None:
            self._loop.call_later(timeout_ms / 1000, self._give_up, run, answer)

    def finished(self, run: Run) -> None:
        """The run has finished, durably."""
        waiting = self._waiting.pop(run.id, None)
        if waiting:
            made = self._run_object(run)
            for answer, owner in waiting.items():
                self._disown(owner, answer)
                answer(made)

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
        owner = waiting.pop(answer, None)
        if not waiting:
            self._waiting.pop(run, None)
        return owner

    def _disown(self, owner: object, answer: Answer) -> None:
        owned = self._of.get(owner, {})
        owned.pop(answer, None)
        if not owned:
            self._of.pop(owner, None)
