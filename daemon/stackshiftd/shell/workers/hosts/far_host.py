"""Other hosts on which workers run, and what is known of each.

On each a keeper (`stackshiftd.keeper`) is at the other end of a pipe. A command, such as
`ssh gpu-1`, joins its standard input and output to one; or a machine has come by itself, and lends
its workers (`joined`).
"""

from __future__ import annotations

import shlex
import socket
import time
from pathlib import PurePath
from typing import Any, Final

import msgspec

from stackshift_jobs.project.config import LOCAL, Config, HostSection
from stackshift_jobs.project.environment import added
from stackshift_jobs.values.durations import rfc3339
from stackshift_jobs.version import __version__
from stackshiftd.shell.workers.hosts.code_archive import Archive, CodeArchives
from stackshiftd.shell.workers.hosts.host_process import launch_on_host
from stackshiftd.shell.workers.local_host import Host
from stackshiftd.shell.workers.process import Launch, Process, launch_process
from stackshiftd.worker.host_frames import HOST_PROTOCOL, Open

SSH_OPTIONS: Final = (
    "-T",
    "-o",
    "BatchMode=yes",
    "-o",
    "ControlMaster=no",
    "-o",
    "ForwardAgent=no",
    "-o",
    "ServerAliveInterval=5",
    "-o",
    "ServerAliveCountMax=3",
)
"""A daemon can answer no question; and what must not be forwarded is not, whatever `~/.ssh/config`
says."""
SEND: Final = "send"
"""The value of `[hosts.NAME] code` for code that is sent."""


def host_command(name: str, section: HostSection) -> list[str]:
    """The command that starts a keeper on the host. ssh hands words to a shell there, so for it
    they are quoted; other commands start the program with the words as they are."""
    command = list(section.command or ("ssh", name))
    keeper = [section.python, "-P", "-m", "stackshiftd.worker", "--stdio"]
    if PurePath(command[0]).name == "ssh":
        return [command[0], *SSH_OPTIONS, *command[1:], shlex.join(keeper)]
    return [*command, *keeper]


class FarHost(Host):
    """Another host."""

    is_far = True
    is_used = True
    """Are workers placed on it?"""
    is_sent = False
    """Is the code sent there?"""

    def __init__(self, name: str, config: Config) -> None:
        super().__init__(config, launch_process)
        self.name = name
        self.config = config
        self.version = ""
        self.python = ""
        self.round_trip_ms: float | None = None
        self.problem = ""
        """Why no worker runs there, in one sentence; empty if one does, or has not been tried."""
        self.problem_since_us = 0
        self.prepares = False
        """Does it prepare the code now?"""
        self.outdated = ""
        """How its code differs from ours; empty if it does not."""

    def worker_name(self, number: int) -> str:
        """The name of the worker with this number: `gpu-1/w3`."""
        return f"{self.name}/w{number}"

    def order(self, worker: str, silence_seconds: float, archive: Archive | None) -> Open:
        """What the keeper of this worker is told; `archive` is the code that it can ask for. Raises
        `BadConfiguration`."""
        return Open(
            protocol=HOST_PROTOCOL,
            version=__version__,
            worker=worker,
            project=self.config.project.name,
            digest=archive.digest if archive is not None else "",
            grace_ms=self.config.workers.grace_ms,
            silence_seconds=silence_seconds,
        )

    async def archive(self) -> Archive | None:
        """The code to be sent. Raises `OSError` and `BadConfiguration`."""
        return None

    def worked(self) -> None:
        """A worker has come up."""
        self.early_deaths = 0
        self.problem = ""

    def troubled(self, why: str) -> None:
        """No worker comes up, for this reason."""
        if not self.problem:
            self.problem_since_us = time.time_ns() // 1000
        self.problem = why

    @property
    def trouble(self) -> str:
        """Why it gets no work; empty if it does."""
        return self.problem or self.outdated

    def _status(self, workers: list[str]) -> str:
        if workers:
            return "serving"
        if self.outdated and not self.problem:
            return "other code"
        if self.prepares:
            return "preparing"
        if self.problem:
            return "unreachable"
        return "starting" if self.is_used else "unused"

    def shown(self, workers: list[str]) -> dict[str, Any]:
        """What `daemon.status` says of it; `workers` are those that serve."""
        return {
            "name": self.name,
            "status": self._status(workers),
            "workers": workers,
            "version": self.version or None,
            "python": self.python or None,
            "round_trip_ms": self.round_trip_ms,
            "problem": self.trouble or None,
            "since": rfc3339(self.problem_since_us) if self.problem else None,
        }


class CommandHost(FarHost):
    """A host that a command reaches."""

    def __init__(
        self, name: str, section: HostSection, config: Config, archives: CodeArchives
    ) -> None:
        super().__init__(name, config)
        self._section = section
        self._archives = archives
        named = [*config.workers.hosts, *(h for q in config.queues.values() for h in q.hosts or ())]
        self.is_used = name in named
        self.is_sent = section.code == SEND

    def order(self, worker: str, silence_seconds: float, archive: Archive | None) -> Open:
        """See `FarHost.order`."""
        return msgspec.structs.replace(
            super().order(worker, silence_seconds, archive),
            directory="" if archive is not None else self._section.code,
            prepare=self._section.prepare or (),
            environment=added(self.config),
            path=self.config.workers.path,
        )

    async def archive(self) -> Archive | None:
        """See `FarHost.archive`."""
        if not self.is_sent:
            return None
        return await self._archives.of(self._section.send or self.config.project.jobs)

    async def launch(self, theirs: socket.socket) -> Process:
        """Start the command. Raises `OSError`, `BadConfiguration`."""
        archive = await self.archive()
        command = host_command(self.name, self._section)
        return launch_on_host(self.config, command, theirs, archive)


class Hosts:
    """All places of a project's workers, by name."""

    def __init__(self, config: Config, launch: Launch) -> None:
        self.local = Host(config, launch)
        self._archives = CodeArchives(config)
        self.far: dict[str, FarHost] = {
            name: CommandHost(name, section, config, self._archives)
            for name, section in config.hosts.items()
        }
        self.joined: dict[str, FarHost] = {}
        """Machines that have come by themselves and are here now."""
        self._config = config

    def joining(self, name: str) -> FarHost:
        """The machine of this name, one of whose workers comes now."""
        return self.joined.setdefault(name, FarHost(name, self._config))

    def __getitem__(self, name: str) -> Host:
        """The host of this name."""
        return self.local if name == LOCAL else self.far[name]

    def code_changed(self) -> None:
        """The workers of this machine have other code now: send that."""
        self._archives.clear()
