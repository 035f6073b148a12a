"""`JobContext`, the `ctx` of a `def` handler, and its `ctx.step`.

Each call blocks until its outcome is durable. The rules are in `steps`; here they are driven, one
op after another, on the calling thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from datetime import datetime
from logging import Logger
from os import PathLike
from typing import Any, Generic, NoReturn, TypeVar, cast
from uuid import UUID, uuid4

from stackshift_jobs.handler import steps, waits
from stackshift_jobs.handler.cancelling import Cancelling
from stackshift_jobs.handler.command import (
    CommandResult,
    UndoProgram,
    program_of,
    run_command,
    undo_by_program,
)
from stackshift_jobs.handler.ports import Port, drive
from stackshift_jobs.handler.progress import report
from stackshift_jobs.handler.race import first
from stackshift_jobs.handler.replay import Pass, Unwinding
from stackshift_jobs.handler.requests import labelling
from stackshift_jobs.handler.state import RunEvents, RunState
from stackshift_jobs.handler.undo import Undo
from stackshift_jobs.handler.undo import undo as undo_terms
from stackshift_jobs.handler.waits import OnTimeout, WhenParentEnds
from stackshift_jobs.retry import Retry
from stackshift_jobs.values.durations import Duration, instant_us, milliseconds, to_datetime
from stackshift_jobs.values.labels import check_labels
from stackshift_jobs.values.secrets import Secret
from stackshift_jobs.values.stored import Event

P = TypeVar("P")
R = TypeVar("R")
T = TypeVar("T")


class Facts(Generic[P]):
    """What is known about a run when its handler is called; the same on every pass of an
    attempt."""

    def __init__(
        self,
        *,
        payload: P,
        run_id: str,
        job: str,
        queue: str,
        attempt: int,
        labels: dict[str, str],
        idempotency_key: str | None,
        scheduled_at: datetime | None,
        log: Logger,
    ) -> None:
        self.payload: P = payload
        """The run's payload, in the type that the handler's annotation names."""
        self.run_id = run_id
        self.job = job
        self.queue = queue
        self.attempt = attempt
        """The number of this attempt, from 1; resuming after a wait is the same attempt."""
        self.labels = labels
        self.idempotency_key = idempotency_key
        self.scheduled_at = scheduled_at
        self.log = log
        """Its messages are kept with the run; see `stackshift runs logs`."""


class JobContext(Generic[P]):
    """A run, as its `def` handler sees it.

    Every call is recorded once, and answered from the record on every later pass.
    """

    def __init__(self, facts: Facts[P], pass_: Pass, port: Port) -> None:
        self.payload = facts.payload
        self.run_id = facts.run_id
        self.job = facts.job
        self.queue = facts.queue
        self.attempt = facts.attempt
        self.labels = facts.labels
        self.idempotency_key = facts.idempotency_key
        self.scheduled_at = facts.scheduled_at
        self.log = facts.log
        self.step = StepCalls(facts.run_id, pass_, port)
        self.state = RunState(pass_, port)
        self.events = RunEvents(pass_, port)
        self._pass = pass_
        self._port = port

    def now(self) -> datetime:
        """The time (UTC) at which this call was first made; the same on every later pass."""
        key = self._pass.identify_read("now")
        made = steps.read_value(self._pass, key, self._pass.clock.now_us)
        return to_datetime(drive(made, self._port))

    def uuid(self) -> UUID:
        """A random UUID; the same on every later pass."""
        key = self._pass.identify_read("uuid")
        return UUID(drive(steps.read_value(self._pass, key, lambda: str(uuid4())), self._port))

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Show the run's progress: `done` of `total`, and a `message`, of which the first 1,000
        characters are kept. It is shown in the timeline, and while the run is unfinished in its
        object. Raises `Usage` for a number that is not finite."""
        if not self._pass.replaying:
            self._port.progress(*report(done, total, message, self._pass.secrets))

    def label(self, labels: Mapping[str, str] | None = None, /, **more: str) -> None:
        """Give this run labels, beside those that it has: `ctx.label(customer="c_1")`. They are
        recorded once, `runs list --label` finds the run by them from now on, and `ctx.labels` has
        them. In the function of a step they are given at once, and again if it runs again, and
        `ctx.labels` stays as it is. A mapping is for names that are no words of Python. Raises
        `Usage` for what no start takes either: more than 32, or a value that is not text.
        """
        given = check_labels({**(labels or {}), **more})
        key = self._pass.identify_call("label", ",".join(sorted(given)))
        drive(labelling(self._pass, key, given, self._note_labels), self._port)

    def _note_labels(self, labels: dict[str, str]) -> None:
        self.labels = self.labels | labels

    def continue_as(self, payload: Any = None) -> NoReturn:
        """End this run as completed, and start the next run of this job with `payload`, in one
        step: for a loop that lives for years, whose record would grow without end.

        It does not return. The new run has the queue, the priority and the labels of this one, and
        begins with nothing on record; locks are released. A parent that has called this run waits
        for the new one. Raises `PayloadRefused`.
        """
        self._pass.continue_as(steps.continuation(self._pass, payload))


