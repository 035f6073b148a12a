"""`ctx.state` and `ctx.events` of an `async def` handler: `handler.state`, awaited.

A call gets its identity when it is called, not when it is awaited. The `def` function of a step
runs on a thread, where it cannot await anything: it can return such a call, which is then awaited
for it, or use the client (`stackshift.state`), which acts at once, as these calls do in a step.
"""

from __future__ import annotations

import asyncio
from asyncio import get_running_loop
from collections.abc import Callable, Coroutine
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any

from stackshift_jobs.calls import events, state
from stackshift_jobs.calls.drive import Call
from stackshift_jobs.errors import StackshiftError, Usage
from stackshift_jobs.handler.ops import Steps
from stackshift_jobs.handler.ports import AsyncPort, awaited
from stackshift_jobs.handler.replay import Pass, told, written_as
from stackshift_jobs.handler.requests import ask, ask_all, given
from stackshift_jobs.handler.scope import current_step
from stackshift_jobs.handler.state import Block, sent_subject
from stackshift_jobs.values.durations import Duration
from stackshift_jobs.values.stored import SentEvent, StateChange, StateEntry


class _Calls:
    """Makes calls for the handler to await; until then they count as forgotten."""

    def __init__(self, pass_: Pass, port: AsyncPort) -> None:
        self._pass = pass_
        self._port = port

    def _ask(
        self, subject: str, call: Call, give: Callable[[Any], Any], name: str | None
    ) -> Coroutine[Any, Any, Any]:
        """`call`, about `subject`; returns its result, converted by `give`."""
        step = identify(self._pass, call[0], subject, name)
        made = given(ask(self._pass, step, call), give)
        return called(self._pass, self._port, step, subject, call[0], made)


def identify(pass_: Pass, method: str, subject: str, name: str | None = None) -> str:
    """As `Pass.identify_call`. Raises `Usage` in an event loop of the step's own, where the call
    could not be awaited."""
    step = pass_.identify_call(method, subject, name=name)
    if not step and pass_.step_loop is not None and _running_loop() not in (None, pass_.step_loop):
        raise Usage(
            f"{written_as(method)} was called in another event loop than the worker's (in step "
            f"{current_step.get()!r}), where it cannot be awaited",
            hint=f"use stackshift.{written_as(method).removeprefix('ctx.')} there",
        )
    return step


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return get_running_loop()
    except RuntimeError:
        return None  # a `def` function on a thread; what it returns is awaited on the loop


def called(
    pass_: Pass, port: AsyncPort, step: str, subject: str, method: str, made: Steps
) -> Coroutine[Any, Any, Any]:
    """The call `made`, for the handler to await; until then it counts as forgotten. In the function
    of a step (`step` is empty) it is one of that step."""
    if step:
        call = pass_.unawaited[step] = awaited(made, port, step, pass_.unawaited)
        return call
    within = pass_.forgotten.setdefault(current_step.get() or "", {})
    shown = told(written_as(method), subject)
    call = within[shown] = awaited(made, port, "", within, name=shown)
    return call


