"""The parts of a daemon, and which of them knows which: everything that has no life of its own. The
daemon starts them, performs effects with them and stops them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from stackshift_jobs.programs import processes
from stackshift_jobs.project.config import Config
from stackshift_jobs.values.redaction import with_follow_ups
from stackshiftd.core.why import Fleet
from stackshiftd.history.index import History
from stackshiftd.journal.interface import Journal
from stackshiftd.live_settings import LiveSettings
from stackshiftd.shell.background.alerts import Alerts
from stackshiftd.shell.background.heartbeats import Heartbeats
from stackshiftd.shell.background.hooks import Hooks
from stackshiftd.shell.background.maintenance import Maintenance
from stackshiftd.shell.background.schedule_timer import ScheduleTimer
from stackshiftd.shell.background.timers import Timers
from stackshiftd.shell.catalog import Catalog
from stackshiftd.shell.cluster.peers import Peers
from stackshiftd.shell.damage import Damage
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.ids import Ids
from stackshiftd.shell.methods.activity import Activity
from stackshiftd.shell.methods.bulk_changes import BulkChanges
from stackshiftd.shell.methods.clock import Clock
from stackshiftd.shell.methods.cluster import ClusterMethods, Leader
from stackshiftd.shell.methods.dead_letter import DeadLetter
from stackshiftd.shell.methods.events import Events
from stackshiftd.shell.methods.locks import Locks
from stackshiftd.shell.methods.metrics import Metrics
from stackshiftd.shell.methods.queues import Queues
from stackshiftd.shell.methods.run_changes import RunChanges
from stackshiftd.shell.methods.run_logs import RunOutput
from stackshiftd.shell.methods.run_queries import RunQueries
from stackshiftd.shell.methods.run_waits import RunWaits
from stackshiftd.shell.methods.schedule_changes import ScheduleChanges
from stackshiftd.shell.methods.schedules import Schedules
from stackshiftd.shell.methods.start import Starts
from stackshiftd.shell.methods.state import StateMethods
from stackshiftd.shell.methods.state_waits import StateWaits
from stackshiftd.shell.methods.waiters import Waiters
from stackshiftd.shell.requests import Requests
from stackshiftd.shell.server.connection import Connection
from stackshiftd.shell.server.feeds import Feeds
from stackshiftd.shell.server.router import DaemonControl, Router
from stackshiftd.shell.tasks import Tasks
from stackshiftd.shell.tuning import Tuning
from stackshiftd.shell.views.bodies import Bodies
from stackshiftd.shell.views.entry_history import EntryHistory
from stackshiftd.shell.views.lookup import Lookup
from stackshiftd.shell.views.redaction import Redaction
from stackshiftd.shell.views.run import View
from stackshiftd.shell.workers.dispatcher import Dispatcher
from stackshiftd.shell.workers.fleet import fleet
from stackshiftd.shell.workers.pool import Pool
from stackshiftd.shell.workers.preflight import Preflight
from stackshiftd.shell.workers.process import Launch
from stackshiftd.shell.workers.reload import Reloads
from stackshiftd.worker.loading.file_schedules import file_schedules

if TYPE_CHECKING:  # It loads ssl, which a daemon of one machine does not need.
    from stackshiftd.shell.cluster.cluster import Cluster


class Control(DaemonControl, Leader, Protocol):
    """What requests can ask of the daemon as a whole."""


class Parts:
    """The parts of one project's daemon on `journal`. `clock`, `ids` and `launch` are a test's own;
    `in_memory` leaves nothing on the disk."""

    def __init__(
        self,
        config: Config,
        journal: Journal,
        tuning: Tuning,
        clock: Callable[[], int] | None,
        ids: Ids | None,
        launch: Launch,
        *,
        in_memory: bool,
    ) -> None:
        self._config = config
        self._journal = journal
        logs = config.data_dir / "logs"
        # The state, and what has left it.
        self.tasks = Tasks()
        self.engine = engine = Engine(journal, clock, ids)
        index = None if in_memory else config.data_dir / "history.db"
        self.history = History(index, journal.journal_id, journal.last_seq)
        self.lookup = Lookup(engine, self.history)
        self._bodies = Bodies(self.lookup.entries)
        self._entry_history = EntryHistory(engine, self.tasks)
        self.damage = Damage()
        # Code, and the workers that have it.
        self.catalog = Catalog(config)
        self._requests = Requests(config, engine.ids)
        self.dispatcher = Dispatcher(
            engine,
            self.catalog,
            config,
            self._bodies,
            self.lookup,
            self._requests,
            self._entry_history,
        )
        self.pool = self.dispatcher.pool = Pool(
            config,
            logs,
            self.dispatcher,
            tuning,
            lambda worker: len(engine.state.executions.get(worker, ())),
            launch,
        )
        self.reloads = Reloads(
            self.dispatcher, self.catalog, Preflight(engine, self._bodies), tuning, config.root
        )
        # What is shown, and to whom.
        self.waiters = Waiters()
        self.redaction = Redaction(with_follow_ups(config.redact.payload))
        self.view = View(engine, self.lookup, self._bodies, self._fleet, self.redaction)
        self.run_waits = RunWaits(self.view, self.waiters)
        self.feeds = Feeds(engine, self.lookup, self.view.ended, self.damage, self.redaction.entry)
        self.activity = Activity(engine, self.lookup, self.view)
        # What happens by itself.
        self.hooks = Hooks(config, self.view.at_end, tuning)
        self.heartbeats = Heartbeats(config, self.catalog, logs, engine.room.reason)
        self.timers = Timers(engine, self._requests.remember_ms)
        self.upkeep = Maintenance(
            engine,
            journal,
            self.history,
            config,
            lambda: self.feeds.published_seq,
            self.tasks,
            self.damage,
        )
        self.history.origin = self.upkeep
        # On another machine another boot would count, whose daemon may lead any time.
        boot = "" if config.member else processes.boot()
        self.schedule_timer = ScheduleTimer(engine, self.catalog, file_schedules(config), boot)
        self.alerts = Alerts(engine, self.catalog, self.history)
        self.settings = LiveSettings(
            config, self.catalog.code, self.schedule_timer, self.heartbeats, self.alerts
        )
        # Requests that others have to hear of.
        self.locks = Locks(engine, self._requests, self.waiters)
        self.queues = Queues(engine, self.catalog, config, self.waiters)
        self.clock = Clock(engine, self._requests.remember_ms)
        self._state = StateMethods(engine, self._requests, self._entry_history)
        self.state_waits = StateWaits(engine, self._state.entry, self.waiters)
        self.connections: set[Connection] = set()
        self.metrics = Metrics(
            engine, engine.load, self.activity.tally, self.queues, self.pool, self.connections
        )

    def router(self, daemon: Control, cluster: Cluster | None) -> Router:
        """The table of all methods, of which some are the daemon's or its cluster's."""
        engine, catalog, lookup, view = self.engine, self.catalog, self.lookup, self.view
        queries = RunQueries(catalog, lookup, view, self.run_waits, self.alerts.expectation)
        output = RunOutput(
            lookup,
            self._config.data_dir / "logs",
            self.tasks,
            cluster.host if cluster is not None else "",
            Peers(cluster) if cluster is not None else None,
        )
        dead_letter = DeadLetter(engine, lookup, view)
        schedules = Schedules(
            engine,
            catalog,
            self.schedule_timer,
            view,
            self.redaction,
            self.alerts.expectation,
            self.heartbeats.has,
        )
        schedule_changes = ScheduleChanges(engine, catalog, self.schedule_timer)
        events = Events(engine, self._requests)
        both = (
            self.queues,
            dead_letter,
            schedules,
            schedule_changes,
            self._state,
            self.locks,
            events,
        )
        reading = (*both, self.activity, self.metrics, queries, output)
        changing = (
            *both,
            Starts(engine, catalog, lookup, view, self.queues.near),
            RunChanges(engine, catalog, lookup, view, self._config.limits.payload_bytes),
            BulkChanges(engine, lookup),
            self.clock,
            ClusterMethods(cluster, self._journal, self.tasks, daemon),
        )
        facts = {
            "pid": os.getpid(),
            "project": str(self._config.root),
            "durability": self._config.journal.durability,
        }
        return Router(
            engine,
            [methods.reads for methods in reading],
            [methods.table for methods in changing],
            queries.bound | self.queues.bound | self.locks.bound | self.state_waits.bound,
            self.connections,
            self.waiters,
            self.queues,
            self.feeds,
            lookup,
            self.history,
            self.damage,
            catalog,
            self.pool,
            daemon,
            facts,
            self._config.limits.connections,
        )

    def _fleet(self, pool: str) -> Fleet:
        """The usable workers of one queue, or (`pool` "") the shared ones."""
        return fleet(self.engine, self.pool, pool)
