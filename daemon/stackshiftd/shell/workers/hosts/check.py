"""What `stackshift hosts check` reports: whether a worker comes up on each host, without a daemon.

Everything that a daemon does until it would give the worker a run is done: the command, the code,
its preparation, the imports. Then the worker is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec

from stackshift_jobs.errors import BadConfiguration, NotFound
from stackshift_jobs.project.config import Config, load_config
from stackshiftd.shell.tuning import Tuning
from stackshiftd.shell.workers import orders
from stackshiftd.shell.workers.hosts.far_host import FarHost, Hosts
from stackshiftd.shell.workers.hosts.host_link import HostLink
from stackshiftd.shell.workers.link import WorkerLink
from stackshiftd.shell.workers.process import launch_process
from stackshiftd.shell.workers.programs import FORCED_SECONDS
from stackshiftd.worker.frames import BEAT_SECONDS, Greeting, decode_from_worker

PROBLEM_STATUS: Final = 78
LONGEST_SECONDS: Final = 600.0
"""How long a host may take: preparing code can install a lot."""
PULSES: Final = 5
_LOOK_SECONDS: Final = 1.0


class _Checked:
    """Waits for what the worker on one host has to say: a `link.LinkOwner`."""

    heartbeat = LONGEST_SECONDS
    beat_seconds = BEAT_SECONDS
    tuning = Tuning()

    def __init__(self) -> None:
        self.greeting: asyncio.Future[Greeting | None] = asyncio.get_running_loop().create_future()

    def heard(self, link: WorkerLink, line: bytes) -> None:
        """Note the greeting."""
        frame = decode_from_worker(line)
        link.importing = "its modules"
        if isinstance(frame, Greeting) and not self.greeting.done():
            self.greeting.set_result(frame)

    def broke_silence(self) -> None:
        """Nobody waits for that."""

    def ended(self, _link: WorkerLink) -> None:
        """The worker has ended before it could greet, unless it has."""
        if not self.greeting.done():
            self.greeting.set_result(None)


async def check(host: FarHost, config: Config) -> dict[str, Any]:
    """`{name, ok, problem, version, python, digest, round_trip_ms, seconds, jobs, failed_modules}`
    of one host."""
    began = time.monotonic()
    owner = _Checked()
    digest = None
    greeting = None
    try:
        archive = await host.archive()
        digest = archive.digest if archive is not None else None
        ours, theirs = socket.socketpair()
        with theirs:
            process = await host.launch(theirs)
        link = HostLink(owner, f"{host.name}/check", "", process, host)
        await asyncio.get_running_loop().create_unix_connection(lambda: link, sock=ours)
        try:
            link.open()
            link.post(orders.hello(config, Path(), link.id, BEAT_SECONDS))
            greeting = await _greeting(link, owner)
            if greeting is not None:
                await _round_trip(link)
        finally:
            link.gone = True  # Its end is ours, and no problem of the host.
            link.close()
            process.kill()
            await asyncio.to_thread(process.end_programs, (), FORCED_SECONDS)
            await asyncio.sleep(0)
    except (OSError, BadConfiguration) as bad:
        host.troubled(str(bad))
    failed = [] if greeting is None else [msgspec.to_builtins(each) for each in greeting.failed]
    problem = host.problem or ("" if greeting is not None else "it did not come up in time")
    if failed and not problem:
        problem = f"{failed[0]['module']} does not import there: {failed[0]['message']}"
    return {
        "name": host.name,
        "ok": not problem,
        "problem": problem or None,
        "version": host.version or None,
        "python": host.python or None,
        "digest": digest,
        "round_trip_ms": host.round_trip_ms,
        "seconds": round(time.monotonic() - began, 2),
        "jobs": 0 if greeting is None else len(greeting.jobs),
        "failed_modules": failed,
    }


async def _greeting(link: HostLink, owner: _Checked) -> Greeting | None:
    """What the worker says when it has imported the modules; None if it ends or takes too long."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < deadline and not link.look():
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(asyncio.shield(owner.greeting), _LOOK_SECONDS)
    return None


async def _round_trip(link: HostLink) -> None:
    """Have the time measured that a word to the keeper and back takes, the shortest of a few."""
    times: list[float] = []
    for _ in range(PULSES):
        link.host.round_trip_ms = None
        link.pulse()
        deadline = time.monotonic() + _LOOK_SECONDS
        while link.host.round_trip_ms is None and time.monotonic() < deadline:
            await asyncio.sleep(0.0005)
        if link.host.round_trip_ms is not None:
            times.append(link.host.round_trip_ms)
    link.host.round_trip_ms = min(times, default=None)


def main(root: Path, names: Iterable[str]) -> int:
    """Check the hosts `names` of the project at `root`, or all of them, and print what was found as
    a JSON array; 78 if any cannot be used. Raises `BadConfiguration`, and `NotFound` for another
    name."""
    config = load_config(root.resolve())
    if not config.data_dir.is_dir():  # No daemon has run here yet, and none is started.
        config = replace(config, data_dir=config.root)

    async def checked() -> list[dict[str, Any]]:
        hosts = Hosts(config, launch_process).far
        for name in (wanted := list(names) or list(hosts)):
            if name not in hosts:
                raise NotFound(
                    f"there is no host {name!r}",
                    hint=f"one of: {', '.join(hosts) or 'none, see [hosts.NAME]'}",
                )
        return list(await asyncio.gather(*(check(hosts[name], config) for name in wanted)))

    found = asyncio.run(checked())
    json.dump(found, sys.stdout)
    return 0 if all(each["ok"] for each in found) else PROBLEM_STATUS
