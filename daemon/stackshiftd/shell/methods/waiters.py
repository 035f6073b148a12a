"""Who waits on which connection: requests that are answered later, each once.

The one register of them, whatever they wait for (the end of a run, a lock, a queue to drain). A
method opens a wait when it is asked, closes it when it answers, and says what becomes of the wait
when its connection is gone first. Invariant: a wait is open until it is closed or its connection is
gone, and nothing is kept of it after that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from stackshift_jobs.errors import Busy
from stackshiftd.shell.params import Answer

MAX_WAITS: Final = {"run.wait": 10_000, "lock.acquire": 1_000, "queue.drain": 1_000}
"""Of one connection at a time, by method."""


class Wait:
    """A request that is not answered yet: its method, its connection (`owner`), where the answer
    goes, and what is done if the connection is gone before."""

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
        """A new wait; `on_gone` is called at most once, and only while it is open. Raises `Busy`
        for more than `MAX_WAITS` of one connection."""
        limit = MAX_WAITS[method]
        waits = self._open.setdefault(owner, {}).setdefault(method, set())
        if len(waits) >= limit:
            raise Busy(
                f"{limit} requests of {method} already wait on this connection",
                hint="use another connection",
            )
        wait = Wait(method, owner, answer, on_gone)
        waits.add(wait)
        return wait

    def close(self, wait: Wait) -> None:
        """It is answered, or never will be."""
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
        """The connection is gone, and its waits with it."""
        for waits in self._open.pop(owner, {}).values():
            for wait in waits:
                wait.is_open = False
                wait.on_gone()
