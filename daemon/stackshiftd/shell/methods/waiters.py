"""Waits: requests that are answered later, each once.

This is the one register of them, whatever they wait for (the end of a run, a state entry, a lock, a
queue to drain). A method opens a wait when it is called, closes it when it answers, and says what
to do with the wait if its connection is gone first. Invariant: a wait is open until it is closed or
its connection is gone, and nothing is kept of it after that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from stackshift_jobs.errors import Busy
from stackshiftd.shell.params import Answer

MAX_WAITS: Final = {
    "run.wait": 10_000,
    "state.wait": 10_000,
    "lock.acquire": 1_000,
    "queue.drain": 1_000,
}
"""Method → how many waits one connection may have open."""


class Wait:
    """A request that is not answered yet: its method, its connection (`owner`), where the answer
    goes, and what to do if the connection is gone first."""

    __slots__ = ("answer", "is_open", "method", "on_gone", "owner")

    def __init__(
        self, method: str, owner: object, answer: Answer, on_gone: Callable[[], None]
    ) -> None:
        self.method = method
        self.owner = owner
        self.answer = answer
        self.on_gone = on_gone
        self.is_open = True


class Waiters:
    """The open waits of all connections."""

    def __init__(self) -> None:
        self._open: dict[object, dict[str, set[Wait]]] = {}

    def open(self, method: str, owner: object, answer: Answer, on_gone: Callable[[], None]) -> Wait:
        """Open a wait; `on_gone` is called at most once, and only while it is open. Raises `Busy`
        if the connection has `MAX_WAITS` open waits of this method."""
        limit = MAX_WAITS[method]
        waits = self._open.setdefault(owner, {}).setdefault(method, set())
        if len(waits) >= limit:
            raise Busy(
                f"{limit} {method} requests are already waiting on this connection",
                hint="use another connection",
            )
        wait = Wait(method, owner, answer, on_gone)
        waits.add(wait)
        return wait

    def close(self, wait: Wait) -> None:
        """Close a wait that is answered, or that never will be."""
        wait.is_open = False
        by_method = self._open.get(wait.owner)
        if by_method is None:
            return
        waits = by_method.get(wait.method)
        if waits is not None:
            waits.discard(wait)
            if not waits:
                del by_method[wait.method]
        if not by_method:
            del self._open[wait.owner]

    def forget(self, owner: object) -> None:
        """End all waits of a connection that is gone."""
        for waits in self._open.pop(owner, {}).values():
            for wait in waits:
                wait.is_open = False
                wait.on_gone()
