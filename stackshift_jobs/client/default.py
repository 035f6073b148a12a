"""The client of a program with one project: `start`, `start_many`, `queue`, `runs`, `state` and
`events`.

Owns the one `Client` behind them, which the first call makes from the environment and the working
directory. In a handler they raise `InsideHandler`, because a handler is replayed and its starts
must be recorded with it; the function of a step can use them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final, TypedDict, Unpack

from stackshift_jobs.client.blocking import (
    BulkResult,
    Client,
    RunFilters,
    RunHandle,
    RunPage,
    StartOptions,
)
from stackshift_jobs.client.events import Events
from stackshift_jobs.client.state import State
from stackshift_jobs.errors import StackshiftError, Usage
from stackshift_jobs.handler.scope import refuse_in_handler
from stackshift_jobs.values.durations import Duration
from stackshift_jobs.values.names import check_name


class DefaultClient(Client):
    """A `Client` that refuses requests inside a handler, also those of its handles."""

    def _check(self, method: str) -> None:
        refuse_in_handler(method)


_made: Final[dict[str, Client]] = {}
"""Empty, or the one client. A dict, because `setdefault` and `pop` need no lock, which a fork could
leave held."""


def default_client() -> Client:
    """The client behind the functions; raises `BadConfiguration` if there is no project."""
    client = _made.get("client")
    # A client that loses the race was never connected, so it need not be closed.
    return client if client is not None else _made.setdefault("client", DefaultClient())


def reset_default_client() -> None:
    """Close the client; the next call looks for its project again (after `chdir`, or in tests)."""
    client = _made.pop("client", None)
    if client is not None:
        client.close()


def use_client(client: Client | None) -> Client | None:
    """Put `client` behind the functions (None: one is made when needed); returns the one before."""
    before = _made.pop("client", None)
    if client is not None:
        _made["client"] = client
    return before


def start(job: str, payload: Any = None, **options: Unpack[StartOptions]) -> RunHandle:
    """Start a run of `job`; it is durable when this returns. See `Client.start`."""
    refuse_in_handler("run.start")
    return default_client().start(job, payload, **options)


def start_many(items: Iterable[Any]) -> list[RunHandle | StackshiftError]:
    """Start many runs; returns, for each item in order, its handle or why it was not started. See
    `Client.start_many`."""
    refuse_in_handler("run.start_many")
    return default_client().start_many(items)


class DefaultQueue:
    """A queue of the default client. See `Queue`."""

    def __init__(self, name: str) -> None:
        self.name = check_name(name, "queue")

    def enqueue(self, job: str, payload: Any = None, **options: Unpack[StartOptions]) -> RunHandle:
        """Start a run of `job` on this queue. See `Client.start`."""
        options["queue"] = self.name
        return start(job, payload, **options)


class QueueOptions(TypedDict, total=False):
    """The limits of a queue that a job module can declare, as in `[queues.NAME]`."""

    concurrency: int
    key_concurrency: int
    rate: str
    rate_burst: int
    paused: bool


def queue(name: str, **limits: Unpack[QueueOptions]) -> DefaultQueue:
    """The queue `name`, to start runs on; connects when it is first used. See `Client.queue`.

    In a job module, `limits` declare the limits of the queue: `concurrency`, `key_concurrency`,
    `rate="100/m"`, `rate_burst`, `paused`. `stackshift.toml` and commands override them. Raises
    `Usage` for an unknown or invalid one.
    """
    default_queue = DefaultQueue(name)
    if limits:
        for unknown in limits.keys() - QueueOptions.__annotations__.keys():
            raise Usage(
                f"{unknown} of queue {name!r} cannot be declared in a module",
                hint="set processes in stackshift.toml; a module can declare "
                + ", ".join(QueueOptions.__annotations__),
            )
        from stackshift_jobs.registry import declare_queue  # job modules need it, clients do not

        declare_queue(name, **limits)
    return default_queue


class DefaultRuns:
    """The runs of the default client's project. See `Runs`."""

    def get(self, id: str, detail: bool = False) -> dict[str, Any]:
        """The run object; with `detail` also its steps, attempts and timeline. See `Runs.get`."""
        refuse_in_handler("run.get")
        return default_client().runs.get(id, detail)

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
        """One page of run objects, newest first. See `Runs.list`."""
        refuse_in_handler("run.list")
        return default_client().runs.list(
            job=job,
            status=status,
            queue=queue,
            labels=labels,
            parent=parent,
            forked_from=forked_from,
            since=since,
            until=until,
            limit=limit,
            cursor=cursor,
            dead=dead,
        )

    def handle(self, id: str) -> RunHandle:
        """A handle of the run `id`, to wait for it and to change it. See `Runs.handle`."""
        return default_client().runs.handle(id)

    def count(self, **filters: Unpack[RunFilters]) -> int:
        """How many runs match. See `Runs.count`."""
        refuse_in_handler("run.count")
        return default_client().runs.count(**filters)

    def counts(self, by: str, **filters: Unpack[RunFilters]) -> dict[str, int]:
        """How many of the runs that match there are of each `status`, `job` or `queue`. See
        `Runs.counts`."""
        refuse_in_handler("run.count")
        return default_client().runs.counts(by, **filters)

    def cancel_all(
        self,
        *,
        gently: bool = False,
        grace: Duration | None = None,
        children: bool = False,
        **filters: Unpack[RunFilters],
    ) -> BulkResult:
        """Cancel all unfinished runs that match. See `Runs.cancel_all`."""
        refuse_in_handler("run.cancel_all")
        return default_client().runs.cancel_all(
            gently=gently, grace=grace, children=children, **filters
        )

    def retry_all(self, **filters: Unpack[RunFilters]) -> BulkResult:
        """Retry all failed runs that match. See `Runs.retry_all`."""
        refuse_in_handler("run.retry_all")
        return default_client().runs.retry_all(**filters)

    def remove_all(self, **filters: Unpack[RunFilters]) -> BulkResult:
        """Remove all finished runs that match. See `Runs.remove_all`."""
        refuse_in_handler("run.remove_all")
        return default_client().runs.remove_all(**filters)


runs = DefaultRuns()


class _Default:
    """The default client at the time of each call, as a `Caller`."""

    def call(self, method: str, params: Mapping[str, Any], *, timeout: float | None = None) -> Any:
        refuse_in_handler(method)
        return default_client().call(method, params, timeout=timeout)


state = State(_Default())
events = Events(_Default())
