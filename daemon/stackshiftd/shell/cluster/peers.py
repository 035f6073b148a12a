"""Questions to the daemons on other machines, which do not lead.

Each costs a moment at most: who has just not answered is not asked again for a while.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from stackshift_jobs.errors import StackshiftError
from stackshiftd.core.state.entries import PAGE_BYTES
from stackshiftd.shell.cluster.opening import Client
from stackshiftd.shell.cluster.streams import CHUNK

if TYPE_CHECKING:  # It loads ssl, which a daemon of one machine does not need.
    from stackshiftd.shell.cluster.cluster import Cluster

log = logging.getLogger("stackshiftd.peers")

SECONDS: Final = 2.0
"""How long one may take to answer, its connection included."""
SILENT_SECONDS: Final = 5.0
MAX_ANSWER: Final = 8 * PAGE_BYTES


class Peers:
    """The daemons that `cluster` knows."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._silent: dict[str, float] = {}
        """Until when one that has not answered is not asked again."""

    async def ask(self, host: str, method: str, params: msgspec.Struct, *, again: bool) -> Any:
        """What the daemon on `host` answers to a request that it serves for itself; None if it
        does not. One that has just not answered is only asked `again` if this is wished."""
        now = time.monotonic()
        if not self._cluster.is_there(host) or (not again and self._silent.get(host, 0) > now):
            return None
        try:
            line = await asyncio.wait_for(self._answer(host, method, params), SECONDS)
            answer = msgspec.json.decode(line)
            if "result" in answer:
                self._silent.pop(host, None)
                return answer["result"]
            why = answer["error"]["message"]
        except (OSError, ValueError, TypeError, LookupError, StackshiftError) as bad:
            # TimeoutError, which is an OSError, has no words.
            why = str(bad) or f"no answer for {SECONDS:g} s"
        log.info("%s does not answer %s: %s", host, method, why)
        self._silent[host] = now + SECONDS + SILENT_SECONDS
        return None

    async def _answer(self, host: str, method: str, params: msgspec.Struct) -> bytes:
        """The line that it says. Raises `OSError`, `ValueError` and `StackshiftError`."""
        reader, writer = await self._cluster.dial(host, Client())
        try:
            request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            writer.write(msgspec.json.encode(request) + b"\n")
            parts: list[bytes] = []
            size = 0
            while not parts or not parts[-1].endswith(b"\n"):
                data = await reader.read(CHUNK)
                size += len(data)
                if not data:
                    raise ConnectionError("it has hung up")
                if size > MAX_ANSWER:
                    raise ValueError("its answer is too long")
                parts.append(data)
            return b"".join(parts)
        finally:
            # Not closed in good order: one that stands still would not take part in that.
            writer.transport.abort()
