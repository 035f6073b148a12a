"""The process that has started the daemon, and waits to hear that it is ready.

It hears of that on a descriptor, in a line of JSON. `stackshift dev` stays there: it hears of each
reload too, and once it is gone, however it ended, the daemon stops.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import Callable
from typing import Any, Final

log = logging.getLogger("stackshiftd")

MOST_UNREAD: Final = 1 << 20
"""Bytes kept for a starter that does not read, such as one stopped by its terminal. Reports that
would exceed this are dropped."""


class Starter:
    """Who started the daemon; nobody, without `fd`. One that `stays` has given a stream socket."""

    def __init__(self, fd: int | None, *, stays: bool) -> None:
        self._fd = fd
        self.stays = stays
        self._writer: asyncio.StreamWriter | None = None
        self._watch: asyncio.Task[None] | None = None

    def tell(self, what: dict[str, Any]) -> None:
        """Write `what` as a line of JSON; to a starter that does not stay only once."""
        line = json.dumps(what).encode() + b"\n"
        if self._writer is not None:
            if self._writer.transport.get_write_buffer_size() <= MOST_UNREAD:
                self._writer.write(line)
        elif self._fd is not None:
            try:
                os.write(self._fd, line)
            except OSError:
                log.warning("the process that started this daemon is gone")
            if not self.stays:
                os.close(self._fd)
                self._fd = None

    def stay(self, gone: Callable[[], None]) -> None:
        """From now on, call `gone` once a starter that stays is gone."""
        if self.stays and self._fd is not None:
            link, self._fd = socket.socket(fileno=self._fd), None
            self._watch = asyncio.create_task(self._until_gone(link, gone))

    async def _until_gone(self, link: socket.socket, gone: Callable[[], None]) -> None:
        try:
            reader, self._writer = await asyncio.open_connection(sock=link)
            while await reader.read(1 << 16):
                pass  # It says nothing.
        except OSError as bad:
            log.info("the process that started this daemon has hung up: %s", bad)
        gone()
