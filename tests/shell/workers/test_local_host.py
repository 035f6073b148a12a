"""Workers of this machine, of which the first may be there before it is needed."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from helpers.processes import alive
from stackshift_jobs.errors import BadConfiguration
from stackshift_jobs.project.config import Config, load_config
from stackshiftd.shell.workers.local_host import Host
from stackshiftd.shell.workers.process import EarlyWorker, Process, launch_process


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A project with a data directory and no jobs."""
    (tmp_path / "stackshift.toml").write_text("")
    found = load_config(tmp_path)
    found.data_dir.mkdir(mode=0o700)
    return found


def early(config: Config) -> EarlyWorker:
    """A worker that is there already."""
    found = EarlyWorker.launch(config)
    assert found is not None
    return found


def end(process: Process, ours: socket.socket) -> None:
    """Let a worker end as when its daemon is gone."""
    ours.close()
    process.wait()


def test_worker_that_is_there_is_the_first_that_is_started(config: Config) -> None:
    """And only the first."""
    host = Host(config, launch_process)
    host.early = there = early(config)
    process, ours = asyncio.run(host.start())
    assert (process, ours) == there
    other, theirs = asyncio.run(host.start())
    assert other.pid != process.pid
    end(process, ours)
    end(other, theirs)


def test_worker_that_is_there_no_more_is_not_used(config: Config) -> None:
    """Another is started in its place."""
    host = Host(config, launch_process)
    host.early = gone = early(config)
    gone.process.kill()
    gone.process.wait()
    process, ours = asyncio.run(host.start())
    assert process.pid != gone.process.pid
    assert alive(process.pid)
    end(process, ours)


def test_worker_that_is_there_is_not_used_for_code_that_others_can_change(config: Config) -> None:
    """What was checked when it was started may have changed since. (guarantee: own code)"""
    host = Host(config, launch_process)
    host.early = early(config)
    (config.root / "jobs").mkdir()
    (config.root / "jobs").chmod(0o777)
    with pytest.raises(BadConfiguration, match="mode 0777"):
        asyncio.run(host.start())
    host.dismiss_early()


def test_worker_that_nobody_needs_is_ended(config: Config) -> None:
    """Such as where the disk has no room for the daemon to work."""
    host = Host(config, launch_process)
    host.early = there = early(config)
    host.dismiss_early()
    assert not alive(there.process.pid)
    host.dismiss_early()


def test_no_worker_is_there_where_all_are_on_other_hosts(config: Config) -> None:
    """It would be of no use."""
    root = config.root
    (root / "stackshift.toml").write_text('[workers]\nhosts = ["gpu"]\n[hosts.gpu]\n')
    assert EarlyWorker.launch(load_config(root)) is None
