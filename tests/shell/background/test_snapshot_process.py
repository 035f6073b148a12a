"""The process that writes a snapshot, where the daemon does not wait for its end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from stackshiftd.shell.background.maintenance import _snapshot


def test_process_is_gone_when_nobody_waits_for_it_any_more(tmp_path: Path) -> None:
    """A daemon that ends while it is compacted leaves no process and no open pipe behind."""
    here = psutil.Process()
    before = {each.pid for each in here.children()}

    def started() -> set[int]:
        return {each.pid for each in here.children()} - before

    def compacts(pid: int) -> bool:
        try:
            return "compact" in psutil.Process(pid).cmdline()
        except psutil.Error:
            return False

    async def work() -> None:
        snapshot = asyncio.ensure_future(_snapshot(tmp_path, 1))
        while not any(map(compacts, started())) and not snapshot.done():
            await asyncio.sleep(0)
        for _ in range(50):  # until what it says is awaited, and not only its start
            await asyncio.sleep(0)
        snapshot.cancel()
        with pytest.raises(asyncio.CancelledError):
            await snapshot
        assert not started()

    asyncio.run(work())