class StepCalls:
    """`ctx.step` of a `def` handler. Step names are 1 to 128 printable characters without
    `# [ ] =`."""

    def __init__(self, run_id: str, pass_: Pass, port: Port) -> None:
        self._run_id = run_id
        self._pass = pass_
        self._port = port

    def run(
        self,
        name: str,
        fn: Callable[..., R],
        /,
        *args: Any,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        heartbeat: Duration | None = None,
        output_beats: bool = False,
        returns: Any = None,
        undo: Callable[[Any], Any] | Undo | None = None,
        **kwargs: Any,
    ) -> R:
        """Run `fn(*args, **kwargs)` once: when its result is recorded, it never runs again; after a
        crash before that, it does. Returns the result as read back from JSON, as the type `returns`
        if given; a result that does not fit it is a failure of the step.

        `fn` is a function, a bound method, a partial or an object with `__call__`. `retry`,
        `timeout`, `heartbeat`, `output_beats`, `returns` and `undo` are always the step's own; pass
        what the function calls so by `functools.partial(fn, timeout=7)`.

        With `heartbeat`, a function that has not called `stackshift.step.heartbeat()` or
        `.checkpoint()` for so long is stopped, and the try fails with `HeartbeatTimeout`; with
        `output_beats`, what it prints counts as well.

        `undo` is a function of the result that undoes the step, or an `Undo`: it is called, as a
        step `undo NAME`, if the run fails for good or is cancelled gently; with None if the step
        was ended from outside, so that nobody knows what it has done. See the guide.

        Without `retry` a step has one try in each attempt of the run. Raises `StepFailed` if the
        step has failed for good, on this pass and every later one, and `ReplayError` if a recorded
        result does not fit `returns`.
        """
        key = self._pass.identify(name, "run")
        made = steps.run_step(
            self._pass,
            key,
            fn,
            args,
            kwargs,
            retry=retry,
            timeout_ms=steps.timeout_ms(timeout),
            clock=self._pass.clock.seconds,
            returns=returns,
            heartbeat=steps.heartbeat_of(heartbeat, output_beats),
            undo=undo_terms(undo),
        )
        return cast(R, drive(made, self._port))

    def map(
        self,
        name: str,
        fn: Callable[[T], R],
        items: Iterable[T],
        *,
        concurrency: int = 8,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        heartbeat: Duration | None = None,
        output_beats: bool = False,
        returns: Any = None,
        undo: Callable[[Any], Any] | Undo | None = None,
    ) -> list[R]:
        """Run `fn(item)` as one step per item (`name[0]`, …), `concurrency` at a time on threads;
        returns the results in order.

        If items fail, the others still finish; then the error with the lowest index is raised.
        `items` must be the same on every pass. `returns` is the type of one result,
        and `undo` undoes one item; see `run`.
        """
        undone = undo_terms(undo)
        lanes = steps.check_concurrency(concurrency)
        beats = steps.heartbeat_of(heartbeat, output_beats)
        base = self._pass.identify(name, "map")
        listed = list(items)

        def one(index: int, item: T) -> R:
            key = self._pass.identify_item(base, index)
            made = steps.run_step(
                self._pass,
                key,
                fn,
                (item,),
                {},
                retry=retry,
                timeout_ms=steps.timeout_ms(timeout),
                clock=self._pass.clock.seconds,
                input=steps.digest(item),
                returns=returns,
                heartbeat=beats,
                undo=undone,
            )
            return cast(R, drive(made, self._port))

        with ThreadPoolExecutor(min(lanes, len(listed)) or 1, f"map-{name}") as pool:
            futures = [
                pool.submit(copy_context().run, one, index, item)
                for index, item in enumerate(listed)
            ]
        if self._pass.holds and any(isinstance(each.exception(), Cancelling) for each in futures):
            self._port.raise_cancel(base)
        return _settled(futures)

    def command(
        self,
        name: str,
        argv: Sequence[str | PathLike[str]],
        *,
        timeout: Duration | None = None,
        env: Mapping[str, str | Secret] | None = None,
        check: bool = True,
        stdin: str | bytes | Secret | None = None,
        cwd: str | PathLike[str] | None = None,
        retry: Retry | None = None,
        heartbeat: Duration | None = None,
        output_beats: bool = False,
        undo: UndoProgram = None,
    ) -> CommandResult:
        """Run a program as a step, in a process group of its own; returns `{exit_code, stdout,
        stderr}`, with the last 64 KiB of each stream. All of the output is in the run's log, as it
        comes.

        `env` is added to the environment, and the program reads `stdin`, which is otherwise empty.
        Both may hold a `Secret`; `argv` may not, because every user of the machine can read it.
        With `heartbeat`, a program that has not run `stackshift heartbeat` or `stackshift
        checkpoint` for so long is ended, and the try fails; with `output_beats`, whatever it prints
        counts as well.
        `undo` is the program that undoes it, or a function that makes its `argv` of the result; see
        `run`. It has the same `env` and `cwd`.
        If `check` is set, a status other than 0 raises `CommandFailed` in the step. After
        `timeout`, and when the execution ends, the program and all that it has started get TERM,
        and KILL after the grace. Raises `Usage` for what is not a command.
        """
        program = program_of(argv, steps.timeout_ms(timeout), env, stdin, cwd)
        return self.run(
            name,
            run_command,
            program,
            check,
            retry=retry,
            heartbeat=heartbeat,
            output_beats=output_beats,
            undo=undo_terms(undo, undo_by_program(env, cwd)),
        )

    def sleep(self, name: str, duration: Duration) -> None:
        """Wait durably for `duration`; no process is kept waiting."""
        key = self._pass.identify(name, "sleep")
        drive(
            steps.sleep(self._pass, key, milliseconds(duration, f"the sleep {key!r}"), None),
            self._port,
        )

    def sleep_until(self, name: str, when: datetime | str) -> None:
        """Wait durably until `when`, a `datetime` (local if naive) or RFC 3339 text."""
        key = self._pass.identify(name, "sleep")
        drive(steps.sleep(self._pass, key, None, instant_us(when)), self._port)

    def start(
        self,
        job: str,
        payload: Any = None,
        *,
        name: str | None = None,
        cancel_with_parent: bool = False,
        when_parent_ends: WhenParentEnds = "leave",
        **options: Any,
    ) -> str:
        """Start an independent run exactly once; returns its id.

        With `cancel_with_parent` it is cancelled if this run is; with `when_parent_ends="cancel"`
        also if this run has completed, failed for good or continued. `options` are those of a
        start.
        """
        key = self._pass.identify(name or job, "start")
        made = steps.start_child(
            self._pass,
            key,
            job,
            payload,
            wait=False,
            cancel_with_parent=cancel_with_parent,
            when_parent_ends=when_parent_ends,
            options=options,
        )
        return str(drive(made, self._port))

    def call(
        self,
        job: str,
        payload: Any = None,
        *,
        name: str | None = None,
        returns: Any = None,
        timeout: Duration | None = None,
        on_timeout: OnTimeout = "fail",
        **options: Any,
    ) -> Any:
        """Start a run and wait durably for its result; it is cancelled if this run is.

        If it has not ended after `timeout`, it is cancelled, and this run fails without a retry
        (`on_timeout="fail"`), is cancelled (`"cancel"`), or goes on, with None as the result
        (`"continue"`).

        `options` are those of a start. The result is of the type `returns`. Raises `ChildFailed` if
        it failed or was cancelled, `PayloadRefused` if its result does not fit, and `ReplayError`
        if the recorded call of this name was one of another job.
        """
        key = self._pass.identify(name or job, "child")
        made = steps.start_child(
            self._pass,
            key,
            job,
            payload,
            wait=True,
            cancel_with_parent=True,
            options=options,
            returns=returns,
            timeout=timeout,
            on_timeout=on_timeout,
        )
        return drive(made, self._port)

    def result(
        self,
        run_id: str,
        *,
        name: str = "result",
        returns: Any = None,
        timeout: Duration | None = None,
        on_timeout: OnTimeout = "fail",
    ) -> Any:
        """Wait durably for the result of the run `run_id`, of the type `returns`. Raises
        `ChildFailed` if it failed or was cancelled, `PayloadRefused` if its result does not fit.
        `timeout` and `on_timeout` are as in `call`, but the run that is waited for goes on."""
        key = self._pass.identify(name, "child")
        made = steps.await_run(self._pass, key, run_id, returns, timeout, on_timeout)
        return drive(made, self._port)

    def wait_for_event(
        self,
        event: str,
        *,
        correlation_key: str | None = None,
        timeout: Duration | None = None,
        on_timeout: OnTimeout = "fail",
        name: str | None = None,
        returns: Any = None,
    ) -> Event:
        """Wait durably for an event with this name and correlation key: the oldest one that is
        kept, or the next one to arrive.

        After `timeout`, the run fails without a retry (`on_timeout="fail"`), is cancelled
        (`"cancel"`), or continues with an event that is falsy (`"continue"`). The event's payload
        is of the type `returns`; raises `PayloadRefused` if it does not fit.
        """
        return self.wait_for_any(
            [(event, correlation_key)],
            name=waits.name_of(event, name),
            timeout=timeout,
            on_timeout=on_timeout,
            returns=returns,
        )

    def wait_for_any(
        self,
        events: Iterable[tuple[str, str | None]],
        *,
        name: str,
        timeout: Duration | None = None,
        on_timeout: OnTimeout = "fail",
        returns: Any = None,
    ) -> Event:
        """Wait durably for the first of several events, each given by name and correlation key; the
        others are left for other waits. See `wait_for_event`."""
        key = self._pass.identify(name, "event")
        terms = waits.terms(events, timeout, on_timeout)
        made: Event = drive(waits.wait_for_event(self._pass, key, terms, returns), self._port)
        return made

    def first(self, name: str, /, **calls: Callable[[], Any]) -> tuple[str, Any]:
        """The first of several calls to have an outcome; returns its name and its result, or raises
        its error. The others are withdrawn: they take no event and no lock, and a child that was
        called is cancelled.

        Each is a function without arguments that makes one call on `ctx`
        (`late=lambda: ctx.step.sleep("late", "1d")`); it may be called several times. What executes
        a function (`ctx.step.run`) keeps the others from being looked at until it has ended.
        """
        key = self._pass.identify(name, "value")
        return first(self._pass, self._port, key, calls)

    def key(self, name: str) -> str:
        """A string that is stable for this run and step, to use as an idempotency key in other
        systems."""
        return f"{self._run_id}/{name}"


def _settled(futures: list[Future[R]]) -> list[R]:
    """All results in order, or the error with the lowest index. If any item waits, its `Unwinding`
    takes precedence, because its outcome is not known yet. Raises `RuntimeError` if an item was
    lost with its thread."""
    if not all(future.done() for future in futures):
        raise RuntimeError("a thread that ctx.step.map had started died")
    for future in futures:
        if isinstance(error := future.exception(), Unwinding):
            raise error
    return [future.result() for future in futures]
