"""Following records as they become durable, across restarts of the daemon.

After a lost connection the feed is opened again after the last sequence number that was yielded, so
that a follower sees each record once: no gap, no duplicate. A follower waits for the daemon to come
back, and gives up after a minute. If the daemon was killed, and nobody has started it again within
ten seconds, the follower starts it; a daemon that was stopped in good order is not started.
"""

from __future__ import annotations

import select
from collections.abc import Iterator
from time import monotonic
from typing import Any, Final, NamedTuple

from stackshift_cli.daemon.session import Session
from stackshift_cli.errors import TimedOut
from stackshift_jobs.errors import DaemonUnavailable, from_json
from stackshift_jobs.values.limits import FINISHED
from stackshift_jobs.wire.unavailable import BROKEN, NOT_LISTENING, NOT_RUNNING, STALE

TICK_SECONDS: Final = 0.25
"""How often a follower is woken when nothing is new, to redraw clocks and check deadlines."""
_PATIENCE_SECONDS: Final = 60.0
_RETRY_SECONDS: Final = 0.1
REVIVE_SECONDS: Final = 10.0
"""How long a supervisor has to restart a daemon that was killed before a follower starts it."""
PASSING: Final = frozenset((BROKEN, NOT_RUNNING, STALE, NOT_LISTENING))


class Tick(NamedTuple):
    """Nothing new has arrived, but time has passed."""


class FeedRecord(NamedTuple):
    """A durable record."""

    body: dict[str, Any]


class End(NamedTuple):
    """The followed run has ended; `run` is the run object."""

    run: dict[str, Any]


Happening = Tick | FeedRecord | End


def follow(session: Session, params: dict[str, Any]) -> Iterator[Happening]:
    """Follow the feed opened with `params` (those of `feed.open`). Yields a `Tick` after each
    quarter of a second without a record; ends after an `End`. Raises `DaemonUnavailable` if the
    daemon does not come back."""
    seen = _Seen(params)
    while True:
        try:
            yield from _one_connection(session, seen)
            return
        except DaemonUnavailable as bad:
            if bad.fields.get("reason") not in PASSING:
                raise
            yield from until_back(session, bad)


class _Seen:
    """How far a follower has come, and so how it must open its feed again."""

    def __init__(self, params: dict[str, Any]) -> None:
        self._first = params
        self.run: str | None = params.get("run")
        self.seq: int | None = params.get("since_seq")

    def opening(self) -> dict[str, Any]:
        """The params to open the feed with now."""
        if self.seq is None:
            return self._first
        kept = {k: v for k, v in self._first.items() if k not in ("since", "last")}
        return {**kept, "since_seq": self.seq}

    def opened(self, reply: dict[str, Any]) -> None:
        """Note the reply to `feed.open`: a feed of new records counts all earlier ones as seen."""
        if self.seq is None and not self._first.keys() & {"run", "since", "last"}:
            self.seq = int(reply["next_seq"]) - 1

    def is_new(self, seq: int) -> bool:
        """Is `seq` new to this follower? From now on it is not."""
        if self.seq is not None and seq <= self.seq:
            return False
        self.seq = seq
        return True


def _one_connection(session: Session, seen: _Seen) -> Iterator[Happening]:
    connection = session.connection()
    opened = session.call("feed.open", seen.opening())
    seen.opened(opened)
    ended: dict[str, Any] | None = None
    idle = False
    while True:
        try:
            for method, params in connection.notifications(TICK_SECONDS):
                if params.get("feed") != opened["feed"]:
                    continue
                if method == "feed.record" and seen.is_new(int(params["record"]["seq"])):
                    yield FeedRecord(params["record"])
                elif method == "feed.end":
                    if "error" in params:
                        raise from_json(params["error"])
                    yield End(params["run"])
                    return
        except TimeoutError:
            if not idle:
                idle, ended = True, _if_ended(session, seen)
            if ended is not None:
                yield End(ended)
                return
            yield Tick()


def _if_ended(session: Session, seen: _Seen) -> dict[str, Any] | None:
    """The followed run, if it has ended. If the connection broke between its last record and
    `feed.end`, there is no other `feed.end`."""
    if seen.run is None:
        return None
    run: dict[str, Any] = session.call("run.get", {"run": seen.run})
    return run if run["status"] in FINISHED else None


def until_back(session: Session, bad: DaemonUnavailable) -> Iterator[Tick]:
    """Wait until a daemon answers again, or start one in place of one that was killed. Raises
    `DaemonUnavailable` if none answers for a minute."""
    session.say("the daemon is gone; waiting for it to come back")
    began = monotonic()
    while True:
        waited = monotonic() - began
        try:
            session.reconnect()
            return
        except DaemonUnavailable as still:
            reason = still.fields.get("reason")
            if reason not in PASSING or waited > _PATIENCE_SECONDS:
                raise still from bad
        if reason == STALE and waited >= REVIVE_SECONDS and session.may_start:
            session.start_daemon()
            return
        yield Tick()
        select.select([], [], [], _RETRY_SECONDS)


class Deadline:
    """The deadline set by the `--timeout` of a command that waits for runs."""

    def __init__(self, timeout_ms: int | None) -> None:
        self._ms = timeout_ms
        self._at = None if timeout_ms is None else monotonic() + timeout_ms / 1000

    def left(self) -> float | None:
        """The seconds that are left; None without a timeout."""
        return None if self._at is None else max(0.0, self._at - monotonic())

    def check(self, waited_for: str) -> None:
        """Raise `TimedOut` if the time has passed."""
        if self._at is not None and monotonic() >= self._at:
            raise self.passed(waited_for)

    def passed(self, waited_for: str) -> TimedOut:
        """The error of a timeout that has passed while waiting for `waited_for`, a run's id or
        another description."""
        from stackshift_jobs.values.durations import format_ms

        return TimedOut(
            f"{waited_for} has not ended within {format_ms(self._ms or 0)}; it goes on",
            hint=f"stackshift runs tail {waited_for}" if waited_for.startswith("run_") else "",
        )
