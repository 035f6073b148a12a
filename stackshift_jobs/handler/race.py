"""`ctx.step.first`: the first of several calls to have an outcome; the others are withdrawn.

Which one it was is recorded under the name of the decision, so an edit of the code does not turn it
around. In an `async def` handler the calls are awaitables, which run side by side. In a `def`
handler they are functions without arguments, each of which makes one call on `ctx`: they are called
one after the other until each has an outcome or waits, and called again on each later look. So the
first look must not ask for anything that another call has already decided.

Laws: every look gives each call the same identity; a decision that is on record is followed, and
asks for nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from typing import Any, NamedTuple

from stackshift_jobs.errors import ReplayError, Usage
from stackshift_jobs.handler import ops
from stackshift_jobs.handler.cancelling import Cancelling
from stackshift_jobs.handler.outcomes import read, recalled
from stackshift_jobs.handler.ports import (
    AsyncCall,
    AsyncPort,
    Port,
    awaited,
    calls_made,
    drive,
    racing,
)
from stackshift_jobs.handler.replay import Identity, Pass, identified
from stackshift_jobs.handler.steps import read_value


class Waits(BaseException):
    """A call of a race has no outcome yet. `op` is what it waits for; None if it was not begun."""

    def __init__(self, op: ops.Park | None) -> None:
        super().__init__()
        self.op = op


class Look(NamedTuple):
    """What one look at a call found: its `outcome`, or the `op` that it waits for, if it has begun;
    `seq` is the place of its outcome in the journal, 0 if it is new."""

    made: list[Identity]
    outcome: Callable[[], Any] | None
    op: ops.Park | None
    seq: int


class RacePort:
    """The port of the calls of a race: none of them blocks the others by a wait. Unless it
    `begins`, nothing is asked for either."""

    def __init__(self, port: Port, begins: bool) -> None:
        self._port = port
        self._begins = begins

    def tell(self, op: ops.Tell) -> ops.Recorded:
        """See `Port.tell`."""
        if not self._begins:
            raise Waits(None)
        return self._port.tell(op)

    def park(self, op: ops.Park) -> ops.RecordedCall:
        """Raises `Waits`."""
        raise Waits(op)

    def park_any(self, _parks: list[ops.Park]) -> None:
        """Raises `Usage`: this is a race already."""
        raise Usage("step.first was used within step.first")

    def perform(self, op: ops.Perform) -> Any:
        """See `Port.perform`."""
        if not self._begins:
            raise Waits(None)
        return self._port.perform(op)

    def withdraw(self, step: str) -> None:
        """See `Port.withdraw`."""
        self._port.withdraw(step)

    def raise_cancel(self, step: str) -> None:
        """See `Port.raise_cancel`."""
        self._port.raise_cancel(step)

    def progress(self, done: float, total: float | None, message: str) -> None:
        """See `Port.progress`."""
        self._port.progress(done, total, message)


def first(
    pass_: Pass, port: Port, key: str, calls: Mapping[str, Callable[[], Any]]
) -> tuple[str, Any]:
    """Make the calls until one of them has an outcome; returns its name and result, or raises its
    error."""
    _check(calls)
    if (known := recalled(pass_, key)) is not None:
        return _decided(pass_, port, key, read(known.body), calls)
    while True:
        looks = _looks(pass_, port, calls, begins=False)
        if not any(look.outcome for look in looks.values()):
            _raise_cancel(pass_, port, key, looks)
            _forget(pass_, looks)
            looks = _looks(pass_, port, calls, begins=True)
        ended = [name for name, look in looks.items() if look.outcome is not None]
        if ended:
            break
        try:
            port.park_any([look.op for look in looks.values() if look.op is not None])
        except Cancelling:
            _withdraw_others(pass_, port, "", looks)
            raise
        _forget(pass_, looks)
    _raise_cancel(pass_, port, key, looks)
    # What is on record came before what is new.
    soonest = min(ended, key=lambda name: looks[name].seq or float("inf"))
    drive(read_value(pass_, key, lambda: soonest), port)
    _withdraw_others(pass_, port, soonest, looks)
    outcome = looks[soonest].outcome
    assert outcome is not None
    return soonest, outcome()


def _raise_cancel(pass_: Pass, port: Port, key: str, looks: Mapping[str, Look]) -> None:
    """Raise `Cancelling` if the handler is to be told that its run is cancelled: all the calls have
    lost then."""
    try:
        if pass_.holds:
            port.raise_cancel(key)
    except Cancelling:
        _withdraw_others(pass_, port, "", looks)
        raise


def _decided(
    pass_: Pass, port: Port, key: str, chosen: str, calls: Mapping[str, Callable[[], Any]]
) -> tuple[str, Any]:
    if chosen not in calls:
        raise _no_longer(key, chosen)
    looks = _looks(pass_, port, calls, begins=False)
    _withdraw_others(pass_, port, chosen, looks)
    outcome = looks[chosen].outcome
    if outcome is not None:
        return chosen, outcome()
    # It is to be made again, by a retry.
    pass_.unidentify(looks[chosen].made)
    return chosen, calls[chosen]()


def _looks(
    pass_: Pass, port: Port, calls: Mapping[str, Callable[[], Any]], *, begins: bool
) -> dict[str, Look]:
    return {name: _look(pass_, port, call, begins) for name, call in calls.items()}


def _look(pass_: Pass, port: Port, call: Callable[[], Any], begins: bool) -> Look:
    made: list[Identity] = []
    in_race = racing.set(RacePort(port, begins))
    noted = identified.set(made)
    op: ops.Park | None = None
    outcome: Callable[[], Any] | None = None
    try:
        value = call()
    except Waits as waits:
        op = waits.op
    except Exception as error:
        outcome = _raising(error)
    else:
        outcome = _returning(value)
    finally:
        identified.reset(noted)
        racing.reset(in_race)
    known = [pass_.recorded_calls[each.key] for each in made if each.key in pass_.recorded_calls]
    return Look(made, outcome, op, max((each.seq for each in known), default=0))


def _returning(value: Any) -> Callable[[], Any]:
    return lambda: value


def _raising(error: Exception) -> Callable[[], Any]:
    def outcome() -> Any:
        raise error

    return outcome


def _forget(pass_: Pass, looks: Mapping[str, Look]) -> None:
    """Let the next look give the calls the same identities."""
    for look in looks.values():
        pass_.unidentify(look.made)


def _withdraw_others(pass_: Pass, port: Port, chosen: str, looks: Mapping[str, Look]) -> None:
    """Withdraw the calls that have lost: their waits, and what they got and nobody has seen."""
    for name, look in looks.items():
        for each in look.made if name != chosen else ():
            known = pass_.recorded_calls.get(each.key)
            if known is not None and (not known.has_ended or known.kind in ("event", "lock")):
                port.withdraw(each.key)


async def first_awaited(
    pass_: Pass, port: AsyncPort, key: str, calls: Mapping[str, Awaitable[Any]]
) -> tuple[str, Any]:
    """As `first`, of awaitables."""
    pass_.unawaited.pop(key, None)
    _check(calls)
    made: dict[str, list[AsyncCall]] = {name: [] for name in calls}
    tasks = {
        name: asyncio.create_task(_named(name, call, made[name])) for name, call in calls.items()
    }
    try:
        await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
        soonest = next(name for name, task in tasks.items() if task.done())
        chosen = await awaited(read_value(pass_, key, lambda: soonest), port, key)
        if chosen not in tasks:
            raise _no_longer(key, chosen)
        for name, task in tasks.items():
            # What has ended as well, and is seen by nobody: an event goes to the next wait.
            if name != chosen and task.done() and len(made[name]) == 1:
                port.give_up(made[name][0])
        value = await tasks[chosen]
    except GeneratorExit:
        raise  # the pass is dropped, and the tasks with it
    except BaseException:
        await _ended(tasks.values())
        raise
    await _ended(tasks.values())
    return chosen, value


def _named(name: str, call: Awaitable[Any], made_here: list[AsyncCall]) -> Coroutine[Any, Any, Any]:
    """A coroutine of that name, which is that of its branch; the calls made in it are noted."""

    async def branch() -> Any:
        calls_made.set(made_here)
        return await call

    made = branch()
    made.__name__ = name  # type: ignore[attr-defined]  # of every coroutine of Python
    return made


async def _ended(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel the tasks, and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _check(calls: Mapping[str, Any]) -> None:
    if not calls:
        raise Usage("step.first needs calls", hint="step.first('decision', paid=…, late=…)")


def _no_longer(key: str, chosen: str) -> ReplayError:
    return ReplayError(
        f"{key!r} is recorded as decided by {chosen!r}, which the code no longer has",
        hint=f"stackshift runs retry RUN --from {key}",
    )
