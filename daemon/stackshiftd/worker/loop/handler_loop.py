"""The event loop of one `async def` handler: deterministic, stepped by its worker.

It has a queue of callbacks that are ready, timers, and nothing else. There is no selector and no
clock: whoever steps it says what time it is, and when a timer has fired. So what a handler does is
a function of the order in which its calls and timers end, which is on record.

Laws:

- The loop is at rest when no callback is ready. Nothing but its owner can wake it then: what would
  (sockets, threads, executors, signals) is refused, with a hint that names steps.
- Tasks are numbered in the order in which they are created, and hashed by that number: sets of
  tasks, which `asyncio.wait` and task groups go through, have the same order on every pass.
- A task has a branch: the name of its coroutine's function, and its occurrence among the tasks that
  the same branch has created.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import weakref
from asyncio import current_task, events
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, Final, NoReturn, Protocol

from stackshift_jobs.errors import InsideHandler
from stackshift_jobs.handler.cancelling import Waiter
from stackshift_jobs.values.durations import MAX_TIME_US

log = logging.getLogger("asyncio")


MAX_REFUSALS: Final = 100
"""How often a coroutine that is closed may await something: a `finally` block may, a loop that
catches everything does not stop."""


class HandlerTask(asyncio.Task[Any]):
    """A task of a handler. `branch` is the prefix of the identities of the calls made in it."""

    __slots__ = ("branch", "context", "made", "number")

    branch: str
    context: Context
    made: dict[str, int] | None
    number: int

    def __hash__(self) -> int:
        return self.number


class _Ready(asyncio.Handle):
    """A callback that is ready. It is made and called for each turn of each task, so without what
    asyncio's own does for its debug mode."""

    __slots__ = ()

    _source_traceback = None
    _repr = None

    def __init__(
        self,
        callback: Callable[..., Any],
        args: tuple[Any, ...],
        loop: HandlerLoop,
        context: Context | None,
    ) -> None:
        self._callback = callback
        self._args = args
        self._loop = loop
        self._context = copy_context() if context is None else context
        self._cancelled = False


class Timer(asyncio.TimerHandle):
    """A timer of a handler, with the `callback` that it was set with. `key` is its identity, empty
    while its owner has not given it one; `call` is its durable wait, if it has begun."""

    __slots__ = ("call", "callback", "due_us", "key")

    callback: Callable[..., Any]
    key: str
    due_us: int
    call: Any


class TimerOwner(Protocol):
    """Decides when the timers of a loop fire."""

    def timer_set(self, timer: Timer, now_us: int) -> None:
        """The handler has set `timer` at the time `now_us`; it is due at `timer.due_us`."""

    def timer_dropped(self, timer: Timer) -> None:
        """The handler has cancelled `timer`."""


class _Nobody:
    """The owner of a loop that is closed."""

    def timer_set(self, _timer: Timer, _now_us: int) -> None:
        """The timer never fires."""

    def timer_dropped(self, _timer: Timer) -> None:
        """It was no timer of anybody's."""


_NOBODY: Final = _Nobody()


