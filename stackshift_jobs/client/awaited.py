"""The client for applications, awaited, with the same methods and the same rules as `Client`.

Owns `AsyncClient` and the handles that it returns. Requests are made and repeated by the same
modules as there, and sent over an `async_link`. It serves one event loop; a second one is refused,
because replies would wake the wrong loop.

Cancelling a call abandons it but does not undo it: what it asked for may still happen, and its
reply is dropped when it arrives.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from time import monotonic
from typing import Any, Unpack

from stackshift_jobs.calls.drive import drive_awaited
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
from stackshift_jobs.client.events import AsyncEvents
from stackshift_jobs.client.state import AsyncState
from stackshift_jobs.errors import Busy, DaemonUnavailable, StackshiftError, Usage, from_json
from stackshift_jobs.project.locate import Project, find_project
from stackshift_jobs.values.durations import Duration, milliseconds
from stackshift_jobs.values.names import check_name
from stackshift_jobs.values.payload_types import check_type
from stackshift_jobs.wire.async_link import AsyncLink
from stackshift_jobs.wire.request import encode
from stackshift_jobs.wire.retransmit import (
    MAX_LOSSES,
    PAUSE,
    RESTARTING,
    SOON,
    ConnectionLost,
    bound,
    may_repeat,
    timed_out,
    uncertain,
)
from stackshift_jobs.wire.unix_socket import connect


class AsyncRunHandle:
    """A run that was started. See `RunHandle`."""

    def __init__(self, client: AsyncClient, id: str, reused: bool = False) -> None:
        self._client = client
        self.id = id
        self.reused = reused

    def __repr__(self) -> str:
        return f"<AsyncRunHandle {self.id}>"

    async def status(self) -> str:
        """The run's current status, such as `running`."""
        return str((await self._client.runs.get(self.id))["status"])

    async def result(self, timeout: Duration | None = None, *, returns: Any = None) -> Any:
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
            run = await self._client.call("run.wait", params, timeout=seconds)
        except TimeoutError:
            run = {"timed_out": True}
        return outcome(run, self.id, returns)

    async def cancel(
        self, *, gently: bool = False, grace: Duration | None = None, children: bool = False
    ) -> bool:
        """Cancel the run; returns False if that changed nothing, as when it was already finished.

        With `gently` its handler is told by `Cancelling`, and its steps go on; the run is cancelled
        when it has ended, or after `grace` (default: 30 s). The runs that it has called are told
        before it; with `children` all that it has started are cancelled too. Raises `Usage` for a
        grace without `gently`."""
        params = cancel_params(self.id, gently, grace, children)
        return bool((await self._client.call("run.cancel", params))["changed"])

    async def move(self, **where: Unpack[MoveOptions]) -> bool:
        """Move the run, which must be scheduled, queued or retrying, to another time, priority or
        queue; see `MoveOptions`. Returns False if it was there already. Raises `Conflict`."""
        return bool((await self._client.call("run.move", move_params(self.id, where)))["changed"])

    async def retry(
        self, *, from_step: str | None = None, set: Mapping[str, Any] | None = None
    ) -> None:
        """Retry the run, which must have failed or been cancelled, under the same id: the steps
        that are recorded are not executed again. With `from_step`, that step and all later ones
        are, and the run may have completed. `set` replaces results of steps, by name.

        Raises `Conflict` if there is nothing to retry, `NotFound` for a step that is not recorded,
        `PayloadRefused` for a result that JSON cannot represent, and `Usage` for one of a step that
        has no function."""
        await self._client.call("run.retry", retry_params(self.id, from_step, set))

    async def fork(
        self, *, from_step: str | None = None, payload: Any = None, queue: str | None = None
    ) -> AsyncRunHandle:
        """Start a new run of the same job that reuses what is recorded, up to `from_step` if given;
        with another `payload` it reuses nothing. It is in `queue`, or in that of the run. Returns
        its handle. Raises `NotFound` for a step that is not recorded, and `PayloadRefused`."""
        answer = await self._client.call(
            "run.fork", fork_params(self.id, from_step, payload, queue)
        )
        return AsyncRunHandle(self._client, answer["id"])

    async def timeline(self) -> list[dict[str, Any]]:
        """The run's journal records, oldest first."""
        return list((await self._client.runs.get(self.id, detail=True))["timeline"])


