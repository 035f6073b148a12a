"""`queue.*`: showing queues, and changing them for a person.

A queue exists once a run, a job, a declaration, `stackshift.toml` or a limit names it. A
change is answered when it is durable, and stays in force until a person changes it again.
"""

from __future__ import annotations

import asyncio
import difflib
import re
from typing import Any, Final

from stackshift_jobs.errors import NotFound, StackshiftError, Usage
from stackshift_jobs.project.config import Config
from stackshift_jobs.project.locate import CONFIG_FILE
from stackshift_jobs.project.settings import parse_rate
from stackshift_jobs.values.durations import rfc3339
from stackshift_jobs.values.names import check_name
from stackshiftd.core import commands as c
from stackshiftd.core.effects import Changed
from stackshiftd.core.records import QueueTerms
from stackshiftd.core.state.queues import LAYERS, Queue, origin_of
from stackshiftd.core.state.state import Run, Status
from stackshiftd.shell.catalog import Catalog
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.methods.waiters import Wait, Waiters
from stackshiftd.shell.params import Answer, BoundTable, FromCursor, Params, Reads, Table, paged

MANY: Final = 1_000_000
SLICE: Final = 256
"""Runs that a purge cancels in one turn of the loop."""
SHOWN_KEYS: Final = 20
NEAR_QUEUES: Final = 200
_DIGITS: Final = re.compile(r"\d+")
_SOURCES: Final = dict(zip(LAYERS, ("queues limit", CONFIG_FILE, "code"), strict=True))
_PAUSED_BY: Final = _SOURCES | {"person": "queues pause, resume"}
_PURGED: Final = frozenset((Status.QUEUED, Status.SCHEDULED, Status.RETRYING))


class NameQueue(Params):
    """The name of a queue."""

    queue: str


class LimitQueue(Params):
    """A limit that is not given stays; 0 (for a rate: `none`) removes it."""

    queue: str
    concurrency: int | None = None
    key_concurrency: int | None = None
    rate: str | None = None
    rate_burst: int | None = None
    reset: bool = False


class PurgeQueue(Params):
    """`dry_run`: only count the runs that would be cancelled."""

    queue: str
    dry_run: bool = False


