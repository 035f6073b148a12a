"""The workers of this machine, lent to the daemon that leads.

For each there is one connection to the leader, and here a keeper (`stackshiftd.keeper`) at its end,
which starts the worker and ends all that it has started when the connection ends. So nothing goes
on for a leader that is gone, and whoever leads next is offered new workers.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Final, Protocol

from stackshift_jobs.errors import BadConfiguration, StackshiftError
from stackshift_jobs.project.code import check_code
from stackshift_jobs.project.config import LOCAL, Config
from stackshiftd.shell.cluster.opening import Offer
from stackshiftd.shell.cluster.streams import Streams, join

log = logging.getLogger("stackshiftd.lender")

FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 15.0
STABLE_SECONDS: Final = 10.0
"""A worker that was lent for so long is followed by the next one at once."""
MARGIN_SECONDS: Final = 2.0
"""How much longer than the grace a keeper may take to end."""


class Dialler(Protocol):
    """Connects to the leader."""

    async def dial(self, leader: str, wish: Offer) -> Streams:
        """A connection for a worker. Raises `StackshiftError`."""


def own_workers(config: Config) -> Iterator[Offer]:
    """The workers that a daemon would start on this machine itself."""
    slots = config.workers.slots
    if LOCAL in config.workers.hosts:
        yield from [Offer("", slots)] * config.workers.processes
    for queue, section in config.queues.items():
        for host, processes in section.places:
            if host == LOCAL:
                yield from [Offer(queue, slots)] * processes


class Lender:
    """Offers the workers `offers` of the project of `config` to whoever leads."""

    def __init__(self, config: Config, dialler: Dialler, offers: Iterable[Offer]) -> None:
        self._config = config
        self._dialler = dialler
        self._offers = list(offers)
        self._grace_seconds = config.workers.grace_ms / 1000
        self.leader = ""
        self._lending: list[asyncio.Task[None]] = []
        self._keepers: set[subprocess.Popen[bytes]] = set()
        self._endings: set[asyncio.Task[None]] = set()
        self._is_closing = False
        self._said = ""

    def follow(self, leader: str) -> None:
        """From now on lend to the daemon on `leader`, or, if that is "", to none."""
        if leader == self.leader or self._is_closing:
            return
        self._withdraw()
        self.leader, self._said = leader, ""
        if leader and self._offers:
            loop = asyncio.get_running_loop()
            self._lending = [loop.create_task(self._lend(offer)) for offer in self._offers]

    async def close(self, *, leave: bool) -> None:
        """Lend no more; with `leave`, have runs handed back first, for which there is the grace.
        Returns when nothing of the workers is left; idempotent."""
        self._is_closing = True
        if leave and self._keepers:
            for keeper in self._keepers:
                keeper.terminate()
            ends = [self._ended(keeper, 2 * MARGIN_SECONDS) for keeper in self._keepers]
            await asyncio.gather(*ends)
        self._withdraw()
        while self._endings:
            await asyncio.gather(*self._endings, return_exceptions=True)

    def _withdraw(self) -> None:
        for each in self._lending:
            each.cancel()
        self._endings.update(self._lending)
        for each in self._lending:
            each.add_done_callback(self._endings.discard)
        self._lending = []

    async def _lend(self, offer: Offer) -> None:
        """Lend one worker, and the next one when it has ended, until that is cancelled."""
        pause_seconds = FIRST_PAUSE_SECONDS
        while not self._is_closing:
            began = time.monotonic()
            try:
                check_code(self._config)
                streams = await self._dialler.dial(self.leader, offer)
                await self._keep(streams)
            except (StackshiftError, OSError) as bad:
                self._tell(bad)
            if time.monotonic() - began > STABLE_SECONDS:
                pause_seconds = FIRST_PAUSE_SECONDS
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)

    def _tell(self, bad: Exception) -> None:
        hint = f"; {bad.hint}" if isinstance(bad, BadConfiguration) and bad.hint else ""
        said = f"no worker can be lent to {self.leader}: {bad}{hint}"
        if said != self._said:  # Not once for each worker and attempt.
            self._said = said
            log.warning("%s", said)

    async def _keep(self, streams: Streams) -> None:
        """Join the leader to a keeper, until one of them ends; returns when the keeper has."""
        ours, theirs = socket.socketpair()
        keeper = None
        try:
            with theirs:
                keeper = self._start(theirs)
            here = await asyncio.open_connection(sock=ours)
            await join(streams, here)
        finally:
            ours.close()
            if keeper is not None:
                # A leader that ends this knows by the end of the connection that all is ended.
                await asyncio.shield(self._begin_ending(keeper, streams))
            else:
                streams[1].close()

    def _start(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        keeper = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "stackshiftd.worker", "--stdio"),
                *("--project", str(self._config.root)),
            ],
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            cwd=self._config.root,
            env=os.environ,
            # Ctrl-C in a terminal is for us to handle.
            start_new_session=True,
        )
        self._keepers.add(keeper)
        return keeper

    def _begin_ending(
        self, keeper: subprocess.Popen[bytes], streams: Streams
    ) -> asyncio.Task[None]:
        ending = asyncio.get_running_loop().create_task(self._end(keeper, streams))
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)
        return ending

    async def _end(self, keeper: subprocess.Popen[bytes], streams: Streams) -> None:
        try:
            if not await self._ended(keeper, MARGIN_SECONDS):
                log.error("the keeper of a worker (pid %d) does not end: it is killed", keeper.pid)
                keeper.kill()
                await asyncio.to_thread(keeper.wait)
        finally:
            self._keepers.discard(keeper)
            streams[1].transport.abort()

    async def _ended(self, keeper: subprocess.Popen[bytes], margin_seconds: float) -> bool:
        """Wait for its end, for as long as that may take; has it ended?"""
        seconds = self._grace_seconds + margin_seconds
        try:
            await asyncio.to_thread(keeper.wait, seconds)
        except subprocess.TimeoutExpired:
            return False
        return True
