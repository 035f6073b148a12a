"""`async def` handlers: each on a loop of its own (`handler_loop`), which this module steps.

Laws, besides those of `async_calls`:

- An outcome is let in only when the handler has come to rest after the one before.
- Nothing is asked of the world (a step's function, a request to the daemon) until no outcome on
  record is left to let in. So a pass that catches up repeats nothing that it is about to give up.
- At rest without a step that executes or a request that is unanswered, the handler waits, whatever
  its tasks wait for: the pass is dropped, and nothing of it stays in memory. If no durable wait is
  left either, nothing can ever wake it, and the attempt fails.
"""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import get_running_loop
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from inspect import isawaitable, iscoroutine
from typing import Any, Final

from stackshift_jobs.errors import ReplayError
from stackshift_jobs.handler import ops
from stackshift_jobs.handler.async_context import AsyncJobContext
from stackshift_jobs.handler.cancelling import ask_to_raise, interrupt
from stackshift_jobs.handler.failures import Failure, is_a
from stackshift_jobs.handler.ports import awaited
from stackshift_jobs.handler.replay import Unwinding
from stackshift_jobs.handler.scope import current_pass, in_handler
from stackshift_jobs.handler.undo import undo_steps
from stackshift_jobs.values.secrets import current_secrets
from stackshiftd.core import commands as c
from stackshiftd.worker.execution import DRAINED, ENDED, UNDOES, WAITS, Execution, answer_of
from stackshiftd.worker.frames import CallRecorded, Cancel, Frame
from stackshiftd.worker.isolation.contexts import own_arithmetic
from stackshiftd.worker.loop.async_calls import Arrival, AsyncCalls, Call
from stackshiftd.worker.loop.async_timers import AsyncTimers
from stackshiftd.worker.loop.handler_loop import HandlerLoop, HandlerTask
from stackshiftd.worker.loop_port import LoopPort
from stackshiftd.worker.output.run_log import current_log
from stackshiftd.worker.pipe import Pipe
from stackshiftd.worker.step_functions import Running, enter
from stackshiftd.worker.step_tries import StepTry

SLICE: Final = 1_000
"""Callbacks of one handler that run before other handlers get their turn."""
MAX_TURN: Final = 300_000
"""Callbacks that may run without the handler coming to rest."""


