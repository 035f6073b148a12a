"""`daemon.metrics`: what monitoring reads: counters since the daemon's start, and how things are.

The names and labels are part of the protocol, as are those of run objects. Labels are bounded: the
outcomes of the first `MAX_JOBS` jobs that end are counted by name, those of all others under "".
"""

from __future__ import annotations

import itertools
import os
import resource
import time
from collections import Counter
from collections.abc import Iterable, Sized
from pathlib import Path
from typing import Any, Final, NamedTuple

from stackshift_jobs.version import __version__
from stackshiftd.core.state.run_index import EVERY
from stackshiftd.history.rows import RunRow
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.load import Histogram, Load
from stackshiftd.shell.methods.queues import Queues
from stackshiftd.shell.params import NoParams, Reads
from stackshiftd.shell.tally import STARTED, STEPS, STEPS_FAILED, Tally
from stackshiftd.shell.workers.pool import Pool

MAX_JOBS: Final = 500
MAX_QUEUES: Final = 500
_UNFINISHED: Final = ("scheduled", "queued", "running", "waiting", "retrying")

Sample = tuple[dict[str, str], float]
"""Labels and value."""


class _Family(NamedTuple):
    """A metric; `type` is one of Prometheus's. The samples of a histogram are cumulative, by the
    upper bound `le`; `sum` is that of all values."""

    name: str
    type: str
    help: str
    samples: Iterable[Sample]
    sum: float | None = None

    def shown(self) -> dict[str, Any]:
        """As the protocol has it."""
        samples = [{"labels": labels, "value": value} for labels, value in self.samples]
        shown = {"name": self.name, "type": self.type, "help": self.help, "samples": samples}
        return shown if self.sum is None else shown | {"sum": self.sum}


