"""`AsyncJobContext`, the `ctx` of an `async def` handler. Everything that talks to the daemon is
awaited; a call gets its identity when it is called, not when it is awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime
from os import PathLike
from typing import Any, Generic, NoReturn, TypeVar, overload
from uuid import UUID, uuid4

from stackshift_jobs.handler import steps, waits
from stackshift_jobs.handler.async_state import AsyncRunEvents, AsyncRunState, called, identify
from stackshift_jobs.handler.command import (
    CommandResult,
    UndoProgram,
    program_of,
    run_command_awaited,
    undo_by_program_awaited,
)
from stackshift_jobs.handler.context import Facts
from stackshift_jobs.handler.ops import Steps
from stackshift_jobs.handler.ports import AsyncPort, awaited
from stackshift_jobs.handler.progress import report
from stackshift_jobs.handler.race import first_awaited
from stackshift_jobs.handler.replay import Pass
from stackshift_jobs.handler.requests import labelling
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


class AsyncJobContext(Generic[P]):
    """A run, as its `async def` handler sees it. See `JobContext`."""

    def __init__(self, facts: Facts[P], pass_: Pass, port: AsyncPort) -> None:
        self.payload = facts.payload
        self.run_id = facts.run_id
        self.job = facts.job
        self.queue = facts.queue
        self.attempt = facts.attempt
        self.labels = facts.labels
        self.idempotency_key = facts.idempotency_key
        self.scheduled_at = facts.scheduled_at
        self.log = facts.log
        self.step = AsyncStepCalls(facts.run_id, pass_, port)
        self.state = AsyncRunState(pass_, port)
        self.events = AsyncRunEvents(pass_, port)
        self._pass = pass_
        self._port = port

    async def now(self) -> datetime:
        """The time (UTC) at which this call was first made; the same on every later pass."""
        key = self._pass.identify_read("now")
        made = steps.read_value(self._pass, key, self._pass.clock.now_us)
        return to_datetime(await awaited(made, self._port, key))

    async def uuid(self) -> UUID:
        """A random UUID; the same on every later pass."""
        key = self._pass.identify_read("uuid")
        made = steps.read_value(self._pass, key, lambda: str(uuid4()))
        return UUID(await awaited(made, self._port, key))

    def label(
        self, labels: Mapping[str, str] | None = None, /, **more: str
    ) -> Coroutine[Any, Any, None]:
        """Give this run labels. See `JobContext.label`."""
        given = check_labels({**(labels or {}), **more})
        subject = ",".join(sorted(given))
        key = identify(self._pass, "label", subject)
        made = labelling(self._pass, key, given, self._note_labels)
        return called(self._pass, self._port, key, subject, "label", made)

    def _note_labels(self, labels: dict[str, str]) -> None:
        self.labels = self.labels | labels

    async def progress(
        self, done: float, total: float | None = None, message: str | None = None
    ) -> None:
        """Show the run's progress: `done` of `total`, and a `message`, of which the first 1,000
        characters are kept. It is shown in the timeline, and while the run is unfinished in its
        object. Raises `Usage` for a number that is not finite."""
        if not self._pass.replaying:
            self._port.progress(*report(done, total, message, self._pass.secrets))

    def continue_as(self, payload: Any = None) -> Coroutine[Any, Any, NoReturn]:
        """End this run as completed, and start the next run of this job with `payload`. See
        `JobContext.continue_as`."""
        unawaited, pass_ = self._pass.unawaited, self._pass
        text = steps.continuation(pass_, payload)

        async def ends() -> NoReturn:
            unawaited.pop("ctx.continue_as", None)
            pass_.continue_as(text)

        call = unawaited["ctx.continue_as"] = ends()
        return call


class AsyncStepCalls:
    """`ctx.step` of an `async def` handler. See `StepCalls`."""

    def __init__(self, run_id: str, pass_: Pass, port: AsyncPort) -> None:
        self._run_id = run_id
        self._pass = pass_
        self._port = port

    @overload
    def run(
        self,
        name: str,
        fn: Callable[..., Coroutine[Any, Any, R]],
        /,
        *args: Any,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        heartbeat: Duration | None = None,
        output_beats: bool = False,
        returns: Any = None,
        undo: Callable[[Any], Any] | Undo | None = None,
        **kwargs: Any,
    ) -> Coroutine[Any, Any, R]: ...
    @overload
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
    ) -> Coroutine[Any, Any, R]: ...
    def run(
        self,
        name: str,
        fn: Callable[..., Any],
        /,
        *args: Any,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        heartbeat: Duration | None = None,
        output_beats: bool = False,
        returns: Any = None,
        undo: Callable[[Any], Any] | Undo | None = None,
        **kwargs: Any,
    ) -> Coroutine[Any, Any, Any]:
        """Run `fn(*args, **kwargs)` once: on the event loop if it is `async def`, on a thread if it
        is `def`. See `StepCalls.run`."""
        pass_ = self._pass
        key = pass_.identify(name, "run")
        made = steps.run_step(
            pass_,
            key,
            fn,
            args,
            kwargs,
            retry=retry,
            timeout_ms=None if timeout is None else steps.timeout_ms(timeout),
            clock=pass_.clock.seconds,
            returns=returns,
            heartbeat=steps.heartbeat_of(heartbeat, output_beats),
            undo=undo_terms(undo) if undo is not None else None,
        )
        return self._called(key, made)

    def _called(self, key: str, made: Steps) -> Coroutine[Any, Any, Any]:
        """The call, for the handler to await; until then it counts as forgotten."""
        unawaited = self._pass.unawaited
        call = unawaited[key] = awaited(made, self._port, key, unawaited)
        return call

    @overload
    def map(
        self,
        name: str,
        fn: Callable[[T], Coroutine[Any, Any, R]],
        items: Iterable[T],
        *,
        concurrency: int = 8,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        heartbeat: Duration | None = None,
        output_beats: bool = False,
        returns: Any = None,
        undo: Callable[[Any], Any] | Undo | None = None,
    ) -> Coroutine[Any, Any, list[R]]: ...
    @overload
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
    ) -> Coroutine[Any, Any, list[R]]: ...
    def map(
        self,
        name: str,
        fn: Callable[[T], Any],
        items: Iterable[T],
        *,
        concurrency: int = 8,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        heartbeat: Duration | None = None,
        output_beats: bool = False,
        returns: Any = None,
        undo: Callable[[Any], Any] | Undo | None = None,
    ) -> Coroutine[Any, Any, list[Any]]:
        """Run `fn(item)` as one step per item (`name[0]`, …), `concurrency` at a time; returns the
        results in order. See `StepCalls.map`."""
        lanes, undone = steps.check_concurrency(concurrency), undo_terms(undo)
        beats = steps.heartbeat_of(heartbeat, output_beats)
        base = self._pass.identify(name, "map")
        listed = list(items)
        left = iter(enumerate(listed))
        outcomes: list[Any] = [None] * len(listed)

        async def lane() -> None:
            for index, item in left:
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
                try:
                    outcomes[index] = await awaited(made, self._port, key)
                except Exception as error:
                    outcomes[index] = error

        async def every() -> list[Any]:
            self._pass.unawaited.pop(base, None)
            await asyncio.gather(*(lane() for _ in range(min(lanes, len(listed)))))
            for outcome in outcomes:
                if isinstance(outcome, Exception):
                    raise outcome
            return outcomes

        call = self._pass.unawaited[base] = every()
        return call

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
    ) -> Coroutine[Any, Any, CommandResult]:
        """Run a program as a step. See `StepCalls.command`."""
        program = program_of(argv, steps.timeout_ms(timeout), env, stdin, cwd)
        return self.run(
            name,
            run_command_awaited,
            program,
            check,
            retry=retry,
            heartbeat=heartbeat,
            output_beats=output_beats,
            undo=undo_terms(undo, undo_by_program_awaited(env, cwd)),
        )

    def sleep(self, name: str, duration: Duration) -> Coroutine[Any, Any, None]:
        """Wait durably for `duration`; no process is kept waiting."""
        key = self._pass.identify(name, "sleep")
        return self._called(
            key, steps.sleep(self._pass, key, milliseconds(duration, f"the sleep {key!r}"), None)
        )

    def sleep_until(self, name: str, when: datetime | str) -> Coroutine[Any, Any, None]:
        """Wait durably until `when`, a `datetime` (local if naive) or RFC 3339 text."""
        key = self._pass.identify(name, "sleep")
        return self._called(key, steps.sleep(self._pass, key, None, instant_us(when)))

    def start(
        self,
        job: str,
        payload: Any = None,
        *,
        name: str | None = None,
        cancel_with_parent: bool = False,
        when_parent_ends: WhenParentEnds = "leave",
        **options: Any,
    ) -> Coroutine[Any, Any, str]:
        """Start an independent run exactly once; returns its id. See `StepCalls.start`."""
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
        return self._called(key, made)

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
    ) -> Coroutine[Any, Any, Any]:
        """Start a run and wait durably for its result. See `StepCalls.call`."""
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
        return self._called(key, made)

    def result(
        self,
        run_id: str,
        *,
        name: str = "result",
        returns: Any = None,
        timeout: Duration | None = None,
        on_timeout: OnTimeout = "fail",
    ) -> Coroutine[Any, Any, Any]:
        """Wait durably for the result of the run `run_id`. See `StepCalls.result`."""
        key = self._pass.identify(name, "child")
        made = steps.await_run(self._pass, key, run_id, returns, timeout, on_timeout)
        return self._called(key, made)

    def wait_for_event(
        self,
        event: str,
        *,
        correlation_key: str | None = None,
        timeout: Duration | None = None,
        on_timeout: OnTimeout = "fail",
        name: str | None = None,
        returns: Any = None,
    ) -> Coroutine[Any, Any, Event]:
        """Wait durably for an event. See `StepCalls.wait_for_event`."""
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
    ) -> Coroutine[Any, Any, Event]:
        """Wait durably for the first of several events. See `StepCalls.wait_for_any`."""
        key = self._pass.identify(name, "event")
        terms = waits.terms(events, timeout, on_timeout)
        return self._called(key, waits.wait_for_event(self._pass, key, terms, returns))

    def first(self, name: str, /, **calls: Awaitable[Any]) -> Coroutine[Any, Any, tuple[str, Any]]:
        """The first of several calls to have an outcome, each given as a call on `ctx`
        (`late=ctx.step.sleep("late", "1d")`) or another awaitable. See `StepCalls.first`."""
        key = self._pass.identify(name, "value")
        call = self._pass.unawaited[key] = first_awaited(self._pass, self._port, key, calls)
        return call

    def key(self, name: str) -> str:
        """A string that is stable for this run and step, to use as an idempotency key in other
        systems."""
        return f"{self._run_id}/{name}"
