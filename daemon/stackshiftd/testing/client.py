"""The SDK's client, connected to a daemon in the same process."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Any, Final

from stackshift_jobs.client.batches import Batch
from stackshift_jobs.client.default import DefaultClient
from stackshift_jobs.handler.scope import in_handler
from stackshift_jobs.project.locate import Project
from stackshift_jobs.values.durations import MAX_DURATION_MS
from stackshift_jobs.wire.link import Flight, Link
from stackshift_jobs.wire.request import encode
from stackshiftd.testing.asked import TestFailure
from stackshiftd.testing.bench import Bench

_PATIENCE: Final = {"run.wait": "timeout_ms", "state.wait": "wait_ms", "lock.acquire": "wait_ms"}
"""Methods that wait, and their parameter that limits the wait."""


class LocalClient(DefaultClient):
    """Sends requests to a bench. For a request by the test itself, all consequences have happened
    when the answer comes, and a wait moves the clock."""

    def __init__(self, project: Project, bench: Bench) -> None:
        super().__init__(project, timeout=None)
        self._bench = bench
        self._of_the_test = threading.get_ident()

    def ask(self, method: str, params: Mapping[str, Any]) -> Any:
        """Like `call`, but a failure is reported at the line of the test."""
        __tracebackhide__ = True
        self._check(method)
        return self._ask(method, encode(self.project, params), True, None)

    def _ask(self, method: str, body: bytes, _repeatable: bool, _deadline: float | None) -> Any:
        __tracebackhide__ = True
        if in_handler.get() is not None or threading.get_ident() != self._of_the_test:
            return self._bench.call(method, body)
        if method not in _PATIENCE:
            return self._bench.ask(method, body)
        # The bench limits the wait by its clock, not by a timer of the daemon.
        params = json.loads(body)
        wait_ms = params.get(_PATIENCE[method])
        until_us = None if wait_ms is None else self._bench.clock.us + wait_ms * 1000
        if wait_ms:
            params[_PATIENCE[method]] = MAX_DURATION_MS
        try:
            return self._bench.ask(method, json.dumps(params).encode(), until_us)
        except LookupError:
            if until_us is None:
                raise TestFailure(self._never(params["run"])) from None
        self._bench.advance(until_us)
        if method == "run.wait":
            return {"timed_out": True}
        # Answered at once: there is no entry, or the lock is refused, with its current holder.
        params[_PATIENCE[method]] = 0
        return self._bench.ask(method, json.dumps(params).encode())

    def _never(self, run: str) -> str:
        why = self._bench.ask("run.why", json.dumps({"run": run}).encode())
        return f"{run} does not end by itself: {why['why'] or why['status']}"

    def _reach(self, _deadline: float | None) -> Link:
        """Return no link: `start_many` only makes sure that a daemon exists, and uses none here."""
        return None  # type: ignore[return-value]

    def _launch(self, _batch: Batch) -> tuple[Link, Flight] | None:
        return None
