"""How long a daemon that was killed takes until it serves again, with a long history behind it.

    python benchmarks/recovery.py [--runs 60000] [--rounds 5]

So many runs of five steps are finished first, which with the default of 60,000 is a journal of 80
MB; then 100 runs are in flight, the daemon is killed with SIGKILL, and the next one is timed from
its start as a process until it is ready: jobs are loaded and clients served.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from pathlib import Path
from typing import Any

import uvloop
from load import Client, Project, many

IN_FLIGHT = 100


async def finish(project: Project, runs: int) -> None:
    """Finish so many runs."""
    await many(await Client().open(project.socket), "five", runs, 256)


async def begin(project: Project) -> None:
    """Let runs execute that do not end by themselves."""
    client = await Client().open(project.socket)
    await asyncio.gather(*(client.ask("run.start", '{"job":"block"}') for _ in range(IN_FLIGHT)))


async def stats(project: Project) -> dict[str, Any]:
    """The sizes of the journal."""
    client = await Client().open(project.socket)
    found: dict[str, Any] = await client.ask("journal.stats", "{}")
    return found


def main() -> None:
    """Print the seconds of each restart, and what was read."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    project = Project(processes=1, slots=256)
    project.start()
    uvloop.run(finish(project, chosen.runs))
    took = []
    for _ in range(chosen.rounds):
        uvloop.run(begin(project))
        assert project.daemon is not None
        project.daemon.kill()
        project.daemon.wait()
        began = time.perf_counter()
        project.start()
        took.append(time.perf_counter() - began)
        print(f"ready after {took[-1]:.2f} s", flush=True)
    found = uvloop.run(stats(project))
    kept = found["snapshot"] or {"seq": 0}
    print(f"{found['bytes'] / 1e6:.0f} MB, {found['durable_seq']:,} records")
    print(f"{found['durable_seq'] - kept['seq']:,} records after the newest snapshot")
    index = Path(project.root, ".stackshift", "history.db").stat().st_size
    print(f"index of finished runs: {index / max(1, chosen.runs):.0f} bytes for each")
    print(f"median {statistics.median(took):.2f} s")
    project.stop()


if __name__ == "__main__":
    main()
