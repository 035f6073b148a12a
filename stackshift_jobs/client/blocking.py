"""The client for applications: starts runs, waits for them and reads them, from any thread.

Owns `Client` and the handles that it returns. It never starts a daemon. `calls` and `batches` make
the requests, `wire.link` sends them, and `wire.retransmit` decides whether one may be sent twice.

Invariant: there is at most one connection at a time, which all threads share; a forked child has
its own.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from time import monotonic
from typing import Any, Unpack

from stackshift_jobs.calls.drive import drive
from stackshift_jobs.calls.many_runs import BulkResult, RunFilters, change_all, filter_params
from stackshift_jobs.calls.run_pages import detailed
from stackshift_jobs.calls.runs import (
    MoveOptions,
    RunPage,
    StartOptions,
    cancel_params,
    cancel_terms,
    check_id,
    fork_params,
    list_params,
    move_params,
    outcome,
    retry_params,
    start_params,
)
from stackshift_jobs.client.batches import IN_FLIGHT, Batch, batch_failed, batch_results, batches
from stackshift_jobs.client.events import Events
from stackshift_jobs.client.state import State
from stackshift_jobs.errors import Busy, DaemonUnavailable, StackshiftError, Usage, from_json
from stackshift_jobs.project.locate import Project, find_project
from stackshift_jobs.values.durations import Duration, milliseconds
from stackshift_jobs.values.names import check_name
from stackshift_jobs.values.payload_types import check_type
from stackshift_jobs.wire.link import Flight, Link
from stackshift_jobs.wire.request import encode
from stackshift_jobs.wire.retransmit import (
    MAX_LOSSES,
    PAUSE,
    RESTARTING,
    SOON,
    ConnectionLost,
    bound,
    may_repeat,
    uncertain,
)
from stackshift_jobs.wire.unavailable import BROKEN, unavailable
from stackshift_jobs.wire.unix_socket import connect

__all__ = [
    "BulkResult",
    "Client",
    "Queue",
    "RunFilters",
    "RunHandle",
    "RunPage",
    "Runs",
    "StartOptions",
]


class RunHandle:
    """A run that was started, or that `Runs.handle` names. `reused` is true if the run had been
    started before with the same idempotency key, perhaps by the first try of this start, if its
    connection broke."""

    def __init__(self, client: Client, id: str, reused: bool = False) -> None:
        self._client = client
        self.id = id
        self.reused = reused

    def __repr__(self) -> str:
        return f"<RunHandle {self.id}>"

    def status(self) -> str:
        """The run's current status, such as `running`."""
        return str(self._client.runs.get(self.id)["status"])

    def result(self, timeout: Duration | None = None, *, returns: Any = None) -> Any:
        """Wait until the run is finished; returns what its handler returned, as the type `returns`
        if given. Raises `RunFailed`, `RunCancelled`, `PayloadRefused` if the result does not fit,
        or `TimeoutError` after `timeout`, in which case the run continues."""
        check_type(returns)
        params: dict[str, Any] = {"run": self.id}
        seconds = None
        if timeout is not None:
            params["timeout_ms"] = milliseconds(timeout)
            seconds = params["timeout_ms"] / 1000
        try:
            run = self._client.call("run.wait", params, timeout=seconds)
        except TimeoutError:
            run = {"timed_out": True}
        return outcome(run, self.id, returns)

    def cancel(
        self, *, gently: bool = False, grace: Duration | None = None, children: bool = False
    ) -> bool:
        """Cancel the run; returns False if that changed nothing, as when it was already finished.

        With `gently` its handler is told by `Cancelling`, and its steps go on; the run is cancelled
        when it has ended, or after `grace` (default: 30 s). The runs that it has called are told
        before it; with `children` all that it has started are cancelled too. Raises `Usage` for a
        grace without `gently`."""
        params = cancel_params(self.id, gently, grace, children)
        return bool(self._client.call("run.cancel", params)["changed"])

    def move(self, **where: Unpack[MoveOptions]) -> bool:
        """Move the run, which must be scheduled, queued or retrying, to another time, priority or
        queue; see `MoveOptions`. Returns False if it was there already. Raises `Conflict`."""
        return bool(self._client.call("run.move", move_params(self.id, where))["changed"])

    def retry(self, *, from_step: str | None = None, set: Mapping[str, Any] | None = None) -> None:
        """Retry the run, which must have failed or been cancelled, under the same id: the steps
        that are recorded are not executed again. With `from_step`, that step and all later ones
        are, and the run may have completed. `set` replaces results of steps, by name.

        Raises `Conflict` if there is nothing to retry, `NotFound` for a step that is not recorded,
        `PayloadRefused` for a result that JSON cannot represent, and `Usage` for one of a step that
        has no function."""
        self._client.call("run.retry", retry_params(self.id, from_step, set))

    def fork(
        self, *, from_step: str | None = None, payload: Any = None, queue: str | None = None
    ) -> RunHandle:
        """Start a new run of the same job that reuses what is recorded, up to `from_step` if given;
        with another `payload` it reuses nothing. It is in `queue`, or in that of the run. Returns
        its handle. Raises `NotFound` for a step that is not recorded, and `PayloadRefused`."""
        answer = self._client.call("run.fork", fork_params(self.id, from_step, payload, queue))
        return RunHandle(self._client, answer["id"])

    def timeline(self) -> list[dict[str, Any]]:
        """The run's journal records, oldest first."""
        return list(self._client.runs.get(self.id, detail=True)["timeline"])


