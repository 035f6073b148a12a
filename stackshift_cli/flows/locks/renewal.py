"""Keeping a lock: renewing it in time, across restarts of the daemon, and releasing it.

The caller waits on `sockets` and until `wake_at`, and then calls `tend`. That blocks only while it
starts a daemon in place of one that was killed: until that is ready, nobody else can acquire the
lock either. A daemon that was stopped in good order is not started again. The daemon decides who
holds the lock; while it cannot be asked, the lock is lost only once the ttl has passed since the
last confirmed renewal was sent.
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
"""The pause after a renewal that failed."""
_START_SECONDS: Final = 5.0
"""The pause after a daemon that did not start."""
_RELEASE_SECONDS: Final = 10.0
_RELEASE_REQUESTS: Final = 2


class Renewal:
    """Renews a lock that was just acquired for `ttl_seconds`, after each third of that."""

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
        """No daemon is started before this time."""
        self.gone: LockGone | None = None
        """Why the lock was lost; None while it is ours."""

    @property
    def wake_at(self) -> float:
        """The time (`monotonic`) at which `tend` must be called at the latest."""
        return min(self._due_at, self._ends_at)

    def sockets(self) -> list[int]:
        """The descriptors that become readable when the daemon has answered, or is gone."""
        return [self._session.connection().fileno()] if self._session.is_connected else []

    def tend(self) -> LockGone | None:
        """Process answers, and renew the lock if that is due. Returns why the lock is lost; None if
        it is not."""
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
            # The renewal could not be recorded, for example for lack of disk space: this may pass.
            self._session.say(f"the lock could not be renewed yet: {bad.message}")
            self._asked, self._due_at = None, monotonic() + _RETRY_SECONDS
        return self.gone

    def _ask(self) -> None:
        if self._asked is not None:
            # There was no answer until the next renewal was due: give up this connection.
            self._session.hang_up()
            self._asked = None
        connection = self._connection()
        now = monotonic()
        method, params = extend_call(self._key, self._token, self._ttl_seconds)
        self._asked = connection.send(method, params), now
        self._due_at = now + self._ttl_seconds / 3

    def _connection(self) -> Connection:
        """The connection; if it is lost a new one, to a new daemon if necessary."""
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
            self._session.say(f"{bad.message}; the lock is still held until its ttl has passed")
        self._session.hang_up()
        self._asked, self._due_at = None, monotonic() + pause

    def _is_over(self) -> bool:
        return monotonic() >= self._ends_at

    def _lost(self, why: str) -> LockGone:
        return LockGone(
            f"the lock {self._key!r} was lost: {why}",
            hint="the command's last actions may not have been protected by it",
            key=self._key,
        )

    def release(self) -> LockGone | None:
        """Release the lock. Returns why it was lost; None if it was not. If no daemon can be
        reached, says that the lock expires with its ttl."""
        try:
            drive(release(self._key, self._token, self._is_over, _RELEASE_REQUESTS), self)
        except (NotFound, LockHeld) as bad:
            return self._lost(bad.message)
        except (StackshiftError, TimeoutError) as bad:
            why = bad.__cause__ or bad
            self._session.say(f"the lock was not released and expires with its ttl: {why}")
        return None

    def call(self, method: str, params: Mapping[str, Any]) -> Any:
        """Make a request of `release`, over a new connection or to a new daemon if necessary."""
        try:
            return self._connection().call(method, params, _RELEASE_SECONDS)
        except (NotFound, LockHeld):
            raise
        except (StackshiftError, TimeoutError) as bad:
            self._session.hang_up()
            raise uncertain(method, bad) from bad