class HandlerLoop(asyncio.AbstractEventLoop):
    """A loop at the time `now_us` (µs since 1970), which its owner moves."""

    is_of_handler = True
    """Tells it from other loops; see `stackshift_jobs.handler.asyncio_order`."""

    def __init__(
        self, owner: TimerOwner, now_us: int, outer: asyncio.AbstractEventLoop | None = None
    ) -> None:
        self.now_us = now_us
        self._outer = outer
        """The loop whose callbacks step this one: to ask for the running loop is a system call."""
        self.tasks: list[HandlerTask] = []
        """All tasks that may not have ended, in the order of their creation."""
        self.closed = False
        self._owner = owner
        self.ready: deque[asyncio.Handle] = deque()
        """What is to be called next. While there is nothing, the loop is at rest."""
        self._created = 0
        self._made: dict[str, int] = {}
        self._prune_at = 64
        self._generators: weakref.WeakSet[AsyncGenerator[Any, Any]] | None = None
        """Asynchronous generators that have begun; None until the first."""

    # --- Stepping --------------------------------------------------------------------------

    def run(self, most: int) -> int:
        """Call what is ready, at most `most` callbacks, and return how many were called. What is
        running must be a callback of another loop, or of none, and not a task."""
        ready = self.ready
        hooks = sys.get_asyncgen_hooks()
        events._set_running_loop(self)
        sys.set_asyncgen_hooks(self._begin_generator, self._end_generator)
        left = most
        try:
            while ready and left:
                left -= 1
                handle = ready.popleft()
                if not handle._cancelled:
                    try:
                        handle._context.run(handle._callback, *handle._args)  # type: ignore[attr-defined]
                    except (SystemExit, KeyboardInterrupt):
                        continue  # a task that ends with one of them has it as its outcome as well
                    except BaseException as error:
                        told = f"an error in a callback: {handle}"
                        self.call_exception_handler({"message": told, "exception": error})
        finally:
            sys.set_asyncgen_hooks(*hooks)
            events._set_running_loop(self._outer)
        return most - left

    def fire(self, timer: Timer) -> None:
        """Let `timer` go off: its callback is ready, unless the handler has cancelled it."""
        if not timer.cancelled():
            self.ready.append(timer)

    def drop(self) -> bool:
        """Close the coroutines of all tasks, the newest first: `finally` blocks run, and what they
        await never comes. Returns false if the handler itself caught that and returned, or if a
        task would not end."""
        self.closed = True
        events._set_running_loop(self)
        in_good_order = True
        try:
            for task in reversed(self.tasks):
                if not task.done():
                    task._log_destroy_pending = False  # type: ignore[attr-defined]
                    left = task.context.run(_close, task.get_coro())
                    if left is None or not (left or task.branch):
                        in_good_order = False
        finally:
            events._set_running_loop(self._outer)
        self.tasks.clear()
        self.ready.clear()
        self._owner = _NOBODY
        return in_good_order

    # --- For asyncio -----------------------------------------------------------------------

    def time(self) -> float:
        """Seconds since 1970: when the outcome was recorded that the handler has seen last."""
        return self.now_us / 1e6

    def create_future(self) -> asyncio.Future[Any]:
        """A future of this loop, for what is asyncio's own."""
        return Waiter(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> HandlerTask:
        """A task, which is a branch of the handler."""
        task = HandlerTask.__new__(HandlerTask)
        self._created += 1
        # asyncio registers the task in a set of all tasks of all loops, for which the number alone
        # would be the same again and again; it is the hash from then on.
        task.number = id(task) >> 4
        task.made = None
        task.branch = self._branch_of(coro)
        task.context = options.pop("context", None) or copy_context()
        task.__init__(coro, loop=self, context=task.context, **options)  # type: ignore[misc]
        task.number = self._created
        self.tasks.append(task)
        if len(self.tasks) > self._prune_at:
            self.tasks = [each for each in self.tasks if not each.done()]
            self._prune_at = 2 * len(self.tasks) + 64
        return task

    def branch(self) -> str:
        """The branch of the task that runs."""
        if self._created == 1:
            return ""
        return getattr(current_task(self), "branch", "")

    def _branch_of(self, coro: Coroutine[Any, Any, Any]) -> str:
        if self._created == 1:
            return ""  # the handler itself
        creator = current_task(self)
        if isinstance(creator, HandlerTask):
            prefix = creator.branch
            made = creator.made
            if made is None:
                made = creator.made = {}
        else:
            prefix, made = "", self._made
        name = getattr(coro, "__name__", "") or "task"
        if not name.isidentifier():
            name = "task"
        count = made[name] = made.get(name, 0) + 1
        return f"{prefix}{name}/" if count == 1 else f"{prefix}{name}#{count}/"

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Call `callback` in the next turn."""
        handle = _Ready(callback, args, self, context)
        self.ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., Any],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call `callback` in `delay` seconds: a durable timer."""
        return self._timer(self.now_us + _us(delay), callback, args, context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., Any],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call `callback` at `when`, a time of this loop: a durable timer."""
        return self._timer(_us(when), callback, args, context)

    def _timer(
        self,
        due_us: int,
        callback: Callable[..., Any],
        args: tuple[Any, ...],
        context: Context | None,
    ) -> asyncio.TimerHandle:
        due_us = min(due_us, MAX_TIME_US)
        timer = Timer(due_us / 1e6, callback, args, self, context)
        timer.key, timer.due_us, timer.call = "", due_us, None
        timer.callback = callback
        if due_us <= self.now_us:
            self.ready.append(timer)
        else:
            self._owner.timer_set(timer, self.now_us)
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        if isinstance(handle, Timer) and not self.closed:
            self._owner.timer_dropped(handle)

    def _begin_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        if self._generators is None:
            self._generators = weakref.WeakSet()
        self._generators.add(generator)

    def _end_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        if not self.closed:
            self.call_soon(self.create_task, generator.aclose())

    async def shutdown_asyncgens(self) -> None:
        """Close the asynchronous generators that are still open."""
        for generator in list(self._generators or ()):
            await generator.aclose()

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Log what no task of the handler has looked at."""
        if not self.closed:
            error = context.get("exception")
            log.error(context.get("message", "an error in a callback"), exc_info=error)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """See `call_exception_handler`."""
        self.call_exception_handler(context)

    def get_exception_handler(self) -> None:
        """There is none."""

    def set_exception_handler(self, _handler: Any) -> None:
        """Nothing: what no task has looked at is in the run's log."""

    def set_debug(self, _enabled: bool) -> None:
        """Nothing; see `get_debug`."""

    get_debug = staticmethod(bool)  # of C: each future asks, each task
    """Never, since the debug mode of asyncio looks at the clock: `bool()` is false."""

    def get_task_factory(self) -> None:
        """There is none."""

    def is_running(self) -> bool:
        """True for as long as the pass lasts."""
        return not self.closed

    def is_closed(self) -> bool:
        """Has the pass ended?"""
        return self.closed


def _us(seconds: float) -> int:
    """Microseconds; "never", as far as times go, for what is too long."""
    return round(min(seconds * 1e6, MAX_TIME_US))


def _close(coroutine: Any) -> bool | None:
    """Close a coroutine: true if it let itself be closed, false if it caught that and returned,
    None if it awaits something again and again instead."""
    for _ in range(MAX_REFUSALS):
        try:
            coroutine.throw(GeneratorExit())
        except StopIteration:
            return False
        except BaseException:
            return True
    _keep(coroutine)
    return None


def _keep(coroutine: Any) -> None:
    """Never free a coroutine that would not end: Python would close it once more, and at the end of
    the interpreter, when all it calls is gone, it would go round in circles for ever. A list would
    be freed then; nothing else in Python holds something for so long. The memory of each such
    attempt is lost to the process, which has failed the run for it."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(coroutine))


def _refuse(name: str) -> Callable[..., NoReturn]:
    def refused(_loop: HandlerLoop, *_args: Any, **_options: Any) -> NoReturn:
        raise InsideHandler(
            f"an async handler called loop.{name}: what comes from sockets, threads, programs and "
            "signals could not be replayed",
            hint="do it in a step: ctx.step.run(name, fn)",
        )

    refused.__name__ = name
    refused.__doc__ = "Raises `InsideHandler`."
    return refused


for _name, _of_asyncio in list(vars(asyncio.AbstractEventLoop).items()):
    if not _name.startswith("_") and callable(_of_asyncio) and _name not in vars(HandlerLoop):
        setattr(HandlerLoop, _name, _refuse(_name))
