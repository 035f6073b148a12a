"""A machine that has workers for the project, and no daemon: what `stackshift worker join` runs.

It needs the project, and the database: there it becomes a member, and learns who leads. It keeps no
copy of the journal, and cannot lead.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from stackshift_jobs.errors import BadConfiguration, DatabaseUnavailable, StackshiftError
from stackshift_jobs.project.config import Config
from stackshiftd.journal.shared.log import SharedLog, leader_of
from stackshiftd.shell.cluster import identity
from stackshiftd.shell.cluster.cluster import Cluster
from stackshiftd.shell.cluster.lender import Lender
from stackshiftd.shell.cluster.opening import Offer

log = logging.getLogger("stackshiftd.joining")

LOOK_SECONDS: Final = 0.5


class Joined:
    """The workers `offers` of the machine `host`, which join whoever leads the journal `shared`."""

    def __init__(
        self, config: Config, shared: SharedLog, host: str, offers: Iterable[Offer]
    ) -> None:
        self._config = config
        self._shared = shared
        self._host = host
        self._offers = list(offers)
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Begin to leave: what the workers hold is handed back first."""
        self._stopping.set()

    async def serve(self, ready: Callable[[], None] = lambda: None) -> None:
        """Lend the workers until that is to stop. `ready` is called once this machine is a member.
        Raises `BadConfiguration`, `Conflict` if another machine has its name, and
        `DatabaseUnavailable` if the database does not answer at first."""
        if not identity.IS_POSSIBLE:
            raise identity.missing()
        if await self._shared.find() is None:
            raise BadConfiguration(
                "the database has no journal of this project yet",
                hint="start a daemon first; [project] name and [journal] url must be the same",
                key="journal.url",
            )
        with tempfile.TemporaryDirectory(prefix="stackshift-") as scratch:
            id = secrets.token_hex(8)
            cluster = Cluster(self._config, self._shared, self._host, id, Path(scratch))
            await cluster.open()
            lender = Lender(self._config, cluster, self._offers)
            try:
                ready()
                await self._follow(lender)
            finally:
                await lender.close(leave=True)
                await cluster.close()
                with contextlib.suppress(StackshiftError):
                    await self._shared.forget_member(self._host)

    async def _follow(self, lender: Lender) -> None:
        """Lend to whoever leads, until that is to stop."""
        while not self._stopping.is_set():
            with contextlib.suppress(DatabaseUnavailable):  # Whoever led last may still do so.
                lease = await self._shared.find()
                lender.follow(leader_of(lease) if lease is not None else "")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), LOOK_SECONDS)
