"""Random `async def` handlers: programs of nested branches, races, limits and cancellations.

A program is a JSON value, `[kind, …]`; `Play` is the handler that performs it, and notes all that
it can see in `trace`, in order.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextvars import ContextVar
from typing import Any, Final, Protocol
from zlib import crc32

from hypothesis import strategies as st

_guarded: Final[ContextVar[bool]] = ContextVar("guarded", default=False)

Node = list[Any]
TIMED: Final = ("sleep", "asleep", "get", "event", "timeout", "waitfor", "cancel", "some")
"""Kinds whose first argument is a duration in milliseconds."""
SET: Final = "set"
"""What is noted of the order of a set of tasks: the same on every pass."""


class World(Protocol):
    """What a program asks for: a run's context, or a stand-in in plain asyncio."""

    async def step(self, value: int) -> Any:
        """The value of a step's function."""

    async def fails(self) -> Any:
        """Raises the error of a step that has failed."""

    async def sleep(self, ms: int) -> None:
        """Wait durably."""

    async def event(self, ms: int) -> bool:
        """Wait for an event, for `ms`; returns whether one came."""

    async def wait_for(self, awaitable: Awaitable[Any], seconds: float) -> Any:
        """`asyncio.wait_for`, as it is since Python 3.12."""

    def as_completed(self, coroutines: list[Coroutine[Any, Any, Any]]) -> Iterator[Awaitable[Any]]:
        """`asyncio.as_completed`, with tasks in the order of `coroutines`."""

    def group(self) -> asyncio.TaskGroup:
        """An `asyncio.TaskGroup`, as it is since Python 3.13."""


def millis() -> st.SearchStrategy[int]:
    """Durations; `distinct` tells those of a program apart."""
    return st.integers(1, 50)


