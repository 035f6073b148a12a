"""The worker process: reads frames, calls handlers, sends a heartbeat, dies with the daemon.

Its state belongs to the loop's thread, except where `threaded` says otherwise. When the socket pair
closes, the process ends at once: without a daemon, nothing it does could be recorded.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event, Thread, local
from typing import Any, Final, NamedTuple

from stackshift_jobs.handler.failures import Failure
from stackshift_jobs.handler.replay import Unwinding
from stackshift_jobs.handler.steps import Limits
from stackshift_jobs.programs import inheritance
from stackshift_jobs.programs.processes import ProcessGroup
from stackshift_jobs.registry import Job, registry
from stackshift_jobs.values.clocks import monotonic
from stackshift_jobs.values.identities import is_step, step_name
from stackshift_jobs.values.secrets import PROCESS
from stackshiftd.core import commands as c
from stackshiftd.core.records import Error
from stackshiftd.worker import code_files, step_functions
from stackshiftd.worker.event_loop import new_loop
from stackshiftd.worker.exec_job import EXEC
from stackshiftd.worker.execution import (
    DRAINED,
    REAL_TIME,
    Execution,
    OpenStep,
    Pace,
    recorded_call,
)
from stackshiftd.worker.frames import (
    BEAT_SECONDS,
    Beat,
    CallRecorded,
    Cancel,
    Drain,
    EarlierTries,
    End,
    Execute,
    Greeting,
    Hello,
    Importing,
    KnowsSecrets,
    Outcome,
    Recall,
    Rehearse,
    Rehearsed,
    StepBeat,
    Stuck,
    decode_from_daemon,
)
from stackshiftd.worker.isolation import breakdown, directory, process_copy, process_state
from stackshiftd.worker.lease import Lease
from stackshiftd.worker.literals import Literals
from stackshiftd.worker.loading import loader
from stackshiftd.worker.loop_port import LoopPort
from stackshiftd.worker.looped import LoopedExecution, call_handler
from stackshiftd.worker.notices.job import NOTIFY
from stackshiftd.worker.output import program_output, streams
from stackshiftd.worker.output.log_file import MAX_BYTES, MAX_PROGRAM_BYTES, LogFile
from stackshiftd.worker.output.program_output import ProgramPipes
from stackshiftd.worker.output.run_log import LogStore, RunLog
from stackshiftd.worker.output.sent_log import SentLog
from stackshiftd.worker.output.streams import OwnLog
from stackshiftd.worker.pipe import Pipe
from stackshiftd.worker.programs import Programs
from stackshiftd.worker.rehearsal import rehearse
from stackshiftd.worker.scripts.file_job import SH
from stackshiftd.worker.scripts.folder import Home
from stackshiftd.worker.scripts.script import ScriptHandler
from stackshiftd.worker.secrets import SecretTerms
from stackshiftd.worker.step_calls import StepCalls
from stackshiftd.worker.step_functions import StepFunctions, too_long
from stackshiftd.worker.step_tries import StepTry
from stackshiftd.worker.threaded import ThreadedExecution, ThreadPort, Threads

SLOW_SECONDS: Final = 0.25
"""A step that has been running this long is recorded as started."""

SCRIPT_PATIENCE: Final = 20
"""How much longer than by another handler a wait is kept by a script, which costs more to run
again."""

_BUILT_IN: Final = {each.name: each for each in (EXEC, SH, NOTIFY)}
GC_THRESHOLD: Final = (5_000, 20, 20)


class Outputs(NamedTuple):
    """Descriptors: the reading ends of this process's standard output and error, and the daemon's
    log."""

    out: int
    err: int
    log: int


class Worker:
    """The state of one worker process. `_enter`, `_gone` and `main` are for a process of its own; a
    worker in a test, which shares the test's process, overrides them."""

    pace: Pace = REAL_TIME

    def __init__(
        self, sock: socket.socket, outputs: Outputs | None = None, lease: Lease | None = None
    ) -> None:
        self._loop: asyncio.AbstractEventLoop
        self._lease = lease
        self._outputs = outputs
        self._own: OwnLog | None = None
        """The daemon's log, once its name there is known."""
        self.pipes = ProgramPipes()
        self.step_calls = StepCalls()
        self._over = Event()
        """Set to stop the heartbeat."""
        self._pipe = Pipe(sock, self._on_line, self._gone)
        self._hello: Hello
        self._beat_seconds = BEAT_SECONDS
        self._logs: Path | None = None
        self._secret_terms = SecretTerms()
        self._threads = Threads(self._ended, self.break_down)
        self._executions: dict[str, LoopedExecution | ThreadedExecution] = {}
        self._recalled: dict[str, list[Recall]] = {}
        self._earlier: dict[str, list[EarlierTries]] = {}
        self._calls: dict[int, Any] = {}
        """Who waits for the answer to a call: an execution, or for a checkpoint its try."""
        self._rehearsals = ThreadPoolExecutor(1, "rehearsals")
        self._draining = False
        self._functions: StepFunctions
        self._pools: list[Threads | StepFunctions] = [self._threads]
        self._orders = 0
        """How many executions have been asked for."""
        self._leaving: list[tuple[str, int]] = []
        """Executions that have ended since the last beat, and (`_unsent`) before it, as far as
        their last frames may not have been written."""
        self._unsent: list[tuple[str, int]] = []

    def greet(self) -> bool:
        """Start the heartbeat, wait for the daemon's `Hello`, import the job modules and send the
        `Greeting`; False if the daemon went away first.

        No event loop exists yet: modules are imported as in any program, and may run loops.
        """
        Thread(target=self._beat, name="heartbeat", daemon=True).start()
        line = self._pipe.first_line()
        if line is None:
            return False
        hello = decode_from_daemon(line)
        assert isinstance(hello, Hello)
        self._hello = hello
        self._beat_seconds = hello.beat_seconds
        self._logs = Path(hello.logs) if hello.logs else None
        self._secret_terms = SecretTerms(
            hello.project,
            hello.data_dir,
            hello.secret_env,
            hello.secret_files,
            hello.redact,
        )
        Limits.value_bytes = hello.payload_bytes
        self._pipe.send(self._enter(hello))
        return True

    def serve(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read frames on `loop`, which is about to run, and execute what they ask for."""
        self._loop = loop
        # For `def` steps of async handlers; each handler may run several at a time.
        threads = max(32, 2 * self._hello.slots)
        self._functions = StepFunctions(loop, self._pipe, threads, self.break_down)
        self._pools.append(self._functions)
        # For what these ask of asyncio themselves (`asyncio.to_thread`): it must not starve them.
        loop.set_default_executor(directory.StepThreads(threads))
        self._pipe.attach(loop)

    # --- From the daemon -------------------------------------------------------------------

    def _on_line(self, line: bytes) -> None:
        frame = decode_from_daemon(line)
        kind = type(frame)
        if kind is CallRecorded:
            assert isinstance(frame, CallRecorded)
            execution = self._calls.pop(frame.call, None)
            if execution is not None:
                execution.answered(frame.call, frame)
        elif isinstance(frame, Execute):
            self._execute(frame)
        elif isinstance(frame, Rehearse):
            recalls = self._recalled.pop(frame.execute.run, [])
            self._rehearsals.submit(self._rehearse, frame, recalls)
        elif isinstance(frame, Recall):
            self._recalled.setdefault(frame.run, []).append(frame)
        elif isinstance(frame, EarlierTries):
            self._earlier.setdefault(frame.run, []).append(frame)
        elif isinstance(frame, Outcome | Cancel | End):
            self._pass_on(frame)
        else:
            assert isinstance(frame, Drain)
            self._draining = True
            for each in list(self._executions.values()):
                self._leave(each, DRAINED)

    def _pass_on(self, frame: Outcome | Cancel | End) -> None:
        """Let the execution that a frame is for know of it, if that is the current one."""
        execution = self._current(frame.run, frame.token)
        if execution is None:
            return
        if isinstance(frame, Outcome):
            execution.resolved(frame.step, recorded_call(frame))
        elif isinstance(frame, Cancel):
            execution.cancel(frame)
        else:
            self._leave(execution, frame.reason)

    def _current(self, run: str, token: int) -> LoopedExecution | ThreadedExecution | None:
        execution = self._executions.get(run)
        return execution if execution is not None and execution.token == token else None

    def _leave(self, execution: LoopedExecution | ThreadedExecution, reason: str) -> None:
        """Make a handler leave, and end its programs: they would run on for as long as they
        like."""
        execution.leave(reason)
        execution.programs.stop(Unwinding(reason))

    def _enter(self, hello: Hello) -> Greeting:
        """Import the project's jobs and return the `Greeting`."""
        assert self._outputs is not None
        out, err, log = self._outputs
        own = self._own = OwnLog(log, f"{hello.worker}: ")
        if refused := inheritance.adopt(hello.umask, hello.nice):
            own.write("log", f"WARNING {refused}\n".encode())
        PROCESS.when_first = lambda: self._pipe.send(KnowsSecrets())
        self.pipes.start(out, err, own, self._printing, self.break_down)
        program_output.install(self.pipes)
        process_copy.install()
        project = Path(hello.project)
        files = code_files.read_sources(project, hello.jobs)
        jobs, failed = loader.import_project(
            project,
            hello.jobs,
            own,
            lambda module: self._pipe.send(Importing(module)),
            hello.deadly,
        )
        files = code_files.read_imported(project) | files
        directory.install(hello.project)
        Home.project, Home.data_dir = hello.project, hello.data_dir
        Home.is_far = not hello.logs
        # What is loaded now stays loaded: the collector can ignore it, and run less often.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLD)
        return Greeting(os.getpid(), sys.executable, jobs, failed, loader.queue_terms(), files)

    def break_down(self, error: BaseException) -> None:
        """End the process, because of an error in its own code."""
        breakdown.end_process(error, self._own)

    def _gone(self) -> None:
        """End the process at once: the daemon is gone."""
        self.step_calls.close()
        os._exit(0)

    def _execute(self, order: Execute) -> None:
        if self._lease is not None:
            self._lease.require()
        if not self._executions:
            process_state.put_back()
            streams.put_back()
        self._orders += 1
        recalled = self._recalled.pop(order.run, [])
        earlier = self._earlier.pop(order.run, [])
        job = _job(order.job)
        if job is None:
            error = Error("NotFound", f"this worker has no job {order.job!r}")
            final = c.Verdict(retryable=False)
            self._pipe.post(c.FailAttempt(order.run, order.token, error, final))
            return
        made = LoopedExecution if job.is_async else ThreadedExecution
        execution: Any = made(order, job, recalled, None, self.pace)
        log = RunLog(self._log_store(order), order.attempt, order.token, execution.pass_)
        execution.log = log
        log.tries = execution.tries
        for each in earlier:
            execution.remember_tries(each)
        execution.send = self._pipe.send
        execution.expect = self._calls.__setitem__
        if isinstance(job.handler, ScriptHandler):
            log.is_script = True
            execution.pace = self.pace._replace(
                keep_seconds=self.pace.keep_seconds * SCRIPT_PATIENCE
            )
        execution.secret_terms = self._secret_terms
        execution.lease = self._lease
        self.pipes.watch(log)
        execution.programs = Programs(
            f"{order.run}/{order.token}",
            log,
            partial(self._program_started, order.run, order.token),
            self._hello.grace_ms / 1000,
            self.step_calls,
        )
        self._executions[order.run] = execution
        try:
            if job.is_async:
                call_handler(execution, self._loop_port(execution), self._pipe, self._ended)
            else:
                self._threads.submit(execution, self._thread_port(execution), self._pipe)
        except (OSError, RuntimeError, MemoryError) as bad:
            # No thread can be started, say. Nothing of the handler has run.
            execution.programs.close(Unwinding("ended"))
            execution.log.close()
            self._ended(execution)
            failure = Failure.of(bad)
            self._pipe.post(c.FailAttempt(order.run, order.token, Error(**failure.as_json())))
            return
        if self._draining:
            self._leave(execution, DRAINED)

    def _log_store(self, order: Execute) -> LogStore:
        if self._logs is None:
            return SentLog(self._pipe.send, order.run, order.token, order.printed)
        most = MAX_PROGRAM_BYTES if order.job in _BUILT_IN else MAX_BYTES
        return LogFile(self._logs, order.run, order.attempt, most)

    def _rehearse(self, order: Rehearse, recalls: list[Recall]) -> None:
        """Show what the handler of a run would do; one after the other, on a thread of its own."""
        try:
            self._show(order, recalls)
        except BaseException as bad:
            self.break_down(bad)

    def _show(self, order: Rehearse, recalls: list[Recall]) -> None:
        run = order.execute.run
        job = _job(order.execute.job)
        if job is None:
            missing = Error("NotFound", f"the code has no job {order.execute.job!r}")
            self._pipe.send(Rehearsed(run, error=missing))
            return
        if isinstance(job.handler, ScriptHandler):
            # Its pass cannot be tried without effects: what it does beside its steps is its own.
            self._pipe.send(Rehearsed(run))
            return
        did = rehearse(
            job,
            order.execute,
            recalls,
            seconds=order.seconds,
            secret_terms=self._secret_terms,
        )
        asked, unasked = [each.step for each in did.asked], did.unasked
        if asked:
            code = Literals(job.handler, self._hello.project)
            names = {step_name(step) for step in asked}
            unasked = [
                step
                for step in unasked
                if is_step(step) and (step_name(step) in names or not code.name(step_name(step)))
            ]
        self._pipe.send(Rehearsed(run, asked, unasked, did.error, did.stopped))

    def _program_started(self, run: str, token: int, step: str, group: ProcessGroup) -> None:
        """Report a program. It refers to its execution by name, so that there is no cycle."""
        execution = self._current(run, token)
        if execution is not None:
            self._pipe.send(execution.program_started(step, group))

    def _thread_port(self, execution: ThreadedExecution) -> ThreadPort:
        return ThreadPort(execution, self._pipe, self._calls, self._threads)

    def _loop_port(self, execution: LoopedExecution) -> LoopPort:
        return LoopPort(execution, self._pipe, self._calls, self._functions)

    def _ended(self, execution: Execution) -> None:
        """Forget an execution whose handler has ended; called on any thread."""
        directory.back_on_loop()
        if self._executions.get(execution.run) is execution:
            self._leaving.append((execution.run, execution.token))
            del self._executions[execution.run]
        unanswered = getattr(execution, "told", None) or getattr(execution, "waiters", {})
        for call in list(unanswered):
            self._calls.pop(call, None)
        for each in list(execution.tries.values()):
            for call in each.calls():
                self._calls.pop(call, None)
            each.release()

    def _printing(self) -> tuple[RunLog, str | None] | None:
        """The only run that can be printing, and its step; None if there are several or none."""
        executions = list(self._executions.values())
        working = [execution for execution in executions if execution.open]
        if len(working) != 1 and len(executions) != 1:
            return None
        [execution] = working if len(working) == 1 else executions
        steps = list(execution.open)
        return execution.log, steps[0] if len(steps) == 1 else None

    # --- By the clock ----------------------------------------------------------------------

    def _beat(self) -> None:
        """Send heartbeats and report slow steps.

        On a thread, because a handler may block the loop for longer than heartbeats may be missing.
        """
        try:
            beaten = 0.0
            while not self._over.is_set():
                now = monotonic()
                if now - beaten >= self._beat_seconds:
                    self._pipe.send(Beat(self._orders, self._known(), self._step_beats(now)))
                    beaten = now
                    self._look_at_threads()
                self._look_at_steps(now)
                self._over.wait(SLOW_SECONDS / 2)
        except BaseException as bad:
            self.break_down(bad)

    def _look_at_threads(self) -> None:
        """Raise `RuntimeError` if a thread has died, and what it was given is lost."""
        if not all(pool.all_alive() for pool in self._pools):
            raise RuntimeError("a thread of this worker has died")

    def _look_at_steps(self, now: float) -> None:
        # Not in the loop above, whose variables would keep the last execution until the next one.
        for execution in list(self._executions.values()):
            execution.note_slow(now, SLOW_SECONDS, self._pipe.send)
            late = execution.look_at_tries(now)
            if isinstance(execution, ThreadedExecution):
                self._fail_overdue(execution, now)
                for each in late:
                    self._fail_silent(execution, each, now)
            else:
                for each in late:
                    execution.lapse(each)

    def _known(self) -> list[tuple[str, int]]:
        """What `Beat.executing` says. An execution that has just ended may be missing once."""
        known = [
            (execution.run, execution.token)
            for execution in list(self._executions.values())
            if execution.is_alive()
        ]
        known += self._unsent
        leaving, self._leaving = self._leaving, []
        if leaving:
            self._unsent += leaving
            with contextlib.suppress(RuntimeError):  # The loop of a worker in a test may be closed.
                self._loop.call_soon_threadsafe(self._sent, len(leaving))
        return known

    def _sent(self, count: int) -> None:
        """Forget so many executions that have ended, once what the loop has to send is sent: their
        last frames are written in its next turn."""
        unsent = self._unsent
        self._loop.call_soon(unsent.__delitem__, slice(count))

    def _fail_overdue(self, execution: ThreadedExecution, now: float) -> None:
        """Record the timeouts of `def` functions, which cannot be interrupted, and have the process
        replaced if one does not return."""
        for opened in execution.overdue(now):
            op = opened.op
            if op.step in execution.overdue_calls:
                continue
            self._leave_behind(execution, opened, too_long(op), now)

    def _fail_silent(self, execution: ThreadedExecution, late: StepTry, now: float) -> None:
        """End the program of a step that has been silent for too long, which fails its try; or if
        its function runs none, record that."""
        op = late.op
        error = late.lateness()
        if execution.programs.stop_step(op.step, error):
            return
        opened = execution.open.get(op.step)
        if opened is not None and op.step not in execution.overdue_calls:
            self._leave_behind(execution, opened, error, now)

    def _leave_behind(
        self, execution: ThreadedExecution, opened: OpenStep, late: TimeoutError, now: float
    ) -> None:
        """Record that the try has failed with `late`, and have the process replaced if its function
        does not return."""
        op = opened.op
        port = ThreadPort(execution, self._pipe, self._calls, self._threads)
        with contextlib.suppress(BaseException):
            port.fail_overdue(op, late, round((now - opened.began) * 1000))
            self._pipe.send(Stuck(execution.run, op.step))

    def _step_beats(self, now: float) -> list[StepBeat]:
        """What `Beat.steps` says."""
        tries = [t for each in list(self._executions.values()) for t in list(each.tries.values())]
        return [beat for each in tries if (beat := each.report(now)) is not None]


def _job(name: str) -> Job | None:
    """The job with this name, of the project or built in; None if there is none."""
    return _BUILT_IN.get(name) or registry.get(name)


def main(fd: int, outputs: Outputs, lease_fd: int | None = None) -> None:
    """Run the worker on the socket `fd` until the daemon closes it, or until the lease behind
    `lease_fd` is over."""
    _disregard_signals()
    _die_with_parent()
    for each in (fd, *outputs):
        os.set_inheritable(each, False)  # Programs that handlers start must not inherit it.
    lease = None
    if lease_fd is not None:
        lease = Lease(lease_fd)
        os.close(lease_fd)
    worker = Worker(socket.socket(fileno=fd), outputs, lease)
    if not worker.greet():
        return
    loop = new_loop(worker.pipes)
    asyncio.set_event_loop(loop)
    step_functions.install(loop, worker.break_down)
    worker.serve(loop)
    try:
        while True:  # The function of a step may have stopped it, and means its own.
            loop.run_forever()
    except BaseException as bad:
        # To leave `main` would end the process only when all of its threads have ended.
        worker.break_down(bad)


def _disregard_signals() -> None:
    """Do nothing on Ctrl-C and TERM: the daemon ends its workers itself.

    A function that does nothing, and not `SIG_IGN`, which programs inherit that steps start: `exec`
    resets a handler to the default. What is forked without `exec`, as by `multiprocessing`, is
    reset here.
    """
    disregarded = (signal.SIGINT, signal.SIGTERM)
    masks = local()

    # Held back while a thread forks, or a signal that comes before the reset would be lost.
    def hold_back() -> None:
        masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, disregarded)

    def release() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.before)

    def reset() -> None:
        for number in disregarded:
            signal.signal(number, signal.SIG_DFL)
        release()

    for number in disregarded:
        signal.signal(number, lambda _number, _frame: None)
    os.register_at_fork(before=hold_back, after_in_parent=release, after_in_child=reset)


def _die_with_parent() -> None:
    """On Linux: be killed when the daemon dies, even while a handler keeps the interpreter busy in
    a call that never returns. Elsewhere only the closed socket ends the process."""
    if sys.platform == "linux":
        import ctypes

        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
