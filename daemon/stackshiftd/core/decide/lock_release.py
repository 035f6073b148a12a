"""How a lock passes from one holder to the next.

A lock that is released is given to the next in its line in the same append, and to those behind
them as long as there is room: it is never free while a wait for it has not timed out.
"""

from __future__ import annotations

from msgspec import Raw

from stackshift_jobs.values.durations import rfc3339
from stackshiftd.core import records as r
from stackshiftd.core.effects import Effect, Granted, Resolve
from stackshiftd.core.state.locks import Holding, Lock, Waiting, has_room, token_json
from stackshiftd.core.state.state import Run, State, Status


def holds(state: State, run: Run, key: str) -> bool:
    """Has the run still recorded the call by which it holds the lock?"""
    holding = state.locks[key].of_run(run.id)
    return holding is not None and holding.step in run.calls


class _Turn:
    """A lock as it is after the records collected so far: who is `holding` it, and the places in
    the line that have been `given` it."""

    def __init__(self, lock: Lock) -> None:
        self.holding: list[Holding | Waiting] = list(lock.holdings)
        self.given: set[str] = set()


class LockRelease:
    """Collects the records and effects that release locks and give them to the next in line."""

    def __init__(self, state: State, now_us: int, gone: frozenset[str] = frozenset()) -> None:
        self.records: list[r.AnyRecord] = []
        self.effects: list[Effect] = []
        self._state = state
        self._now_us = now_us
        self._gone = gone
        """Runs that end in this same append: they are not given any lock."""
        self._turns: dict[str, _Turn] = {}

    def release(self, key: str, holding: Holding, reason: str, before: int = 0) -> None:
        """Take the lock from `holding`, and give it to the next in its line. `reason` is one of
        `LockReleased`; `before` is the number of records that precede these in the append."""
        turn = self._turn(key)
        turn.holding.remove(holding)
        asker = "" if holding.run else holding.asker
        self.records.append(r.LockReleased(key, reason, holding.run or None, holding.step, asker))
        if reason in ("expired", "forced") and holding.run:
            self._resolve(holding.run, holding.step)
        lock = self._state.locks[key]
        while (next_one := lock.waiting(self._now_us, self._gone, turn.given)) is not None:
            place, waiting = next_one
            if not has_room(waiting.holders, turn.holding):
                break
            turn.given.add(place)
            turn.holding.append(waiting)
            self._give(key, waiting, before)

    def release_of(self, run: Run, key: str, reason: str, before: int = 0) -> None:
        """Release a lock that the run holds."""
        holding = self._state.locks[key].of_run(run.id)
        assert holding is not None, f"lock {key} is released and {run.id} does not hold it"
        self.release(key, holding, reason, before)

    def release_all(self, run: Run, before: int = 0) -> None:
        """Release all locks of a run that has ended and whose handler has stopped."""
        for key in run.locks:
            self.release_of(run, key, "run", before)

    def release_expired(self, key: str) -> None:
        """Release the lock for those of its holders whose time has passed."""
        lock = self._state.locks.get(key)
        for holding in lock.expired(self._now_us) if lock is not None else ():
            self.release(key, holding, "expired")

    def is_free(self, key: str, holders: int) -> bool:
        """May somebody who is not in the line acquire the lock, among at most `holders`?"""
        lock = self._state.locks.get(key)
        if lock is None:
            return True
        turn = self._turn(key)
        is_first = lock.waiting(self._now_us, given=turn.given) is None
        return is_first and has_room(holders, turn.holding)

    def _turn(self, key: str) -> _Turn:
        return self._turns.setdefault(key, _Turn(self._state.locks[key]))

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
                waiting.holders,
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