def programs(*, with_steps: bool) -> st.SearchStrategy[Node]:
    """Programs, with or without steps and events: these take no time on a test's clock, so what
    asyncio alone does with them depends on its turns."""
    timed = [
        st.tuples(st.just("sleep"), millis()),
        st.tuples(st.just("asleep"), millis()),
        st.tuples(st.just("put"), st.integers(0, 9)),
        st.tuples(st.just("get"), millis()),
    ]
    untimed = [
        st.tuples(st.just("step"), st.integers(0, 9)),
        st.tuples(st.just("event"), millis()),
        st.just(("fails",)),
        st.just(("raise",)),
        st.just(("time",)),
    ]
    leaves = st.one_of(*timed, *(untimed if with_steps else ())).map(list)

    def nested(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
        several = st.lists(inner, min_size=1, max_size=4)
        return st.one_of(
            st.tuples(st.sampled_from(["seq", "gather", "race", "each", "group"]), several),
            st.tuples(st.sampled_from(["timeout", "waitfor", "cancel"]), millis(), inner),
            st.tuples(st.just("some"), millis(), several),
            st.tuples(st.sampled_from(["limit", "lock"]), inner),
        ).map(list)

    return st.recursive(leaves, nested, max_leaves=12)


def distinct(node: Node) -> Node:
    """The program with durations of minutes to hours, no sums of which are the same."""
    numbers = itertools.count()

    def changed(part: Any, is_ms: bool) -> Any:
        if isinstance(part, list):
            timed = bool(part) and part[0] in TIMED
            return [changed(each, timed and at == 1) for at, each in enumerate(part)]
        if not is_ms:
            return part
        return part * 1_000_000 + crc32(b"%d" % next(numbers)) % 1_000_000

    return list(changed(node, False))


class Play:
    """Performs a program once, from the top."""

    def __init__(self, world: World, trace: list[Any]) -> None:
        self._world = world
        self._trace = trace
        self._limit = asyncio.Semaphore(2)
        self._lock = asyncio.Lock()
        self._queue: asyncio.Queue[int] = asyncio.Queue(1)
        self._kinds: dict[str, Callable[..., Awaitable[Any]]] = {
            name.removeprefix("_do_"): getattr(self, name)
            for name in dir(self)
            if name.startswith("_do_")
        }

    async def whole(self, program: Node) -> Any:
        """The result of the program, or what it raised. Tasks that it leaves behind note nothing
        more: asyncio ends them in the order of their addresses."""
        try:
            value = await self._perform(program)
        except Exception as error:
            value = _shape(error)
        self._note("ended", value)
        self._trace = []
        return value

    def _note(self, *what: Any) -> Any:
        self._trace.append(list(what))
        return list(what)

    async def _perform(self, node: Node) -> Any:
        kind, *rest = node
        try:
            value = await self._kinds[kind](*rest)
        except asyncio.CancelledError:
            self._note(kind, "cancelled")
            raise
        self._note(kind, value)
        return value

    def _begin(self, nodes: list[Node]) -> list[asyncio.Task[Any]]:
        return [asyncio.create_task(self._perform(node)) for node in nodes]

    async def _end(self, tasks: set[asyncio.Task[Any]] | list[asyncio.Task[Any]]) -> Any:
        for task in tasks:
            task.cancel()
        return [_shape(each) for each in await asyncio.gather(*tasks, return_exceptions=True)]

    # --- Leaves ----------------------------------------------------------------------------

    async def _do_step(self, value: int) -> Any:
        return await self._world.step(value)

    async def _do_event(self, ms: int) -> Any:
        return await self._world.event(ms)

    async def _do_fails(self) -> Any:
        try:
            return await self._world.fails()
        except Exception as error:
            return type(error).__name__

    async def _do_raise(self) -> Any:
        raise ValueError("raised")

    async def _do_time(self) -> Any:
        return asyncio.get_running_loop().time()

    async def _do_sleep(self, ms: int) -> Any:
        return await self._world.sleep(ms)

    async def _do_asleep(self, ms: int) -> Any:
        return await asyncio.sleep(ms / 1000)

    async def _do_put(self, value: int) -> Any:
        if self._queue.full():
            return "full"
        return self._queue.put_nowait(value)

    async def _do_get(self, ms: int) -> Any:
        try:
            return await self._world.wait_for(self._queue.get(), ms / 1000)
        except TimeoutError:
            return "empty"

    # --- Branches --------------------------------------------------------------------------

    async def _do_seq(self, nodes: list[Node]) -> Any:
        return [await self._perform(node) for node in nodes]

    async def _do_gather(self, nodes: list[Node]) -> Any:
        return await asyncio.gather(*(self._perform(node) for node in nodes))

    async def _do_group(self, nodes: list[Node]) -> Any:
        try:
            async with self._world.group() as group:
                tasks = [group.create_task(self._perform(node)) for node in nodes]
        except BaseExceptionGroup as errors:
            return _shape(errors)
        return [task.result() for task in tasks]

    async def _do_each(self, nodes: list[Node]) -> Any:
        return [await each for each in self._world.as_completed([self._perform(n) for n in nodes])]

    async def _do_race(self, nodes: list[Node]) -> Any:
        tasks = self._begin(nodes)
        done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        self._note(SET, [tasks.index(task) for task in done])
        won = sorted(tasks.index(task) for task in done)
        self._note("won", won)
        await asyncio.gather(*done, return_exceptions=True)
        return [won, await self._end([task for task in tasks if task in left])]

    async def _do_some(self, ms: int, nodes: list[Node]) -> Any:
        tasks = self._begin(nodes)
        done, left = await asyncio.wait(tasks, timeout=ms / 1000)
        self._note("some", sorted(tasks.index(task) for task in done))
        return await self._end([*(t for t in tasks if t in done), *(t for t in tasks if t in left)])

    # --- Limits ----------------------------------------------------------------------------

    async def _do_timeout(self, ms: int, node: Node) -> Any:
        try:
            async with asyncio.timeout(ms / 1000):
                return await self._perform(node)
        except TimeoutError:
            return "late"

    async def _do_waitfor(self, ms: int, node: Node) -> Any:
        try:
            return await self._world.wait_for(self._perform(node), ms / 1000)
        except TimeoutError:
            return "late"

    async def _do_cancel(self, ms: int, node: Node) -> Any:
        task = asyncio.create_task(self._perform(node))
        await asyncio.sleep(ms / 1000)
        return await self._end([task])

    async def _do_limit(self, node: Node) -> Any:
        return await self._guarded(self._limit, node)

    async def _do_lock(self, node: Node) -> Any:
        return await self._guarded(self._lock, node)

    async def _guarded(self, by: asyncio.Semaphore | asyncio.Lock, node: Node) -> Any:
        if _guarded.get():
            return await self._perform(node)  # within another guard it could be a deadlock
        async with by:
            token = _guarded.set(True)
            try:
                return await self._perform(node)
            finally:
                _guarded.reset(token)


def _shape(value: Any) -> Any:
    """The value; an exception by its type and those of its parts."""
    if isinstance(value, BaseExceptionGroup):
        return [type(value).__name__, *map(_shape, value.exceptions)]
    return type(value).__name__ if isinstance(value, BaseException) else value