class AsyncQueue:
    """A queue by its name."""

    def __init__(self, client: AsyncClient, name: str) -> None:
        self._client = client
        self.name = check_name(name, "queue")

    async def enqueue(
        self, job: str, payload: Any = None, **options: Unpack[StartOptions]
    ) -> AsyncRunHandle:
        """Start a run of `job` on this queue. See `Client.start`."""
        options["queue"] = self.name
        return await self._client.start(job, payload, **options)


class AsyncRuns:
    """The project's runs."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def get(self, id: str, detail: bool = False) -> dict[str, Any]:
        """The run object; with `detail` also its steps, attempts and timeline. See `Runs.get`."""
        if detail:
            return await drive_awaited(detailed(id), self._client)
        return dict(await self._client.call("run.get", {"run": id}))

    async def list(
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
        """One page of run objects, newest first. See `Runs.list`."""
        filters = {name: value for name, value in locals().items() if name != "self"}
        answer = await self._client.call("run.list", list_params(filters))
        page = RunPage(answer["runs"])
        page.cursor = answer["cursor"]
        return page

    def handle(self, id: str) -> AsyncRunHandle:
        """A handle of the run `id`, to wait for it and to change it. See `Runs.handle`."""
        return AsyncRunHandle(self._client, check_id(id))

    async def count(self, **filters: Unpack[RunFilters]) -> int:
        """How many runs match; see `RunFilters`. Raises `Usage` for an unknown filter, or None."""
        return int((await self._client.call("run.count", filter_params(filters)))["count"])

    async def counts(self, by: str, **filters: Unpack[RunFilters]) -> dict[str, int]:
        """How many of the runs that match there are of each `status`, `job` or `queue`, whichever
        `by` is, the most first. Raises `Usage` for another word, an unknown filter, or None."""
        params = {**filter_params(filters), "by": by}
        return dict((await self._client.call("run.count", params))["counts"])

    async def cancel_all(
        self,
        *,
        gently: bool = False,
        grace: Duration | None = None,
        children: bool = False,
        **filters: Unpack[RunFilters],
    ) -> BulkResult:
        """Cancel all unfinished runs that match. See `Runs.cancel_all`."""
        params = {**filter_params(filters), **cancel_terms(gently, grace, children)}
        return await drive_awaited(change_all("run.cancel_all", params), self._client)

    async def retry_all(self, **filters: Unpack[RunFilters]) -> BulkResult:
        """Retry all failed runs that match. See `Runs.retry_all`."""
        return await drive_awaited(
            change_all("run.retry_all", filter_params(filters)), self._client
        )

    async def remove_all(self, **filters: Unpack[RunFilters]) -> BulkResult:
        """Remove all finished runs that match. See `Runs.remove_all`."""
        return await drive_awaited(
            change_all("run.remove_all", filter_params(filters)), self._client
        )


class AsyncClient:
    """A connection to a project's daemon, for applications, on one event loop. See `Client`."""

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
        self.runs = AsyncRuns(self)
        self.state = AsyncState(self)
        self.events = AsyncEvents(self)
        self._timeout = timeout
        self._patience = patience
        self._loop: asyncio.AbstractEventLoop | None = None
        self._link: AsyncLink | None = None
        self._connecting: asyncio.Task[AsyncLink] | None = None
        self._lost_at: float | None = None
        self._closed = False

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Disconnect for good. Runs continue; calls in flight raise `DaemonUnavailable`."""
        self._closed = True
        if self._connecting is not None:
            await asyncio.wait((self._connecting,))
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def start(
        self, job: str, payload: Any = None, **options: Unpack[StartOptions]
    ) -> AsyncRunHandle:
        """Start a run of `job`; it is durable when this returns. See `Client.start`."""
        answer = await self.call("run.start", start_params(job, payload, options))
        return AsyncRunHandle(self, answer["id"], bool(answer["reused"]))

    async def start_many(self, items: Iterable[Any]) -> list[AsyncRunHandle | StackshiftError]:
        """Start many runs; returns, for each item in order, its handle or why it was not started.
        See `Client.start_many`."""
        refused: dict[int, StackshiftError] = {}
        results: dict[int, AsyncRunHandle | StackshiftError] = {}
        room = asyncio.Semaphore(IN_FLIGHT)
        plan = batches(self.project, items, refused)
        first = next(plan, None)
        if first is not None:
            await self._reach()
            async with asyncio.TaskGroup() as group:
                for batch in itertools.chain((first,), plan):
                    await room.acquire()
                    group.create_task(self._start_batch(batch, results, room))
        results.update(refused)
        return [results[place] for place in sorted(results)]

    async def _start_batch(
        self,
        batch: Batch,
        results: dict[int, AsyncRunHandle | StackshiftError],
        room: asyncio.Semaphore,
    ) -> None:
        """Start the runs of one batch and put the outcome of each in `results`."""
        method = "run.start_many"
        try:
            answer = await self._in_time(method, batch.body, batch.repeatable, self._timeout)
        except (StackshiftError, TimeoutError) as bad:
            results.update(batch_failed(batch, bad))
        else:
            for place, (id, reused, error) in batch_results(batch, answer):
                results[place] = error or AsyncRunHandle(self, id, reused)
        finally:
            room.release()

    def queue(self, name: str) -> AsyncQueue:
        """The queue `name`, to start runs on. Raises `Usage` for an invalid name."""
        return AsyncQueue(self, name)

    async def call(
        self, method: str, params: Mapping[str, Any], *, timeout: float | None = None
    ) -> Any:
        """The result of any method of the protocol; raises the error of its reply. See
        `Client.call`."""
        body = encode(self.project, params)
        if timeout is None:
            timeout = bound(method, params, self._timeout)
        return await self._in_time(method, body, may_repeat(method, params), timeout)

    async def _in_time(
        self, method: str, body: bytes, repeatable: bool, timeout: float | None
    ) -> Any:
        try:
            async with asyncio.timeout(timeout):
                return await self._ask(method, body, repeatable)
        except TimeoutError:
            raise timed_out(method) from None

    async def _ask(self, method: str, body: bytes, repeatable: bool) -> Any:
        """Send a request and wait for its result; send it again on a new connection if that is
        safe."""
        losses = 0
        while True:
            link, asked_at = await self._reach(), monotonic()
            try:
                return await link.ask(method, body)
            except ConnectionLost as lost:
                if lost.sent and not repeatable:
                    raise uncertain(method, lost.why) from lost
                if isinstance(lost.why, Busy):
                    raise from_json(lost.why.as_json()) from lost
                # A daemon that hangs up on this request every time is not restarting.
                losses = losses + 1 if monotonic() - asked_at < SOON else 1
                if losses == MAX_LOSSES or self._closed:
                    raise from_json(lost.why.as_json()) from lost

    async def _reach(self) -> AsyncLink:
        """The connection; if it was lost just now, wait for the daemon to come back."""
        while True:
            try:
                return await self._connect()
            except DaemonUnavailable as gone:
                lately = self._lost_at is not None and monotonic() - self._lost_at < self._patience
                if not lately or gone.fields.get("reason") not in RESTARTING:
                    raise
                await asyncio.sleep(PAUSE)

    async def _connect(self) -> AsyncLink:
        """The open connection; a new one if there is none. All callers wait for the same one."""
        loop = asyncio.get_running_loop()
        if self._closed:
            raise Usage("this client is closed")
        if self._loop not in (None, loop):
            raise Usage("an AsyncClient serves one event loop", hint="create one for each loop")
        self._loop = loop
        if self._link is not None:
            if self._link.alive:
                return self._link
            self._lost_at, self._link = self._link.ended_at or monotonic(), None
        if self._connecting is None:
            self._connecting = loop.create_task(self._open())
            self._connecting.add_done_callback(self._opened)
        # Shielded: cancelling one caller must not take the connection from the others.
        return await asyncio.shield(self._connecting)

    async def _open(self) -> AsyncLink:
        sock = await asyncio.to_thread(connect, self.project.data_dir_text)
        try:
            _, link = await asyncio.get_running_loop().create_unix_connection(AsyncLink, sock=sock)
        except BaseException:
            sock.close()
            raise
        self._link = link
        return link

    def _opened(self, task: asyncio.Task[AsyncLink]) -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()  # retrieved, even if nobody waits for it any more
