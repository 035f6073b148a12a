"""The methods `cluster.*`: the daemons of the project on several machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from stackshift_jobs.errors import BadConfiguration
from stackshiftd.journal.interface import Journal
from stackshiftd.shell.params import Answer, NoParams, Params, Table
from stackshiftd.shell.tasks import Tasks

if TYPE_CHECKING:
    from stackshiftd.shell.cluster.cluster import Cluster


class HandOver(Params):
    """The host whose daemon is to lead; null for any that follows."""

    host: str | None = None


class NameHost(Params):
    """The host of a daemon."""

    host: str


class Leader(Protocol):
    """The daemon, which may stop to lead."""

    def hand_over(self, to: str) -> None:
        """Begin to let the daemon on the host `to` lead, and follow that one."""


class ClusterMethods:
    """The methods of one daemon; without a cluster each raises `BadConfiguration`."""

    def __init__(
        self, cluster: Cluster | None, journal: Journal, tasks: Tasks, daemon: Leader
    ) -> None:
        self._cluster = cluster
        self._journal = journal
        self._tasks = tasks
        self._daemon = daemon
        self.table: Table = {
            "cluster.status": (NoParams, self.status),
            "cluster.handover": (HandOver, self.hand_over),
            "cluster.forget": (NameHost, self.forget),
        }

    def status(self, _params: NoParams, answer: Answer) -> None:
        """Answer `{journal, seq, leader, url, lease_ms, answers, server, synchronous, members}`."""
        self._tasks.begin(self._status(self._found), answer)

    async def _status(self, cluster: Cluster) -> dict[str, Any]:
        journal = self._journal
        members = await cluster.status(journal.leader)
        server = await cluster.server()
        origin = journal.origin or {}
        return {
            "journal": journal.journal_id,
            "seq": journal.last_seq,
            "leader": cluster.host if journal.leader is None else journal.leader or None,
            "url": origin.get("url"),
            "lease_ms": origin.get("lease_ms"),
            "answers": origin.get("answers"),
            "server": server.version,
            "synchronous": server.synchronous or None,
            "members": members,
        }

    def hand_over(self, params: HandOver, answer: Answer) -> None:
        """Answer `{from, to}`, and begin to hand over."""
        self._tasks.begin(self._handed_over(self._found, params.host), answer)

    async def _handed_over(self, cluster: Cluster, host: str | None) -> dict[str, str]:
        to = await cluster.successor(host)
        self._daemon.hand_over(to)
        return {"from": cluster.host, "to": to}

    def forget(self, params: NameHost, answer: Answer) -> None:
        """Answer `{host}`."""
        self._tasks.begin(self._forgotten(self._found, params.host), answer)

    async def _forgotten(self, cluster: Cluster, host: str) -> dict[str, str]:
        await cluster.forget(host)
        return {"host": host}

    @property
    def _found(self) -> Cluster:
        if self._cluster is None:
            raise BadConfiguration(
                "the journal of this project is in files, and one daemon serves it",
                hint="docs/cluster.md says how to put it into a database",
                key="journal.url",
            )
        return self._cluster
