"""One pass of a handler: who each call on `ctx` is, and whether it is on record.

A call is known by its kind of name and by occurrence (`page`, `page#2`), never by its position
among other calls, and its identity is taken at the call. Laws: one name belongs to one branch (task
or thread) of a pass; a record answers only calls of its own kind; nothing is recorded by a pass
that is being unwound.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Final

from stackshift_jobs.errors import ReplayError
from stackshift_jobs.handler.clock import WALL, Clock
from stackshift_jobs.handler.ops import RecordedCall
from stackshift_jobs.handler.scope import current_step
from stackshift_jobs.values.names import check_name

_KIND_NAMES: Final = {
    "run": "a step",
    "map": "a map",
    "value": "a recorded value",
    "sleep": "a sleep",
    "start": "the start of a run",
    "child": "a wait for a run",
    "event": "a wait for an event",
    "lock": "a lock",
}


MAX_NAMES: Final = 10_000
_NAMES: Final[set[str]] = set()
"""Names of steps that were found to be good: the same ones come again with every run."""


class Unwinding(BaseException):
    """Leaves a `def` handler at a wait or a stop. A `BaseException`, so that `except Exception`
    cannot swallow it."""


class Pass:
    """The record of one run as one pass of its handler sees it.

    `recorded_calls` are by identity. `unwinding` is the reason why the pass is being left, once it
    is.
    """

    __slots__ = (
        "_branches",
        "_counts",
        "_lock",
        "calls",
        "clock",
        "forgotten",
        "loop",
        "recorded_calls",
        "unawaited",
        "unwinding",
    )

    def __init__(self, recorded_calls: dict[str, RecordedCall], clock: Clock = WALL) -> None:
        self.recorded_calls = recorded_calls
        self.clock = clock
        self.unwinding: str | None = None
        self.calls = 0
        """How many calls the handler has made so far; places its output among them."""
        self.loop: asyncio.AbstractEventLoop | None = None
        """The loop that an `async def` handler runs on, where it is known: to find it at each
        call costs a system call."""
        self.unawaited: set[str] = set()
        """Calls of an `async def` handler that nobody has awaited yet."""
        self.forgotten: dict[str, set[str]] = {}
        """Those that were made in the functions of its steps, by step."""
        self._counts: dict[str, int] = {}
        self._branches: dict[str, Any] = {}
        self._lock = threading.Lock()

    def identify(self, name: str, kind: str) -> str:
        """The identity of a call of a step named `name`. Raises `Usage` for what cannot be a name,
        `ReplayError` for a name used in two branches, a record of another kind, or a call inside a
        step's function; unwinds again what is being unwound."""
        if name not in _NAMES:
            check_name(name, "step")
            if len(_NAMES) < MAX_NAMES:
                _NAMES.add(name)
        return self._identity(name, kind)

    def identify_read(self, name: str) -> str:
        """The identity of a read such as `ctx.now()`; cannot collide with any step's."""
        return self._identity(f"[{name}]", "value")

    def identify_call(
        self, method: str, subject: str, kind: str = "value", name: str | None = None
    ) -> str:
        """The identity of a call such as `ctx.state.set(subject, …)`, with the `name` that tells it
        from those of other branches; cannot collide with any step's. Empty inside a step's
        function, where such a call is part of the step. Raises as `identify`."""
        if current_step.get() is not None and kind == "value":
            return ""
        if name is None:
            return self._identity(f"[{method} {subject}]", kind)
        return self._identity(f"[{method} {subject}].{check_name(name, 'step')}", kind)

    def identify_item(self, name: str, index: int) -> str:
        """The identity of one item of a map whose own identity is `name`."""
        return self._part(f"{name}[{index}]", "run")

    def identify_page(self, key: str, number: int) -> str:
        """The identity of a further page of what the call `key` asks for. No other ends so: those
        of calls end in `]`, or in `#` and their occurrence."""
        return self._part(f"{key}@{number}", "value") if key else ""

    def _part(self, key: str, kind: str) -> str:
        with self._lock:
            self.calls += 1
        self.check_kind(key, kind)
        return key

    def _identity(self, name: str, kind: str) -> str:
        if self.unwinding is not None:
            raise Unwinding(self.unwinding)
        if (inside := current_step.get()) is not None:
            raise ReplayError(
                f"{_written(name)[0]} was used inside the function of step {inside!r}",
                hint="call it from the handler: what a step does is recorded as one",
            )
        with self._lock:
            branch = _branch(self.loop)
            if self._branches.setdefault(name, branch) is not branch:
                raise _in_two_branches(name)
            # A map is not on record itself, its items are.
            self.calls += kind != "map"
            count = self._counts[name] = self._counts.get(name, 0) + 1
        key = name if count == 1 else f"{name}#{count}"
        self.check_kind(key, kind)
        return key

    def check_kind(self, key: str, kind: str) -> None:
        """Raise `ReplayError` if `key` is on record as something else than `kind`."""
        known = self.recorded_calls.get(key)
        if known is not None and known.kind != kind and known.kind != "refused":
            raise ReplayError(
                f"{key!r} is on record as {_KIND_NAMES[known.kind]}; "
                f"the code now asks for {_KIND_NAMES[kind]}",
                hint="give the new call another name",
            )

    @property
    def replaying(self) -> bool:
        """May calls that were recorded by an earlier pass still lie ahead?"""
        return self.calls < len(self.recorded_calls)


def _written(name: str) -> tuple[str, str]:
    """What the code says that makes a call named `name`: the method, and what it is about."""
    if not name.startswith("["):
        return "ctx.step", name
    method, _, subject = name[1 : name.rindex("]")].partition(" ")
    return written_as(method), subject


def written_as(method: str) -> str:
    """How a handler's code calls `method`."""
    return _METHODS.get(method) or f"ctx.{method}"


_METHODS: Final = {
    "event.send": "ctx.events.send",
    "lock": "ctx.state.lock",
    "lock.extend": "lock.extend",
}


def told(method: str, subject: str) -> str:
    """A call for people: `ctx.state.set of 'k'`."""
    return f"{method} of {subject!r}" if subject else method


def _in_two_branches(name: str) -> ReplayError:
    method, subject = _written(name)
    if method == "ctx.step":
        return ReplayError(
            f"the name {name!r} is used from two tasks or threads of the handler",
            hint="put the key into the name (name=...), or use step.map",
        )
    return ReplayError(
        f"{told(method, subject)} is called from two tasks or threads of the handler: which call "
        "is which could not be told on a replay",
        hint="give each a name of its own, name=..., or call it in the function of a step",
    )


def _branch(loop: asyncio.AbstractEventLoop | None) -> object:
    """The task or thread that calls. The object itself, so that its id is not used again."""
    try:
        task = asyncio.current_task(loop)
    except RuntimeError:
        task = None
    return task if task is not None else threading.current_thread()
