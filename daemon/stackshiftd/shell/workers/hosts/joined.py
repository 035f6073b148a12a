"""Workers of machines that have come by themselves: daemons that follow, and `worker join`.

Such a machine offers a worker by a connection to the leader, at whose other end a keeper then is.
It starts another one for each that ends, so nothing is started again here. The end of the
connection is the end of all that the worker has started: it is closed from there, after that. Only
one that does not answer any more is cut off from here, a little later than its keeper has ended it.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

from stackshiftd.shell.workers.hosts.far_host import FarHost
from stackshiftd.shell.workers.hosts.host_link import HostLink
from stackshiftd.shell.workers.hosts.joined_process import JoinedProcess
from stackshiftd.worker.frames import encode
from stackshiftd.worker.host_frames import Close

MARGIN_SECONDS: Final = 2.0
"""How much longer than the grace of what it has started the end of a worker may take there."""


class JoinedLink(HostLink):
    """One such worker."""

    process: JoinedProcess

    def __init__(
        self, pool: Any, worker: str, queue: str, process: JoinedProcess, host: FarHost
    ) -> None:
        super().__init__(pool, worker, queue, process, host)
        self.replaced = True  # It is for that machine to offer another one.
        self._writer: asyncio.StreamWriter | None = None
        self._is_closing = False

    def take_over(self, writer: asyncio.StreamWriter) -> None:
        """Become the end of a connection that somebody else has begun."""
        self._writer = writer  # One that is dropped closes its connection.
        transport = cast(asyncio.Transport, writer.transport)
        transport.set_protocol(self)
        self.connection_made(transport)
        transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `WorkerLink.connection_lost`."""
        self.process.is_over()
        super().connection_lost(exc)

    def close(self) -> None:
        """Have the worker ended, and then the connection."""
        transport = self._transport
        if transport is None or transport.is_closing() or self._is_closing:
            return
        self._is_closing = True
        if self.process.is_lost:
            transport.abort()
            return
        transport.write(encode(Close()) + b"\n")
        grace_seconds = self.host.config.workers.grace_ms / 1000
        self._loop.call_later(grace_seconds + MARGIN_SECONDS, transport.abort)

    def process_ended(self) -> None:
        """See `WorkerLink.process_ended`: the process that is known here is the connection."""
        if self._transport is not None:
            self._transport.abort()
