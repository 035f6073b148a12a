"""One pass of a handler: the identity of each call on `ctx`, and whether it is recorded.

A call is identified by its branch, name and occurrence (`page`, `page#2`, `index/page`), never by
its position among other calls, and gets its identity when it is called. The branches of an `async
def` handler are its tasks, whose loop names them; those of a `def` handler are threads, which no
replay can distinguish. Invariants: a name belongs to one thread of a `def` handler; a record
answers only calls of its own kind; a pass that is being unwound records nothing; no text of a
secret is recorded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from threading import Lock, Thread, current_thread
from typing import Any, Final, NamedTuple, NoReturn, Protocol

from stackshift_jobs.errors import PayloadRefused, ReplayError, Usage
from stackshift_jobs.handler.cancelling import Cancellation
from stackshift_jobs.handler.clock import WALL, Clock
from stackshift_jobs.handler.ops import RecordedCall
from stackshift_jobs.handler.scope import current_pass, current_step
from stackshift_jobs.values import secrets
from stackshift_jobs.values.durations import format_ms
from stackshift_jobs.values.encoding import json_form
from stackshift_jobs.values.identities import UNDO
from stackshift_jobs.values.limits import PAYLOAD_BYTES
from stackshift_jobs.values.names import check_name
from stackshift_jobs.values.strict_json import dumps

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


MAX_REFUSALS: Final = 100
MAX_NAMES: Final = 10_000
_NAMES: Final[set[str]] = set()
"""Step names that were checked and are valid: every run uses the same ones again."""


class Identity(NamedTuple):
    """The identity `key` that was given to a call called `name`."""

    name: str
    key: str
    kind: str


identified: Final[ContextVar[list[Identity] | None]] = ContextVar(
    "stackshift_identified", default=None
)
"""Gets the identities that the running code is given, in a `def` handler."""


class BranchLoop(Protocol):
    """The event loop of an `async def` handler."""

    def branch(self) -> str:
        """The prefix of the identities of calls made in the task that runs."""


class Unwinding(BaseException):
    """Unwinds a `def` handler at a wait or a stop. A `BaseException`, so that `except Exception`
    cannot swallow it."""


class Continued(BaseException):
    """Ends a handler that continues as a new run, whose payload (JSON) it holds. A `BaseException`
    for the same reason."""

    def __init__(self, payload: bytes) -> None:
        super().__init__("the run continues as another")
        self.payload = payload


class Pass:
    """The record of a run, as one pass of its handler sees it.

    `recorded_calls` maps identities to records. `unwinding` is None, or why the pass is being
    unwound.
    """

    __slots__ = (
        "_counts",
        "_lock",
        "_threads",
        "abandon",
        "begun",
        "calls",
        "cancellation",
        "clock",
        "continued",
        "forgotten",
        "loop",
        "recorded_calls",
        "refusals",
        "secrets",
        "step_loop",
        "unawaited",
        "undoes",
        "undos",
        "unsure",
        "unwinding",
    )

    def __init__(self, recorded_calls: dict[str, RecordedCall], clock: Clock = WALL) -> None:
        self.recorded_calls = recorded_calls
        self.clock = clock
        self.unwinding: str | None = None
        self.secrets = secrets.of_execution()
        self.cancellation: Cancellation | None = None
        """Set if the run is to be cancelled gently."""
        self.undoes = False
        """Is this a pass over what is on record, to learn how that is undone? Nothing begins."""
        self.undos: dict[str, tuple[Any, Any]] = {}
        """Step → what undoes it (an `undo.Undo`), and its result; None if that is not known."""
        self.unsure: dict[str, int] = {}
        """Steps without a result that are to be undone, with their places in the order."""
        self.begun: set[str] = set()
        """Steps of which it is on record that their functions begin, and that have not ended."""
        self.continued: Continued | None = None
        """Raised by `ctx.continue_as`; the handler ends with it."""
        self.refusals = 0
        self.abandon: Callable[[], None] | None = None
        """Called by a thread of a `def` handler that does not let itself be unwound; it need not
        return."""
        self.calls = 0
        """How many calls the handler has made so far; says where among them its output belongs."""
        self.loop: BranchLoop | None = None
        """The event loop of an `async def` handler."""
        self.step_loop: asyncio.AbstractEventLoop | None = None
        """The event loop on which the functions of its steps are awaited."""
        self.unawaited: dict[str, Coroutine[Any, Any, Any] | None] = {}
        """Calls that nobody has awaited or entered yet."""
        self.forgotten: dict[str, dict[str, Coroutine[Any, Any, Any]]] = {}
        """Such calls made in the functions of the steps of an `async def` handler, by step."""
        self._counts: dict[str, int] = {}
        self._threads: dict[str, Thread] = {}
        self._lock = Lock()

    def encode(
        self,
        value: Any,
        max_bytes: int = PAYLOAD_BYTES,
        what: str = "the value",
        form: Callable[[Any], Any] = json_form,
        key: str = "",
    ) -> bytes:
        """`value` as JSON that can be recorded. Raises `PayloadRefused`, with the path, for what
        JSON cannot hold, for more than `max_bytes`, which it says of `what` and the call `key`, and
        for the text of a secret."""
        try:
            text = dumps(value, max_bytes, what, form)
        except PayloadRefused as bad:
            if key:  # The same again, with words that are made only now.
                return self.encode(value, max_bytes, f"{what} {key!r}", form)
            if what in bad.message:
                raise
            told = f"{what} cannot be recorded: {bad.message}"
            raise PayloadRefused(told, hint=bad.hint, path=bad.path) from None
        if self.secrets.refused:
            self.secrets.check(text)
        return text

    def identify(self, name: str, kind: str) -> str:
        """The identity of a call on `ctx.step` with this name. Raises `Usage` for an invalid name;
        `ReplayError` for a name used in two branches, a record of another kind, or a call inside a
        step's function; and `Unwinding` if the pass is already being unwound."""
        if name not in _NAMES:
            check_name(name, "step")
            if name.startswith(UNDO):
                raise Usage(
                    f"{name!r} cannot name a step: what undoes a step is called so",
                    hint="ctx.step.run(name, fn, undo=...)",
                )
            if len(_NAMES) < MAX_NAMES:
                _NAMES.add(name)
        return self._identity(name, kind)

    def identify_timer(self, delay_ms: int) -> str:
        """The identity of a timer of asyncio's in an `async def` handler, set to `delay_ms`."""
        return self._identity(f"[timer {format_ms(delay_ms)}]", "sleep")

    def identify_read(self, name: str) -> str:
        """The identity of a read such as `ctx.now()`; never the same as a step's."""
        return self._identity(f"[{name}]", "value")

    def identify_call(
        self, method: str, subject: str, kind: str = "value", name: str | None = None
    ) -> str:
        """The identity of a call such as `ctx.state.set(subject, …)`; never the same as a step's.
        `name` distinguishes it from calls in other branches. Empty inside a step's function, where
        such a call is part of the step. Raises the same errors as `identify`."""
        if current_step.get() is not None and kind == "value":
            self._refuse_others()
            return ""
        if name is None:
            return self._identity(f"[{method} {subject}]", kind)
        return self._identity(f"[{method} {subject}].{check_name(name, 'step')}", kind)

    def identify_item(self, name: str, index: int) -> str:
        """The identity of one item of a map whose own identity is `name`."""
        return self._part(f"{name}[{index}]", "run")

    def identify_page(self, key: str, number: int) -> str:
        """The identity of a further page of the list that the call `key` asks for. No other
        identity ends like this: those of calls end in `]`, or in `#` and their occurrence."""
        return self._part(f"{key}@{number}", "value") if key else ""

    def _part(self, key: str, kind: str) -> str:
        with self._lock:
            self.calls += 1
        self.check_kind(key, kind)
        return key

    def _refuse_others(self) -> None:
        """Raise `ReplayError` if what runs belongs to another pass: the call would be recorded for
        a run whose handler does not make it."""
        if current_pass.get() not in (self, None):
            raise ReplayError(
                "the ctx of another run, or of an earlier pass of this one, was used",
                hint="keep ctx in variables of the handler and hand it over to functions; what a "
                "global or an object that runs share holds is the ctx of the last one that began",
            )

    def _identity(self, name: str, kind: str) -> str:
        self._refuse_others()
        if self.unwinding is not None:
            if self.loop is None:
                self.refuse()
            return name  # of a call that never returns
        if self.secrets.refused and (secret := self.secrets.found_in(name)) is not None:
            raise Usage(
                f"the name {self.secrets.mask(name)!r} contains {secret}, which is never recorded",
                hint="name it after what it is for",
            )
        if (inside := current_step.get()) is not None:
            raise ReplayError(
                f"{_written(name)[0]} was used inside the function of step {inside!r}",
                hint="call it in the handler: a step is recorded as a whole",
            )
        if self.loop is not None:
            key = self._occurrence(self.loop.branch() + name, kind)
        else:
            with self._lock:
                # The thread itself, since its id could be reused.
                thread = current_thread()
                if self._threads.setdefault(name, thread) is not thread:
                    raise _in_two_threads(name)
                key = self._occurrence(name, kind)
            if (made := identified.get()) is not None:
                made.append(Identity(name, key, kind))
        if key in self.recorded_calls:
            self.check_kind(key, kind)
        return key

    def refuse(self) -> NoReturn:
        """Raise `Unwinding`. A handler that catches it and goes on is refused each further call;
        after `MAX_REFUSALS` it is abandoned, or it would go round in circles for ever."""
        self.refusals += 1
        if self.refusals > MAX_REFUSALS and self.abandon is not None:
            self.abandon()
        raise Unwinding(self.unwinding)

    def continue_as(self, payload: bytes) -> NoReturn:
        """Raise `Continued`, which ends the handler. Raises `ReplayError` inside a step's function
        and at a second call, and `Unwinding` if the pass is being unwound already."""
        if self.unwinding is not None:
            self.refuse()
        if (inside := current_step.get()) is not None:
            raise ReplayError(
                f"ctx.continue_as was used inside the function of step {inside!r}",
                hint="call it in the handler, as the last thing that it does",
            )
        if self.continued is not None:
            raise ReplayError(
                "ctx.continue_as was called twice",
                hint="it ends the handler: let no `except:` keep it from that, and no other branch "
                "call it",
            )
        self.continued = Continued(payload)
        raise self.continued

    def unidentify(self, made: list[Identity]) -> None:
        """Take identities back: the same calls are made again, and are to get the same ones."""
        with self._lock:
            for each in made:
                self._counts[each.name] -= 1
                self.calls -= each.kind != "map"

    def _occurrence(self, name: str, kind: str) -> str:
        # A map has no record of its own, its items have.
        self.calls += kind != "map"
        count = self._counts[name] = self._counts.get(name, 0) + 1
        return name if count == 1 else f"{name}#{count}"

    def check_kind(self, key: str, kind: str) -> None:
        """Raise `ReplayError` if `key` is recorded as another kind of call than `kind`."""
        known = self.recorded_calls.get(key)
        if known is not None and known.kind not in (kind, "refused"):
            raise ReplayError(
                f"{key!r} is recorded as {_KIND_NAMES[known.kind]}; "
                f"the code now asks for {_KIND_NAMES[kind]}",
                hint="give the new call another name",
            )

    @property
    def holds(self) -> bool:
        """Is the handler yet to be told that its run is cancelled? Until then nothing new
        begins."""
        return self.cancellation is not None and not self.cancellation.is_told

    @property
    def is_told(self) -> bool:
        """Was the handler told that its run is cancelled?"""
        return self.cancellation is not None and self.cancellation.is_told

    @property
    def replaying(self) -> bool:
        """Whether calls recorded by an earlier pass may still come."""
        return self.calls < len(self.recorded_calls)


def _written(name: str) -> tuple[str, str]:
    """How the code writes the call with this identity: the method, and its subject."""
    if not name.startswith("["):
        return "ctx.step", name
    method, _, subject = name[1 : name.rindex("]")].partition(" ")
    return written_as(method), subject


def written_as(method: str) -> str:
    """How the code of a handler writes `method`: `ctx.state.set`."""
    return _METHODS.get(method) or f"ctx.{method}"


_METHODS: Final = {
    "event.send": "ctx.events.send",
    "label": "ctx.label",
    "lock": "ctx.state.lock",
    "lock.extend": "lock.extend",
}


def told(method: str, subject: str) -> str:
    """A call as messages show it: `ctx.state.set of 'k'`."""
    return f"{method} of {subject!r}" if subject else method


def _in_two_threads(name: str) -> ReplayError:
    method, subject = _written(name)
    if method == "ctx.step":
        return ReplayError(
            f"the name {name!r} is used from two threads of the handler",
            hint="give each its own name, for example with a key in it, or use step.map",
        )
    return ReplayError(
        f"{told(method, subject)} is called from two threads of the handler: a replay could not "
        "distinguish the calls",
        hint="give each call a name of its own with name=..., or call it in the function of a step",
    )