class Queues:
    """Shows queues and changes them. `noticed` must be called after each commit."""

    def __init__(self, engine: Engine, catalog: Catalog, config: Config, waiters: Waiters) -> None:
        self._engine = engine
        self._catalog = catalog
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._waiters = waiters
        self._draining: dict[Wait, str] = {}
        self.reads: Reads = {
            "queue.list": (FromCursor, self.all),
            "queue.show": (NameQueue, self.show),
        }
        self.table: Table = {
            "queue.pause": (NameQueue, self.pause),
            "queue.resume": (NameQueue, self.resume),
            "queue.limit": (LimitQueue, self.limit),
            "queue.purge": (PurgeQueue, self.purge),
        }
        self.bound: BoundTable = {"queue.drain": (NameQueue, self.drain)}

    # --- Queries ---------------------------------------------------------------------------

    def names(self) -> list[str]:
        """The names of all queues, sorted."""
        named = {job.queue for job in self._catalog.jobs.values()}
        return sorted(named | self._engine.state.queues.keys() | self._config.queues.keys())

    def all(self, params: FromCursor) -> dict[str, Any]:
        """All queues by name: `{queues[], cursor}`."""
        queues, cursor = paged(self.names(), self.shown, params.cursor)
        return {"queues": queues, "cursor": cursor}

    def show(self, params: NameQueue) -> dict[str, Any]:
        """One queue, where its limits come from, and its busiest concurrency keys."""
        shown = self.shown(self._known(params.queue))
        queue = self._engine.state.queues.get(params.queue)
        said = queue.said if queue is not None else {}
        busy = sorted(queue.busy.items(), key=lambda pair: -pair[1]) if queue is not None else []
        return shown | {
            "sources": {
                name: _SOURCES.get(origin_of(said, name), "default")
                for name in ("concurrency", "key_concurrency", "rate", "rate_burst")
            }
            | {"paused": _PAUSED_BY.get(origin_of(said, "paused"), "default")},
            "busy_keys": [{"key": key, "running": n} for key, n in busy[:SHOWN_KEYS]],
        }

    def shown(self, name: str) -> dict[str, Any]:
        """A queue as lists show it."""
        state = self._engine.state
        queue = state.queues.get(name) or Queue(lambda _place, _fresh: False)
        now_us = self._engine.now_us()
        limits = queue.limits
        oldest_us = queue.oldest_us()
        permit_us = queue.permit_us
        return {
            "name": name,
            "depth": queue.depth,
            "running": queue.executing,
            "oldest_ms": (now_us - oldest_us) // 1000 if oldest_us is not None else None,
            "paused": limits.paused,
            "paused_since": rfc3339(queue.paused_us) if queue.paused_us else None,
            "concurrency": limits.concurrency,
            "key_concurrency": limits.key_concurrency,
            "rate": limits.rate_text,
            "rate_burst": limits.burst,
            "next_start_at": rfc3339(permit_us) if permit_us > now_us else None,
            "processes": limits.processes or None,
        }

    def _known(self, name: str) -> str:
        """`name`, if there is such a queue. Raises `NotFound` with similar names."""
        names = self.names()
        if name in names:
            return name
        near = difflib.get_close_matches(name, names, 3)
        hint = f"did you mean {near[0]}?" if near else "stackshift queues list"
        raise NotFound(f"there is no queue {name!r}", hint=hint, near=near)

    def near(self, name: str) -> list[str]:
        """If there is no queue `name` yet, the names of queues that it may be a misspelling of.
        Names that differ in digits only belong together (`tenant-17`, `tenant-18`), and where there
        are very many queues, nobody types their names."""
        if name in self._engine.state.queues or name in self._config.queues:
            return []
        names = self.names()
        if name in names or len(names) > NEAR_QUEUES:
            return []
        plain = _DIGITS.sub("", name)
        near = difflib.get_close_matches(name, names, 3, 0.7)
        return [each for each in near if _DIGITS.sub("", each) != plain]

    # --- Changing --------------------------------------------------------------------------

    def pause(self, params: NameQueue, answer: Answer) -> None:
        """Pause a queue; answers with it and whether this changed it."""
        self._change(self._known(params.queue), QueueTerms(paused=True), answer)

    def resume(self, params: NameQueue, answer: Answer) -> None:
        """Resume a queue; answers like `pause`."""
        self._change(self._known(params.queue), QueueTerms(paused=False), answer)

    def limit(self, params: LimitQueue, answer: Answer) -> None:
        """Change a queue's limits; answers like `pause`. A queue that does not exist yet is made,
        so that it can be limited before its first run; but one that is probably misspelt raises
        `NotFound`. Raises `Usage` for an invalid limit or name."""
        for name in ("concurrency", "key_concurrency", "rate_burst"):
            value = getattr(params, name)
            if value is not None and not 0 <= value <= MANY:
                raise Usage(f"{name} is {value}", hint=f"1 to {MANY}, or 0 for none")
        rate, per_ms = _rate(params.rate)
        terms = QueueTerms(
            params.concurrency, params.key_concurrency, rate, per_ms, params.rate_burst
        )
        if params.reset or self.near(params.queue):
            self._known(params.queue)
        self._change(check_name(params.queue, "queue"), terms, answer, params.reset)

    def _change(self, name: str, terms: QueueTerms, answer: Answer, reset: bool = False) -> None:
        def changed(reply: Any) -> None:
            if isinstance(reply, Changed):
                answer(self.shown(name) | {"changed": reply.changed})
            else:
                answer(reply)

        self._engine.submit(c.ChangeQueue(name, terms, reset), changed)

    # --- Draining and purging --------------------------------------------------------------

    def drain(self, owner: object, params: NameQueue, answer: Answer) -> None:
        """Pause a queue, and answer when none of its runs holds a slot any more. If the connection
        is gone before that, the queue stays paused."""

        def gone() -> None:
            self._draining.pop(wait, None)

        wait = self._waiters.open("queue.drain", owner, answer, gone)

        def paused(reply: Any) -> None:
            if isinstance(reply, StackshiftError):
                self._waiters.close(wait)
                answer(reply)
            elif wait.is_open:
                self._draining[wait] = params.queue
                self.noticed()

        self._change(self._known(params.queue), QueueTerms(paused=True), paused)

    def noticed(self) -> None:
        """Answer the drains of queues in which nothing executes any more."""
        for wait, name in list(self._draining.items()):
            queue = self._engine.state.queues.get(name)
            if queue is None or not queue.executing:
                del self._draining[wait]
                self._waiters.close(wait)
                self._engine.when_durable(wait.answer, self.shown(name))

    def purge(self, params: PurgeQueue, answer: Answer) -> None:
        """Cancel all runs of a queue that wait for a slot, for their time or for their next
        attempt."""
        self._known(params.queue)
        runs = [
            run.id
            for run in self._engine.state.runs.values()
            if run.queue == params.queue and _is_purged(run)
        ]
        if params.dry_run:
            result = {"queue": params.queue, "cancelled": len(runs), "dry_run": True}
            self._engine.when_durable(answer, result)
        else:
            runs.reverse()
            self._cancel_slice(params.queue, runs, 0, answer)

    def _cancel_slice(self, queue: str, left: list[str], done: int, answer: Answer) -> None:
        """Cancel in slices, so that very many runs do not block everything else. `left` is consumed
        from its end."""
        counts = {"done": done}
        refused: list[StackshiftError] = []

        def cancelled(reply: Any) -> None:
            if isinstance(reply, Changed):
                counts["done"] += reply.changed
            else:
                refused.append(reply)

        def settled(_reply: Any) -> None:
            if refused:
                answer(refused[0])
            elif left:
                self._cancel_slice(queue, left, counts["done"], answer)
            else:
                answer({"queue": queue, "cancelled": counts["done"], "dry_run": False})

        submitted = 0
        while left and submitted < SLICE:
            run = self._engine.state.runs.get(left.pop())
            # It may have been dispatched since.
            if run is not None and _is_purged(run):
                self._engine.submit(c.CancelRun(run.id), cancelled)
                submitted += 1
        self._engine.when_durable(settled, None)


