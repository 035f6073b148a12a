"""A place where workers run: this machine, unless a subclass says otherwise (`hosts.far_host`).

What fails on one host slows no other: each has its own early deaths, by which the pauses between
starts grow.
"""

from __future__ import annotations

import socket

from stackshift_jobs.project.code import check_code
from stackshift_jobs.project.config import LOCAL, Config
from stackshiftd.shell.workers.process import EarlyWorker, Launch, Process


class Host:
    """This machine, on which `launch` starts workers."""

    is_far = False

    def __init__(self, config: Config, launch: Launch) -> None:
        self.name = LOCAL
        self.early_deaths = 0
        self.early: EarlyWorker | None = None
        """A worker that is there already: the next that is started."""
        self._config = config
        self._launch = launch

    def worker_name(self, number: int) -> str:
        """The name of the worker with this number; on which machine it is, where others could have
        it too."""
        machine = self._config.member
        return f"{machine}/w{number}" if machine else f"w{number}"

    async def start(self) -> tuple[Process, socket.socket]:
        """Start a worker; its process, and our end of its socket pair. Raises `OSError` and
        `BadConfiguration`."""
        early = self.early
        if early is not None:
            check_code(self._config)  # As it is now: it has loaded nothing of it so far.
            self.early = None
            if early.process.poll() is None:
                return early
            early.dismiss()
        ours, theirs = socket.socketpair()
        try:
            return await self.launch(theirs), ours
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()

    def dismiss_early(self) -> None:
        """End the worker that is there already, if it was not needed."""
        early, self.early = self.early, None
        if early is not None:
            early.dismiss()

    async def launch(self, theirs: socket.socket) -> Process:
        """Start a worker at the other end of `theirs`. Raises `OSError`, `BadConfiguration`."""
        return self._launch(self._config, theirs)

    def worked(self) -> None:
        """A worker has come up."""
        self.early_deaths = 0

    def troubled(self, why: str) -> None:
        """No worker comes up, for this reason."""
