"""The worker processes: starting them, listening to them, replacing them.

Each worker has one end of a socket pair and inherits nothing else from the daemon. A worker that is
silent for longer than the heartbeat, or whose process ends, is lost: it is killed, what its
handlers have started is ended, and then its executions are given up. So no run is executed again
beside a program of its own. The end of a process is seen by itself, not only by that of its socket,
which a process that it has forked may hold open.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from stackshift_jobs.errors import BadConfiguration, Conflict
from stackshift_jobs.project.config import LOCAL, Config
from stackshift_jobs.values.quantities import quantity
from stackshiftd.core import commands as c
from stackshiftd.shell.cluster.opening import Offer
from stackshiftd.shell.tuning import Tuning
from stackshiftd.shell.workers import orders
from stackshiftd.shell.workers.deadly_modules import DeadlyModules
from stackshiftd.shell.workers.enders import enders
from stackshiftd.shell.workers.hosts.far_host import Hosts
from stackshiftd.shell.workers.hosts.host_link import HostLink
from stackshiftd.shell.workers.hosts.joined import JoinedLink
from stackshiftd.shell.workers.hosts.joined_process import JoinedProcess
from stackshiftd.shell.workers.link import WorkerLink, WorkerListener
from stackshiftd.shell.workers.local_host import Host
from stackshiftd.shell.workers.process import Launch, launch_process
from stackshiftd.shell.workers.programs import FORCED_SECONDS
from stackshiftd.shell.workers.silence import Verdict
from stackshiftd.worker.frames import (
    BEAT_SECONDS,
    Beat,
    Drain,
    Greeting,
    HandBack,
    Importing,
    KnowsSecrets,
    Printed,
    Rehearsed,
    Stuck,
    decode_from_worker,
)

log = logging.getLogger("stackshiftd.pool")

STOP_MARGIN_SECONDS: Final = 0.5
"""How long after the grace a worker is killed. At the end of the grace it kills the programs that
have not ended, and reports that its executions have stopped."""
MAX_ENDINGS: Final = 64
"""The most workers whose programs are ended at once."""
MAX_SPARES: Final = 8
"""Extra workers at a time, each for one run that is tried alone."""


class Pool:
    """Keeps `[workers] processes` shared workers and the workers of single queues running."""

    def __init__(
        self,
        config: Config,
        logs: Path,
        ears: WorkerListener,
        tuning: Tuning,
        executing: Callable[[str], int],
        launch: Launch = launch_process,
    ) -> None:
        self._executing = executing
        self.hosts = Hosts(config, launch)
        self._config = config
        self.logs = logs
        self._ears = ears
        self.tuning = self._tuning = tuning
        self.heartbeat = config.workers.heartbeat_ms / 1000
        self.beat_seconds = min(BEAT_SECONDS, self.heartbeat / 5)
        self._loop = asyncio.get_running_loop()
        self._count = 0
        self._spares_due: set[str] = set()
        """Pools for which an extra worker is being started."""
        self._closing = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._burials: set[asyncio.Task[Any]] = set()
        self._killed: list[WorkerLink] = []
        # Not the loop's own threads: an ending may take as long as the grace, and others need them.
        self._enders = enders(MAX_ENDINGS)
        self.links: dict[str, WorkerLink] = {}
        self._deadly = DeadlyModules()

    # --- Starting -------------------------------------------------------------------------

    async def start(self) -> None:
        """Start all workers. Returns when their processes run, before they are ready."""
        workers = self._config.workers
        for name in workers.hosts:
            await self._start_on(self.hosts[name], "", workers.processes)
        for queue, section in self._config.queues.items():
            for name, processes in section.places:
                await self._start_on(self.hosts[name], queue, processes)
        self._loop.call_later(1.0, self._listen)

    async def _start_on(self, host: Host, queue: str, processes: int) -> None:
        for _ in range(processes):
            if host.is_far:
                # In the background: sending the code may take a while, and fail for a while.
                self._track(self._respawn(queue, host))
            else:
                await self._spawn(queue, host)

    def start_spare(self, queue: str) -> None:
        """Start an extra worker for a run that is tried alone; one at a time for each pool, and at
        most `MAX_SPARES`. It ends when it has executed that run, or is not needed any more."""
        spares = sum(link.spare for link in self.links.values()) + len(self._spares_due)
        if queue not in self._spares_due and spares < MAX_SPARES and not self._closing:
            self._spares_due.add(queue)
            self._track(self._start_spare(queue))

    async def _start_spare(self, queue: str) -> None:
        host = self._host_of(queue)
        if host is None:
            self._spares_due.discard(queue)
            self._set_apart(queue)
            return
        try:
            await self._pause(host)
            await self._spawn(queue, host, spare=True)
        except (OSError, BadConfiguration) as bad:
            host.early_deaths += 1
            log.error("a worker cannot be started: %s", bad)
        finally:
            self._spares_due.discard(queue)
        self._ears.vacant()

    async def start_trial(self, answer: asyncio.Future[Greeting]) -> WorkerLink:
        """Start a worker that gets no work: its greeting, or its end (`WorkerEnded`), which goes to
        `answer`, shows whether the job modules can be imported as they are now. Raises `OSError`
        and `BadConfiguration`."""
        return await self._spawn("", self.hosts.local, trial=answer)

    def accept(self, trial: WorkerLink) -> None:
        """Let the worker that was on trial take over, with new ones like it for all others, which
        finish what they hold."""
        trial.trial = None
        self._deadly.forget()
        links = [link for link in self.links.values() if link is not trial and not link.gone]
        has_place = False
        for link in links:
            if link.retired or link.spare:
                continue
            if link.queue == trial.queue and not link.host.is_far and not has_place:
                has_place = link.replaced = True
            self._renew(link)
        if LOCAL not in self._config.workers.hosts:  # It was only to load the code.
            trial.replaced = True
            self.dismiss(trial, "the workers are on other hosts")

    @property
    def is_far(self) -> bool:
        """Are all workers on other hosts?"""
        sections = self._config.queues.values()
        places = {name for section in sections for name, _ in section.places}
        return LOCAL not in places.union(self._config.workers.hosts)

    def code_changed(self) -> None:
        """The workers of this machine have other code than before: send that to hosts whose workers
        have the code from before."""
        self.hosts.code_changed()
        self._track(self._renew_outdated())

    async def _renew_outdated(self) -> None:
        for link in list(self.links.values()):
            if isinstance(link, HostLink) and not link.retired and not link.gone:
                try:
                    archive = await link.host.archive()
                except (OSError, BadConfiguration) as bad:
                    log.error("the code cannot be sent to %s: %s", link.host.name, bad)
                    return
                sent = link.process.archive
                if archive is not None and sent is not None and archive.digest != sent.digest:
                    self._renew(link)

    def dismiss(self, trial: WorkerLink, reason: str) -> None:
        """End a worker that was on trial."""
        self._give_up(trial, reason, True, FORCED_SECONDS)

    def _renew(self, link: WorkerLink) -> None:
        """Replace a worker at once, whether or not it still holds anything."""
        link.retired = True
        if not link.replaced:
            link.replaced = True
            self._track(self._respawn(link.queue, link.host))
        if not self._executing(link.id):
            self._give_up(link, "its code has changed", True, self._grace)

    def _names(self, queue: str) -> tuple[str, ...]:
        """The hosts on which workers of this pool are started."""
        section = self._config.queue(queue) if queue else None
        if section is None or not section.has_own:
            return self._config.workers.hosts
        return tuple(name for name, _ in section.places)

    def _host_of(self, queue: str) -> Host | None:
        """The host of an extra worker for this pool; None if it has only workers that join."""
        hosts = (self.hosts[name] for name in self._names(queue))
        return min(hosts, key=lambda host: host.early_deaths, default=None)

    def _set_apart(self, queue: str) -> None:
        """Make an extra worker of one that has joined and executes nothing. If none does now, that
        is tried again when a run has ended."""
        for link in self.links.values():
            if link.queue == queue and link.usable and not self._executing(link.id):
                link.spare = True
                self._ears.vacant()
                return

    async def _spawn(
        self,
        queue: str,
        host: Host,
        *,
        spare: bool = False,
        trial: asyncio.Future[Greeting] | None = None,
    ) -> WorkerLink:
        self._count += 1
        worker = host.worker_name(self._count)
        process, ours = await host.start()
        kind = HostLink if host.is_far else WorkerLink
        link = kind(self, worker, queue, process, host, spare=spare, trial=trial)
        await self._loop.create_unix_connection(lambda: link, sock=ours)
        self._watch(link)
        self._begin(link)
        return link

    def admit(self, machine: str, offer: Offer, writer: asyncio.StreamWriter) -> None:
        """Take the worker that `machine` offers, whose keeper is at the other end of `writer`.
        Raises `Conflict`."""
        if self._closing:
            raise Conflict("this daemon stops")
        section = self._config.queue(offer.queue) if offer.queue else None
        if section is not None and not section.has_own:
            raise Conflict(
                f"queue {offer.queue} has no workers of its own",
                hint=f"set [queues.{offer.queue}] hosts = [] for workers that join alone",
            )
        self._count += 1
        host = self.hosts.joining(machine)
        link = JoinedLink(self, host.worker_name(self._count), offer.queue, JoinedProcess(), host)
        link.offered = offer.slots
        link.take_over(writer)
        self._begin(link)

    def _begin(self, link: WorkerLink) -> None:
        self.links[link.id] = link
        link.open()
        hello = orders.hello(self._config, self.logs, link.id, self.beat_seconds)
        # A worker on trial is to try all modules.
        deadly = self._deadly.found if link.trial is None else {}
        hello = msgspec.structs.replace(hello, slots=link.offered or hello.slots, deadly=deadly)
        link.post(hello)

    def _watch(self, link: WorkerLink) -> None:
        """Have the end of the process noticed; where there is no descriptor for that, `_listen`
        asks."""
        fd = link.process.death_fd()
        if fd is None:
            return

        def died() -> None:
            self._loop.remove_reader(fd)
            os.close(fd)
            link.process_ended()

        self._loop.add_reader(fd, died)

    @property
    def _grace(self) -> float:
        """`[workers] grace` in seconds."""
        return self._config.workers.grace_ms / 1000

    @property
    def whole(self) -> bool:
        """Is every worker running and ready?"""
        return not self._tasks and all(link.usable for link in self.links.values())

    def unreachable(self, queue: str) -> str:
        """Why hosts of this pool have no usable worker, in one sentence; empty if they have."""
        hosts = [host for name in self._names(queue) if (host := self.hosts.far.get(name))]
        hosts += {link.host for link in self.links.values() if isinstance(link, JoinedLink)}
        return "; ".join(f"{host.name}: {host.trouble}" for host in hosts if host.trouble)

    def hosts_shown(self) -> list[dict[str, Any]]:
        """What `daemon.status` says of each other host."""
        links = self.links.values()
        return [
            host.shown([link.id for link in links if link.host is host and link.usable])
            for host in (*self.hosts.far.values(), *self.hosts.joined.values())
        ]

    # --- Listening -------------------------------------------------------------------------

    def heard(self, link: WorkerLink, line: bytes) -> None:
        """Handle a line that a worker has sent."""
        if link.gone:
            return
        frame = decode_from_worker(line)
        if isinstance(frame, c.Command):
            self._ears.heard(link, frame)
        elif isinstance(frame, Importing):
            link.importing = frame.module
            self._ears.imports(link, frame.module)
        elif isinstance(frame, Greeting):
            link.importing = ""
            if link.trial is None:
                self._deadly.survived()
            link.slots = link.offered or self._config.workers.slots
            link.ready = True
            self._ears.greeted(link, frame)
        elif isinstance(frame, Printed):
            self._ears.printed(link, frame)
        elif isinstance(frame, KnowsSecrets):
            link.knows_secrets = True
        elif isinstance(frame, Rehearsed):
            rehearsed = link.rehearsals.pop(frame.run, None)
            if rehearsed is not None and not rehearsed.done():
                rehearsed.set_result(frame)
        elif isinstance(frame, HandBack):
            self._ears.handed_back(link, frame.run, frame.token)
        elif isinstance(frame, Stuck):
            log.warning("%s: step %r of %s is past its timeout", link.id, frame.step, frame.run)
            self.retire(link, f"step {frame.step!r} of {frame.run} did not end at its timeout")
        else:
            assert isinstance(frame, Beat)
            self._ears.beaten(link, frame)

    def broke_silence(self) -> None:
        """A worker that was silent for long can be given work again: its slots are free, and no
        record says so."""
        self._loop.call_soon(self._ears.vacant)

    def _listen(self) -> None:
        """Replace workers that are silent, worn out or retired. Called once a second. Silence is
        counted in calls, not in seconds, so that a daemon that was itself stopped for a while does
        not blame its workers."""
        if self._closing:
            return
        for link in list(self.links.values()):
            if link.gone:
                continue
            if link.process.poll() is not None:
                link.process_ended()
                continue
            if why := link.look():
                self._give_up(link, why, True, self._grace)
                continue
            if isinstance(link, HostLink) and link.is_tried_again and not link.retired:
                link.retired = True
            if link.retired and not self._executing(link.id):
                self._give_up(link, "it was to be replaced", True, self._grace)
            elif link.spare and self._is_done(link):
                self._give_up(link, "its run was tried alone", True, self._grace)
            elif self._is_dead(link):
                self._give_up(link, "silent past its heartbeat", False, self._grace)
            elif not link.retired and (reason := self._worn_out(link)):
                log.info("%s is replaced: %s", link.id, reason)
                link.retired = True
        self._loop.call_later(1.0, self._listen)

    def _is_done(self, link: WorkerLink) -> bool:
        """Has a spare worker nothing to do any more?"""
        if not link.ready or self._executing(link.id):
            return False
        return link.executed > 0 or not self._ears.needs_spare(link.queue)

    def _is_dead(self, link: WorkerLink) -> bool:
        """Count a second of silence, and judge it."""
        was_long = link.silence.is_long
        verdict = link.silence.tick()
        if verdict is Verdict.DEAD:
            log.warning("%s has been silent for %d s", link.id, link.silence.ticks)
        elif verdict is Verdict.BUSY and not was_long:
            log.warning("%s is silent but busy: a call in it keeps the interpreter", link.id)
        return verdict is Verdict.DEAD

    def _worn_out(self, link: WorkerLink) -> str:
        """Why a worker is to be replaced, once it has finished what it holds; empty if it is not.
        One that was given no run yet never is: what its imports take, the next one takes too."""
        workers = self._config.workers
        if workers.recycle_runs is not None and link.executed >= workers.recycle_runs:
            return f"it has executed {quantity(link.executed, 'run')}"
        if workers.max_memory_bytes is not None and link.executed:
            resident = link.process.resident_bytes()
            if resident > workers.max_memory_bytes:
                return f"it holds {resident} bytes of memory"
        return ""

    # --- Ending ----------------------------------------------------------------------------

    def retire(self, link: WorkerLink, reason: str) -> None:
        """Replace a worker: it gets no new work, and is killed after the grace, in which it can
        record what it holds."""
        if link.retired or link.gone:
            return
        link.retired = True
        link.post(Drain())
        seconds = self._grace + STOP_MARGIN_SECONDS
        self._loop.call_later(seconds, self._give_up, link, reason, True, FORCED_SECONDS)

    def replace(self, link: WorkerLink, reason: str) -> None:
        """Replace a worker whose handler did not stop within its grace. Other runs in it get a
        grace of their own to record their steps."""
        if len(link.stopping) >= self._executing(link.id):
            self._give_up(link, reason, True, FORCED_SECONDS)
        else:
            self.retire(link, reason)

    def _give_up(self, link: WorkerLink, reason: str, ours: bool, grace_seconds: float) -> None:
        """Kill a worker, and give up its executions."""
        if link.gone:
            return
        link.ready = False
        link.retired = True
        link.dismissal = reason
        if self._tuning.kill_delay:
            # Its late results still arrive meanwhile, and must change nothing.
            self._ears.lost(link, reason, ours)
            self._loop.call_later(self._tuning.kill_delay, self._kill, link)
        else:
            self._kill(link)
            self._bury(link, reason, ours, grace_seconds)

    def _bury(self, link: WorkerLink, reason: str, ours: bool, grace_seconds: float) -> None:
        """Report a worker that was killed or has died as lost, once nothing that it has started
        runs any more. Without a `reason`, that is how it died."""
        self._burials.add(self._track(self._buried(link, reason, ours, grace_seconds)))

    async def _buried(self, link: WorkerLink, reason: str, ours: bool, seconds: float) -> None:
        status = await self._loop.run_in_executor(self._enders, link.process.wait)
        words = link.process.last_words()
        if not reason:
            # Of one that we have killed, they say nothing of its runs.
            link.last_words = _withheld(words) if link.knows_secrets else words
            reason = "the worker process died" if link.ready else "the worker did not start"
            reason += link.manner(status)
        await self._end_programs(link, seconds)
        await link.settle()
        self._ears.lost(link, reason, ours)

    async def _end_programs(self, link: WorkerLink, grace_seconds: float) -> None:
        programs = self._ears.programs(link)
        end = link.process.end_programs
        await self._loop.run_in_executor(self._enders, end, programs, grace_seconds)

    def _kill(self, link: WorkerLink) -> None:
        for rehearsed in link.rehearsals.values():
            rehearsed.cancel()
        link.process.kill()
        link.gone = True
        link.close()

    def ended(self, link: WorkerLink) -> None:
        """Replace a worker whose socket is closed: its process has ended, or is about to."""
        self.links.pop(link.id, None)
        if not any(other.host is link.host for other in self.links.values()):
            self.hosts.joined.pop(link.host.name, None)
        by_itself = not link.gone
        if not by_itself:
            link.process.last_words()  # Of one that we have killed: they say nothing of its runs.
        self._kill(link)  # does not change the status of a process that is ending already
        if not link.ready and link.slots == 0 and link.trial is None:
            link.host.early_deaths += 1
        if by_itself:
            # Runs are not to blame for a host that cannot be reached.
            self._bury(link, "", self._closing or link.is_cut_off, self._grace)
        self._track(self._reap_and_replace(link))

    async def _reap_and_replace(self, link: WorkerLink) -> None:
        status = await asyncio.to_thread(link.process.wait)
        if self._closing:
            return
        if not link.dismissal:
            self._note_deadly(link, status)
        level = logging.INFO if link.retired or link.trial is not None else logging.WARNING
        # One that we have killed has the status of any that was killed, for lack of memory too.
        how = (
            f"was dismissed: {link.dismissal}" if link.dismissal else f"ended{link.manner(status)}"
        )
        log.log(level, "%s (pid %d) %s", link.id, link.process.pid, how)
        if link.spare:
            self._ears.vacant()
        elif not link.replaced and link.trial is None:
            await self._respawn(link.queue, link.host)

    def _note_deadly(self, link: WorkerLink, status: int) -> None:
        """Note the module that a worker was importing when it ended by itself, if it was."""
        if link.ready or not link.importing or link.trial is not None or link.host.is_far:
            return
        if self._deadly.died(link.importing, link.manner(status)):
            link.host.early_deaths = 0  # Their reason is known, and over.

    async def _respawn(self, queue: str, host: Host) -> None:
        """Start a worker, however often that takes."""
        while not self._closing:
            await self._pause(host)
            try:
                await self._spawn(queue, host)
                return
            except (OSError, BadConfiguration) as bad:
                # This may pass: an environment that is being rebuilt, a limit on processes.
                host.early_deaths += 1
                host.troubled(str(bad))
                log.error("a worker cannot be started: %s", bad)

    async def _pause(self, host: Host) -> None:
        """Wait before another start on this host, the longer the more workers have died early."""
        if host.early_deaths:
            tuning = self._tuning
            delay = tuning.respawn_first * 2 ** min(host.early_deaths - 1, 10)
            most = tuning.host_respawn_most if host.is_far else tuning.respawn_most
            await asyncio.sleep(min(delay, most))

    def _track(self, work: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(self._burials.discard)
        return task

    def drain(self) -> None:
        """Make every worker hand back its runs."""
        for link in self.links.values():
            link.retired = True
            link.post(Drain())

    def kill(self) -> None:
        """Kill all workers, which say nothing any more; `close` waits for their end. Idempotent."""
        if self._closing:
            return
        self._closing = True
        self._killed = list(self.links.values())
        for link in self._killed:
            self._kill(link)

    async def close(self) -> None:
        """Kill all workers, and wait until they and all that they have started have ended;
        idempotent."""
        self.kill()
        links, self._killed = self._killed, []
        endings = [self._end_programs(link, FORCED_SECONDS) for link in links]
        await asyncio.gather(*endings, *self._burials, return_exceptions=True)
        for link in links:
            link.process.last_words()
        for task in list(self._tasks):
            task.cancel()
        self._enders.shutdown(wait=False)


def _withheld(words: dict[str, bytes]) -> dict[str, bytes]:
    """What is said of last words in which only the worker could have masked its secrets."""
    said = "(the worker wrote %d bytes just before it died; they may contain secrets)"
    return {stream: (said % len(data)).encode() for stream, data in words.items()}
