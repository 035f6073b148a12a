"""Keeping a lock: extending it in time, over restarts of the daemon, and releasing it.

Who uses it waits, on `sockets` and until `wake_at`, and then lets it `tend`. That waits for nothing
but the start of a daemon in place of one that was killed: until it is ready nobody else can take
the lock either. One that was stopped in good order was meant to stop. The daemon decides whose the
lock is; that it cannot be asked is no loss before the ttl has passed since the last renewal that it
confirmed was sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import Any, Final

from stackshift_cli.daemon.connection import Connection
from stackshift_cli.daemon.session import Session
from stackshift_cli.errors import LockGone
from stackshift_jobs.calls.drive import drive
from stackshift_jobs.calls.locks import extend_call, release
from stackshift_jobs.errors import DaemonUnavailable, LockHeld, NotFound, StackshiftError
from stackshift_jobs.wire.retransmit import uncertain
from stackshift_jobs.wire.unavailable import STALE, unavailable

_RETRY_SECONDS: Final = 0.5
"""Between two tries of what failed."""
_START_SECONDS: Final = 5.0
"""Before a daemon is started again where one did not start."""
_RELEASE_SECONDS: Final = 10.0
_RELEASE_REQUESTS: Final = 2


class Renewal:
    """A lock that was just taken for `ttl_seconds`; renewed after each third of that."""

    def __init__(self, session: Session, key: str, token: int, ttl_seconds: float) -> None:
        self._session = session
        self._key = key
        self._token = token
        self._ttl_seconds = ttl_seconds
        self._ends_at = monotonic() + ttl_seconds
        self._due_at = monotonic() + ttl_seconds / 3
        self._asked: tuple[int, float] | None = None
        """The renewal under way: its id on the connection, and when it was sent."""
        self._said_gone = False
        self._start_at = 0.0
        """Before this no daemon is started again."""
        self.gone: LockGone | None = None
        """Why the lock is not ours any more, once it is not."""

    @property
    def wake_at(self) -> float:
        """When `tend` has something to do, whatever comes before."""
        return min(self._due_at, self._ends_at)

    def sockets(self) -> list[int]:
        """What says that the daemon has answered, or has gone."""
        return [self._session.connection().fileno()] if self._session.is_connected else []

    def tend(self) -> LockGone | None:
        """Do what is due; why the lock is lost, if it is."""
        try:
            if self._session.is_connected:
                self._hear()
            if monotonic() >= self._ends_at and self.gone is None:
                self.gone = self._lost("it could not be renewed in time")
            elif monotonic() >= self._due_at and self.gone is None:
                self._ask()
        except (NotFound, LockHeld) as bad:
            self.gone = self._lost(bad.message)
        except DaemonUnavailable as bad:
            self._try_later(bad)
        except StackshiftError as bad:
            # It could not be recorded, for want of room for instance: it may be in a moment.
            self._session.say(f"the lock could not be renewed yet: {bad.message}")
            self._asked, self._due_at = None, monotonic() + _RETRY_SECONDS
        return self.gone

    def _ask(self) -> None:
        if self._asked is not None:
            # No answer in all the time until the next renewal: this connection is of no use.
            self._session.hang_up()
            self._asked = None
        connection = self._connection()
        now = monotonic()
        method, params = extend_call(self._key, self._token, self._ttl_seconds)
        self._asked = connection.send(method, params), now
        self._due_at = now + self._ttl_seconds / 3

    def _connection(self) -> Connection:
        """The connection, or a new one, if need be to a new daemon."""
        if self._session.is_connected:
            return self._session.connection()
        try:
            return self._session.reconnect()
        except DaemonUnavailable as bad:
            was_killed = bad.fields.get("reason") == STALE
            if not was_killed or not self._session.may_start or monotonic() < self._start_at:
                raise
        try:
            return self._session.start_daemon()
        except (StackshiftError, OSError) as bad:
            self._start_at = monotonic() + _START_SECONDS
            if isinstance(bad, OSError):
                raise unavailable(f"the daemon could not be started: {bad}", STALE) from bad
            raise

    def _hear(self) -> None:
        for reply in self._session.connection().arrived():
            if self._asked is not None and reply.id == self._asked[0]:
                asked_at, self._asked = self._asked[1], None
                reply.value()
                self._ends_at = asked_at + self._ttl_seconds
                self._due_at = asked_at + self._ttl_seconds / 3
                self._said_gone = False
                return

    def _try_later(self, bad: DaemonUnavailable) -> None:
        pause = _RETRY_SECONDS if self._said_gone else 0.0
        if not self._said_gone:
            self._said_gone = True
            self._session.say(f"{bad.message}; the lock is ours for as long as it was renewed for")
        self._session.hang_up()
        self._asked, self._due_at = None, monotonic() + pause

    def _is_over(self) -> bool:
        return monotonic() >= self._ends_at

    def _lost(self, why: str) -> LockGone:
        return LockGone(
            f"the lock {self._key!r} was lost: {why}",
            hint="what the command did last may not have been under it",
            key=self._key,
        )

    def release(self) -> LockGone | None:
        """Release it; why it was lost, if it was. A person reads that the lock expires with its ttl
        if no daemon could be reached."""
        try:
            drive(release(self._key, self._token, self._is_over, _RELEASE_REQUESTS), self)
        except (NotFound, LockHeld) as bad:
            return self._lost(bad.message)
        except (StackshiftError, TimeoutError) as bad:
            why = bad.__cause__ or bad
            self._session.say(f"the lock was not released, and expires with its ttl: {why}")
        return None

    def call(self, method: str, params: Mapping[str, Any], *, timeout: float | None = None) -> Any:
        """Send a request of `release`, if need be over a new connection or to a new daemon."""
        try:
            return self._connection().call(method, params, timeout or _RELEASE_SECONDS)
        except (NotFound, LockHeld):
            raise
        except (StackshiftError, TimeoutError) as bad:
            self._session.hang_up()
            raise uncertain(method, bad) from bad