class Queue:
    """A queue by its name."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self.name = check_name(name, "queue")

    def enqueue(self, job: str, payload: Any = None, **options: Unpack[StartOptions]) -> RunHandle:
        """Start a run of `job` on this queue. See `Client.start`."""
        options["queue"] = self.name
        return self._client.start(job, payload, **options)


class Runs:
    """The project's runs."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def get(self, id: str, detail: bool = False) -> dict[str, Any]:
        """The run object; with `detail` also its steps, attempts and timeline. `id` can be a unique
        suffix of an id, `@last` or `@failed`. Raises `NotFound`."""
        if detail:
            return drive(detailed(id), self._client)
        return dict(self._client.call("run.get", {"run": id}))

    def list(
        self,
        *,
        job: str | None = None,
        status: str | Iterable[str] | None = None,
        queue: str | None = None,
        labels: Mapping[str, str] | None = None,
        parent: str | None = None,
        forked_from: str | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
        dead: bool | None = None,
    ) -> RunPage:
        """One page of run objects, newest first: 50, or `limit` (at most 1000). Fewer if they are
        large: a page ends once it exceeds a megabyte.

        `status` is one status or several. `parent` selects runs that this run has started,
        `forked_from` its forks, `since` and `until` runs created from then on and until then,
        `dead` those in the dead letter. Pass the `cursor` of a page to get the next one. Raises
        `NotFound` for a parent or a source of forks that does not exist.
        """
        filters = {name: value for name, value in locals().items() if name != "self"}
        answer = self._client.call("run.list", list_params(filters))
        page = RunPage(answer["runs"])
        page.cursor = answer["cursor"]
        return page

    def handle(self, id: str) -> RunHandle:
        """A handle of the run `id`, to wait for it and to change it. Nothing is asked: its calls
        raise `NotFound` if there is no such run. Raises `Usage` for `@last` and `@failed`, which
        later name another run."""
        return RunHandle(self._client, check_id(id))

    def count(self, **filters: Unpack[RunFilters]) -> int:
        """How many runs match; see `RunFilters`. Raises `Usage` for an unknown filter, or None."""
        return int((self._client.call("run.count", filter_params(filters)))["count"])

    def counts(self, by: str, **filters: Unpack[RunFilters]) -> dict[str, int]:
        """How many of the runs that match there are of each `status`, `job` or `queue`, whichever
        `by` is, the most first. Raises `Usage` for another word, an unknown filter, or None."""
        params = {**filter_params(filters), "by": by}
        return dict((self._client.call("run.count", params))["counts"])

    def cancel_all(
        self,
        *,
        gently: bool = False,
        grace: Duration | None = None,
        children: bool = False,
        **filters: Unpack[RunFilters],
    ) -> BulkResult:
        """Cancel all unfinished runs that match (see `RunFilters`), as `RunHandle.cancel` does.

        A run that is created meanwhile is left alone, and one that refuses does not keep the
        others. There is no confirmation: `count` says beforehand how many match. If the daemon goes
        in between, `DaemonUnavailable` is raised, and what is done stays done. Raises `Usage` for
        an unknown filter, None, or a status that is none of an unfinished run."""
        params = {**filter_params(filters), **cancel_terms(gently, grace, children)}
        return drive(change_all("run.cancel_all", params), self._client)

    def retry_all(self, **filters: Unpack[RunFilters]) -> BulkResult:
        """Retry all failed runs that match (see `RunFilters`), or with `status="cancelled"` the
        cancelled ones, as `RunHandle.retry` does; see `cancel_all` for the rest."""
        return drive(change_all("run.retry_all", filter_params(filters)), self._client)

    def remove_all(self, **filters: Unpack[RunFilters]) -> BulkResult:
        """Remove all finished runs that match (see `RunFilters`) from all lists and from the dead
        letter; see `cancel_all` for the rest."""
        return drive(change_all("run.remove_all", filter_params(filters)), self._client)


