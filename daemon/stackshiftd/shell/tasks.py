"""What the daemon does beside its loop's callbacks: the tasks that nobody awaits.

Whoever is to be answered is answered, also if the task fails in a way that nobody thought of: a
client that waits would wait for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from functools import partial
from typing import Any

from stackshift_jobs.errors import StackshiftError
from stackshiftd.shell.params import Answer

log = logging.getLogger("stackshiftd")


class Tasks:
    """The tasks that are under way. Used on the loop's thread."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def begin(self, work: Coroutine[Any, Any, Any], answer: Answer | None = None) -> None:
        """Do `work` in the background. `answer` gets what it returns, or the error with which it
        fails; an error that is none of ours is logged, and so is each one that nobody gets."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(partial(self._ended, answer))

    def cancel(self) -> None:
        """Cancel all of them; nobody is answered."""
        for task in self._running:
            task.cancel()

    def _ended(self, answer: Answer | None, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            result = task.result()
        elif isinstance(error, StackshiftError) and answer is not None:
            result = error
        else:
            log.error("a background task failed", exc_info=error)
            result = failed("the request")
        if answer is not None:
            answer(result)


def failed(what: str) -> StackshiftError:
    """The answer to a request that failed because of a mistake of ours, or of the machine."""
    return StackshiftError(f"{what} failed in the daemon", hint="stackshift daemon logs")
