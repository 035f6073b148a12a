"""How a lock passes from one holder to the next.

A lock that is released is given to the next in its line in the same append: it is never free while
a wait for it has not timed out.
"""

from __future__ import annotations

from msgspec import Raw

from stackshift_jobs.values.durations import rfc3339
from stackshiftd.core import records as r
from stackshiftd.core.effects import Effect, Granted, Resolve
from stackshiftd.core.state.locks import Waiting, token_json
from stackshiftd.core.state.state import Run, State, Status


def holds(state: State, run: Run, key: str) -> bool:
    """Has the run still recorded the call by which it holds the lock?"""
    holding = state.locks[key].holding
    return holding is not None and holding.step in run.calls


class LockRelease:
    """Collects the records and effects that release locks and give them to the next in line."""

    def __init__(self, state: State, now_us: int, gone: frozenset[str] = frozenset()) -> None:
        self.records: list[r.AnyRecord] = []
        self.effects: list[Effect] = []
        self._state = state
        self._now_us = now_us
        self._gone = gone
        """Runs that end in this same append: they are not given any lock."""

    def release(self, key: str, reason: str, before: int = 0) -> None:
        """Release the lock, and give it to the next in its line. `reason` is one of
        `LockReleased`; `before` is the number of records that precede these in the append."""
        lock = self._state.locks[key]
        holding = lock.holding
        assert holding is not None, f"lock {key} is released and nobody holds it"
        self.records.append(r.LockReleased(key, reason, holding.run or None, holding.step))
        if reason in ("expired", "forced") and holding.run:
            self._resolve(holding.run, holding.step)
        waiting = lock.next(self._now_us, self._gone)
        if waiting is not None:
            self._give(key, waiting, before)

    def release_all(self, run: Run, before: int = 0) -> None:
        """Release all locks of a run that has ended and whose handler has stopped."""
        for key in run.locks:
            self.release(key, "run", before)

    def _give(self, key: str, waiting: Waiting, before: int) -> None:
        expires_us = self._now_us + waiting.ttl_ms * 1000 if waiting.ttl_ms else 0
        run = self._state.runs.get(waiting.run)
        self.records.append(
            r.LockAcquired(
                key,
                rfc3339(expires_us) if expires_us else None,
                waiting.run or None,
                run.attempt if run is not None else 0,
                waiting.step,
                waiting.asker,
                waiting.holder,
            )
        )
        if waiting.run:
            self._resolve(waiting.run, waiting.step)
        else:
            token = self._state.seq + before + len(self.records)
            self.effects.append(Granted(waiting.asker, Raw(token_json(key, token, expires_us))))

    def _resolve(self, run_id: str, step: str) -> None:
        run = self._state.runs.get(run_id)
        if run is not None and run.token and run.status is Status.RUNNING:
            self.effects.append(Resolve(run.id, run.token, step))
