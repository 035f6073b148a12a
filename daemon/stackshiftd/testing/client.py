"""The SDK's client, of which the daemon is in the same process."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Any

from stackshift_jobs.batches import Batch
from stackshift_jobs.default_client import DefaultClient
from stackshift_jobs.handler_scope import in_handler
from stackshift_jobs.link import Flight, Link
from stackshift_jobs.project import Project
from stackshift_jobs.request import encode
from stackshiftd.testing.bench import Bench, TestFailure


class LocalClient(DefaultClient):
    """Asks a bench. When the test itself asks, what follows happens before it is answered; a wait
    moves the clock."""

    def __init__(self, project: Project, bench: Bench) -> None:
        super().__init__(project, timeout=None)
        self._bench = bench
        self._of_the_test = threading.get_ident()

    def ask(self, method: str, params: Mapping[str, Any]) -> Any:
        """As `call`; what fails a test is told of where the test stands."""
        __tracebackhide__ = True
        self._check(method)
        return self._ask(method, encode(self.project, params), True, None)

    def _ask(self, method: str, body: bytes, repeatable: bool, deadline: float | None) -> Any:
        __tracebackhide__ = True
        if in_handler.get() is not None or threading.get_ident() != self._of_the_test:
            return self._bench.call(method, body)
        until_us = None
        if method == "run.wait":
            params = json.loads(body)
            timeout_ms = params.pop("timeout_ms", None)
            if timeout_ms is not None:
                until_us = self._bench.clock.us + timeout_ms * 1000
                body = json.dumps(params).encode()
        try:
            return self._bench.ask(method, body, until_us)
        except LookupError:
            if until_us is not None:
                self._bench.advance(until_us)
                return {"timed_out": True}
            raise TestFailure(self._never(method, body)) from None

    def _never(self, method: str, body: bytes) -> str:
        params: Mapping[str, Any] = json.loads(body)
        if method != "run.wait":
            return f"{method} of {params} is never answered: nothing is due any more"
        why = self._bench.ask("run.why", json.dumps({"run": params["run"]}).encode())
        return f"{params['run']} does not end by itself: {why['why'] or why['status']}"

    def _reach(self, deadline: float | None) -> Link:
        """See `start_many`: it makes sure that there is a daemon, and uses no link here."""
        return None  # type: ignore[return-value]

    def _launch(self, batch: Batch) -> tuple[Link, Flight] | None:
        return None