class AsyncRunState(_Calls):
    """The project's durable entries. See `RunState`."""

    def get(
        self, key: str, default: Any = None, *, returns: Any = None, name: str | None = None
    ) -> Coroutine[Any, Any, Any]:
        """The value at `key`; `default` if there is none. See `RunState.get`."""
        give = partial(state.value, default=default, returns=returns)
        return self._ask(key, state.get(key), give, name)

    def entry(self, key: str, *, name: str | None = None) -> Coroutine[Any, Any, StateEntry | None]:
        """The entry at `key`, with its value and its version (for `if_version`); None if there is
        none."""
        return self._ask(key, state.get(key), state.entry, name)

    def set(
        self,
        key: str,
        value: Any,
        *,
        ttl: Duration | None = None,
        expires_at: datetime | str | None = None,
        if_version: int | None = None,
        if_absent: bool = False,
        name: str | None = None,
    ) -> Coroutine[Any, Any, int]:
        """Write `value` at `key`; returns the entry's new version. See `RunState.set`."""
        call = state.set_(
            key, value, ttl=ttl, expires_at=expires_at, if_version=if_version, if_absent=if_absent
        )
        return self._ask(key, call, state.version, name)

    def delete(
        self, key: str, *, if_version: int | None = None, name: str | None = None
    ) -> Coroutine[Any, Any, bool]:
        """Remove the entry at `key`; returns whether there was one. Raises `Conflict` if its
        version is not `if_version`."""
        call = state.delete(key, if_version=if_version)
        return self._ask(key, call, state.existed, name)

    def increment(
        self,
        key: str,
        by: int | float = 1,
        *,
        ttl: Duration | None = None,
        name: str | None = None,
    ) -> Coroutine[Any, Any, int | float]:
        """Add `by` to the number at `key`; returns the new number. See `RunState.increment`."""
        return self._ask(key, state.increment(key, by, ttl=ttl), state.number, name)

    def history(
        self, key: str, limit: int = 50, *, name: str | None = None
    ) -> Coroutine[Any, Any, list[StateChange]]:
        """The last `limit` changes of the entry at `key`, newest first, as far back as the journal
        goes."""
        step = identify(self._pass, "state.history", key, name)
        made = ask_all(self._pass, step, state.history(key, limit))
        return called(self._pass, self._port, step, key, "state.history", made)

    def list(
        self, prefix: str = "", *, name: str | None = None
    ) -> Coroutine[Any, Any, list[StateEntry]]:
        """All entries whose key begins with `prefix`, in the order of their keys."""
        step = identify(self._pass, "state.list", prefix, name)
        made = ask_all(self._pass, step, state.listing(prefix))
        return called(self._pass, self._port, step, prefix, "state.list", made)

    def lock(
        self,
        key: str,
        *,
        ttl: Duration | None = None,
        wait: Duration | None = None,
        holders: int = 1,
        name: str | None = None,
    ) -> AsyncRunLock:
        """The lock `key`, for an `async with` block. See `RunState.lock`."""
        return AsyncRunLock(self._pass, self._port, key, ttl, wait, holders, name)


class AsyncRunEvents(_Calls):
    """Sends events, each exactly once."""

    def send(
        self,
        name: str,
        payload: Any = None,
        *,
        correlation_key: str | None = None,
        idempotency_key: str | None = None,
        idempotency_ttl: Duration | None = None,
        ttl: Duration | None = None,
        call_name: str | None = None,
    ) -> Coroutine[Any, Any, SentEvent]:
        """Send an event to the runs that are waiting for it. See `RunEvents.send`."""
        call = events.send(
            name,
            payload,
            correlation_key=correlation_key,
            idempotency_key=idempotency_key,
            idempotency_ttl=idempotency_ttl,
            ttl=ttl,
        )
        subject = sent_subject(name, correlation_key)
        return self._ask(subject, call, events.sent, call_name)


class AsyncRunLock(Block):
    """`RunLock`, awaited."""

    def __init__(
        self,
        pass_: Pass,
        port: AsyncPort,
        key: str,
        ttl: Duration | None,
        wait: Duration | None,
        holders: int,
        name: str | None,
    ) -> None:
        super().__init__(pass_, key, ttl, wait, holders, name)
        self._port = port

    async def __aenter__(self) -> AsyncRunLock:
        self._enter(await awaited(self._taking(), self._port, self._step))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, bad: BaseException | None, at: TracebackType | None
    ) -> None:
        leaving = self._leaving(bad)
        if leaving is None:
            return
        try:
            await awaited(leaving, self._port, self._step, releases=True)
        except StackshiftError:
            if bad is None:
                raise

    def extend(self, ttl: Duration) -> Coroutine[Any, Any, None]:
        """Hold the lock for `ttl` from now on. Raises `LockLost` if the run has lost it."""
        step = identify(self._pass, "lock.extend", self.key)
        made = self._extending(step, ttl)
        return called(self._pass, self._port, step, self.key, "lock.extend", made)
