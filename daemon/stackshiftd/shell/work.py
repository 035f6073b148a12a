"""Work in parts: what a method of the protocol does if it may take long.

Work is a generator. Between two of its parts, each of which is bounded, others have their turn
(`server.turns`); it yields None there, or `Parked` if it can only go on later. What it returns is
the result. So a long list costs those who asked for it, and no one else, and what waits for its
turn is the work and not yet its result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from types import GeneratorType
from typing import Any, NamedTuple

from stackshift_jobs.errors import StackshiftError


class Parked(NamedTuple):
    """Yielded by work that goes on only once `wait` calls what it is given, which it may do at
    once. Meanwhile the work holds an answer of so many bytes."""

    wait: Callable[[Callable[[], None]], None]
    held_bytes: int = 0


Work = Generator[Parked | None, None, Any]


class Later(NamedTuple):
    """An answer that is still to be read, by `read`, which returns it or the work that leads to it:
    once its client has room for it."""

    read: Callable[[], Any]


class Held(Exception):
    """Raised by a method that cannot begin yet. It can once `wait` calls what it is given."""

    def __init__(self, wait: Callable[[Callable[[], None]], None]) -> None:
        super().__init__("not yet")
        self.wait = wait


def as_work(result: Any) -> Work:
    """`result` itself if it is work, else work that returns it at once."""
    if isinstance(result, GeneratorType):
        result = yield from result
    return result


async def to_end(work: Work) -> Any:
    """Do all of `work`, a part in each turn of the loop, and return its result. Raises the error
    that it is refused with."""
    while True:
        try:
            parked = next(work)
        except StopIteration as ended:
            return ended.value
        if parked is None:
            await asyncio.sleep(0)
        else:
            resumed = asyncio.Event()
            parked.wait(resumed.set)
            await resumed.wait()


def run_through(work: Work, answer: Callable[[Any], None]) -> None:
    """Do all of `work`, in one turn as far as it is not parked, and call `answer` with its result,
    or with the error that it is refused with."""
    try:
        while (parked := next(work)) is None:
            pass
    except StopIteration as ended:
        answer(ended.value)
    except StackshiftError as refused:
        answer(refused)
    else:
        parked.wait(lambda: run_through(work, answer))