class Metrics:
    """Collects metrics when it is asked, and counts the runs that end meanwhile."""

    def __init__(
        self,
        engine: Engine,
        load: Load,
        tally: Tally,
        queues: Queues,
        pool: Pool,
        connections: Sized,
    ) -> None:
        self._engine = engine
        self._load = load
        self._tally = tally
        self._queues = queues
        self._pool = pool
        self._connections = connections
        self._began_s = time.time()
        self._ended: Counter[tuple[str, str]] = Counter()
        self._jobs: set[str] = set()
        self.reads: Reads = {"daemon.metrics": (NoParams, self.metrics)}

    def ended(self, row: RunRow) -> None:
        """Count a run whose end is durable."""
        job = row.job
        if job not in self._jobs:
            if len(self._jobs) < MAX_JOBS:
                self._jobs.add(job)
            else:
                job = ""
        self._ended[job, row.status] += 1

    def metrics(self, _params: NoParams) -> dict[str, Any]:
        """`{metrics: [{name, type, help, samples: [{labels, value}]}]}`."""
        counts: Counter[str] = Counter()
        for (_, _, status), count in (self._engine.state.index.counts(EVERY) or {}).items():
            counts[status] += count
        families = (*self._of_runs(counts), *self._of_queues(), *self._of_daemon())
        return {"metrics": [family.shown() for family in families]}

    def _of_runs(self, counts: Counter[str]) -> Iterable[_Family]:
        state, totals = self._engine.state, self._tally.totals
        yield _counter("runs_started", "Runs that were started.", totals[STARTED])
        yield _Family(
            "stackshift_runs_finished_total",
            "counter",
            "Runs that have finished, by job and outcome.",
            [
                ({"job": job, "outcome": outcome}, count)
                for (job, outcome), count in sorted(self._ended.items())
            ],
        )
        yield _Family(
            "stackshift_steps_total",
            "counter",
            "Tries of steps whose outcome was recorded.",
            [
                ({"outcome": "completed"}, totals[STEPS]),
                ({"outcome": "failed"}, totals[STEPS_FAILED]),
            ],
        )
        yield _Family(
            "stackshift_runs",
            "gauge",
            "Unfinished runs, by status.",
            [({"status": status}, counts[status]) for status in _UNFINISHED],
        )
        yield _gauge("dead_letter_runs", "Runs in the dead letter.", state.dead)
        yield _gauge(
            "undelivered_messages", "Messages about alerts in the dead letter.", state.undelivered
        )

    def _of_queues(self) -> Iterable[_Family]:
        shown = [self._queues.shown(name) for name in self._queues.names()[:MAX_QUEUES]]
        for name, key, help_text in (
            ("queue_depth", "depth", "Runs that wait for a slot."),
            ("queue_running", "running", "Runs that hold a slot."),
        ):
            yield _Family(
                f"stackshift_{name}",
                "gauge",
                help_text,
                [({"queue": queue["name"]}, queue[key]) for queue in shown],
            )
        yield _Family(
            "stackshift_queue_oldest_seconds",
            "gauge",
            "How long the run that waits longest for a slot has been due.",
            [({"queue": queue["name"]}, (queue["oldest_ms"] or 0) / 1000) for queue in shown],
        )
        yield _Family(
            "stackshift_queue_paused",
            "gauge",
            "1 if the queue is paused.",
            [({"queue": queue["name"]}, int(queue["paused"])) for queue in shown],
        )

    def _of_daemon(self) -> Iterable[_Family]:
        engine, load = self._engine, self._load
        state, journal = engine.state, engine.journal
        yield _Family("stackshift_info", "gauge", "Always 1.", [({"version": __version__}, 1)])
        yield _gauge("start_time_seconds", "When the daemon started.", self._began_s)
        leads = engine.is_writer
        yield _gauge("leads", "1 if the daemon records, 0 if it follows another one.", leads)
        yield _gauge("journal_bytes", "Size of the journal.", journal.stats()["bytes"])
        yield _counter("journal_records", "Records that are durable.", engine.durable_seq)
        yield _histogram("commit_seconds", "How long commits took.", load.seconds)
        yield _histogram("commit_records", "Records in a commit.", load.records)
        yield _gauge(
            "loop_lag_seconds", "The most that the daemon's loop was late in a minute.", load.lag
        )
        yield _gauge("disk_free_bytes", "Room for new work.", journal.disk().spare_bytes)
        yield _gauge(
            "read_only", "1 while nothing can be recorded for lack of room.", engine.room.is_short
        )
        links = list(self._pool.links.values())
        statuses = Counter(link.status for link in links)
        yield _Family(
            "stackshift_workers",
            "gauge",
            "Worker processes, by status.",
            [({"status": status}, count) for status, count in sorted(statuses.items())],
        )
        slots = sum(link.slots for link in links if link.usable)
        yield _gauge("slots", "Runs that the workers can execute at once.", slots)
        busy = sum(map(len, state.executions.values()))
        yield _gauge("slots_used", "Runs that execute.", busy)
        yield _gauge("connections", "Clients that are connected.", len(self._connections))
        yield _gauge("state_entries", "Entries of the state.", len(state.values.keys))
        yield _gauge("locks", "Locks that are held or waited for.", len(state.locks))
        yield _gauge("events_kept", "Events that nobody has received yet.", len(state.events.kept))
        yield _gauge("idempotency_keys", "Idempotency keys of starts.", len(state.keys))
        used = resource.getrusage(resource.RUSAGE_SELF)
        yield _Family(
            "process_cpu_seconds_total",
            "counter",
            "Processor time of the daemon, without its workers.",
            [({}, used.ru_utime + used.ru_stime)],
        )
        yield _Family(
            "process_resident_memory_bytes",
            "gauge",
            "Memory of the daemon, without its workers.",
            [({}, _resident_bytes(used.ru_maxrss))],
        )


def _gauge(name: str, help_text: str, value: float) -> _Family:
    return _Family(f"stackshift_{name}", "gauge", help_text, [({}, value)])


def _counter(name: str, help_text: str, value: float) -> _Family:
    return _Family(f"stackshift_{name}_total", "counter", help_text, [({}, value)])


def _histogram(name: str, help_text: str, counted: Histogram) -> _Family:
    bounds = [*map(str, counted.bounds), "+Inf"]
    up_to = itertools.accumulate(counted.counts)
    samples = [({"le": bound}, count) for bound, count in zip(bounds, up_to, strict=True)]
    return _Family(f"stackshift_{name}", "histogram", help_text, samples, counted.sum)


def _resident_bytes(most_kib: int) -> int:
    """The memory that is in use now; where the system does not say, the most so far."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return most_kib * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")
