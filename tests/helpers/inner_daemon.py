"""The daemon as an object in the test's own process: where time, disk and kills are the test's.

Workers are real processes. The loop that it runs on is a thread's, so that the test can block.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from helpers import via
from helpers.deadline import SECONDS, wait_until
from helpers.project import Project
from stackshift_jobs.project.config import load_config
from stackshiftd.daemon import Daemon
from stackshiftd.journal.disk_speed import DiskSpeed
from stackshiftd.journal.file_journal import SEGMENT_SIZE, FileJournal
from stackshiftd.journal.filesystem import Buffer, RealFileSystem
from stackshiftd.journal.interface import Journal
from stackshiftd.journal.shared.log import SharedLog
from stackshiftd.journal.shared.shared_journal import SharedJournal
from stackshiftd.shell.cluster.cluster import Cluster
from stackshiftd.shell.tuning import Tuning

RESERVE: Final = 1 << 20
LEASE_MS: Final = 300


class FaultyFileSystem(RealFileSystem):
    """Real files, of which `fault` may fail any write or sync: given the call's name and the data,
    an errno or None. `free` is what the disk says it has."""

    def __init__(self) -> None:
        self.fault: Callable[[str, bytes], int | None] = lambda _call, _data: None
        self.free: int | None = None

    def _may_fail(self, call: str, data: bytes) -> None:
        code = self.fault(call, data)
        if code is not None:
            raise OSError(code, f"{call} was made to fail")

    def pwrite(self, fd: int, data: Buffer, offset: int) -> int:
        self._may_fail("pwrite", bytes(data))
        return super().pwrite(fd, data, offset)

    def sync_data(self, fd: int) -> None:
        self._may_fail("sync_data", b"")
        super().sync_data(fd)

    def free_bytes(self, path: Any) -> int:
        return super().free_bytes(path) if self.free is None else self.free


class InsideDaemon:
    """A daemon of `project` in a thread. Ends with `close`, which returns what `serve` raised. With
    a `log` its journal is there, and with a `host` it is a member of a cluster by that name."""

    def __init__(
        self,
        project: Project,
        tuning: Tuning | None = None,
        fs: RealFileSystem | None = None,
        clock: Callable[[], int] | None = None,
        log: SharedLog | None = None,
        segment_size: int = SEGMENT_SIZE,
        host: str = "",
        speed: DiskSpeed | None = None,
    ) -> None:
        self._log = log
        self._speed = speed
        self._host = host
        self._segment_size = segment_size
        self._is_followed = False
        self._project = project
        self._tuning = tuning
        self._fs = fs
        self._clock = clock
        self._ready = threading.Event()
        self._daemon: Daemon | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._outcome: Future[BaseException | None] = Future()
        threading.Thread(target=self._run, name="daemon", daemon=True).start()
        wait_until(lambda: self._ready.is_set() or self._outcome.done(), "the daemon to be ready")
        assert self._ready.is_set(), self._outcome.result()
        self._follower: subprocess.Popen[bytes] | None = None
        if self._is_followed:
            self._follower, ready = project.launch(variables=via.FOLLOWS)
            with os.fdopen(ready, "rb") as pipe:
                assert json.loads(pipe.readline())["ready"]

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as raised:  # whatever it is, the test is told
            self._outcome.set_result(raised)
        else:
            self._outcome.set_result(None)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        config = load_config(self._project.root)
        if via.VIA and self._log is None and self._fs is None:
            self._is_followed = via.VIA == "follower"
            config, self._log, self._host = await via.shared(config)
        elif self._log is not None:
            config = replace(config, journal=replace(config.journal, url="postgresql://log"))
        journal = await self._journal(config.data_dir)
        cluster: Cluster | None = None
        if self._host:
            assert isinstance(journal, SharedJournal) and self._log is not None
            cluster = Cluster(config, self._log, self._host, journal.copy_id)
            journal.may_lead = lambda: cluster.may_lead
        self._daemon = Daemon(config, journal, self._tuning, self._clock, cluster=cluster)
        await self._daemon.serve(self._ready.set)

    async def _journal(self, data_dir: Path) -> Journal:
        if self._log is not None:
            return await SharedJournal.open(
                data_dir,
                self._log,
                "the log",
                lease_ms=LEASE_MS,
                segment_size=self._segment_size,
                host=self._host,
            )
        return FileJournal.open(
            data_dir,
            fs=self._fs,
            reserve_bytes=RESERVE if self._fs else 0,
            speed=self._speed,
        )

    def ended(self) -> BaseException | None:
        """Wait until it has ended by itself; what it raised."""
        return self._outcome.result(SECONDS)

    def close(self) -> BaseException | None:
        """Stop it if it runs; what it raised."""
        if self._follower is not None:
            self._follower.terminate()
            self._follower.wait()
        if not self._outcome.done():
            assert self._loop is not None and self._daemon is not None
            self._loop.call_soon_threadsafe(self._daemon.stop)
        return self.ended()