class LoopedExecution(Execution):
    """An execution of an `async def` handler. All of it is for the thread of the worker's loop."""

    __slots__ = (
        "_alarm",
        "_in_a_turn",
        "_is_running",
        "_last",
        "_on_end",
        "_worker_loop",
        "calls",
        "functions",
        "handler",
        "loop",
        "port",
        "strays",
        "timers",
    )

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.timers = AsyncTimers(self.pass_)
        self._worker_loop = get_running_loop()
        self.loop = HandlerLoop(  # type: ignore[abstract]  # what is not defined is refused
            self.timers, self.order.attempt_us, self._worker_loop
        )
        self.calls = self.timers.calls = AsyncCalls(self.pass_, self.loop)
        self.port: LoopPort
        self.handler: HandlerTask
        self.functions: dict[str, Running] = {}
        self.strays: set[asyncio.Task[Any]] = set()
        self.pass_.loop, self.pass_.step_loop = self.loop, self._worker_loop
        self._in_a_turn = 0
        self._is_running = False
        self._alarm: asyncio.TimerHandle | None = None
        self._last: Frame | c.Command | None = None
        self._on_end: Callable[[Frame | c.Command], None]

    @property
    def told(self) -> dict[int, Any]:
        """Requests that are not answered, by number."""
        return self.calls.told

    @property
    def is_over(self) -> bool:
        """Has the handler left memory?"""
        return self.loop.closed

    # --- The handler's turn ----------------------------------------------------------------

    def begin(self, port: LoopPort, on_end: Callable[[Frame | c.Command], None]) -> None:
        """Call the handler; `on_end` gets the final frame once nothing of it executes any more."""
        self.port = port
        self._on_end = on_end
        try:
            self.handler = copy_context().run(self._called)
        except BaseException as error:
            self._end(self._failed(error))
        else:
            self._proceed()

    def _called(self) -> HandlerTask:
        self._enter()  # First, since what the payload names is resolved for this execution.
        context: AsyncJobContext[Any] = AsyncJobContext(self.facts(), self.pass_, self.port)
        cancellation = self.pass_.cancellation
        if cancellation is not None and cancellation.raised_seq:
            made = self.calls.never("", _at_once())
            made.future.add_done_callback(self._tell)
            self.calls.queue(cancellation.raised_seq, made, cancellation.raised_us)
        called = self.job.handler(context)
        # Not within a coroutine of ours: what the handler catches when it is dropped shows here.
        return self.loop.create_task(called if iscoroutine(called) else _result_of(called))

    def _enter(self) -> None:
        """Let the context, which is a copy, be that of the handler."""
        own_arithmetic()
        current_log.set(self.log)
        current_secrets.set(self.pass_.secrets)
        in_handler.set("ctx")
        current_pass.set(self.pass_)
        enter(self)

    def _proceed(self) -> None:
        """Let the handler see all outcomes there are, one by one, and then ask for what it wants
        next."""
        if self._is_running:
            return  # what called this is part of a turn
        self._is_running = True
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        try:
            ready, calls = self.loop.ready, self.calls
            while not ready or self._run_to_rest():
                has_outcomes = calls.in_turn or calls.arrived
                if not (has_outcomes and calls.let_in()) and not self._ask_next():
                    break
        finally:
            self._is_running = False
        if self._last is None and self.pass_.unwinding in (None, DRAINED) and not ready:
            self._consider()

    def _run_to_rest(self) -> bool:
        """Run the handler until it is at rest; false if others get a turn first, or if the pass has
        ended."""
        if self._last is not None or self.loop.closed:
            return False
        called = self.loop.run(SLICE)
        if self.loop.ready:
            self._in_a_turn += called
            if self._in_a_turn > MAX_TURN:
                self._end(self._failed(_spinning()))
            else:
                self._worker_loop.call_soon(self._proceed)
            return False
        self._in_a_turn = 0
        if self.handler.done():
            self._returned()
            return False
        return True

    def _ask_next(self) -> bool:
        """Send what the handler asks for, and false; or true if something was answered at once."""
        calls, port, pass_ = self.calls, self.port, self.pass_
        if calls.given_up:
            self._withdraw()
        may_hold = pass_.undoes or pass_.cancellation is not None
        held: list[Call] = []
        while calls.asks:
            call = calls.asks.popleft()
            op = call.op
            if may_hold and self._is_held(call):
                held.append(call)
                continue
            dropped = call.is_given_up() or pass_.unwinding is not None
            if dropped and not (_ran(op) or call.releases):
                continue
            try:
                if type(op) is not ops.Perform:
                    port.tell(call, op)  # type: ignore[arg-type]  # it is a Tell
                elif (ended := port.perform(call, op)) is not None:
                    calls.advance(call, *ended)
            except Exception as error:  # it cannot even be asked for
                calls.advance(call, None, error)
        if held:
            calls.asks.extend(held)
        return bool(self.loop.ready)

    def _is_held(self, call: Call) -> bool:
        """Is what the call asks for not asked now: nothing at all in a pass that only goes over
        what is on record, and nothing new before the handler is told that its run is cancelled?"""
        pass_ = self.pass_
        goes_on = _is_let_through(call) or self.must_finish(call.op)
        return pass_.undoes or (pass_.holds and not goes_on)

    # --- Undoing ---------------------------------------------------------------------------

    def _begin_undo(self) -> None:
        """The handler has said how what is on record is undone, and leaves; now that is done, on a
        loop as new as its own was."""
        self.pass_.unwinding = UNDOES
        self._drop()
        self.pass_.unwinding, self.pass_.undoes, self.pass_.cancellation = None, False, None
        self.pass_.unawaited.clear()
        self.timers = AsyncTimers(self.pass_)
        self.loop = self.pass_.loop = HandlerLoop(  # type: ignore[abstract]  # as above
            self.timers, self.loop.now_us, self._worker_loop
        )
        self.calls = self.timers.calls = AsyncCalls(self.pass_, self.loop)
        self.handler = copy_context().run(self._undoing)
        self._worker_loop.call_soon(self._proceed)

    def _undoing(self) -> HandlerTask:
        self._enter()
        return self.loop.create_task(self._undo())

    async def _undo(self) -> None:
        for key, made in undo_steps(self.pass_):
            await awaited(made, self.port, key)

    # --- Cancelled gently ------------------------------------------------------------------

    def cancel(self, cancel: Cancel) -> None:
        """The run is to be cancelled gently: nothing new begins until the handler is told."""
        self.set_cancelling(cancel)
        if not self.loop.closed and self._on_end is not _ignore:
            self._proceed()

    def _ask_to_tell(self) -> None:
        """At rest, with nothing under way: let it be recorded that the handler is told here, unless
        other runs have to end first."""
        cancellation = self.pass_.cancellation
        assert cancellation is not None
        if cancellation.must_wait:
            self._suspend()
            return
        if cancellation.raised_seq:
            return  # Its turn comes with what is on record.
        step = self.calls.call_of(self.handler._fut_waiter)  # type: ignore[attr-defined]
        made = self.calls.begin("", ask_to_raise(step))
        made.future.add_done_callback(self._answered_whether)
        self._proceed()

    def _answered_whether(self, answered: asyncio.Future[Any]) -> None:
        if answered.cancelled() or self.pass_.cancellation is None:
            return
        if answered.result():
            self._tell(answered)
        else:
            self.pass_.cancellation.must_wait = True

    def _tell(self, _in_its_turn: asyncio.Future[Any]) -> None:
        """Raise `Cancelling` in the handler."""
        cancellation = self.pass_.cancellation
        assert cancellation is not None
        cancellation.is_told = True
        if not self.handler.done():
            interrupt(self.handler)

    def _withdraw(self) -> None:
        given_up, self.calls.given_up = self.calls.given_up, []
        for call in given_up:
            self.port.withdraw(call)

    # --- Calls -----------------------------------------------------------------------------

    def answered(self, number: int, answer: CallRecorded) -> None:
        """Take the daemon's answer to a request."""
        calls, loop = self.calls, self.loop
        call = calls.told.pop(number, None)
        if isinstance(call, asyncio.Future):  # a call in the function of a step
            if not call.done():
                call.set_result(answer_of(answer))
        elif call is not None and not loop.closed and self.port.is_heard(call):
            if calls.in_turn or calls.arrived or loop.ready or self._is_running:
                self._arrive(Arrival(call, answer_of(answer), None, answer.at_us))
                return
            # As nearly always: nothing came before it.
            if not call.is_given_up():
                calls.advance(call, answer_of(answer), None, answer.at_us)
            self._proceed()

    def performed(self, call: Call, value: Any, error: BaseException | None) -> None:
        """Take what the function of a step has returned or raised."""
        if self.loop.closed:
            if error is None and isinstance(self._last, c.FailAttempt) and not call.is_given_up():
                self._record_late(call, value)
            self._ended_function()
        elif error is not None and is_a(error, Unwinding):
            # Its program was ended at a drain: it has no outcome, and runs again.
            self._proceed()
        else:
            self._arrive(Arrival(call, value, error, 0))

    def _record_late(self, call: Call, value: Any) -> None:
        """Record the result of a step that was executing when another branch failed the attempt, so
        that the next attempt does not repeat it. One that cannot be recorded is repeated."""
        with contextlib.suppress(Exception):
            op = call.context.run(call.made.send, value)
            if type(op) is ops.RecordResult:
                self.port.tell(call, op)

    def resolved(self, step: str, known: ops.RecordedCall) -> None:
        """Take the outcome `known` of the wait `step`, or the loss of a lock."""
        if not self.loop.closed:
            self._arrive(Arrival(step, known, None, known.at_us))

    def _arrive(self, arrival: Arrival) -> None:
        self.calls.arrived.append(arrival)
        self._proceed()

    def lapse(self, late: StepTry) -> None:
        """Stop the function of a step, which has been silent for too long, and fail its try."""
        self._worker_loop.call_soon_threadsafe(self._lapse, late)

    def _lapse(self, late: StepTry) -> None:
        if not self.is_over and self.tries.get(late.op.step) is late:
            self.port.functions.lapse(self, late)

    # --- Suspension ------------------------------------------------------------------------

    def _consider(self) -> None:
        """At rest: suspend the run if nothing is under way, at once or in a moment; otherwise wait
        for the next timer."""
        if self._is_running or self.loop.ready or self.loop.closed:
            return
        if self.open or self.calls.told:
            if self.timers.unrecorded:
                self._await_timers()
        elif self.pass_.unwinding == DRAINED:
            self.leave(DRAINED)
        elif self.pass_.undoes:
            self._begin_undo()
        elif self.pass_.holds:
            self._ask_to_tell()
        elif self.timers.record_due(None):
            self._proceed()
        elif not self.calls.parked:
            self._end(self._failed(_stranded()))
        elif self._may_end_soon():
            self._alarm = self._worker_loop.call_later(self.pace.keep_seconds, self._suspend)
        else:
            self._suspend()

    def _await_timers(self) -> None:
        """Be here again when the first timer is due that is not on record."""
        due_us = self.timers.next_us
        if due_us is None:
            return
        now_us = self.pace.clock.now_us()
        if self.timers.record_due(now_us):
            self._proceed()
        else:
            seconds = (due_us - now_us) / 1e6
            self._alarm = self._worker_loop.call_later(seconds, self._consider)

    def _may_end_soon(self) -> bool:
        """May a wait end so soon that to suspend the run would cost more than to keep it?"""
        pace, recorded_calls = self.pace, self.pass_.recorded_calls
        if not pace.keep_seconds:
            return False
        for step, call in self.calls.parked.items():
            known = recorded_calls.get(step)
            due_us = known.due_us if known is not None else 0
            due_us = due_us or (call.op.due_us if isinstance(call.op, ops.Park) else 0)
            if pace.may_be_soon(due_us):
                return True
        return False

    def _suspend(self) -> None:
        if self._last is None and not self.loop.closed and not self.loop.ready:
            self.leave(WAITS)

    # --- The end ---------------------------------------------------------------------------

    def leave(self, reason: str) -> None:
        """Drop the pass; with the reason `DRAINED`, only once no step is executing and no call is
        unanswered."""
        if self._last is not None:
            return
        if reason == DRAINED and (self.open or self.told or self.loop.ready):
            self.pass_.unwinding = self.pass_.unwinding or DRAINED
            return
        if self.pass_.unwinding in (None, WAITS, DRAINED):
            self.pass_.unwinding = reason
        if not self.loop.closed:
            self.waiting = set(self.calls.parked)
            self._drop()
            self.port.functions.cancel(self)
        self.release_tries()
        self._ended_function()

    def _drop(self) -> None:
        """Drop what the handler has in memory."""
        if self._alarm is not None:
            self._alarm.cancel()
        if not self.loop.drop() and self.pass_.unwinding == WAITS:
            self._last = self._left(WAITS, swallowed=True)
        for never in self.pass_.unawaited.values():
            if never is not None:
                never.close()  # or it would be reported that nobody has awaited it
        self.calls.clear()

    def _ended_function(self) -> None:
        """Send the last frame once no function of a step is executing any more, nor a program that
        one of its tasks has left."""
        if self.open or not self.loop.closed or self._on_end is _ignore:
            return
        if self._last is None:
            reason = self.pass_.unwinding
            assert reason is not None
            self._last = self._left(reason, swallowed=False)
        last, on_end = self._last, self._on_end
        self._on_end = _ignore
        gone = partial(self._worker_loop.call_soon_threadsafe, self._gone, on_end, last)
        if self.programs.close_later(Unwinding("ended"), gone):
            self._gone(on_end, last)

    def _gone(self, on_end: Callable[[Frame | c.Command], None], last: Frame | c.Command) -> None:
        """Nothing of it executes any more. What refers to it is released, so that its memory is
        free at once: to find it would cost the garbage collector as much as a step."""
        on_end(last)
        self.port = self.handler = None  # type: ignore[assignment]  # nobody asks any more

    def _returned(self) -> None:
        """End the attempt: the handler has returned or raised. Tasks that it has left behind are
        given up."""
        if self.pass_.unwinding == DRAINED:
            self.pass_.unwinding = None  # it was faster
        if self.pass_.undoes:
            self._begin_undo()
            return
        last = self.last_frame(self.handler.result)
        self._report_failed_tasks()
        if isinstance(last, c.CompleteRun | c.ContinueAs | c.FinishCancel):
            self._give_up_all()
        self._withdraw()
        self._end(last)

    def _report_failed_tasks(self) -> None:
        """Say in the log what nobody has asked its task for. asyncio does so when the task is
        freed; here that is when the pass is dropped, and nobody would hear of it."""
        for task in self.loop.tasks:
            if task.done() and not task.cancelled() and task._log_traceback:
                error = task.exception()
                assert error is not None
                failed = Failure.of(error, self.pass_.secrets)
                text = f"the task {task.branch.rstrip('/')} failed, and nobody awaited it"
                said = f"{text}: {failed.type}: {failed.message}"
                for line in (said, *failed.traceback.splitlines()):
                    self.log.record("ERROR", line)

    def _give_up_all(self) -> None:
        left = [task for task in self.loop.tasks if not task.done()]
        for task in left:
            task.cancel()
        if left:
            names = ", ".join(task.branch.rstrip("/") for task in left[:5])
            more = ", …" if len(left) > 5 else ""
            text = f"the handler returned before these of its tasks had ended: {names}{more}"
            self.log.record("WARNING", text)
            self.loop.run(SLICE)

    def _failed(self, error: BaseException) -> Frame | c.Command:
        try:
            return self.raised(error)
        except BaseException as bad:
            return self.unreportable(bad)

    def _end(self, last: Frame | c.Command) -> None:
        self._last = last
        self.pass_.unwinding = self.pass_.unwinding or ENDED
        self._drop()
        self.port.functions.cancel(self)
        self._ended_function()

    def timers_in(self, error: BaseException) -> list[str]:
        """The identities of the timers that raised `error`: the next attempt sets them again."""
        return self.timers.raised(error)


