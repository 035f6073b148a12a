"""The table of all methods; and the methods `daemon.*`, `journal.*` and `feed.*`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from types import GeneratorType
from typing import Any, Final, NamedTuple, Protocol

import msgspec
from msgspec import Raw
from msgspec.json import Decoder

from stackshift_jobs.calls.methods import METHODS
from stackshift_jobs.errors import DatabaseUnavailable, DiskFull, StackshiftError, Usage
from stackshift_jobs.values.durations import parse_time, rfc3339
from stackshift_jobs.version import PROTOCOL, __version__
from stackshiftd.core.state.alerts import Trouble
from stackshiftd.core.state.state import State
from stackshiftd.history.index import History, Rebuilding
from stackshiftd.shell.catalog import Catalog
from stackshiftd.shell.damage import Damage
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.methods.queues import Queues
from stackshiftd.shell.methods.waiters import Waiters
from stackshiftd.shell.params import Answer, BoundTable, NoParams, Params, Reads, Table, misfit
from stackshiftd.shell.server.connection import Connection
from stackshiftd.shell.server.feeds import Feeds, first_seq_since
from stackshiftd.shell.standby import ANSWERED, Standby, refusal
from stackshiftd.shell.tasks import failed
from stackshiftd.shell.views.lookup import Lookup
from stackshiftd.shell.work import Held, Parked, Work, as_work
from stackshiftd.shell.workers.pool import Pool

log = logging.getLogger("stackshiftd.router")

MAX_TROUBLES: Final = 100
"""The most jobs in trouble that `daemon.status` shows."""
MAX_QUEUES: Final = 1000
"""The most queues that `daemon.status` shows; `queue.list` has them all."""
_encode: Final = msgspec.json.Encoder().encode


class StopParams(Params):
    """`drain`: let executing runs end first."""

    drain: bool = False


class ReloadParams(Params):
    """`strict`: load nothing if a run in flight would not go on as it is recorded."""

    strict: bool = False


class PreflightParams(Params):
    """The runs to look at; null for all that are unfinished."""

    runs: list[str] | None = None


class OpenFeed(Params):
    """What to follow: one run or all records, from at most one of a sequence number (`since_seq`,
    excluded), a time (`since`) and a number of last records; by default only new records."""

    run: str | None = None
    since_seq: int | None = None
    since: str | None = None
    last: int | None = None
    kinds: list[str] | None = None
    """Prefixes of the kinds of records to follow, such as `event.`; None for all."""


class CloseFeed(Params):
    """The number of a feed of this connection."""

    feed: int


class DaemonControl(Protocol):
    """The daemon as a whole."""

    standby: Standby | None

    def stop(self, drain: bool) -> None:
        """Begin to stop; with `drain` executing runs end first."""

    def compact(self, answer: Answer) -> None:
        """Write a snapshot; `answer` is called when it is written."""

    def reload(self, answer: Answer, *, strict: bool) -> None:
        """Load the job modules as they are now; `answer` gets the outcome. With `strict` not if a
        run in flight would not go on as it is recorded."""

    def preflight(self, runs: list[str] | None, answer: Answer) -> None:
        """Answer what would become of runs in flight with the job modules as they are now."""


def _lack(method: str) -> str:
    """Why a daemon that has no workers and may not write cannot answer `method`; empty if it
    can."""
    if method in ("feed.open", "feed.close", "daemon.stop"):
        return ""
    if not METHODS[method].reads:
        return "this cannot be recorded"
    return "no job is loaded" if method.startswith("job.") else ""


def _trouble(state: State, key: str, trouble: Trouble) -> dict[str, Any]:
    """What a job, or a schedule of it, has not recovered from."""
    expectation = state.alerts.expectations.get(key)
    return {
        "job": expectation.job if expectation is not None else key,
        "schedule": (expectation.schedule or None) if expectation is not None else None,
        "alert": trouble.alert,
        "since": rfc3339(trouble.since_us),
    }


class _Method(NamedTuple):
    """One method: the decoder of its params, the function, whether it only reads (then it returns
    its result, even while there is no room), and whether its first argument is the connection."""

    decode: Callable[[Raw], Any]
    do: Callable[..., Any]
    reads: bool
    bound: bool = False


class Router:
    """`connection.Methods`: finds the method, decodes its params and calls it."""

    def __init__(
        self,
        engine: Engine,
        reads: Sequence[Reads],
        tables: Sequence[Table],
        bound: BoundTable,
        connections: set[Connection],
        waiters: Waiters,
        queues: Queues,
        feeds: Feeds,
        lookup: Lookup,
        history: History,
        damage: Damage,
        catalog: Catalog,
        pool: Pool,
        house: DaemonControl,
        facts: dict[str, Any],
        max_connections: int,
    ) -> None:
        self._engine = engine
        self._feeds = feeds
        self._waiters = waiters
        self._queues = queues
        self._lookup = lookup
        self._history = history
        self._damage = damage
        self._catalog = catalog
        self._pool = pool
        self._house = house
        self._facts = facts
        self._max_connections = max_connections
        self._began = time.monotonic()
        self.connections = connections
        reading: Reads = {
            "daemon.status": (NoParams, self.status),
            "leader.status": (NoParams, self.status),
            "journal.stats": (NoParams, self.stats),
        }
        for read_table in reads:
            reading |= read_table
        plain: Table = {
            "daemon.stop": (StopParams, self.stop),
            "daemon.reload": (ReloadParams, self.reload),
            "daemon.preflight": (PreflightParams, self.preflight),
            "journal.compact": (NoParams, self.compact),
        }
        for table in tables:
            plain |= table
        bound = bound | {
            "feed.open": (OpenFeed, self.open_feed),
            "feed.close": (CloseFeed, self.close_feed),
        }
        self.params: dict[str, type[msgspec.Struct]] = {
            name: params for name, (params, _) in (reading | plain | bound).items()
        }
        """The params of each method."""
        self._methods = {
            name: _Method(Decoder(params).decode, do, name in reading, name in bound)
            for name, (params, do) in (reading | plain | bound).items()
        }

    # --- connection.Methods ----------------------------------------------------------------

    def opened(self, connection: Connection) -> bool:
        """Register a new connection; false if there are too many."""
        if len(self.connections) >= self._max_connections:
            return False
        self.connections.add(connection)
        return True

    def closed(self, connection: Connection) -> None:
        """Close the feeds and end the waits of a connection that is gone."""
        self.connections.discard(connection)
        self._feeds.close_all(connection)
        self._waiters.forget(connection)

    def call(self, connection: Connection, method: str, raw: Raw, answer: Answer) -> Work | None:
        """Call `method` with its params `raw` (JSON); see `connection.Methods.call`. Raises `Usage`
        for an unknown method or params that do not fit, and `Held`."""
        entry, params = self._decoded(method, raw)
        if (standby := self._house.standby) is not None:
            if standby.is_taking_over:
                raise Held(standby.when_over)
            if method in ANSWERED:
                if entry.reads:
                    return as_work(entry.do(params))
                entry.do(params, answer)
            else:
                answer(refusal(self._engine.journal.leader))
            return None
        room = self._engine.room
        if room.is_closed and (lack := _lack(method)):
            answer(room.refusal(lack))
            return None
        if entry.reads:
            return self.reading(partial(entry.do, params))
        if entry.bound:
            self._begin_wait(connection, partial(entry.do, connection, params, answer), answer)
            return None
        return self._changed(partial(entry.do, params, answer), answer)

    def answer_alone(self, method: str, raw: Raw, answer: Answer) -> None:
        """Serve one of the methods that a daemon answers for itself while it follows another;
        `answer` gets the result, or the work that leads to it. Raises `StackshiftError`."""
        entry, params = self._decoded(method, raw)
        if entry.reads:
            answer(entry.do(params))
        else:
            entry.do(params, answer)

    def _decoded(self, method: str, raw: Raw) -> tuple[_Method, Any]:
        entry = self._methods.get(method)
        if entry is None:
            raise Usage(
                f"unknown method {method!r}",
                hint="is the client newer than the daemon?",
                rpc="unknown_method",
            )
        try:
            return entry, entry.decode(raw)
        except msgspec.MsgspecError as bad:
            raise Usage(f"{method}: {misfit(bad)}", rpc="bad_params") from bad
        except (UnicodeDecodeError, RecursionError) as bad:
            raise Usage(f"{method}: {bad}", rpc="bad_params") from bad

    def _begin_wait(self, connection: Connection, do: Callable[[], None], answer: Answer) -> None:
        def again() -> None:
            if connection not in self.connections:
                return
            try:
                self._begin_wait(connection, do, answer)
            except Exception:
                log.exception("a request that had waited for the history index failed")
                answer(failed("the request"))

        try:
            do()
        except Rebuilding:
            # Methods look runs up before they do anything, so this one can begin again.
            self._history.when_whole(again)
        except StackshiftError as refused:
            self._refuse(refused, answer)

    def _changed(self, do: Callable[[], Any], answer: Answer) -> Work | None:
        """Do it, or as much of it as can be done at once; returns the work that remains."""
        try:
            work = do()
        except Rebuilding:
            return self._changing(None, do, answer)
        except StackshiftError as refused:
            self._refuse(refused, answer)
            return None
        return self._changing(work, do, answer) if type(work) is GeneratorType else None

    def _changing(self, begun: Work | None, do: Callable[[], Any], answer: Answer) -> Work:
        """Do the rest of the work that `do` has `begun`, if it could begin, and from its beginning
        once the history index is whole, if it was not."""
        while True:
            try:
                if begun is None:
                    yield Parked(self._history.when_whole)
                    begun = do()
                yield from as_work(begun)
            except Rebuilding:
                begun = None
            except StackshiftError as refused:
                self._refuse(refused, answer)
                return
            else:
                return

    def _refuse(self, refused: StackshiftError, answer: Answer) -> None:
        self._damage.note(refused)
        # It may be based on something that is decided and not durable yet.
        self._engine.when_durable(answer, refused)

    def reading(self, read: Callable[[], Any]) -> Work:
        """The work of `read`, which ends when all that it has shown is durable. It returns JSON, or
        the error that `read` raised. It reads again when the history index is whole, if it could
        not list from it, and if something could not be recorded for lack of room."""
        while True:
            result: Any
            try:
                result = yield from as_work(read())
                size = 0
                if not isinstance(result, StackshiftError):
                    # As JSON from here on, so that it is known how much is held.
                    body = _encode(result)
                    result, size = Raw(body), len(body)
            except Rebuilding:
                yield Parked(self._history.when_whole)
                continue
            except StackshiftError as refused:
                self._damage.note(refused)
                # It may be based on something that is decided and not durable yet.
                result, size = refused, 0
            lost: list[Any] = []

            def settled(resume: Callable[[], None], lost: list[Any] = lost) -> None:
                def told(error: Any) -> None:
                    lost.append(error)
                    resume()

                self._engine.when_durable(told, None)

            yield Parked(settled, size)
            if isinstance(lost[0], DatabaseUnavailable):
                return lost[0]
            if not isinstance(lost[0], DiskFull):
                return result

    # --- Feeds -----------------------------------------------------------------------------

    def open_feed(self, connection: Connection, params: OpenFeed, answer: Answer) -> None:
        """Open a feed; answers with its number and the first sequence number it may send."""
        beginnings = [params.since_seq, params.since, params.last]
        if sum(beginning is not None for beginning in beginnings) > 1:
            raise Usage("only one of since_seq, since and last can be given")
        run = self._lookup.resolve(params.run) if params.run is not None else None
        kinds = tuple(params.kinds) if params.kinds is not None else ()
        since_us = parse_time(params.since) if params.since is not None else None
        if params.last is not None and params.last < 0:
            raise Usage(f"last is {params.last}")

        def begin(next_seq: Any) -> None:
            if isinstance(next_seq, StackshiftError):
                answer(next_seq)
                return
            try:
                number = self._feeds.open(connection, run, next_seq, kinds)
            except StackshiftError as refused:
                answer(refused)
            else:
                answer({"feed": number, "next_seq": next_seq})

        def settled(error: Any) -> None:
            if isinstance(error, StackshiftError):
                answer(error)
            elif run is None and params.last is not None:
                self._feeds.last_seq(params.last, self._feeds.published_seq + 1, kinds, begin)
            else:
                begin(self._first_seq(run, params, since_us))

        self._engine.when_durable(settled, None)

    def _first_seq(self, run: str | None, params: OpenFeed, since_us: int | None) -> int:
        next_seq = self._feeds.published_seq + 1
        if params.since_seq is not None:
            return min(params.since_seq + 1, next_seq)
        if run is not None:
            entries = self._lookup.entries(run)
            if params.last is not None:
                entries = entries[len(entries) - params.last :] if params.last else []
            elif since_us is not None:
                entries = [entry for entry in entries if entry.at_us >= since_us]
            return entries[0].seq if entries else next_seq
        if since_us is not None:
            return first_seq_since(self._engine.journal, since_us, next_seq)
        return next_seq

    def close_feed(self, connection: Connection, params: CloseFeed, answer: Answer) -> None:
        """Close a feed; answers whether it was open."""
        answer({"closed": self._feeds.close(params.feed, connection)})

    # --- Daemon ----------------------------------------------------------------------------

    def status(self, _params: NoParams) -> dict[str, Any]:
        """The daemon's version, queues, workers, disk space and mode."""
        state = self._engine.state
        journal = self._engine.journal
        torn = journal.recovery.torn
        stats = journal.stats()
        disk, room = journal.disk(), self._engine.room
        workers = [
            {
                "id": link.id,
                "pid": link.process.pid,
                "slots": link.slots,
                "running": len(state.executions.get(link.id, ())),
                "status": link.status,
                "importing": link.importing or None,
            }
            for link in self._pool.links.values()
        ]
        names = self._queues.names()
        return self._facts | {
            "role": "leads" if self._house.standby is None else "follows",
            "leader": journal.leader,
            "database": journal.origin,
            "version": __version__,
            "protocol": PROTOCOL,
            "uptime_ms": round((time.monotonic() - self._began) * 1000),
            "queues": [self._queues.shown(name) for name in names[:MAX_QUEUES]],
            "more_queues": max(0, len(names) - MAX_QUEUES),
            "workers": workers,
            "hosts": self._pool.hosts_shown(),
            "dead": state.dead,
            "undelivered": state.undelivered,
            "troubles": [
                _trouble(state, key, trouble)
                for key, trouble in islice(sorted(state.alerts.troubles.items()), MAX_TROUBLES)
            ],
            "journal_bytes": stats.get("bytes"),
            "disk_free_bytes": disk.spare_bytes,
            "commits": self._engine.load.commits_shown(),
            "loop_lag_ms": round(self._engine.load.lag * 1000, 1),
            "changed_files": self._catalog.code.changed(),
            "failed_modules": [msgspec.to_builtins(module) for module in self._catalog.failed],
            "kept_modules": sorted(self._catalog.kept),
            "clock_ahead_ms": self._engine.ahead_us // 1000,
            "mode": "read_only" if room.is_short else "serving",
            "damage": self._damage.first,
            "recovered": None
            if torn is None
            else {"dropped_bytes": torn.dropped_bytes, "quarantine": torn.quarantine},
            "read_only_because": room.reason() or None,
        }

    def stop(self, params: StopParams, answer: Answer) -> None:
        """Answer with the daemon's pid, and begin to stop."""
        answer({"pid": self._facts["pid"]})
        self._house.stop(params.drain)

    def reload(self, params: ReloadParams, answer: Answer) -> None:
        """Load the job modules as they are now; answers what has come of it."""
        self._house.reload(answer, strict=params.strict)

    def preflight(self, params: PreflightParams, answer: Answer) -> None:
        """Answer what would become of runs in flight with the job modules as they are now."""
        runs = params.runs
        self._house.preflight(
            None if runs is None else [self._lookup.resolve(run) for run in runs], answer
        )

    def stats(self, _params: NoParams) -> dict[str, Any]:
        """The sizes of the journal and of what is in memory."""
        state = self._engine.state
        return self._engine.journal.stats() | {
            "runs": len(state.runs),
            "keys": len(state.keys),
            "dead": state.dead,
            "state_entries": len(state.values.keys),
            "state_bytes": state.values.bytes,
            "locks": len(state.locks),
            "events_kept": len(state.events.kept),
            "events_kept_bytes": state.events.bytes,
            "event_keys": len(state.events.keys),
        }

    def compact(self, _params: NoParams, answer: Answer) -> None:
        """Write a snapshot; answers when it is written."""
        self._house.compact(answer)
