"""The client of a program with one project: `start`, `start_many`, `queue`, `runs`, `state`,
`events`.

Owns the one `Client` behind them, made at the first call from the environment and the working
directory. In a handler they raise `InsideHandler` (a step's function may use them): a handler is
replayed, and its starts must be recorded with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final, TypedDict, Unpack

from stackshift_jobs.client.blocking import Client, RunHandle, RunPage, StartOptions
from stackshift_jobs.client.events import Events
from stackshift_jobs.client.state import State
from stackshift_jobs.errors import StackshiftError, Usage
from stackshift_jobs.handler.scope import refuse_in_handler
from stackshift_jobs.values.names import check_name


class DefaultClient(Client):
    """Refuses in handlers; the handles that it gives out do so through it."""

    def _check(self, method: str) -> None:
        refuse_in_handler(method)


_made: Final[dict[str, Client]] = {}
"""Empty or one. A dict: `setdefault` and `pop` need no lock that a fork could leave held."""


def default_client() -> Client:
    """The client behind the functions; raises `BadConfiguration` if there is no project."""
    client = _made.get("client")
    # One that loses a race was never connected, so there is nothing in it to close.
    return client if client is not None else _made.setdefault("client", DefaultClient())


def reset_default_client() -> None:
    """Close it; the next call finds its project anew (after `chdir`, in tests)."""
    client = _made.pop("client", None)
    if client is not None:
        client.close()


def use_client(client: Client | None) -> Client | None:
    """Put `client` behind the functions (None: one is made when it is needed); what was there."""
    before = _made.pop("client", None)
    if client is not None:
        _made["client"] = client
    return before


def start(job: str, payload: Any = None, **options: Unpack[StartOptions]) -> RunHandle:
    """Start a run of `job`; see `Client.start`."""
    refuse_in_handler("run.start")
    return default_client().start(job, payload, **options)


def start_many(items: Iterable[Any]) -> list[RunHandle | StackshiftError]:
    """Start many runs; see `Client.start_many`."""
    refuse_in_handler("run.start_many")
    return default_client().start_many(items)


class DefaultQueue:
    """A queue by its name, on the default client."""

    def __init__(self, name: str) -> None:
        self.name = check_name(name, "queue")

    def enqueue(self, job: str, payload: Any = None, **options: Unpack[StartOptions]) -> RunHandle:
        """Like `start`, on this queue."""
        options["queue"] = self.name
        return start(job, payload, **options)


class QueueOptions(TypedDict, total=False):
    """How a job module declares a queue to be limited."""

    concurrency: int
    key_concurrency: int
    rate: str
    rate_burst: int
    paused: bool


def queue(name: str, **limits: Unpack[QueueOptions]) -> DefaultQueue:
    """The queue `name`, to start runs on; nothing is connected before its first use.

    In a job module, `limits` declare how it is limited: `concurrency`, `key_concurrency`,
    `rate="100/m"`, `rate_burst`, `paused`. What `stackshift.toml` or a person says counts for more.
    """
    made = DefaultQueue(name)
    if limits:
        for given in limits.keys() - QueueOptions.__annotations__.keys():
            raise Usage(
                f"{given} of queue {name!r} cannot be declared",
                hint="processes are set in stackshift.toml; a queue has "
                + ", ".join(QueueOptions.__annotations__),
            )
        from stackshift_jobs.registry import declare_queue  # of job modules, not of clients

        declare_queue(name, **limits)
    return made


class DefaultRuns:
    """The project's runs, on the default client."""

    def get(self, id: str, detail: bool = False) -> dict[str, Any]:
        """The run object; see `Runs.get`."""
        refuse_in_handler("run.get")
        return default_client().runs.get(id, detail)

    def list(
        self,
        *,
        job: str | None = None,
        status: str | None = None,
        queue: str | None = None,
        labels: Mapping[str, str] | None = None,
        since: datetime | str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
        dead: bool | None = None,
    ) -> RunPage:
        """One page of runs, newest first; see `Runs.list`."""
        refuse_in_handler("run.list")
        return default_client().runs.list(
            job=job,
            status=status,
            queue=queue,
            labels=labels,
            since=since,
            limit=limit,
            cursor=cursor,
            dead=dead,
        )


runs = DefaultRuns()


class _Default:
    """Whatever is the default client at the time of a call."""

    def call(self, method: str, params: Mapping[str, Any], *, timeout: float | None = None) -> Any:
        refuse_in_handler(method)
        return default_client().call(method, params, timeout=timeout)


state = State(_Default())
events = Events(_Default())
