"""The daemon: the life of its parts, from recovery to a clean stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from stackshift_jobs.errors import BadConfiguration, Conflict, StackshiftError
from stackshift_jobs.project.config import Config
from stackshift_jobs.values.durations import rfc3339
from stackshift_jobs.values.limits import LINE_MARGIN
from stackshift_jobs.version import __version__
from stackshiftd.core import commands as c
from stackshiftd.effect_performer import EffectPerformer
from stackshiftd.journal.filesystem import UNWRITABLE
from stackshiftd.journal.interface import Full, Journal, Overtaken, Owner
from stackshiftd.parts import Parts
from stackshiftd.shell.background.code_watch import CodeWatch
from stackshiftd.shell.background.daemon_log import DaemonLog
from stackshiftd.shell.background.service import Service
from stackshiftd.shell.catalog import shown
from stackshiftd.shell.cluster.opening import Client, Offer
from stackshiftd.shell.departures import Replay
from stackshiftd.shell.ids import Ids
from stackshiftd.shell.methods.queues import file_terms
from stackshiftd.shell.params import Answer
from stackshiftd.shell.server.connection import Connection
from stackshiftd.shell.server.jsonrpc import Request
from stackshiftd.shell.server.listener import Listener
from stackshiftd.shell.server.relay import Relays
from stackshiftd.shell.server.turns import Turns
from stackshiftd.shell.standby import Standby, following
from stackshiftd.shell.tuning import Tuning
from stackshiftd.shell.work import as_work, to_end
from stackshiftd.shell.workers.pool import STOP_MARGIN_SECONDS
from stackshiftd.shell.workers.process import EarlyWorker, Launch, launch_process
from stackshiftd.shell.workers.programs import end_strays, recorded
from stackshiftd.shell.workers.warden import Warden, await_warden
from stackshiftd.worker.scripts.folder import remove_all

if TYPE_CHECKING:  # It loads ssl, which a daemon of one machine does not need.
    from stackshiftd.shell.cluster.cluster import Cluster
    from stackshiftd.shell.cluster.lender import Lender

log = logging.getLogger("stackshiftd")

START_OVER_SECONDS: Final = 5.0
"""The least time between two starts of a daemon that waits for room."""


async def _tried(attempt: Coroutine[Any, Any, dict[str, Any]]) -> Any:
    """What `attempt`, a reload or a preflight, returns, or the error instead of it."""
    try:
        return await attempt
    except StackshiftError as refused:
        log.error("not reloaded: %s", refused)
        return refused
    except OSError as bad:
        log.error("not reloaded: no worker can be started: %s", bad)
        return BadConfiguration(f"no worker can be started: {bad}")


class Daemon:
    """One project's daemon, on a journal that is open. `serve` runs it until it is asked to stop.

    `cluster` is its place among daemons on other machines, with a journal that they share. A test
    can pass in its own clock, ids and launch of workers; `in_memory` leaves nothing on the disk.
    """

    def __init__(
        self,
        config: Config,
        journal: Journal,
        tuning: Tuning | None = None,
        clock: Callable[[], int] | None = None,
        *,
        ids: Ids | None = None,
        launch: Launch = launch_process,
        in_memory: bool = False,
        cluster: Cluster | None = None,
    ) -> None:
        self._config = config
        self._journal = journal
        self._tuning = tuning or Tuning()
        self._loop = asyncio.get_running_loop()
        self._data_dir = config.data_dir
        self._stopping: asyncio.Future[bool] = self._loop.create_future()
        self.failure: BaseException | None = None
        """The error by which the journal has failed for good."""
        self.is_asked_to_stop = False
        """Has somebody asked for it? Then it does not start again, whatever it ends by."""
        self.on_reload: Callable[[dict[str, Any]], None] = lambda _outcome: None
        """Called with what each reload has done, or `{"error": …}`."""
        self._in_memory = in_memory
        self._daemon_log = DaemonLog(config.data_dir)
        self._warden: Warden | None = None
        self.standby: Standby | None = None
        """While another daemon leads, and until this one has taken over from it."""
        self._cluster = cluster
        self._lender: Lender | None = None
        self._successor = ""
        """The host whose daemon is to lead after this one."""
        self._service = Service({} if in_memory else None)
        self._beat: asyncio.TimerHandle | None = None
        self._grace = config.workers.grace_ms / 1000
        self._began = time.monotonic()
        self.starts_over = False
        """Is the process to be replaced by a new daemon when this one has ended?"""
        self._parts = parts = Parts(
            config, journal, self._tuning, clock, ids, launch, in_memory=in_memory
        )
        self.engine = parts.engine
        self.pool = parts.pool
        parts.dispatcher.learned = self._learned
        self.router = parts.router(self, cluster)
        max_line = config.limits.payload_bytes + LINE_MARGIN
        turns = Turns()
        self._relays: Relays | None = None
        if cluster is not None:
            self._relays = Relays(
                lambda: cluster.dial(journal.leader or "", Client()),
                self._answered_alone,
                max_line,
                config.limits.connections,
            )
            cluster.attach(lambda: self._listener.place, self._standing, self._admit)

        def connected() -> asyncio.Protocol:
            follows = self.standby is not None and not self.standby.is_taking_over
            if follows and self._relays is not None:
                return self._relays.connect()
            return Connection(self.router, turns, max_line)

        self._listener = Listener(self._data_dir, connected, rfc3339(time.time_ns() // 1000))
        self.performer = EffectPerformer(parts, self._data_dir, self._failed)
        self.engine.attach(self.performer)

    def _learned(self) -> None:
        self._parts.schedule_timer.learn()
        self._parts.alerts.learn()

    def _failed(self, error: BaseException) -> None:
        """Stop the daemon, because the journal has failed for good."""
        log.critical("the journal has failed, nothing more is acknowledged: %s", error)
        self.failure = error
        if not self._stopping.done():
            self._stopping.set_result(False)

    # --- router.DaemonControl --------------------------------------------------------------

    def stop(self, drain: bool = False) -> None:
        """Begin to stop: after the grace for executing runs, or (`drain`) when they have ended."""
        self.is_asked_to_stop = True
        if not self._stopping.done():
            self._stopping.set_result(drain)

    def hand_over(self, to: str) -> None:
        """Begin to let the daemon on the host `to` lead. A new one in this process follows it."""
        if not self._stopping.done():
            self._successor = to
            self._stopping.set_result(False)

    def _admit(self, machine: str, offer: Offer, writer: asyncio.StreamWriter) -> None:
        """Take a worker that another machine offers. Raises `Conflict`."""
        if not self.engine.is_writer or self._stopping.done():
            raise Conflict("this daemon does not lead")
        self.pool.admit(machine, offer, writer)

    def _standing(self) -> tuple[str, int]:
        """The role of this daemon, and the last record that it has."""
        return "leads" if self.engine.is_writer else "follows", self._journal.last_seq

    async def _answered_alone(self, request: Request) -> Any:
        """What this daemon, which follows another, answers for itself. Raises what it refuses it
        with."""
        answered: asyncio.Future[Any] = self._loop.create_future()
        self.router.answer_alone(request.method, request.params, answered.set_result)
        result = await to_end(as_work(await answered))
        if isinstance(result, StackshiftError):
            raise result
        return result

    def notes(self) -> list[str]:
        """What a person who starts the daemon should know: that it does not lead or write, and the
        modules that cannot be imported."""
        if self.standby is not None:
            return [following(self._journal.leader)]
        reason = self.engine.room.reason()
        closed = [f"only reads are served: {reason}"] if reason else []
        return closed + [
            f"{shown(failed)}; its jobs cannot run" for failed in self._parts.catalog.failed
        ]

    def compact(self, answer: Answer) -> None:
        """Write a snapshot; `answer` is called when it is written."""
        self._parts.upkeep.compact(answer)

    def reload(self, answer: Answer | None = None, *, strict: bool = False) -> None:
        """Load the job modules as they are now; `answer` gets the outcome."""
        # By a signal: requests are refused before they come here.
        if self.standby is not None:
            log.error("not reloaded: %s", following(self._journal.leader))
            return
        if self.engine.room.is_closed:
            log.error("not reloaded: %s", self.engine.room.refusal())
            return
        self._parts.tasks.begin(self._reloaded(strict=strict), answer)

    def preflight(self, runs: list[str] | None, answer: Answer) -> None:
        """Answer what would become of runs in flight with the job modules as they are now."""
        self._parts.tasks.begin(_tried(self._parts.reloads.preflight(runs)), answer)

    async def _reloaded(self, *, strict: bool = False) -> Any:
        """What a reload that was asked for has done. Settings that are not valid refuse it."""
        try:
            schedules = self._parts.settings.reread()
        except StackshiftError as bad:
            log.error("not reloaded: %s", bad.message)
            self.on_reload({"error": bad.as_json()})
            return bad
        outcome = await self._load_code(strict=strict)
        return outcome if isinstance(outcome, StackshiftError) else outcome | schedules

    async def _load_code(self, *, strict: bool = False) -> Any:
        outcome = await _tried(self._parts.reloads.reload(strict=strict))
        is_refused = isinstance(outcome, StackshiftError)
        self.on_reload({"error": outcome.as_json()} if is_refused else outcome)
        return outcome

    # --- Life ------------------------------------------------------------------------------

    async def serve(self, ready: Callable[[], None]) -> None:
        """Recover, serve, and stop when asked to. `ready` is called once clients can connect.

        Raises the error that the journal has failed with, if it has.
        """
        await self._read()
        try:
            if self._cluster is not None:
                await self._cluster.open()
            if await self._follow(ready) and not self._stopping.done():
                await self._lead()
                if not self.engine.room.is_closed:
                    await self.employ()
                self.pool.hosts.local.dismiss_early()
                # Only now: until jobs are known, a start would be refused because its job is not.
                await self._open(ready)
                self._parts.heartbeats.begin()
                self._every_second()
            drain = await self._stopping
            self._listener.close()
            # To start over is no stop: nothing executes, and a service manager keeps the process.
            if self.failure is None and not self.starts_over:
                if self._lender is not None:
                    await self._lender.close(leave=True)
                if self.engine.is_writer:
                    await self._wind_down(drain)
                await self._journal.leave(self._successor)
                self.starts_over = bool(self._successor)
        finally:
            self._listener.close()
            await self.end()
        if self.failure is not None:
            raise self.failure

    async def recover(self) -> None:
        """Read the journal into the state, and become its writer, without following another."""
        await self._read()
        await self._lead()

    async def _read(self) -> None:
        """Read the journal into the state, and end what earlier daemons have left."""
        engine = self.engine
        replayed = await engine.replay(self._parts.history.covered_seq)
        if not self._in_memory:
            await self._end_strays()
        self._parts.history.begin(engine.snapshot_seq)
        self._tell_history(replayed)

    def _tell_history(self, replayed: Replay) -> None:
        for row in replayed.rows:
            self._parts.history.add(row)
        for run, places in replayed.lengthened:
            self._parts.history.lengthen(run, places)
        for run in replayed.removed:
            self.performer.removed(run)
        self._parts.feeds.published_seq = self.engine.state.seq

    async def _follow(self, ready: Callable[[], None]) -> bool:
        """While another daemon leads, keep the state level with what it appends, and serve those
        who ask who leads. Returns true once this daemon may lead, false if it stops before."""

        async def caught_up() -> None:
            self._tell_history(self.engine.catch_up())
            if self.standby is None:
                self.standby = Standby()
                log.info("following the daemon on %s", self._journal.leader)
                await self._open(ready)
                self._every_second_of_standby()
            self._lend()

        following = self._loop.create_task(self._journal.follow(caught_up))
        await asyncio.wait((following, self._stopping), return_when=asyncio.FIRST_COMPLETED)
        if not following.done():
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following
            return False
        await following  # raises what it has failed with
        if self.standby is not None:
            log.warning("taking over")
            self.standby.is_taking_over = True
            if not self._in_memory:
                # The first of our own loads its modules while those that were lent end.
                self.pool.hosts.local.early = EarlyWorker.launch(self._config)
            if self._lender is not None:
                # Before the runs that their workers have executed are handed out again.
                await self._lender.close(leave=False)
                self._lender = None
            if self._relays is not None:
                await self._relays.close()
        return True

    def _lend(self) -> None:
        """Lend the workers of this machine to whoever leads now."""
        if self._cluster is None or not self._config.cluster.lend:
            return
        if self._lender is None:
            from stackshiftd.shell.cluster.lender import Lender, own_workers

            self._lender = Lender(self._config, self._cluster, own_workers(self._config))
        self._lender.follow(self._journal.leader or "")

    async def _lead(self) -> None:
        """Become the journal's writer."""
        if await self._claim():
            self.engine.submit(c.DefineQueues("file", file_terms(self._config)))
            self._parts.alerts.define(self._config)
            self._parts.feeds.published_seq = self.engine.state.seq

    async def _open(self, ready: Callable[[], None]) -> None:
        """Let clients connect, or, if they could already, answer those who have waited."""
        await self._listener.open()
        standby = self.standby
        if standby is None:
            self._service_beat()
            self._service.ready(self._config.root)
        elif standby.is_taking_over:
            self.standby = None
            standby.end()
        ready()

    async def _end_strays(self) -> None:
        """End what earlier daemons have left: the claim gives up their executions, whose locks are
        not free until then. The programs of another machine are not here."""
        runs = self.engine.state.runs.values() if self._journal.was_here else ()
        programs = recorded(runs)
        try:
            await asyncio.to_thread(await_warden, self._data_dir, self._grace)
        except OSError as failed:
            if failed.errno not in UNWRITABLE:
                raise
        else:
            await asyncio.to_thread(end_strays, self._data_dir, programs, self._grace)
            await asyncio.to_thread(remove_all, self._data_dir)

    async def _claim(self) -> bool:
        """Become the journal's writer. Returns whether that was possible: without room for the
        record of it, reads are served and nothing else, until `_every_second` finds room."""
        while True:
            self._tell_history(self.engine.catch_up())
            try:
                await self.engine.claim(Owner(os.getpid(), __version__))
            except Overtaken:
                continue
            except Full:
                self.engine.room.close()
                return False
            return True

    async def employ(self) -> None:
        """Start the workers. Returns when jobs are known, or when that takes too long."""
        if not self._in_memory:
            self._warden = Warden(self._data_dir, self._grace)
        await self.pool.start()
        if self.pool.is_far:
            self._parts.tasks.begin(self._parts.reloads.learn())
        problem = await self._first_worker()
        if problem:
            log.error("no worker could be started yet: %s", problem)
        if self._config.project.watch:
            watch = CodeWatch(
                self._parts.catalog.code, self._load_code, self._parts.settings.watched
            )
            self._parts.tasks.begin(watch.run())

    async def _first_worker(self) -> str:
        """Wait until jobs are known, or are not needed; returns the reason if they are not, else
        nothing."""
        first = self._parts.dispatcher.first_worker
        await asyncio.wait(
            (first, self._stopping),
            timeout=self._tuning.ready,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if first.done():
            return first.result()
        if self._stopping.done():
            return "the daemon was asked to stop"
        return f"none was ready within {self._tuning.ready:.0f} s"

    def _every_second_of_standby(self) -> None:
        if self.standby is None or self.standby.is_taking_over or self._stopping.done():
            return
        if (loss := self._journal.loss) is not None:
            self.engine.fail(loss)
            return
        with contextlib.suppress(OSError):
            self._daemon_log.look()
        self._parts.upkeep.drop_logs_if_due()
        self._parts.upkeep.compact_if_due()
        self._parts.tasks.begin(self._listener.look())
        self._loop.call_later(1.0, self._every_second_of_standby)

    def _every_second(self) -> None:
        if (loss := self._journal.loss) is not None:
            self.engine.fail(loss)
            return
        self.engine.look_at_journal()
        with contextlib.suppress(OSError):  # A log that cannot be emptied stops no work.
            self._daemon_log.look()
        self.engine.look_for_room()
        self._parts.clock.watch()
        self._parts.upkeep.drop_logs_if_due()
        if self.engine.room.is_closed:
            self._start_over_if_possible()
        else:
            self._parts.upkeep.compact_if_due()
        if not self._stopping.done():
            self._parts.tasks.begin(self._listener.look())
            self._next_second()

    def _next_second(self) -> None:
        due = self._loop.time() + 1.0

        def turned() -> None:
            self.engine.load.turned(self._loop.time() - due)
            self._every_second()

        self._loop.call_at(due, turned)

    def _service_beat(self) -> None:
        """Report to the service manager that the loop turns, as often as it wants to hear; also
        while the daemon waits for the end of what runs."""
        if self._service.beat_seconds is not None:
            self._service.alive()
            self._beat = self._loop.call_later(self._service.beat_seconds, self._service_beat)

    def _start_over_if_possible(self) -> None:
        """Have this daemon, which could not become the writer, replaced by one that recovers the
        journal, if there is room by now."""
        has_served = time.monotonic() - self._began > START_OVER_SECONDS
        if has_served and self._journal.can_write():
            log.warning("there is room on the disk: starting again, to write")
            self.starts_over = True
            if not self._stopping.done():
                self._stopping.set_result(False)

    async def _wind_down(self, drain: bool) -> None:
        """Let executing runs end or hand them back, then close the journal in good order."""
        if not self._successor and not self.engine.room.read_only:
            await self._parts.alerts.tell_stop()
        self._parts.dispatcher.draining = True
        # Ticks that come due from here on are for the next daemon.
        self._parts.schedule_timer.stop()
        if drain:
            self._service.draining()
            await self._until_idle(None)
        if not self._successor:
            self._service.stopping()
        self.pool.drain()
        await self._until_idle(self._grace + STOP_MARGIN_SECONDS)
        self.pool.kill()
        if any(self.engine.state.executions.values()):
            await self.pool.close()  # Their runs are handed out again when nothing of them is left.
        for worker, executing in list(self.engine.state.executions.items()):
            for run, token in list(executing.items()):
                self.engine.submit(
                    c.LoseExecution(run, token, f"handed back by {worker} at the stop", True)
                )
        self._parts.timers.stop()
        self.engine.submit(c.Close())
        await self.engine.drained()
        await self._parts.hooks.close(self._grace)
        await self._parts.heartbeats.close()

    async def _until_idle(self, seconds: float | None) -> None:
        """Wait until nothing executes, for at most `seconds` (None: without limit)."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while any(self.engine.state.executions.values()):
            if deadline is not None and time.monotonic() > deadline:
                return
            await asyncio.sleep(0.02)

    async def end(self) -> None:
        """Stop everything at once, whatever is under way: the next daemon continues from what is
        durable."""
        if self._beat is not None:
            self._beat.cancel()
        self._parts.timers.stop()
        self._parts.schedule_timer.stop()
        if self._journal.is_in_place:  # Otherwise these files belong to another daemon.
            self._listener.remove()
        for connection in list(self.router.connections):
            connection.close()
        await self.pool.close()
        self.pool.hosts.local.dismiss_early()
        if self._lender is not None:
            await self._lender.close(leave=False)
        if self._warden is not None:
            await asyncio.to_thread(self._warden.dismiss)
        await self._parts.hooks.close(0)
        await self._parts.heartbeats.close(0)
        if self._relays is not None:
            await self._relays.close()
        if self._cluster is not None:
            await self._cluster.close()
        self._parts.tasks.cancel()
        self._parts.history.close()
        with contextlib.suppress(StackshiftError):
            self._journal.close()

    # --- Time ------------------------------------------------------------------------------

    def next_due_us(self) -> int | None:
        """The daemon time at which something is next due by itself, which may have passed; None if
        nothing is."""
        state = self.engine.state
        times = (
            state.next_due_us(),
            state.next_permit_us(self.engine.looked_us),
            self._parts.schedule_timer.next_us,
        )
        return min((due_us for due_us in times if due_us is not None), default=None)

    def ring(self) -> None:
        """Act on what is due by now, because a test has moved the clock."""
        self.performer.timers_moved()
        self.engine.poke()