def _ignore(_last: Frame | c.Command) -> None:
    """The execution has ended already."""


def _at_once() -> ops.Steps:
    """A call that asks for nothing."""
    yield from ()


def _is_let_through(call: Call) -> bool:
    """Does what this call asks for begin nothing new?"""
    return call.releases or isinstance(call.op, ops.RaiseCancel) or _ran(call.op)


def _ran(op: ops.Op | None) -> bool:
    """Is it the outcome of a function that has run? That is recorded, or it would run again."""
    return isinstance(op, ops.RecordResult | ops.RecordFailure)


def _spinning() -> ReplayError:
    return ReplayError(
        f"the handler has run {MAX_TURN} callbacks without coming to rest",
        hint="a loop that awaits nothing, or only asyncio.sleep(0), never ends: wait with "
        "ctx.step.sleep or asyncio.sleep",
    )


async def _result_of(called: Any) -> Any:
    """The result of a handler whose decorator has returned something else than its coroutine."""
    return await called if isawaitable(called) else called


def _stranded() -> ReplayError:
    return ReplayError(
        "the handler waits for something that nothing can bring: no call on ctx, no timer and no "
        "task of its own is under way",
        hint="what threads, sockets and other event loops bring has to be awaited in a step: "
        "ctx.step.run(name, fn)",
    )


def call_handler(
    execution: LoopedExecution,
    port: LoopPort,
    pipe: Pipe,
    on_end: Callable[[Execution], None],
) -> None:
    """Call the handler; its final frame is sent when nothing of it executes any more."""

    def ended(last: Frame | c.Command) -> None:
        with contextlib.suppress(Exception):  # Whatever is wrong with its output, it has ended.
            execution.log.close()
        on_end(execution)
        pipe.post(last)

    execution.begin(port, ended)
