"""Clients that wait for a run to finish."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from stackshiftd.core.state import Run
from stackshiftd.core.why import shown_status

Answer = Callable[[Any], None]


class Waiters:
    """Answers each waiter once: when its run has finished, or when its time has passed."""

    def __init__(self, run_object: Callable[[Run], dict[str, Any]]) -> None:
        self._run_object = run_object
        self._waiting: dict[str, list[Answer]] = {}
        self._loop = asyncio.get_running_loop()

    def add(self, run: Run, timeout_ms: int | None, answer: Answer) -> None:
        """Answer with the run object when `run` has finished; after `timeout_ms` say that not."""
        self._waiting.setdefault(run.id, []).append(answer)
        if timeout_ms is not None:
            self._loop.call_later(timeout_ms / 1000, self._give_up, run, answer)

    def finished(self, run: Run) -> None:
        """The run has finished, durably."""
        waiting = self._waiting.pop(run.id, None)
        if waiting:
            made = self._run_object(run)
            for answer in waiting:
                answer(made)

    def _give_up(self, run: Run, answer: Answer) -> None:
        waiting = self._waiting.get(run.id, [])
        if answer in waiting:
            waiting.remove(answer)
            if not waiting:
                del self._waiting[run.id]
            answer({"timed_out": True, "run": run.id, "status": shown_status(run).value})
