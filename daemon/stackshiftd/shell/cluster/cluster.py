"""One machine's place among those of its project.

It says once a second, in the log's table of members, that it is there; listens for the others,
whose clients it joins to its own socket and whose workers it takes; and connects its own clients,
and its workers, to the leader. What it needs of the others is in the table: no name has to be
resolved, nothing is configured twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from stackshift_jobs.errors import (
    Conflict,
    DatabaseUnavailable,
    HostUnreachable,
    NotFound,
    StackshiftError,
)
from stackshift_jobs.project.config import Config
from stackshift_jobs.project.database_url import hosts_of
from stackshift_jobs.version import __version__
from stackshiftd.journal.shared.log import LATELY_MS, Member, Server, SharedLog
from stackshiftd.shell.cluster import identity
from stackshiftd.shell.cluster.identity import Identity
from stackshiftd.shell.cluster.opening import (
    Answer,
    Client,
    Offer,
    answer_in,
    line_of,
    wish_in,
)
from stackshiftd.shell.cluster.streams import Streams, end, join

log = logging.getLogger("stackshiftd.cluster")

LOOK_SECONDS: Final = 1.0
ANSWER_SECONDS: Final = 5.0
SHUTDOWN_SECONDS: Final = 1.0
"""How long the other end of a connection may take to agree to its end."""
DIAL_SECONDS: Final = 4.0
"""How long a daemon that does not answer, or does not know us yet, is tried."""
WORKERS: Final = "workers"
"""The role of a machine that has workers, and no daemon."""
_AGAIN_SECONDS: Final = 0.25
AHEAD_MS: Final = 60_000
"""A daemon whose clock differs by more from the database's does not lead: its times would be
recorded for all."""


Admit = Callable[[str, Offer, asyncio.StreamWriter], None]
"""Takes a worker that another machine offers, at the other end of a connection, or raises why
not."""


class Cluster:
    """The place of the daemon of the directory `id`, or of a machine that has only workers, which
    is called `host` there. `scratch` is a private directory."""

    def __init__(
        self, config: Config, shared: SharedLog, host: str, id: str, scratch: Path | None = None
    ) -> None:
        self.host = host
        self._scratch = scratch or config.data_dir
        self._config = config
        self._shared = shared
        self._id = id
        self._place: Callable[[], Path | None] = lambda: None
        self._now: Callable[[], tuple[str, int]] = lambda: (WORKERS, 0)
        self._admit: Admit | None = None
        self._identity: Identity | None = None
        self._server: asyncio.Server | None = None
        self._address = ""
        self._members: list[Member] = []
        self._ahead_ms = 0
        self._look: asyncio.Task[None] | None = None
        self._visits: set[asyncio.Task[None]] = set()

    def attach(
        self,
        place: Callable[[], Path | None],
        now: Callable[[], tuple[str, int]],
        admit: Admit,
    ) -> None:
        """Set where the daemon's own clients connect, once they can, what tells its role and the
        last record that it has, and what takes workers of other machines."""
        self._place, self._now, self._admit = place, now, admit

    # --- Life ------------------------------------------------------------------------------

    async def open(self) -> None:
        """Listen, unless only workers are here, and become a member. Raises `Conflict` if another
        daemon has this name, and `OSError`."""
        if identity.IS_POSSIBLE:
            self._identity = Identity(self.host, self._scratch)
            if self._admit is not None:
                await self._listen(self._identity.server)
        else:
            log.warning("%s: %s", identity.missing().message, identity.missing().hint)
        await self._take_name()
        self._look = asyncio.get_running_loop().create_task(self._every_second())

    async def _take_name(self) -> None:
        """Become a member. One whose directory was lost has another id than before, and its old
        name is its own again a little later."""
        deadline = time.monotonic() + 1.1 * LATELY_MS / 1000
        while True:
            try:
                await self._say()
            except DatabaseUnavailable:
                return  # It is tried again every second.
            except Conflict as taken:
                if time.monotonic() > deadline:
                    raise
                log.warning("%s", taken.message)
                await asyncio.sleep(LOOK_SECONDS)
            else:
                return

    async def close(self) -> None:
        """Take no more connections, end those that there are, and say that it has stopped."""
        if self._server is not None:
            self._server.close()
        if self._look is None:  # It has never become a member.
            return
        self._look.cancel()
        for visit in list(self._visits):
            visit.cancel()
        await asyncio.gather(*self._visits, return_exceptions=True)
        with contextlib.suppress(StackshiftError):
            await self._say("stopped")

    async def _listen(self, context: ssl.SSLContext) -> None:
        host, port = self._config.cluster.listen
        options: dict[str, Any] = {
            "ssl": context,
            "ssl_handshake_timeout": ANSWER_SECONDS,
            "ssl_shutdown_timeout": SHUTDOWN_SECONDS,
        }
        try:
            self._server = await asyncio.start_server(self._visited, host, port, **options)
        except OSError as refused:
            if refused.errno != errno.EADDRINUSE or "cluster.listen" in self._config.origins:
                raise
            self._server = await asyncio.start_server(self._visited, host, 0, **options)
        port = self._server.sockets[0].getsockname()[1]
        given = self._config.cluster.advertise
        name, port = given if given is not None else (_own_address(self._config, host), port)
        self._address = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
        log.info("daemons on other machines reach this one at %s", self._address)

    async def _every_second(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._say()
            except DatabaseUnavailable:
                continue  # The journal says so.
            except Conflict as taken:
                log.error("%s; %s", taken.message, taken.hint)

    async def _say(self, role: str | None = None) -> None:
        """Tell the others of this daemon, and learn of them."""
        now, seq = self._now()
        certificate = "" if self._identity is None else self._identity.certificate
        sent = time.time_ns() // 1000
        told = await self._shared.put_member(
            Member(
                self.host,
                self._id,
                certificate,
                self._address,
                __version__,
                role or now,
                seq,
                self._ahead_ms,
            )
        )
        here = (sent + time.time_ns() // 1000) // 2
        self._ahead_ms = (here - told) // 1000
        await self._learn()

    async def _learn(self) -> None:
        self._members = await self._shared.members()
        if self._identity is not None:
            self._identity.trust({each.host: each.certificate for each in self._members})

    @property
    def may_lead(self) -> bool:
        """Is this daemon to lead, and its clock right?"""
        return self._config.cluster.lead and abs(self._ahead_ms) <= AHEAD_MS

    # --- From other machines ---------------------------------------------------------------

    def _visited(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visit = asyncio.get_running_loop().create_task(self._receive(reader, writer))
        self._visits.add(visit)
        visit.add_done_callback(self._visits.discard)

    async def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Join a client of another machine to our own socket, or take a worker."""
        try:
            host = await self._member_of(writer)
            if host is not None:
                line = await asyncio.wait_for(reader.readline(), ANSWER_SECONDS)
                wish = wish_in(line)
                if isinstance(wish, Offer):
                    if self._takes(host, wish, writer):
                        return  # The connection is not ours any more.
                elif (place := self._place()) is not None:
                    own = await asyncio.open_unix_connection(str(place))
                    writer.write(line_of(Answer()))
                    await join((reader, writer), own)
        # ValueError: a line that is too long, or makes no sense
        except (OSError, ValueError) as bad:
            log.info("a connection from another machine has ended: %s", bad)
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        await end(writer)

    def _takes(self, host: str, offer: Offer, writer: asyncio.StreamWriter) -> bool:
        """Take a worker of that machine, or say why not."""
        assert self._admit is not None
        try:
            self._admit(host, offer, writer)
        except StackshiftError as refused:
            log.warning("a worker of %s is refused: %s", host, refused)
            writer.write(line_of(Answer(str(refused))))
            return False
        # Before what its keeper is told: that is sent at the end of this turn of the loop.
        writer.write(line_of(Answer()))
        return True

    async def _member_of(self, writer: asyncio.StreamWriter) -> str | None:
        """The member at the other end; None if it is none."""
        assert self._identity is not None
        peer = writer.get_extra_info("ssl_object")
        if self._identity.host_of(peer) is None:
            with contextlib.suppress(DatabaseUnavailable):
                await self._learn()
        return self._identity.host_of(peer)

    # --- To other machines -----------------------------------------------------------------

    def is_there(self, host: str) -> bool:
        """Has the daemon on `host` said lately that it listens?"""
        return any(
            each.host == host
            and bool(each.address)
            and each.role != "stopped"
            and each.seen_ms < LATELY_MS
            for each in self._members
        )

    async def dial(self, leader: str, wish: Client | Offer) -> Streams:
        """A connection to the daemon on `leader`, for a client or a worker. Raises
        `HostUnreachable`, `Conflict` if it is refused, and `BadConfiguration`."""
        if self._identity is None:
            raise identity.missing()
        deadline = time.monotonic() + DIAL_SECONDS
        why = "it is not known here"
        while True:
            member = next((each for each in self._members if each.host == leader), None)
            if member is not None and not member.address:
                why = "it does not listen: it lacks stackshift-jobs[cluster]"
            elif member is not None:
                try:
                    opened = self._opened(member, wish)
                    return await asyncio.wait_for(opened, ANSWER_SECONDS)
                except (OSError, ValueError, TimeoutError) as bad:
                    why = str(bad) or f"no answer for {ANSWER_SECONDS:g} s"
            if time.monotonic() > deadline:
                where = f"{leader} ({member.address})" if member is not None else leader
                raise HostUnreachable(
                    f"{where} cannot be reached from {self.host}: {why}",
                    hint="stackshift cluster status",
                )
            # Its table of members, and ours, may be a second old.
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _opened(self, member: Member, wish: Client | Offer) -> Streams:
        assert self._identity is not None
        host, _, port = member.address.rpartition(":")
        reader, writer = await asyncio.open_connection(
            host.strip("[]"),
            int(port),
            ssl=self._identity.client,
            ssl_shutdown_timeout=SHUTDOWN_SECONDS,
        )
        try:
            found = self._identity.host_of(writer.get_extra_info("ssl_object"))
            if found != member.host:
                raise ConnectionError(f"{member.address} is not {member.host}")
            writer.write(line_of(wish))
            line = await reader.readline()
            if not line:
                raise ConnectionError("it has hung up")
            if refused := answer_in(line).refused:
                raise Conflict(f"{member.host} refuses it: {refused}")
        except BaseException:
            writer.close()
            raise
        return reader, writer

    # --- What is asked of it ---------------------------------------------------------------

    async def status(self, leader: str | None) -> list[dict[str, Any]]:
        """The members, by name, as `cluster.status` shows them; `leader` is null for this daemon.
        Raises `DatabaseUnavailable`."""
        members = await self._shared.members()
        return [
            {
                "host": each.host,
                "role": _role(each, leader or self.host),
                "seq": each.seq,
                "address": each.address or None,
                "version": each.version,
                "clock_ahead_ms": each.ahead_ms,
                "seen_ms": each.seen_ms,
            }
            for each in members
        ]

    async def server(self) -> Server:
        """What answers for the log. Raises `DatabaseUnavailable`."""
        return await self._shared.server()

    async def successor(self, host: str | None) -> str:
        """The follower that a leader may hand over to: `host`, or the one that is level most.
        Raises `NotFound`, `Conflict` and `DatabaseUnavailable`."""
        members = [each for each in await self._shared.members() if each.host != self.host]
        if host is not None and host not in (each.host for each in members):
            raise NotFound(f"no daemon of this project is called {host}", hint=_STATUS)
        fit = [each for each in members if each.role == "follows" and each.seen_ms < LATELY_MS]
        fit = [each for each in fit if host in (None, each.host)]
        if not fit:
            raise Conflict(f"{host or 'no daemon'} follows now", hint=_STATUS)
        return max(fit, key=lambda each: (each.seq, -each.seen_ms)).host

    async def forget(self, host: str) -> None:
        """Forget a daemon that is gone. Raises `NotFound`, `Conflict` if it is there, and
        `DatabaseUnavailable`."""
        for each in await self._shared.members():
            if each.host == host and each.role != "stopped" and each.seen_ms < LATELY_MS:
                raise Conflict(f"the daemon on {host} runs", hint="stop it there")
        if not await self._shared.forget_member(host):
            raise NotFound(f"no daemon of this project is called {host}", hint=_STATUS)


_STATUS: Final = "stackshift cluster status"


def _role(member: Member, leader: str) -> str:
    if member.role == "stopped":
        return "stopped"
    if member.seen_ms >= LATELY_MS:
        return "silent"
    if member.role == WORKERS:
        return WORKERS
    return "leads" if member.host == leader else "follows"


def _own_address(config: Config, listens: str) -> str:
    """The address of this machine by which it reaches the database; nothing is sent for that."""
    if listens not in ("0.0.0.0", "::"):
        return listens
    for url in hosts_of(config.journal.url or ""):
        parts = urlsplit(url)
        with contextlib.suppress(OSError, ValueError):
            for family, kind, _, _, to in socket.getaddrinfo(
                parts.hostname, parts.port or 5432, type=socket.SOCK_DGRAM
            ):
                with socket.socket(family, kind) as way:
                    way.connect(to)
                    return str(way.getsockname()[0])
    return socket.gethostname()
