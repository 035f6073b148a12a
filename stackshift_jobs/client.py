"""The client for applications: start runs, wait for them, look at them; from any thread.

Owns what a start looks like on the wire (`start_params`), when a request may be sent a second time
(`may_repeat`), and `Client`. It never starts a daemon.

Invariants: a request that may have reached a daemon is sent again only if that cannot do anything
twice. A line that could not be written in full was not executed, since its last byte makes it a
request; so it may always go again. One socket, one thread that reads it, any number that write.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from time import monotonic
from typing import Any, Final, NamedTuple, NoReturn, TypedDict, Unpack

from stackshift_jobs import rpc
from stackshift_jobs.durations import Duration, milliseconds, parse_time, rfc3339, to_us
from stackshift_jobs.errors import (
    Busy,
    DaemonUnavailable,
    PayloadRefused,
    RunCancelled,
    RunFailed,
    StackshiftError,
    Usage,
    from_json,
)
from stackshift_jobs.names import check_key, check_name
from stackshift_jobs.project import Project, find_project

READS: Final = frozenset(
    ("run.get", "run.list", "run.why", "run.wait", "run.logs", "job.list", "job.get",
     "daemon.status", "journal.stats")
)  # fmt: skip
"""Methods that change nothing."""
BATCH: Final = 500
"""Runs in one `run.start_many`; the protocol allows 1,000."""
BATCH_BYTES: Final = 60 << 10
"""Together at most this, unless one is larger; so the line fits, whatever `[limits] payload` is."""
LINE_SLACK: Final = (64 << 10) - 256
"""A line may be longer than `[limits] payload` by 64 KiB; less what is around the params."""
IN_FLIGHT: Final = 8
"""Batches that are under way at a time."""
PAUSE: Final = 0.05
"""Seconds between two tries to reach a daemon that is restarting."""
MAX_LOSSES: Final = 5
"""Connections that one request may lose, one soon after the other."""
SOON: Final = 5.0
"""Seconds after being asked within which a lost connection looks like the request's own doing."""
RESTARTING: Final = frozenset((rpc.NOT_RUNNING, rpc.STALE, rpc.BROKEN, rpc.NO_ANSWER))
"""How a daemon that is about to come back can look."""

# --- What is asked ---------------------------------------------------------------------------


class StartOptions(TypedDict, total=False):
    """How a run is started, all optional.

    `idempotency_key`: the same key is the same run, for `idempotency_ttl`. `delay` or
    `scheduled_at` (a `datetime`, local if naive, or RFC 3339 text): not before then.
    """

    queue: str | None
    idempotency_key: str | None
    idempotency_ttl: Duration | None
    delay: Duration | None
    scheduled_at: datetime | str | None
    priority: int | None
    max_attempts: int | None
    labels: Mapping[str, str] | None


class RunPage(list[dict[str, Any]]):
    """Run objects, newest first; `cursor` asks for the next page, None at the end."""

    cursor: str | None = None


