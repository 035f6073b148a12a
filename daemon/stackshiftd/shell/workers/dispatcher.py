"""Between engine and workers: fills free slots, dispatches runs, delivers answers and outcomes, and
makes sure that executions stop when they must."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Raw

from stackshift_jobs.errors import PayloadRefused, StackshiftError, Usage
from stackshift_jobs.programs.processes import ProcessGroup
from stackshift_jobs.project.config import Config
from stackshiftd.core import commands as c
from stackshiftd.core.decide.replies import refusal_json
from stackshiftd.core.effects import Acknowledge, Dispatch, Interrupt, Resolve, Stop
from stackshiftd.core.records import Error, QueueTerms
from stackshiftd.core.state.state import CallKind
from stackshiftd.core.why import Beat as StepBeat
from stackshiftd.shell.catalog import Catalog, StartParams, shown
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.requests import Requests
from stackshiftd.shell.views.bodies import Bodies
from stackshiftd.shell.views.entry_history import EntryHistory, StateHistory
from stackshiftd.shell.views.lookup import Lookup
from stackshiftd.shell.workers import orders
from stackshiftd.shell.workers.hosts.host_link import HostLink
from stackshiftd.shell.workers.link import WorkerEnded, WorkerLink
from stackshiftd.shell.workers.pool import STOP_MARGIN_SECONDS, Pool
from stackshiftd.shell.workers.programs import recorded
from stackshiftd.worker.frames import (
    Beat,
    CallRecorded,
    Cancel,
    End,
    Greeting,
    Outcome,
    Printed,
)
from stackshiftd.worker.job_names import without_job
from stackshiftd.worker.output.log_file import LogFile
from stackshiftd.worker.output.log_lines import append_last_words

log = logging.getLogger("stackshiftd.dispatcher")

MAX_ASSIGNS: Final = 1024
"""Runs dispatched, or held because no worker has their job, in one turn of the loop, so that very
many of them do not block everything else. After their commit, `fill_slots` looks for more."""


class Dispatcher:
    """`pool.WorkerListener`, and the part of `engine.EffectSink` that concerns workers."""

    def __init__(
        self,
        engine: Engine,
        catalog: Catalog,
        config: Config,
        bodies: Bodies,
        lookup: Lookup,
        requests: Requests,
        history: EntryHistory,
    ) -> None:
        self._engine = engine
        self._catalog = catalog
        self._config = config
        self._bodies = bodies
        self._lookup = lookup
        self._requests = requests
        self._history = history
        self._loop = asyncio.get_running_loop()
        self.pool: Pool
        self._loaded: dict[str, str] = {}
        self._problems: set[str] = set()
        """What was last said of jobs that name one which does not exist."""
        """Digests of the files that the code of this machine's workers was loaded from."""
        self.first_worker: asyncio.Future[str] = self._loop.create_future()
        """Done when the first worker is ready, or has failed to start (then with the reason)."""
        self.draining = False
        self.learned: Callable[[], None] = lambda: None
        """Called when workers have reported their jobs."""

    # --- Dispatching -----------------------------------------------------------------------

    def fill_slots(self, now_us: int) -> None:
        """Submit an `Assign` for each free slot that a run which is ready at `now_us` could use."""
        if not self.draining:
            for pool in tuple(self._engine.state.lines):
                self._fill(pool, now_us)

    def _fill(self, pool: str, now_us: int) -> None:
        """Fill the free slots of the workers of one pool: a queue's own, or "" for the shared
        ones."""
        engine = self._engine
        state = engine.state
        if self.needs_spare(pool):
            self._try_suspect(pool)
        if state.next_ready(now_us, pool) is None:
            return
        free, looked_seq = self._free(pool), state.seq
        for _ in range(MAX_ASSIGNS):
            if not free or state.next_ready(now_us, pool) is None:
                return
            worker = max(free, key=free.__getitem__) if len(free) > 1 else next(iter(free))
            held = len(state.executions.get(worker, ()))
            engine.submit(c.Assign(worker, self._catalog.runnable, pool=pool))
            free[worker] -= len(state.executions.get(worker, ())) - held
            if not free[worker]:
                del free[worker]
        if state.seq > looked_seq:
            engine.poke()  # There may be more.

    def _free(self, pool: str) -> dict[str, int]:
        """Worker → free slots, for workers that have any."""
        executions = self._engine.state.executions
        links = [
            link
            for link in self.pool.links.values()
            if link.queue == pool and link.usable and not link.spare
        ]
        free = {link.id: link.slots - len(executions.get(link.id, ())) for link in links}
        return {worker: slots for worker, slots in free.items() if slots}

    def needs_spare(self, queue: str) -> bool:
        """May a suspect of this pool start, for which an extra worker is needed?"""
        state = self._engine.state
        return (
            bool(state.suspects)
            and not self.draining
            and state.next_suspect(self._engine.now_us(), queue) is not None
        )

    def _try_suspect(self, pool: str) -> None:
        """Dispatch a suspect to a worker of its own, which is started for it: alone, it harms no
        other run and keeps none waiting."""
        executions = self._engine.state.executions
        for link in self.pool.links.values():
            if link.spare and link.queue == pool and not (link.executed or executions.get(link.id)):
                if link.usable:
                    codes = self._catalog.runnable
                    self._engine.submit(c.Assign(link.id, codes, alone=True, pool=pool))
                return
        self.pool.start_spare(pool)

    def vacant(self) -> None:
        """Look again for a run that needs an extra worker."""
        self._engine.poke()

    def flush(self) -> None:
        """Send workers what is for them, before anything else is sent: to wake a process takes
        longer than all that was done for it here."""
        for link in self.pool.links.values():
            link.flush()

    def dispatch(self, effect: Dispatch) -> None:
        """Send a run to its worker: a frame for each recorded call, then the one to execute it."""
        link = self.pool.links.get(effect.worker)
        run = self._engine.state.runs.get(effect.run)
        if link is None or link.gone or run is None or run.token != effect.token:
            return  # Lost or cancelled since; the record of that is about to be durable.
        if any(step.seq > self._engine.durable_seq for step in run.calls.values()):
            # A wait has ended since the dispatch was decided; no handler may act on that before it
            # is durable.
            self._engine.when_durable(lambda _: self.dispatch(effect), None)
            return
        link.executed += 1
        link.watch.ordered(run.id, run.token)
        read = self._bodies.reader(run)
        for recall in orders.recalls(run, read):
            link.post(recall)
        for earlier in orders.earlier_tries(run, read):
            link.post(earlier)
        order = orders.execute(run, read)
        if isinstance(link, HostLink):
            store = LogFile(self.pool.logs, run.id, run.attempt)
            executing = self._engine.state.executions.get(link.id, {})
            printed = link.begin_log(run.id, run.token, store, executing)
            order = msgspec.structs.replace(order, printed=printed)
        link.post(order)

    # --- Answering -------------------------------------------------------------------------

    def acknowledge(self, effect: Acknowledge, link: Any, at_us: int) -> None:
        """Answer a worker's call, which was recorded at `at_us` and is durable now."""
        if effect.call:
            link.post(
                CallRecorded(
                    effect.call, at_us, effect.due_us, effect.child, effect.body, effect.error
                )
            )

    def resolve(self, effect: Resolve) -> None:
        """Send an execution the outcome of a call that it waits for."""
        run = self._engine.state.runs.get(effect.run)
        if run is None or run.token != effect.token:
            return
        link = self.pool.links.get(run.worker)
        step = run.calls.get(effect.step)
        if link is not None and step is not None:
            link.post(
                Outcome(
                    run=run.id,
                    token=run.token,
                    step=effect.step,
                    kind=step.kind.value,
                    phase=step.phase.value,
                    body=orders.raw(step.body, self._bodies.reader(run)),
                    error=step.error,
                    tried=step.tried,
                    due_us=step.due_us,
                    child=step.child or "",
                    child_status=step.child_status,
                    seq=step.seq,
                    at_us=step.at_us,
                    released_seq=step.released_seq,
                    job=step.job,
                )
            )

    def interrupt(self, effect: Interrupt) -> None:
        """Let an execution know that its run is to be cancelled gently."""
        run = self._engine.state.runs.get(effect.run)
        if run is None or run.token != effect.token:
            return
        link = self.pool.links.get(run.worker)
        if link is not None:
            link.post(Cancel(run.id, effect.token))

    def stop(self, effect: Stop) -> None:
        """Ask an execution to stop; replace its worker if it has not stopped after the grace."""
        run = self._engine.state.runs.get(effect.run)
        if run is None or run.token != effect.token:
            return
        link = self.pool.links.get(run.worker)
        if link is None:
            return
        link.stopping.add(run.id)
        link.post(End(run.id, effect.token, effect.reason))
        seconds = self._config.workers.grace_ms / 1000 + STOP_MARGIN_SECONDS
        self._loop.call_later(seconds, self._force_stop, link, run.id, effect.token)

    def _force_stop(self, link: WorkerLink, run_id: str, token: int) -> None:
        run = self._engine.state.runs.get(run_id)
        if run is not None and run.token == token and not link.gone:
            log.warning("%s: %s did not stop within the grace", link.id, run_id)
            self.pool.replace(link, f"{run_id} did not stop within the grace")

    # --- From workers ----------------------------------------------------------------------

    def imports(self, _link: WorkerLink, module: str) -> None:
        """Note the module that a worker begins to import, for messages in case that never ends."""
        self._catalog.importing = module

    def greeted(self, link: WorkerLink, greeting: Greeting) -> None:
        """Give work to a worker that is ready. If its code differs from that of other workers, runs
        go to the new code alone, and those workers are replaced once they have finished what they
        hold. But if some module no longer imports, the last good code continues while a worker has
        it."""
        link.codes = {path: file.digest for path, file in greeting.files.items()}
        link.codes |= {job.name: job.code for job in greeting.jobs}
        if link.trial is not None:
            if not link.trial.done():
                link.trial.set_result(greeting)
            return
        if isinstance(link, HostLink):
            link.greeted(greeting)
            link.compare(self._catalog.codes)
            self._engine.poke()
            return
        others = [
            other
            for other in self.pool.links.values()
            if other is not link and other.usable and not other.host.is_far
        ]
        if greeting.failed and any(other.codes != link.codes for other in others):
            link.outdated = True
            self._catalog.refused(greeting)
        else:
            self._learn(greeting)
            for other in self.pool.links.values():
                if not other.host.is_far:
                    other.outdated = False
                    other.retired = other.retired or (other.ready and other.codes != link.codes)
        self._announce(greeting)

    def take_over(self, link: WorkerLink, greeting: Greeting) -> None:
        """Let a worker that was on trial, and its code, take the place of all others."""
        self._learn(greeting)
        self.pool.accept(link)
        self._announce(greeting)

    def _learn(self, greeting: Greeting) -> None:
        before, self._loaded = self._loaded, {p: f.digest for p, f in greeting.files.items()}
        self._catalog.learn(greeting.jobs, greeting.failed, greeting.queues, greeting.files)
        for link in self.pool.links.values():
            if isinstance(link, HostLink) and link.ready:
                link.compare(self._catalog.codes)
        if before and before != self._loaded:
            self.pool.code_changed()

    def _announce(self, greeting: Greeting) -> None:
        """Tell the core, the log and the schedules what there is now."""
        for failed in greeting.failed:
            log.error("failed to import: %s", shown(failed))
        problems = {text for _job, text in without_job(greeting.jobs, greeting.failed)}
        for text in sorted(problems - self._problems):  # Not once for each worker.
            log.warning("%s; what is started for it waits until one is", text)
        self._problems = problems
        self._engine.submit(c.DefineQueues("code", self._declared(greeting)))
        self._engine.submit(c.DefineJobs(self._catalog.runnable))
        self.learned()
        self._engine.poke()
        if not self.first_worker.done():
            self.first_worker.set_result("")

    def _declared(self, greeting: Greeting) -> dict[str, QueueTerms]:
        """The terms of queues that the code declares. A module that no longer imports keeps what it
        declared: its limits hold for the runs of other modules too."""
        if not greeting.failed:
            return self._catalog.queues
        queues = self._engine.state.queues.items()
        before = {name: queue.said["code"] for name, queue in queues if "code" in queue.said}
        return before | self._catalog.queues

    def heard(self, link: WorkerLink, command: c.Command) -> None:
        """Submit a worker's command; most go to the core as they are."""
        if isinstance(command, c.CallJob):
            self._start_child(link, command)
        elif isinstance(command, c.ContinueAs):
            self._continue(link, command)
        elif isinstance(command, c.Ask):
            self._ask(link, command)
        elif isinstance(command, c.AwaitRun):
            self._await(link, command)
        elif isinstance(command, c.WithdrawCall):
            self._engine.submit(self._with_event(command), source=link)
        else:
            self._engine.submit(command, source=link)
        if link.stopping:
            self._forget_stopped(link)

    def beaten(self, link: WorkerLink, beat: Beat) -> None:
        """Note how its steps are, and give up the executions that a worker should know of and does
        not."""
        executing = self._engine.state.executions.get(link.id, {})
        link.beats = {}
        for each in beat.steps:
            if executing.get(each.run) == each.token:
                at_us = self._engine.now_us() - each.age_ms * 1000
                step = StepBeat(each.step, at_us, each.heartbeat_ms)
                link.beats.setdefault(each.run, []).append(step)
        for run, token in link.watch.lost(executing, beat, self._engine.durable_seq):
            log.error("%s does not execute %s, which it was given", link.id, run)
            reason = "its worker does not execute it"
            if recorded([self._engine.state.runs[run]]):
                # Its program may have outlived it, and only the end of the worker ends that.
                self.pool.replace(link, f"{run}: {reason}, and may have left a program")
                return
            self._engine.submit(c.LoseExecution(run, token, reason, False))

    def printed(self, link: WorkerLink, line: Printed) -> None:
        """Store a line for the log of a run that executes on another host."""
        if isinstance(link, HostLink):
            link.keep(line)

    def handed_back(self, _link: WorkerLink, run: str, token: int) -> None:
        """Give up an execution whose handler left at a drain; its run resumes elsewhere."""
        self._engine.submit(c.LoseExecution(run, token, "handed back by a worker", True))

    def programs(self, link: WorkerLink) -> list[ProcessGroup]:
        """The programs that are recorded for the executions of a worker."""
        state = self._engine.state
        return recorded(state.runs[run] for run in state.executions.get(link.id, ()))

    def lost(self, link: WorkerLink, reason: str, ours: bool) -> None:
        """Give up all executions of a worker that is gone."""
        executing = self._engine.state.executions.get(link.id, {})
        self._keep_last_words(link, list(executing))
        for run, token in list(executing.items()):
            self._engine.submit(c.LoseExecution(run, token, reason, ours))
        if link.trial is not None:
            if not link.trial.done():
                link.trial.set_exception(WorkerEnded(reason))
        elif not link.slots and not link.host.is_far and not self.first_worker.done():
            self.first_worker.set_result(reason)

    def _keep_last_words(self, link: WorkerLink, executing: list[str]) -> None:
        """Store what a worker wrote just before it died: a crash of its interpreter says what it is
        there. It is the run's, if there was only one."""
        runs = self._engine.state.runs
        for stream, data in link.last_words.items():
            if len(executing) == 1:
                [run] = executing
                log_file = self.pool.logs / f"{run}.jsonl"
                append_last_words(log_file, runs[run].attempt, stream, data)
            else:
                for line in data.decode("utf-8", "backslashreplace").splitlines():
                    log.warning("%s: %s", link.id, line)

    def _forget_stopped(self, link: WorkerLink) -> None:
        executing = self._engine.state.executions.get(link.id, {})
        link.stopping.intersection_update(executing)
        if not link.stopping:
            self._engine.poke()

    def _start_child(self, link: WorkerLink, command: c.CallJob) -> None:
        """Turn a handler's start into a command: the core knows neither the job, its queue and
        terms, nor an id for the run."""
        try:
            options = msgspec.json.decode(bytes(command.options))
            params = msgspec.convert(
                {**options, "job": command.job, "payload": command.payload}, StartParams
            )
            if params.retry_failed:
                raise Usage("retry_failed cannot be used in a handler: its starts happen once")
            if params.after:
                raise Usage("after cannot be used in a handler: wait by ctx.step.result")
            start = self._catalog.start_command(
                params, self._engine.ids.run(), self._engine.now_us()
            )
        except msgspec.ValidationError as bad:
            self._refuse(link, command, Usage(str(bad)))
            return
        except StackshiftError as refused:
            self._refuse(link, command, refused)
            return
        ended = self._lookup.ended_owner(start) if command.wait else None
        if ended is not None:
            # The run that owns the key has finished and left memory: only its result is needed.
            # So it has no time to be late.
            awaited = c.AwaitRun(command.run, command.token, command.call, command.step, ended)
            self._await(link, awaited)
            return
        child = c.StartChild(
            command.run,
            command.token,
            command.call,
            command.step,
            start,
            command.wait,
            command.cancel_with_parent,
            command.ends_with_parent,
            command.timeout_ms,
            command.on_timeout,
        )
        self._engine.submit(child, source=link)

    def _continue(self, link: WorkerLink, command: c.ContinueAs) -> None:
        """Turn a handler's wish to continue into a command. The new run has the queue, the priority
        and the labels of the old one; the rest is as the code says now."""
        run = self._engine.state.runs.get(command.run)
        if run is None or run.token != command.token:
            self._engine.submit(c.ConfirmStop(command.run, command.token), source=link)
            return
        params = StartParams(
            run.job,
            command.payload,
            run.queue,
            priority=run.priority,
            labels=run.labels,
            unique=run.unique or None,
        )
        made: c.Command
        try:
            id, now_us = self._engine.ids.run(), self._engine.now_us()
            start = self._catalog.start_command(params, id, now_us)
            made = c.ContinueRun(run.id, command.token, start)
        except StackshiftError as refused:
            error = Error(type(refused).__name__, f"cannot continue: {refused.message}")
            verdict = c.Verdict(retryable=not isinstance(refused, PayloadRefused))
            made = c.FailAttempt(run.id, command.token, error, verdict)
        self._engine.submit(made, source=link)

    def _await(self, link: WorkerLink, command: c.AwaitRun) -> None:
        try:
            self._engine.submit(self._with_outcome(command), source=link)
        except StackshiftError as damaged:  # Its record cannot be read.
            self._refuse(link, command, damaged)

    def _ask(self, link: WorkerLink, command: c.Ask) -> None:
        """Carry out a handler's call that clients can make too."""
        try:
            if command.method == "state.history":
                self._look_back(link, command)
            else:
                self._engine.submit(self._requests.of_handler(command), source=link)
        except StackshiftError as refused:
            self._refuse(link, command, refused)

    def _look_back(self, link: WorkerLink, command: c.Ask) -> None:
        try:
            params = msgspec.json.decode(bytes(command.params), type=StateHistory)
        except msgspec.MsgspecError as bad:
            raise Usage(f"{command.method}: {bad}") from bad

        def answered(body: Any) -> None:
            if isinstance(body, StackshiftError):
                self._refuse(link, command, body)
                return
            text = Raw(msgspec.json.encode(body))
            if command.step:
                value = c.RecordValue(
                    command.run, command.token, command.call, command.step, text, True
                )
                self._engine.submit(value, source=link)
            else:
                link.post(CallRecorded(command.call, body=text))

        self._history.answer(params, answered)

    def _with_event(self, command: c.WithdrawCall) -> c.WithdrawCall:
        """Add the event that the call has received, if the worker has not heard of it yet."""
        run = self._engine.state.runs.get(command.run)
        call = run.calls.get(command.step) if run is not None else None
        if call is None or call.kind is not CallKind.EVENT or not isinstance(call.body, bytes):
            return command
        return msgspec.structs.replace(command, body=Raw(call.body))

    def _with_outcome(self, command: c.AwaitRun) -> c.AwaitRun:
        """Add how the awaited run ended, if it has left memory."""
        if command.child in self._engine.state.runs:
            return command
        ended = self._lookup.outcome(command.child)
        if ended is None:
            return command
        return msgspec.structs.replace(
            command, status=ended.status, result=ended.result, error=ended.error
        )

    def _refuse(
        self, link: WorkerLink, command: c.CallJob | c.Ask | c.AwaitRun, error: StackshiftError
    ) -> None:
        """Refuse a worker's call for good: it would be refused again."""
        body = refusal_json(error, final=True)
        refused = c.RefuseCall(command.run, command.token, command.call, command.step, body)
        self._engine.submit(refused, source=link)
