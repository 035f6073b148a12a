"""`state.wait`: clients that wait for a state entry to exist.

A wait is about the entry as it is, not about writes: a key that is set and deleted in one batch of
records was never seen to exist. Invariants: a client is answered once, at the latest when its time
is over, and only by what is durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final

from msgspec import Raw

from stackshift_jobs.errors import DiskFull, StackshiftError
from stackshift_jobs.values.durations import MAX_DURATION_MS
from stackshift_jobs.values.names import check_key
from stackshiftd.core import records as r
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.methods.waiters import Wait, Waiters
from stackshiftd.shell.params import Answer, BoundTable, Params, within
from stackshiftd.shell.work import Later

SMALL: Final = 512
"""An entry of so many bytes is an answer at once; of a larger one, that many clients may wait for,
none is written until its client has room."""


class WaitState(Params):
    """The params of `state.wait`: for how long at most until there is an entry under `key`."""

    key: str
    wait_ms: int


class StateWaits:
    """Answers each wait once: with the entry, or with null when its time is over. `published` must
    be called after each commit."""

    def __init__(self, engine: Engine, read: Callable[[str], Raw | None], waiters: Waiters) -> None:
        self._engine = engine
        self._read = read
        """Returns the entry under a key, if there is one."""
        self._waiters = waiters
        self._by_key: dict[str, dict[Wait, asyncio.TimerHandle]] = {}
        self._loop = asyncio.get_running_loop()
        self.bound: BoundTable = {"state.wait": (WaitState, self.wait)}

    def wait(self, owner: object, params: WaitState, answer: Answer) -> None:
        """Answer with the entry as soon as there is one, or with null after `wait_ms`. Raises
        `Usage`, and `Busy` if the connection `owner` has too many waits."""
        key = check_key(params.key, "a state key")
        within(params.wait_ms, 0, MAX_DURATION_MS, "wait_ms")
        wait = self._waiters.open("state.wait", owner, answer, lambda: self._drop(key, wait))
        seconds = params.wait_ms / 1000
        timer = self._loop.call_later(seconds, self._look, key, wait, True)
        self._by_key.setdefault(key, {})[wait] = timer
        self._look(key, wait, params.wait_ms == 0)

    def published(self, entries: Iterable[r.Entry]) -> None:
        """Answer those who wait for what these entries, which are durable, have written."""
        if not self._by_key:
            return
        for entry in entries:
            record = entry.record
            if type(record) is r.StateSet:
                for wait in list(self._by_key.get(record.key, ())):
                    self._look(record.key, wait, False)

    def _look(self, key: str, wait: Wait, is_over: bool) -> None:
        """Answer the wait if there is an entry, or if its time is over."""
        if not wait.is_open:
            return
        found = self._read(key)
        if found is None and not is_over:
            return

        def settled(error: Any) -> None:
            if not wait.is_open:
                return  # Another look has answered it.
            if isinstance(error, DiskFull):
                self._look(key, wait, is_over)  # What was read could not be recorded.
                return
            self._drop(key, wait)
            self._waiters.close(wait)
            if isinstance(error, StackshiftError):
                wait.answer(error)
            elif found is None or len(bytes(found)) <= SMALL:
                wait.answer(found)
            else:
                wait.answer(Later(lambda: found))

        self._engine.when_durable(settled, None)

    def _drop(self, key: str, wait: Wait) -> None:
        waits = self._by_key.get(key, {})
        timer = waits.pop(wait, None)
        if timer is not None:
            timer.cancel()
        if not waits:
            self._by_key.pop(key, None)