def start_params(job: str, payload: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The params of `run.start`; raises `Usage` for a name, time or option that cannot be."""
    if unknown := options.keys() - StartOptions.__annotations__.keys():
        raise Usage(
            f"start has no option {min(unknown)!r}",
            hint="it has " + ", ".join(StartOptions.__annotations__),
        )
    given = {name: value for name, value in options.items() if value is not None}
    params: dict[str, Any] = {"job": check_name(job, "job")}
    if payload is not None:
        params["payload"] = payload
    if "queue" in given:
        params["queue"] = check_name(given["queue"], "queue")
    if "idempotency_key" in given:
        params["idempotency_key"] = check_key(given["idempotency_key"], "idempotency key")
    if "idempotency_ttl" in given:
        params["idempotency_ttl_ms"] = milliseconds(given["idempotency_ttl"])
    if "delay" in given and "scheduled_at" in given:
        raise Usage("delay and scheduled_at are both given", hint="give one of them")
    if "delay" in given:
        params["delay_ms"] = milliseconds(given["delay"])
    if "scheduled_at" in given:
        params["scheduled_at"] = wire_time(given["scheduled_at"])
    for name in ("priority", "max_attempts"):
        if name in given:
            params[name] = given[name]
    if "labels" in given:
        params["labels"] = dict(given["labels"])
    return params


def item_params(item: Any) -> dict[str, Any]:
    """The params of one item of `start_many`: a dict with the arguments of `start`, or
    `(job, payload)`."""
    if isinstance(item, Mapping):
        options = dict(item)
        if "job" not in options:
            raise Usage("a start without a job", hint='write {"job": "resizeAvatar", ...}')
        return start_params(options.pop("job"), options.pop("payload", None), options)
    if isinstance(item, tuple) and len(item) == 2:
        return start_params(item[0], item[1], {})
    raise Usage(f"{item!r:.80} is no start", hint="give dicts, or tuples of job and payload")


def wire_time(when: datetime | str) -> str:
    """RFC 3339 in UTC; a naive time is local."""
    if isinstance(when, datetime):
        return rfc3339(to_us(when.astimezone()))
    return rfc3339(parse_time(when))


def list_params(filters: Mapping[str, Any]) -> dict[str, Any]:
    """The params of `run.list` from the arguments of `runs.list`."""
    params = {name: value for name, value in filters.items() if value is not None}
    if "since" in params:
        params["since"] = wire_time(params["since"])
    return params


def encode(project: Project, params: Mapping[str, Any]) -> bytes:
    """`params` as sent. Raises `PayloadRefused`, also for a line that the daemon would not
    take: that would end the connection, and with it what other threads have under way."""
    body = rpc.encode_params(params)
    if len(body) > LINE_SLACK:
        from stackshift_jobs.config import load_config

        limit = load_config(project.root).limits.payload_bytes
        if len(body) > limit + LINE_SLACK:
            raise PayloadRefused(
                f"{len(body)} bytes of JSON; the limit is {limit}",
                hint="store it elsewhere and pass where it is, or raise [limits] payload",
                path="$",
            )
    return body


def may_repeat(method: str, params: Mapping[str, Any]) -> bool:
    """Is it the same to do this once or twice?"""
    return method in READS or (method == "run.start" and "idempotency_key" in params)


def outcome(run: Mapping[str, Any], run_id: str) -> Any:
    """The result of a run that `run.wait` answered with; raises `RunFailed`, `RunCancelled`, or
    `TimeoutError` if it is not finished."""
    if run.get("timed_out"):
        raise TimeoutError(f"{run_id} is not finished; it goes on")
    if run["status"] == "failed":
        raise RunFailed(run_id, dict(run.get("error") or {}))
    if run["status"] == "cancelled":
        raise RunCancelled(run_id)
    return run.get("result")


def uncertain(method: str, why: StackshiftError) -> DaemonUnavailable:
    """The error for a request that may have been carried out, and may not be sent again."""
    return DaemonUnavailable(
        f"{method}: the connection broke before the reply came ({why}); it may have happened",
        hint="look with stackshift runs list; a start with an idempotency key can be repeated",
        reason=rpc.BROKEN,
        may_have_happened=True,
    )


def timed_out(method: str) -> TimeoutError:
    """The error for a request whose reply did not come in time."""
    caution = "" if method in READS else "; it may happen all the same"
    return TimeoutError(f"{method}: the daemon did not answer in time{caution}")


class Batch(NamedTuple):
    """A part of `start_many`: the places of its items in the result, and its params."""

    places: list[int]
    body: bytes
    repeatable: bool


def batches(
    project: Project, items: Iterable[Any], refused: dict[int, StackshiftError]
) -> Iterator[Batch]:
    """`items` in requests of at most `BATCH` runs and, unless one alone is larger, `BATCH_BYTES`.

    Items with and without an idempotency key are kept apart, so that those with one can be sent
    again. One that cannot be sent is put in `refused`, by its place.
    """
    places: list[int] = []
    parts: list[bytes] = []
    size, keyed = 0, False

    def batch() -> Batch:
        return Batch(places, b'{"runs":[' + b",".join(parts) + b"]}", keyed)

    for place, item in enumerate(items):
        try:
            params = item_params(item)
            encoded = encode(project, params)
        except StackshiftError as bad:
            refused[place] = bad
            continue
        has_key = may_repeat("run.start", params)
        full = len(places) == BATCH or size + len(encoded) > BATCH_BYTES
        if places and (full or has_key != keyed):
            yield batch()
            places, parts, size = [], [], 0
        keyed = has_key
        places.append(place)
        parts.append(encoded)
        size += len(encoded) + 1
    if places:
        yield batch()


def batch_results(
    batch: Batch, answer: Mapping[str, Any]
) -> Iterator[tuple[int, tuple[str, bool, StackshiftError | None]]]:
    """The id, `reused` and error of each item, by its place."""
    for place, result in zip(batch.places, answer["results"], strict=True):
        if (error := result.get("error")) is not None:
            yield place, ("", False, from_json(error))
        else:
            yield place, (result["id"], bool(result["reused"]), None)


def batch_failed(
    batch: Batch, bad: StackshiftError | TimeoutError
) -> Iterator[tuple[int, StackshiftError]]:
    """The error of a whole batch, once for each item."""
    if isinstance(bad, TimeoutError):
        bad = DaemonUnavailable(str(bad), reason=rpc.NO_ANSWER, may_have_happened=True)
    body = bad.as_json()
    for place in batch.places:
        yield place, from_json(body)


# --- One connection --------------------------------------------------------------------------


class Lost(Exception):
    """The connection ended under a request. `sent` is False if it was certainly not executed."""

    def __init__(self, why: StackshiftError, sent: bool) -> None:
        super().__init__(str(why))
        self.why = why
        self.sent = sent


class _Flight:
    """A request under way: `landed` is set when its reply is there, or why there is none."""

    __slots__ = ("id", "landed", "outcome", "size")

    def __init__(self, id: int, size: int) -> None:
        self.id = id
        self.landed = threading.Event()
        self.outcome: rpc.Reply | Lost | None = None
        self.size = size


class _Link:
    """A socket, the requests under way on it, and the thread that reads their replies."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sending = threading.Lock()
        self._lock = threading.Lock()  # of what follows
        self._next_id = 1
        self._flights: dict[int, _Flight] = {}
        self.end: StackshiftError | None = None
        self.ended_at = 0.0
        self._reader = threading.Thread(target=self._read, name="stackshift-client", daemon=True)
        self._reader.start()

    def send(self, method: str, body: bytes, deadline: float | None) -> _Flight:
        """Write a request. Raises `Lost` (not sent) or `TimeoutError`."""
        left = -1.0 if deadline is None else max(0.0, deadline - monotonic())
        if not self._sending.acquire(timeout=left):
            raise TimeoutError(f"{method}: not sent in time")
        failure: OSError | None = None
        try:
            with self._lock:
                if self.end is not None:
                    raise Lost(self.end, sent=False)
                id = self._next_id
                line = rpc.encode_request(id, method, body)
                self._next_id += 1
                flight = self._flights[id] = _Flight(id, len(line))
            try:
                self._sock.sendall(line)
            except OSError as bad:
                # Part of a line may be out, and nothing may follow it.
                failure = bad
                self._shut(socket.SHUT_WR)
        finally:
            self._sending.release()
        if failure is not None:
            self._not_sent(flight, failure)
        return flight

    def _not_sent(self, flight: _Flight, failure: OSError) -> NoReturn:
        """Say why a line could not be written: what the daemon said before it hung up is read by
        then, or is not waited for any longer."""
        self._reader.join(1.0)
        self._shut(socket.SHUT_RDWR)
        with self._lock:
            self._flights.pop(flight.id, None)
        if isinstance(flight.outcome, rpc.Reply):
            flight.outcome.value()  # the error: too many connections, or this line is too long
        why = self.end or rpc.unavailable(f"the connection broke: {failure.strerror}", rpc.BROKEN)
        raise Lost(why, sent=False) from failure

    def wait(self, flight: _Flight, deadline: float | None, method: str) -> Any:
        """The result of a request. Raises its error, `Lost` (sent) or `TimeoutError`."""
        left = None if deadline is None else max(0.0, deadline - monotonic())
        try:
            if not flight.landed.wait(left):
                raise timed_out(method)
        finally:
            with self._lock:  # given up, also by Ctrl-C: its reply is nobody's when it comes
                self._flights.pop(flight.id, None)
        if isinstance(flight.outcome, Lost):
            raise flight.outcome
        assert flight.outcome is not None
        return flight.outcome.value()

    def close(self) -> None:
        """End the connection; its reader then lets go of the socket and of all who wait."""
        self._shut(socket.SHUT_RDWR)

    def join(self) -> None:
        """Wait until the reader is gone."""
        if threading.current_thread() is not self._reader:
            self._reader.join(5.0)

    def _shut(self, how: int) -> None:
        with contextlib.suppress(OSError):  # the other end was faster
            self._sock.shutdown(how)

    def forget(self) -> None:
        """In a forked child: the parent uses the connection, so only our handle on it is closed."""
        self._sock.close()

    def _read(self) -> None:
        lines = rpc.Lines()
        why: StackshiftError = rpc.unavailable("the daemon closed the connection", rpc.BROKEN)
        try:
            while data := self._sock.recv(1 << 18):
                for line in lines.feed(data):
                    self._deliver(rpc.parse(line))
        except StackshiftError as bad:
            why = bad
        except OSError as bad:
            why = rpc.unavailable(f"the daemon's connection broke: {bad.strerror}", rpc.BROKEN)
        finally:
            self._land_all(why)
            # Shut first, so that no sender is held up in it; closed when none is in it, since its
            # number may be another file's a moment later.
            self._shut(socket.SHUT_RDWR)
            with self._sending:
                self._sock.close()

    def _deliver(self, message: rpc.Reply | rpc.Notification) -> None:
        if isinstance(message, rpc.Notification):
            return  # no feed is ever opened here
        if message.id is None:
            raise message.error or rpc.unavailable("the daemon ended the connection", rpc.BROKEN)
        with self._lock:
            flight = self._flights.pop(message.id, None)
        if flight is not None:
            flight.outcome = message
            flight.landed.set()

    def _land_all(self, why: StackshiftError) -> None:
        """Tell everybody who waits. An error about a line (too long) is the longest one's; one
        about the connection (there are too many) means that nothing on it was carried out."""
        with self._lock:
            self.end, self.ended_at = why, monotonic()
            flights = list(self._flights.values())
            self._flights.clear()
        culprit = None
        if not isinstance(why, DaemonUnavailable | Busy):
            culprit = max(flights, key=lambda flight: flight.size, default=None)
        for flight in flights:
            if isinstance(why, Busy) or flight is culprit:
                flight.outcome = rpc.Reply(None, None, from_json(why.as_json()))
            else:
                flight.outcome = Lost(why, sent=True)
            flight.landed.set()


# --- The client ------------------------------------------------------------------------------


class RunHandle:
    """A run that was started. `reused`: its idempotency key belonged to it already (also where a
    start was repeated after a broken connection and the first one had arrived)."""

    def __init__(self, client: Client, id: str, reused: bool = False) -> None:
        self._client = client
        self.id = id
        self.reused = reused

    def __repr__(self) -> str:
        return f"<RunHandle {self.id}>"

    def status(self) -> str:
        """Its status now, such as `running`."""
        return str(self._client.runs.get(self.id)["status"])

    def result(self, timeout: Duration | None = None) -> Any:
        """Wait until it is finished; what its handler returned. Raises `RunFailed`, `RunCancelled`,
        or `TimeoutError` after `timeout`; the run goes on then."""
        params: dict[str, Any] = {"run": self.id}
        seconds = None
        if timeout is not None:
            params["timeout_ms"] = milliseconds(timeout)
            seconds = params["timeout_ms"] / 1000
        try:
            run = self._client.call("run.wait", params, timeout=seconds)
        except TimeoutError:
            run = {"timed_out": True}
        return outcome(run, self.id)

    def cancel(self) -> bool:
        """Cancel it, for good; False if it was finished before."""
        return bool(self._client.call("run.cancel", {"run": self.id})["changed"])

    def timeline(self) -> list[dict[str, Any]]:
        """Its journal records."""
        return list(self._client.runs.get(self.id, detail=True)["timeline"])


class Queue:
    """A queue by its name."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self.name = check_name(name, "queue")

    def enqueue(self, job: str, payload: Any = None, **options: Unpack[StartOptions]) -> RunHandle:
        """Like `Client.start`, on this queue."""
        options["queue"] = self.name
        return self._client.start(job, payload, **options)


class Runs:
    """The project's runs."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def get(self, id: str, detail: bool = False) -> dict[str, Any]:
        """The run object; with `detail` also its steps, attempts and timeline. `id` may be a unique
        suffix, `@last` or `@failed`. Raises `NotFound`."""
        return dict(self._client.call("run.get", {"run": id, "detail": detail}))

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
        """One page of run objects, newest first: 50, or `limit` (at most 1000)."""
        filters = {name: value for name, value in locals().items() if name != "self"}
        answer = self._client.call("run.list", list_params(filters))
        page = RunPage(answer["runs"])
        page.cursor = answer["cursor"]
        return page


class Client:
    """A project's daemon, for applications. Safe for threads and across `fork`; connects when it is
    first needed, and again when the daemon was restarted.

    `timeout` bounds each request in seconds (waits for results aside). `patience`: for how long
    after a connection was lost its daemon is taken to be restarting.
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
        self._timeout = timeout
        self._patience = patience
        self._lock = threading.Lock()  # of what follows
        self._link: _Link | None = None
        self._lost_at: float | None = None
        self._closed = threading.Event()
        _clients.add(self)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up, for good. Runs go on; calls under way raise `DaemonUnavailable`."""
        self._closed.set()
        with self._lock:
            link, self._link = self._link, None
        if link is not None:
            link.close()
            link.join()

    def __del__(self) -> None:
        # The reader thread knows the link only, so a client that nobody holds ends here.
        link = getattr(self, "_link", None)
        if link is not None:
            link.close()

    def start(self, job: str, payload: Any = None, **options: Unpack[StartOptions]) -> RunHandle:
        """Start a run of `job`; it is durable when this returns.

        Raises `NotFound` (no such job), `Conflict` (the idempotency key is another run's),
        `PayloadRefused`, `Usage`, `Busy`, or `DaemonUnavailable`, which says so if the start may
        have happened all the same.
        """
        answer = self.call("run.start", start_params(job, payload, options))
        return RunHandle(self, answer["id"], bool(answer["reused"]))

    def start_many(self, items: Iterable[Any]) -> list[RunHandle | StackshiftError]:
        """Start many runs; for each item, in order, its handle or why it was not started.

        An item is a dict with the arguments of `start`, or `(job, payload)`. Raises
        `DaemonUnavailable` only if nothing was sent at all; later, it stands in the list.
        """
        self._check("run.start_many")
        refused: dict[int, StackshiftError] = {}
        results: dict[int, RunHandle | StackshiftError] = {}
        window: deque[tuple[Batch, tuple[_Link, _Flight] | None]] = deque()
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
        """The queue `name`, to start runs on."""
        return Queue(self, name)

    def call(self, method: str, params: Mapping[str, Any], *, timeout: float | None = None) -> Any:
        """The result of any method of the protocol. `timeout` in seconds; without one the client's,
        and none for `run.wait`, which has its own."""
        self._check(method)
        body = encode(self.project, params)
        if timeout is None and method != "run.wait":
            timeout = self._timeout
        return self._ask(method, body, may_repeat(method, params), self._deadline(timeout))

    def _check(self, method: str) -> None:
        """A hook: raise here to refuse `method` where the caller stands."""

    @staticmethod
    def _deadline(timeout: float | None) -> float | None:
        return None if timeout is None else monotonic() + timeout

    def _ask(self, method: str, body: bytes, repeatable: bool, deadline: float | None) -> Any:
        """Send and wait; again on a new connection where that is safe."""
        losses = 0
        while True:
            link, asked_at = self._reach(deadline), monotonic()
            try:
                return link.wait(link.send(method, body, deadline), deadline, method)
            except Lost as lost:
                if lost.sent and not repeatable:
                    raise uncertain(method, lost.why) from lost
                if isinstance(lost.why, Busy):
                    raise from_json(lost.why.as_json()) from lost
                # A daemon that hangs up on this request again and again is not restarting.
                losses = losses + 1 if monotonic() - asked_at < SOON else 1
                if losses == MAX_LOSSES or self._closed.is_set():
                    raise from_json(lost.why.as_json()) from lost

    def _reach(self, deadline: float | None) -> _Link:
        """The connection; where it was lost just now, wait for the daemon to come back."""
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

    def _connect(self) -> _Link:
        """The living connection, made if there is none."""
        with self._lock:
            if self._closed.is_set():
                raise Usage("this client was closed")
            if self._link is not None:
                if self._link.end is None:
                    return self._link
                self._lost_at, self._link = self._link.ended_at, None
            self._link = _Link(rpc.connect(self.project.data_dir))
            return self._link

    def _launch(self, batch: Batch) -> tuple[_Link, _Flight] | None:
        """Send a batch ahead; None if it could not be sent, which is for `_land` to see to."""
        try:
            link = self._connect()
            deadline = self._deadline(self._timeout)
            return link, link.send("run.start_many", batch.body, deadline)
        except (Lost, StackshiftError, TimeoutError):
            return None

    def _land(
        self, batch: Batch, launched: tuple[_Link, _Flight] | None
    ) -> Iterator[tuple[int, RunHandle | StackshiftError]]:
        """What became of the items of a batch, by their places."""
        method, deadline = "run.start_many", self._deadline(self._timeout)
        try:
            try:
                if launched is None:
                    raise Lost(rpc.unavailable("not sent", rpc.BROKEN), sent=False)
                answer = launched[0].wait(launched[1], deadline, method)
            except Lost as lost:
                if lost.sent and not batch.repeatable:
                    raise uncertain(method, lost.why) from lost
                answer = self._ask(method, batch.body, batch.repeatable, deadline)
        except (StackshiftError, TimeoutError) as bad:
            yield from batch_failed(batch, bad)
            return
        for place, (id, reused, error) in batch_results(batch, answer):
            yield place, error or RunHandle(self, id, reused)

    def _forked(self) -> None:
        """In the child of a fork: locks may be held by threads that do not exist here."""
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
