"""Handlers as scripts: a `Pass` plays one as the SDK plays a handler, answering from memos what is
on record.

A pass is made of generators that yield what the handler asks (`Ask`) or waits for (`Park`), and are
sent the answers. To drop a generator is what a crash or a suspension does to a handler: nothing
more happens in it. What a script does, and in which order, depends on its memos and on the number
of its attempt alone.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

from core.histories.naive_model import Event, Naive, Wait, Who, most
from stackshift_jobs.values.durations import from_rfc3339
from stackshift_jobs.values.strict_json import canonical, dumps
from stackshiftd.core import commands as c
from stackshiftd.core import records as r

KEYS: Final = (("a", "b"), ("c", "d"))
"""Of entries and locks, by branch: one key is not used from two branches of a handler."""
EVENTS: Final = (("go", ""), ("go", "k"), ("stop", "k"))
SPANS_MS: Final = (0, 1, 1000, 10_000, 60_000)
STEP_TERMS: Final = r.RetryTerms(max_attempts=3, backoff_ms=500, jitter=0.0)
RETENTION_MS: Final = 30_000

Op = tuple[Any, ...]


class CallKind(NamedTuple):
    """A recorded call, as it is sent to a worker."""

    kind: str
    phase: str
    body: Any = None
    due_us: int = 0


class Failed(Exception):
    """A call of the handler raised. `step` is the call that is tried again if nobody catches it."""

    def __init__(self, step: str = "", retryable: bool = True) -> None:
        super().__init__(step)
        self.step = step
        self.retryable = retryable


class Answer(NamedTuple):
    """The answer to a call: a result, an error, or when it is due."""

    body: Any = None
    error: Any = None
    due_us: int = 0


class Ask(NamedTuple):
    """A command to send; `expect` says what the naive model makes of it."""

    command: Callable[..., c.Command]
    fields: dict[str, Any]
    step: str
    expect: Callable[[Naive, int], Any] | None


class Park(NamedTuple):
    """The branch is blocked until the call `step` has its answer."""

    step: str


Branch = Generator[Ask | Park, Any, None]


class World(Protocol):
    """What a pass can learn from outside: nothing that a handler could not."""

    @property
    def now_us(self) -> int:
        """The wall clock, in microseconds since 1970."""

    def answered_again(self, of: Pass, step: str, memo: CallKind) -> None:
        """Check an answer that is replayed to a pass against the model."""

    def failing(self, run: str, step: str, times: int) -> bool:
        """Does this try of the step fail, if its first `times` tries do?"""

    def new_event(self) -> str:
        """The id of a new event."""

    def child(self, script: list[list[Op]]) -> c.StartRun:
        """A run to start, whose handler plays `script`."""


class Pass:
    """One pass of a handler."""

    def __init__(
        self, world: World, run: str, token: int, attempt: int, memos: dict[str, CallKind]
    ) -> None:
        self.world = world
        self.run = run
        self.token = token
        self.attempt = attempt
        self.memos = memos
        self._times: dict[str, int] = {}

    def name(self, named: str) -> str:
        """The name of the next call called `named`, with its occurrence."""
        times = self._times[named] = self._times.get(named, 0) + 1
        return f"{named}#{times}" if times > 1 else named

    def branch(self, number: int, ops: list[Op]) -> Branch:
        """Begin the branch `number`, which plays `ops`."""
        return _Branch(self, number).play(ops)


class _Branch:
    """One branch of a pass, with the blocks of locks that it is in."""

    def __init__(self, of: Pass, number: int) -> None:
        self.of = of
        self.number = number
        self.blocks: list[str] = []
        self.read: dict[str, int] = {}

    def play(self, ops: list[Op]) -> Branch:
        for verb, *args in ops:
            yield from getattr(self, f"_{verb}")(*args)

    # --- What is answered at once ----------------------------------------------------------

    def recorded(
        self,
        named: str,
        command: Callable[..., c.Command],
        expect: Callable[[Naive, int], Any],
        **fields: Any,
    ) -> Generator[Ask | Park, Any, Any]:
        """A call that is answered at once, and from its record ever after."""
        of = self.of
        name = of.name(named)
        memo = of.memos.get(name)
        if memo is None:
            yield from self.check(name)
            answer = yield Ask(command, fields, name, expect)
            phase = "failed" if answer.error is not None else "completed"
            memo = of.memos[name] = CallKind("value", phase, answer.body)
        else:
            of.world.answered_again(of, name, memo)
        if memo.phase == "failed":
            raise Failed(name)
        return memo.body

    def check(self, name: str) -> Branch:
        """Before a call that is not on record: are the locks still held that surround it?"""
        of = self.of
        for lock in self.blocks:
            memo = of.memos[lock]
            assert memo.phase != "left", f"{of.run}: {name} happens in a block that was left"
            if memo.phase == "gone" or 0 < memo.due_us <= of.world.now_us:
                expect = partial(_checked, who=(of.run, lock))
                answer = yield Ask(c.CheckLock, {"lock": lock}, name, expect)
                if answer.error is not None:
                    raise Failed(name)

    def pass_on_refusal(self, name: str) -> None:
        """What was refused, whatever was asked for, is refused on every pass."""
        if self.of.memos[name].kind == "refused":
            raise Failed(name)

    def _set(self, at: int, value: Any, ttl_ms: int | None, condition: str) -> Branch:
        key = KEYS[self.number][at]
        terms: dict[str, Any] = {}
        if condition == "absent":
            terms = {"if_absent": True}
        elif condition == "version":
            terms = {"if_version": self.read.get(key, 0)}

        def expect(naive: Naive, now_us: int) -> Any:
            return naive.set(key, value, self.of.run, now_us, ttl_us=_us(ttl_ms), **terms)

        fields = {"key": key, "value": dumps(value), "ttl_ms": ttl_ms, **terms}
        yield from self.recorded(f"[state.set {key}]", c.SetState, expect, **fields)

    def _increment(self, at: int, by: int, ttl_ms: int | None) -> Branch:
        key = KEYS[self.number][at]

        def expect(naive: Naive, now_us: int) -> Any:
            return naive.increment(key, by, self.of.run, now_us, _us(ttl_ms))

        fields = {"key": key, "by": dumps(by), "ttl_ms": ttl_ms}
        yield from self.recorded(f"[state.increment {key}]", c.IncrementState, expect, **fields)

    def _get(self, at: int) -> Branch:
        key = KEYS[self.number][at]

        def expect(naive: Naive, now_us: int) -> Any:
            return naive.read(key, now_us)

        entry = yield from self.recorded(f"[state.get {key}]", c.ReadState, expect, key=key)
        self.read[key] = entry["version"] if entry is not None else 0

    def _delete(self, at: int) -> Branch:
        key = KEYS[self.number][at]

        def expect(naive: Naive, now_us: int) -> Any:
            return naive.delete(key, now_us, now_us + RETENTION_MS * 1000)

        fields = {"key": key, "remember_ms": RETENTION_MS}
        yield from self.recorded(f"[state.delete {key}]", c.DeleteState, expect, **fields)

    def _send(self, at: int, payload: int, ttl_ms: int, once: str | None) -> Branch:
        name = f"[event.send {EVENTS[at][0]}]b{self.number}"
        event = self.of.world.new_event()
        terms = (event, at, payload, ttl_ms, once)
        yield from self.recorded(name, c.SendEvent, sends(*terms), **sent(*terms))

    # --- What is waited for ----------------------------------------------------------------

    def _wait(self, ats: tuple[int, ...], timeout_ms: int | None, on_timeout: str) -> Branch:
        of = self.of
        name = of.name(f"wait{self.number}")
        if name not in of.memos:
            yield from self.check(name)
            events = [EVENTS[at] for at in ats]

            def expect(naive: Naive, now_us: int) -> Any:
                due_us = now_us + timeout_ms * 1000 if timeout_ms is not None else 0
                return naive.wait((of.run, name), Wait(tuple(events), due_us, on_timeout), now_us)

            terms = {"events": events, "timeout_ms": timeout_ms, "on_timeout": on_timeout}
            of.memos[name] = CallKind("event", "waiting")
            yield Ask(c.AwaitEvent, terms, name, expect)
        if of.memos[name].phase == "waiting":
            yield Park(name)
        self.pass_on_refusal(name)
        memo = of.memos[name]
        of.world.answered_again(of, name, memo)
        assert not memo.body["timed_out"] or on_timeout == "continue"

    def _sleep(self, delay_ms: int) -> Branch:
        of = self.of
        name = of.name(f"sleep{self.number}")
        if name not in of.memos:
            yield from self.check(name)
            of.memos[name] = CallKind("sleep", "waiting")
            yield Ask(c.BeginSleep, {"delay_ms": delay_ms}, name, None)
        if of.memos[name].phase == "waiting":
            yield Park(name)
        self.pass_on_refusal(name)

    def _call(self, script: list[list[Op]]) -> Branch:
        """Start a run and wait for it."""
        of = self.of
        name = of.name(f"child{self.number}")
        if name not in of.memos:
            yield from self.check(name)
            of.memos[name] = CallKind("child", "waiting")
            yield Ask(c.StartChild, {"start": of.world.child(script), "wait": True}, name, None)
        if of.memos[name].phase == "waiting":
            yield Park(name)
        self.pass_on_refusal(name)

    def _lock(self, at: int, ttl_ms: int, wait_ms: int | None, ops: list[Op]) -> Branch:
        of, key = self.of, KEYS[self.number][at]
        name = of.name(f"[lock {key}]")
        if name not in of.memos:
            yield from self.check(name)
            of.memos[name] = CallKind("lock", "waiting")

            def expect(naive: Naive, now_us: int) -> Any:
                return naive.take(key, (of.run, name), ttl_ms * 1000, _us(wait_ms), now_us)

            fields = {"key": key, "ttl_ms": ttl_ms, "wait_ms": wait_ms, "holders": most(key)}
            answer = yield Ask(c.AcquireLock, fields, name, expect)
            if answer.error is not None:
                raise Failed(name)
            if answer.body is not None:
                until = answer.body["expires_at"]
                due_us = from_rfc3339(until) if until else 0
                of.memos[name] = CallKind("lock", "completed", answer.body, due_us)
        if of.memos[name].phase == "waiting":
            yield Park(name)
        if of.memos[name].phase == "failed":
            raise Failed(name)
        self.blocks.append(name)
        try:
            yield from self.play(ops)
        except Failed:
            self.blocks.pop()
            yield from self._leave(name, raised=True)
            raise
        self.blocks.pop()
        yield from self._leave(name, raised=False)

    def _leave(self, name: str, *, raised: bool) -> Branch:
        of = self.of
        held = of.memos[name].phase == "completed"
        if held:

            def expect(naive: Naive, now_us: int) -> Any:
                return naive.leave((of.run, name), now_us)

            answer = yield Ask(c.ReleaseLock, {"lock": name, "raised": raised}, "", expect)
            held = answer.body["held"]
            left = held and not raised
            of.memos[name] = of.memos[name]._replace(phase="left" if left else "gone")
        if of.memos[name].phase == "gone" and not raised:
            raise Failed

    def _extend(self, at: int, ttl_ms: int) -> Branch:
        key = KEYS[self.number][at]

        def expect(naive: Naive, now_us: int) -> Any:
            return naive.extend(key, (self.of.run, "a call"), ttl_ms * 1000, now_us)

        fields = {"key": key, "ttl_ms": ttl_ms}
        yield from self.recorded(f"[lock.extend {key}]", c.ExtendLock, expect, **fields)

    # --- Steps, and what goes wrong --------------------------------------------------------

    def _step(self, ops: list[Op], fails: int, retried: bool) -> Branch:
        """A function: its own writes act at once, and again each time that it is tried."""
        of = self.of
        name = of.name(f"step{self.number}")
        while True:
            memo = of.memos.get(name)
            if memo is not None and memo.phase == "completed":
                return
            if memo is not None and memo.phase == "failed":
                raise Failed(name)
            if memo is not None and memo.phase == "retrying":
                yield Park(name)
                continue
            yield from self.check(name)
            for verb, *args in ops:
                yield getattr(self, f"_act_{verb}")(*args)
            tried = memo.body if memo is not None else 0
            fields: dict[str, Any] = {"tried": (tried or 0) + 1}
            if not of.world.failing(of.run, name, fails):
                yield Ask(c.CompleteStep, fields | {"result": r.NULL}, name, None)
                of.memos[name] = CallKind("run", "completed")
                return
            fields |= {"error": r.Error("E", "boom"), "retry": STEP_TERMS if retried else None}
            answer = yield Ask(c.FailStep, fields, name, None)
            if name not in of.memos or of.memos[name].phase == "running":
                phase = "retrying" if answer.due_us else "failed"
                of.memos[name] = CallKind("run", phase, fields["tried"])

    def _act_increment(self, at: int, by: int) -> Ask:
        key = KEYS[self.number][at]

        def expect(naive: Naive, now_us: int) -> Any:
            return naive.increment(key, by, self.of.run, now_us)

        return Ask(c.IncrementState, {"key": key, "by": dumps(by)}, "", expect)

    def _act_send(self, at: int, payload: int) -> Ask:
        terms = (self.of.world.new_event(), at, payload, 60_000, None)
        return Ask(c.SendEvent, sent(*terms), "", sends(*terms))

    def _fail(self, before: int, retryable: bool) -> Branch:
        """Raise in the attempts before this one."""
        if self.of.attempt < before:
            raise Failed(retryable=retryable)
        yield from ()

    def _try(self, ops: list[Op]) -> Branch:
        try:
            yield from self.play(ops)
        except Failed:
            return


def _us(ms: int | None) -> int | None:
    return ms * 1000 if ms is not None else None


def _checked(naive: Naive, now_us: int, who: Who) -> Any:
    return naive.check(who, now_us)


def sent(event: str, at: int, payload: int, ttl_ms: int, once: str | None) -> dict[str, Any]:
    """The fields of a command that sends an event."""
    name, key = EVENTS[at]
    return {
        "event": event,
        "name": name,
        "correlation_key": key,
        "payload": dumps(payload),
        "ttl_ms": ttl_ms,
        "key": once,
        "key_ttl_ms": 20_000 if once is not None else 0,
        "digest": canonical([name, key, payload]).decode() if once is not None else "",
    }


def sends(
    event: str, at: int, payload: int, ttl_ms: int, once: str | None
) -> Callable[[Naive, int], Any]:
    """What the naive model makes of it."""
    return lambda naive, now_us: naive.send(
        Event(event, EVENTS[at], payload, now_us + ttl_ms * 1000), now_us, once, 20_000_000
    )
