"""Where `top` gets its answers: a thread that sends one request after the other.

So a daemon that is slow, or away, never holds up the keys and the clock. The thread alone uses the
session. It never starts a daemon; while there is none, each request fails at once, and the next one
tries again.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from typing import Any, Final, NamedTuple

from stackshift_cli.daemon.feed import PASSING
from stackshift_cli.daemon.session import Session
from stackshift_cli.top.model import Ask
from stackshift_jobs.calls.methods import method
from stackshift_jobs.errors import DaemonUnavailable, StackshiftError

_MAX_WAITING: Final = 32
"""Requests that wait to be sent; more are dropped, since a later refresh asks again."""


class Reply(NamedTuple):
    """The answer to a request, or the error instead of it, and how long it took."""

    ask: Ask
    body: dict[str, Any]
    error: StackshiftError | None = None
    seconds: float = 0.0

    @property
    def is_away(self) -> bool:
        """Is there no daemon at the moment?"""
        return isinstance(self.error, DaemonUnavailable)


class Source:
    """Sends requests over `session`; writes a byte to `wake` after each answer."""

    def __init__(self, session: Session, wake: int) -> None:
        self._session = session
        self._wake = wake
        self._asks: queue.Queue[Ask] = queue.Queue(_MAX_WAITING)
        self._replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self._open = 0
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def is_idle(self) -> bool:
        """Has everything been answered?"""
        return self._open == 0

    def ask(self, asks: list[Ask]) -> None:
        """Send requests; the answers come later."""
        for ask in asks:
            try:
                self._asks.put_nowait(ask)
                self._open += 1
            except queue.Full:
                return

    def replies(self) -> list[Reply]:
        """The answers that have come since the last call, in their order."""
        found = []
        while not self._replies.empty():
            found.append(self._replies.get())
            self._open -= 1
        return found

    def _serve(self) -> None:
        while True:
            ask = self._asks.get()
            began = time.monotonic()
            reply = self._answer(ask)
            self._replies.put(reply._replace(seconds=time.monotonic() - began))
            try:
                os.write(self._wake, b".")
            except OSError:
                return  # The screen is closed.

    def _answer(self, ask: Ask) -> Reply:
        session = self._session
        try:
            if session.is_connected:
                try:
                    return Reply(ask, _called(session, ask))
                except DaemonUnavailable as bad:
                    # A daemon that has restarted is asked again at once; but a change that may have
                    # been made is left to the person to repeat.
                    if bad.fields.get("reason") not in PASSING or not method(ask.method).reads:
                        raise
            # Never `session.connection()`, which would start a daemon that was stopped on purpose.
            session.reconnect()
            return Reply(ask, _called(session, ask))
        except StackshiftError as bad:
            if isinstance(bad, DaemonUnavailable):
                session.hang_up()
            return Reply(ask, {}, bad)


def _called(session: Session, ask: Ask) -> Any:
    """The answer; the detail of a run comes in pages."""
    if ask.method == "run.get":
        return session.detail(ask.params["run"])
    return session.call(ask.method, ask.params)
