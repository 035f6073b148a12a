"""`stackshift.step`: what the function of a step can know and say of its own try.

The worker sets `current_try` for each function of a step, on whichever thread or task that runs.
Invariants: nothing here is part of the record that a handler replays, because a step is recorded as
a whole; outside of any handler, where tests call the function themselves, all of it does nothing.
"""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any, Final, Protocol

from stackshift_jobs.errors import Usage
from stackshift_jobs.handler.scope import current_step, in_handler


class Checkpoint:
    """A checkpoint that was given to `stackshift.step.checkpoint`.

    In an `async def` function, `await` it to go on when it is durable. One that was put off,
    because others came just before it, is not waited for.
    """

    __slots__ = ("_answer",)

    def __init__(self, answer: Future[None] | None = None) -> None:
        self._answer = answer

    @property
    def recorded(self) -> bool:
        """Is it durable? Then the next try gets it, or a later one, whatever is killed."""
        answer = self._answer
        return answer is not None and answer.done() and not answer.cancelled()

    def __await__(self) -> Generator[Any, None, bool]:
        if self._answer is not None:
            import asyncio

            yield from asyncio.wrap_future(self._answer).__await__()
        return self.recorded


class StepTry(Protocol):
    """One try of a step's function, as its worker knows it."""

    @property
    def number(self) -> int:
        """Which try it is, from 1."""

    @property
    def last(self) -> Any:
        """The last checkpoint, as JSON values; None if there is none."""

    def beat(self) -> None:
        """Note that the function is alive. Raises what is to end it, if anything is."""

    def checkpoint(self, value: Any, *, flush: bool) -> Checkpoint:
        """Note how far the function has come; see `CurrentStep.checkpoint`."""


current_try: Final[ContextVar[StepTry | None]] = ContextVar("stackshift_try", default=None)
"""The try whose function is running; None outside of one."""


class CurrentStep:
    """The step whose function is running. It is used as `stackshift.step`, in the function itself,
    in what that calls, and in threads and tasks that it starts."""

    @property
    def try_number(self) -> int:
        """Which try of the step this is, from 1, over all attempts of the run, as the timeline
        counts them. A try whose worker died before anything of it was recorded does not count."""
        found = _found("try_number")
        return found.number if found is not None else 1

    @property
    def last(self) -> Any:
        """The last checkpoint of this step, as JSON values: of this try, or else of an earlier one,
        in an earlier attempt too; None if there is none."""
        found = _found("last")
        return found.last if found is not None else None

    def heartbeat(self) -> None:
        """Say that the function is alive, for a step with a `heartbeat`. It costs next to nothing
        and records nothing, so a loop may call it in every turn.

        In a `def` function this is also where a run that was cancelled, or is out of time, ends the
        function: it raises, and what is behind it does not happen.
        """
        found = _found("heartbeat")
        if found is not None:
            found.beat()

    def checkpoint(self, value: Any, *, flush: bool = False) -> Checkpoint:
        """Record how far the function has come: `value` (JSON) is `last` for the next try, if this
        one fails or its process dies. It is a heartbeat too.

        A `def` function gets it back when it is durable; an `async def` one awaits it. Of very many
        only the last is recorded each second, after the first ten: those in between are put off
        (`.recorded` is false) and recorded a moment later, unless a newer one takes their place.
        With `flush` it is recorded now in any case. Raises `PayloadRefused` for what JSON cannot
        hold, or for too large a value.
        """
        found = _found("checkpoint")
        return found.checkpoint(value, flush=flush) if found is not None else Checkpoint()


def _found(name: str) -> StepTry | None:
    """The try of the running function; None outside of any handler. Raises `Usage` in a handler,
    where there is none."""
    found = current_try.get()
    if found is None and current_step.get() is None and in_handler.get() is not None:
        raise Usage(
            f"stackshift.step.{name} was used in the handler, outside of a step's function",
            hint="use it in the function that is given to ctx.step.run",
        )
    return found


step: Final = CurrentStep()
