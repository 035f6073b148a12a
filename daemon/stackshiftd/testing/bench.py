"""A daemon in the test's process, and the test's control over it.

Owns the thread that the daemon's loop runs on, the clock, and the one rule of this package: **the
clock moves only while no handler is executing**. Everything due at one time happens without the
clock moving, in the order in which it was requested; then the clock moves to whatever is due next,
and never beyond the requested time. Ids are counted, so that what is derived from them (the jitter
of a retry) is the same each time.

Invariants: the test's thread waits for the daemon, never the other way round; nothing is written to
disk; no process is started.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future, wait
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Raw

from stackshift_jobs.calls import methods
from stackshift_jobs.errors import StackshiftError
from stackshift_jobs.project.config import Config
from stackshiftd.core.records import Entry, entry_json
from stackshiftd.core.snapshot import state_hash
from stackshiftd.daemon import Daemon
from stackshiftd.journal.memory import MemoryJournal
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.ids import Ids, digits
from stackshiftd.shell.server.connection import WAITS
from stackshiftd.shell.work import Later, run_through
from stackshiftd.testing.asked import Asked, TestFailure
from stackshiftd.testing.clock import TestClock
from stackshiftd.testing.hanging import hang_report, interrupt
from stackshiftd.testing.jobs import Jobs
from stackshiftd.testing.worker import Home, LocalProcess
from stackshiftd.worker.execution import Pace
from stackshiftd.worker.frames import encode

T = TypeVar("T")
LOOK_SECONDS: Final = 0.001
"""How often to check whether all is quiet, if no record signals a change."""
WATCH_SECONDS: Final = 0.05
"""How often to check whether a call of the test is making progress."""
MAX_RECORDS: Final = 50_000
"""The most records that may follow from one call without the clock moving."""
STUCK_SECONDS: Final = 1.0
"""How long to wait for a hanging handler to end, once the test has failed because of it."""


class Bench:
    """One daemon and its worker; `close` ends both.

    All methods are for the test's thread, except `call`, which handlers use too. `patience` is the
    real time, in seconds, for which nothing may happen before the test fails.
    """

    def __init__(self, config: Config, jobs: Jobs, start_us: int, patience: float) -> None:
        self._config = config
        self._jobs = jobs
        self._patience = patience
        self.clock = TestClock(start_us)
        # Every wait suspends at once, however soon it may end, so that replay is always tested.
        pace = Pace(self.clock, keep_seconds=0.0, look_seconds=LOOK_SECONDS)
        self.home = Home(pace, jobs.greeting, patience)
        count = itertools.count(1)
        self._ids = Ids(self.clock.now_us, lambda: digits(next(count)))
        self._journal = MemoryJournal()
        self.is_stuck = False
        """True once the test has failed because a handler hangs."""
        self._failure: BaseException | None = None
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._broke)
        self._thread = threading.Thread(target=self._run, name="stackshift-daemon", daemon=True)
        self._thread.start()
        self._daemon: Daemon
        self._changed: asyncio.Event
        self.do(self._open(self._journal))

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def _broke(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, Exception):
            self._failure = error
        loop.default_exception_handler(context)

    async def _open(self, journal: MemoryJournal) -> None:
        self._journal = journal
        daemon = Daemon(
            self._config,
            journal,
            clock=self.clock.now_us,
            ids=self._ids,
            launch=lambda _config, theirs: LocalProcess(self.home, theirs),
            in_memory=True,
        )
        self._changed = asyncio.Event()
        daemon.performer.on_published = self._changed.set
        self._daemon = daemon
        await daemon.recover()
        await daemon.employ()
        await self._settled()

    # --- The test's thread -----------------------------------------------------------------

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` on the daemon's loop and return its result.

        Raises `TestFailure` if nothing happens for as long as the bench's patience.
        """
        __tracebackhide__ = True
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        seen, since = self._progress(), time.monotonic()
        while not wait([future], WATCH_SECONDS).done:
            now = self._progress()
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > self._patience:
                self.is_stuck = True
                future.cancel()
                raise TestFailure(hang_report(self.home.workers, self._patience))
        return future.result()

    def _progress(self) -> tuple[int, int]:
        daemon = getattr(self, "_daemon", None)
        return (daemon.engine.state.seq if daemon is not None else 0, self.clock.us)

    def ask(self, method: str, params: bytes, until_us: int | None = None) -> Any:
        """The answer to a method of the protocol, after all its consequences have happened.

        If the method waits for something, the clock moves forward to it, but not past `until_us`.
        Raises `LookupError` if no answer comes by then, or can ever come; the request is then
        withdrawn.
        """
        __tracebackhide__ = True
        self.refresh()
        asked = self.do(self._ask(method, params, until_us))
        if not asked.answered:
            raise LookupError(method)
        return asked.result()

    def call(self, method: str, params: bytes) -> Any:
        """The answer to a request by a handler; its consequences are not waited for."""
        return self.do(self._answered(method, params)).result()

    def records(self) -> list[dict[str, Any]]:
        """All records of the journal. It is complete: nothing is in progress between calls."""
        return [msgspec.json.decode(entry_json(entry)) for _, entry in self._journal.read(1)]

    def entries_of(self, run: str) -> list[Entry]:
        """The entries of a run, in order."""
        entries = (entry for _, entry in self._journal.read(1))
        return [entry for entry in entries if getattr(entry.record, "run", None) == run]

    def refresh(self) -> None:
        """Tell the daemon about jobs that were defined since the last call."""
        if self._jobs.changed:
            self.do(self._greet())

    def advance(self, until_us: int) -> None:
        """Move the clock to `until_us`; everything due until then happens, each at its time."""
        __tracebackhide__ = True
        self.refresh()
        self.do(self._advance(until_us))

    def restart(self, down_us: int) -> None:
        """Kill the daemon, move the clock by `down_us`, and start the daemon again.

        Raises `TestFailure` if the state replayed from the journal differs from that before.
        """
        self.do(self._restart(down_us))

    def close(self) -> None:
        """End the daemon and its worker.

        A worker that hangs is left behind, on threads that the process does not wait for.
        """
        if self.is_stuck:
            self._patience = self.home.patience = STUCK_SECONDS
            interrupt(self.home.workers)
        try:
            self.do(self._close())
        except TestFailure:
            if not self.is_stuck:
                raise
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(self._patience)
        if not self.is_stuck and self._failure is not None:
            raise TestFailure(f"the daemon failed: {self._failure!r}") from self._failure

    # --- The daemon's loop -----------------------------------------------------------------

    async def _ask(self, method: str, params: bytes, until_us: int | None) -> Asked:
        if method not in WAITS:
            asked = await self._answered(method, params)
            await self._settled()
            return asked
        # A client of its own, so that a request that gets no answer can be withdrawn.
        client = object()
        asked = self._begun(method, params, client)
        await self._settled()
        while not asked.answered and await self._advance_to_next(until_us):
            pass
        if not asked.answered:
            self._daemon.router.closed(client)  # type: ignore[arg-type]  # only compared, not used
            await self._settled()
        return asked

    async def _answered(self, method: str, params: bytes) -> Asked:
        asked = self._begun(method, params, object())
        while not asked.answered:
            await self._stirred()
        return asked

    def _begun(self, method: str, params: bytes, client: object) -> Asked:
        asked = Asked()
        router = self._daemon.router

        def answer(result: Any) -> None:
            if isinstance(result, Later):
                run_through(router.reading(result.read), asked)
            else:
                asked(result)

        try:
            # The client is only compared and stored; nothing is ever sent to it.
            work = router.call(client, method, Raw(params), answer)  # type: ignore[arg-type]
        except StackshiftError as refused:
            asked(refused)
        else:
            if work is not None:
                reads = methods.method(method).reads
                run_through(work, asked if reads else lambda _result: None)
        return asked

    async def _settled(self) -> None:
        """Wait until nothing more happens without the clock moving."""
        began_seq = self._daemon.engine.state.seq
        while not self._is_quiet():
            if self._daemon.engine.state.seq - began_seq > MAX_RECORDS:
                raise TestFailure(
                    f"{MAX_RECORDS} records without any time passing: does a job start itself?"
                )
            await self._stirred()

    def _is_quiet(self) -> bool:
        failure = self._failure or self.home.broken or self._daemon.failure
        if failure is not None:
            raise TestFailure(f"the daemon failed: {failure!r}") from failure
        daemon = self._daemon
        engine = daemon.engine
        due_us = daemon.next_due_us()
        return (
            engine.idle
            and daemon.pool.whole
            and not any(engine.state.executions.values())
            and (due_us is None or due_us > self.clock.us)
        )

    async def _stirred(self) -> None:
        changed = self._changed
        look = self._loop.call_later(LOOK_SECONDS, changed.set)
        await changed.wait()
        # An alarm of the daemon that rang in the same turn of the loop has its look for work first.
        # Without this, an alarm in step with the looks here would keep the daemon from ever seeming
        # quiet: both are a millisecond apart if the clock of the test stands before a timer.
        await asyncio.sleep(0)
        look.cancel()
        changed.clear()

    async def _greet(self) -> None:
        line = encode(self._jobs.greeting())
        for link in list(self._daemon.pool.links.values()):
            self._daemon.pool.heard(link, line)
        await self._settled()

    async def _advance(self, until_us: int) -> None:
        while await self._advance_to_next(until_us):
            pass
        self.clock.us = max(self.clock.us, until_us)
        self._daemon.ring()
        await self._settled()

    async def _advance_to_next(self, until_us: int | None) -> bool:
        """Move the clock to whatever is due next; false if nothing is due by `until_us`."""
        due_us = self._daemon.next_due_us()
        if due_us is None or (until_us is not None and due_us > until_us):
            return False
        self.clock.us = max(self.clock.us, due_us)
        self._daemon.ring()
        await self._settled()
        return True

    async def _restart(self, down_us: int) -> None:
        before = state_hash(self._daemon.engine.state)
        journal = self._journal.reopened()
        await self._daemon.end()
        replayed = Engine(journal)
        await replayed.replay(0)
        if state_hash(replayed.state) != before:
            raise TestFailure(
                "the state replayed from the journal differs from the state before the restart"
            )
        self.clock.us += down_us
        await self._open(journal)

    async def _close(self) -> None:
        await self._daemon.end()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._loop.shutdown_default_executor()