def _is_purged(run: Run) -> bool:
    return run.status in _PURGED and not run.token


def _rate(text: str | None) -> tuple[int | None, int]:
    """`100/m` as a count and milliseconds; a count of 0 for none, None for not given."""
    if text is None:
        return None, 0
    if text in ("none", "0"):
        return 0, 0
    try:
        rate = parse_rate(text)
    except ValueError as bad:
        raise Usage(f"rate must be {bad}, or none, not {text!r}") from None
    return rate.count, rate.per_ms


def file_terms(config: Config) -> dict[str, QueueTerms]:
    """The terms that `stackshift.toml` sets for queues, by name."""
    by_queue: dict[str, QueueTerms] = {}
    for name, section in config.queues.items():
        written = {
            key for key in ("paused", "rate_burst") if f"queues.{name}.{key}" in config.origins
        }
        by_queue[name] = QueueTerms(
            concurrency=section.concurrency,
            key_concurrency=section.key_concurrency,
            rate=section.rate.count if section.rate is not None else None,
            rate_per_ms=section.rate.per_ms if section.rate is not None else 0,
            rate_burst=section.rate_burst if "rate_burst" in written else None,
            paused=section.paused if "paused" in written else None,
            processes=sum(each for _, each in section.places) if section.has_own else None,
        )
    return by_queue
