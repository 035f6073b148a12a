"""The thread that performs writes and syncs of the journal for which the event loop does not wait.

Owns the hand-over between the event loop and the disk. Knows nothing of lines and segments: it runs
the submitted work in order, and a chore at intervals. It is a thread of its own, not the loop's
executor, because a commit must never queue behind some other slow call.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final

Work = Callable[[], Any]


class CommitThread:
    """Runs work in order, and calls `chore` up to `interval_s` seconds after work ran.

    The chore runs at most once per interval, and not at all while idle. It must not raise.
    """

    def __init__(self, chore: Callable[[], None], interval_s: float) -> None:
        self._queue: Final[SimpleQueue[Callable[[], None] | None]] = SimpleQueue()
        self._chore = chore
        self._interval_s = interval_s
        self._due: float | None = None
        """When the chore is due (`time.monotonic`); None if nothing was done since the last."""
        self._thread = threading.Thread(target=self._run, name="journal-commit", daemon=True)
        self._thread.start()

    def submit(
        self,
        work: Work,
        loop: asyncio.AbstractEventLoop,
        done: Callable[[Any, BaseException | None], None],
    ) -> None:
        """Run `work` in the thread, then `done(result, error)` in `loop`."""
        self._queue.put(partial(_do, work, loop, done))

    def remind(self) -> None:
        """Have the chore run within the interval, since work was done elsewhere."""
        if self._due is None:
            self._queue.put(_nothing)

    def stop(self) -> None:
        """Run everything that was submitted, then end the thread; return when it has ended."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            due = self._due
            wait = None if due is None else max(0.0, due - time.monotonic())
            try:
                job = self._queue.get(timeout=wait)
            except Empty:
                job = None
            else:
                if job is None:
                    return
                job()
                job = None  # Frees its buffers now, not when the next job arrives.
                if due is None:
                    self._due = due = time.monotonic() + self._interval_s
            if due is not None and time.monotonic() >= due:
                # First: what is done elsewhere from here on asks for another chore.
                self._due = None
                self._chore()


def _nothing() -> None:
    """The work that is left when it was done elsewhere."""


def _do(
    work: Work,
    loop: asyncio.AbstractEventLoop,
    done: Callable[[Any, BaseException | None], None],
) -> None:
    result: Any = None
    error: BaseException | None = None
    try:
        result = work()
    except BaseException as failed:  # Passed to the awaiting caller; this thread must survive.
        error = failed
    with suppress(RuntimeError):  # The loop is closed: nobody is waiting any more.
        loop.call_soon_threadsafe(done, result, error)