class Client:
    """A connection to a project's daemon, for applications. Safe for threads and across `fork`;
    connects when it is first used, and again after the daemon was restarted.

    `timeout` limits each request, in seconds, except waits for results. `patience` is how many
    seconds after a lost connection the daemon is taken to be restarting.
    """

    def __init__(
        self,
        project: Project | str | os.PathLike[str] | None = None,
        *,
        timeout: float | None = 60.0,
        patience: float = 5.0,
    ) -> None:
        if not isinstance(project, Project):
            project = find_project(None if project is None else os.fspath(project))
        self.project = project
        self.runs = Runs(self)
        self.state = State(self)
        self.events = Events(self)
        self._timeout = timeout
        self._patience = patience
        self._lock = threading.Lock()  # guards the fields below
        self._link: Link | None = None
        self._lost_at: float | None = None
        self._closed = threading.Event()
        _clients.add(self)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect for good. Runs continue; calls in flight raise `DaemonUnavailable`."""
        self._closed.set()
        with self._lock:
            link, self._link = self._link, None
        if link is not None:
            link.close()
            link.join()

    def __del__(self) -> None:
        # The reader thread refers to the link only, so an abandoned client is collected and ends
        # its connection here.
        link = getattr(self, "_link", None)
        if link is not None:
            link.close()

    def start(self, job: str, payload: Any = None, **options: Unpack[StartOptions]) -> RunHandle:
        """Start a run of `job`; it is durable when this returns.

        Raises `NotFound` (no such job), `Conflict` (the idempotency key belongs to a different
        start), `PayloadRefused`, `Usage`, `Busy`, or `DaemonUnavailable`, which says so if the run
        may have been started after all.
        """
        answer = self.call("run.start", start_params(job, payload, options))
        return RunHandle(self, answer["id"], bool(answer["reused"]))

    def start_many(self, items: Iterable[Any]) -> list[RunHandle | StackshiftError]:
        """Start many runs; returns, for each item in order, its handle or why it was not started.

        An item is a dict with the arguments of `start`, or `(job, payload)`. Raises
        `DaemonUnavailable` only if nothing was sent at all; a later one is in the list.
        """
        self._check("run.start_many")
        refused: dict[int, StackshiftError] = {}
        results: dict[int, RunHandle | StackshiftError] = {}
        window: deque[tuple[Batch, tuple[Link, Flight] | None]] = deque()
        for batch in batches(self.project, items, refused):
            if not results and not window:
                self._reach(self._deadline(self._timeout))
            if len(window) == IN_FLIGHT:
                results.update(self._land(*window.popleft()))
            window.append((batch, self._launch(batch)))
        while window:
            results.update(self._land(*window.popleft()))
        results.update(refused)
        return [results[place] for place in sorted(results)]

    def queue(self, name: str) -> Queue:
        """The queue `name`, to start runs on. Raises `Usage` for an invalid name."""
        return Queue(self, name)

    def call(self, method: str, params: Mapping[str, Any], *, timeout: float | None = None) -> Any:
        """The result of any method of the protocol; raises the error of its reply.

        `timeout` is in seconds. The default is the client's, plus the `wait_ms` of a request that
        waits; `run.wait` has none, since its params limit it. Raises `TimeoutError` after it.
        """
        self._check(method)
        body = encode(self.project, params)
        if timeout is None:
            timeout = bound(method, params, self._timeout)
        return self._ask(method, body, may_repeat(method, params), self._deadline(timeout))

    def _check(self, method: str) -> None:
        """Override this to refuse `method`, by raising, depending on who calls."""

    @staticmethod
    def _deadline(timeout: float | None) -> float | None:
        return None if timeout is None else monotonic() + timeout

    def _ask(self, method: str, body: bytes, repeatable: bool, deadline: float | None) -> Any:
        """Send a request and wait for its result; send it again on a new connection if that is
        safe."""
        losses = 0
        while True:
            link, asked_at = self._reach(deadline), monotonic()
            try:
                return link.wait(link.send(method, body, deadline), deadline, method)
            except ConnectionLost as lost:
                if lost.sent and not repeatable:
                    raise uncertain(method, lost.why) from lost
                if isinstance(lost.why, Busy):
                    raise from_json(lost.why.as_json()) from lost
                # A daemon that hangs up on this request every time is not restarting.
                losses = losses + 1 if monotonic() - asked_at < SOON else 1
                if losses == MAX_LOSSES or self._closed.is_set():
                    raise from_json(lost.why.as_json()) from lost

    def _reach(self, deadline: float | None) -> Link:
        """The connection; if it was lost just now, wait for the daemon to come back."""
        while True:
            try:
                return self._connect()
            except DaemonUnavailable as gone:
                lately = self._lost_at is not None and monotonic() - self._lost_at < self._patience
                if not lately or gone.fields.get("reason") not in RESTARTING:
                    raise
                if deadline is not None and monotonic() >= deadline:
                    raise
                self._closed.wait(PAUSE)

    def _connect(self) -> Link:
        """The open connection; a new one if there is none."""
        with self._lock:
            if self._closed.is_set():
                raise Usage("this client is closed")
            if self._link is not None:
                if self._link.end is None:
                    return self._link
                self._lost_at, self._link = self._link.ended_at, None
            self._link = Link(connect(self.project.data_dir_text))
            return self._link

    def _launch(self, batch: Batch) -> tuple[Link, Flight] | None:
        """Send a batch without waiting for its reply; None if it could not be sent, in which case
        `_land` sends it."""
        try:
            link = self._connect()
            deadline = self._deadline(self._timeout)
            return link, link.send("run.start_many", batch.body, deadline)
        except (ConnectionLost, StackshiftError, TimeoutError):
            return None

    def _land(
        self, batch: Batch, launched: tuple[Link, Flight] | None
    ) -> Iterator[tuple[int, RunHandle | StackshiftError]]:
        """The outcome of each item of a batch, with its place."""
        method, deadline = "run.start_many", self._deadline(self._timeout)
        try:
            try:
                if launched is None:
                    raise ConnectionLost(unavailable("not sent", BROKEN), sent=False)
                answer = launched[0].wait(launched[1], deadline, method)
            except ConnectionLost as lost:
                if lost.sent and not batch.repeatable:
                    raise uncertain(method, lost.why) from lost
                answer = self._ask(method, batch.body, batch.repeatable, deadline)
        except (StackshiftError, TimeoutError) as bad:
            yield from batch_failed(batch, bad)
            return
        for place, (id, reused, error) in batch_results(batch, answer):
            yield place, error or RunHandle(self, id, reused)

    def _forked(self) -> None:
        """For the child of a fork: replace locks that threads which do not exist here may hold."""
        self._lock = threading.Lock()
        if not self._closed.is_set():
            self._closed = threading.Event()
        link, self._link = self._link, None
        if link is not None:
            link.forget()


_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def _after_fork() -> None:
    for client in list(_clients):
        client._forked()


os.register_at_fork(after_in_child=_after_fork)
