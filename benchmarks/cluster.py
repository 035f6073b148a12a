"""What a journal in PostgreSQL costs, beside one in files: the same load in turns.

    python benchmarks/cluster.py [--rounds 5] [--standby | --url postgresql://db-1/shop]

Without a URL, a server of its own on this machine, which syncs each commit; with `--standby`, each
is told only when a second one has synced it, too. The
figures that matter are the ratio of the rates and the difference of the latencies.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import uuid
from pathlib import Path

import uvloop
from load import Client, Project, blocking_latencies, many, running

from core import Measures

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from helpers.postgres import IS_THERE, MISSING, Postgres

SLOTS = 256


def project_in(url: str) -> Project:
    """A project whose journal is in the database."""
    project = Project(slots=SLOTS)
    with (project.root / "stackshift.toml").open("a") as config:
        config.write(f"[project]\nname = 'bench-{uuid.uuid4().hex}'\n[journal]\nurl = '{url}'\n")
    return project


async def measured(client: Client, project: Project) -> Measures:
    """One round."""
    made: Measures = {}
    for in_flight in (64, SLOTS):
        took = await many(client, "five", 8 * in_flight, in_flight)
        made[f"steps/s, {in_flight} in flight"] = 5 * 8 * in_flight / took
    steps: list[float] = []
    for number in range(100):
        steps += await client.run("five_timed", number)
    made["one step after another, ms"] = statistics.median(steps) * 1000
    took_each = await asyncio.to_thread(blocking_latencies, project.socket, "noop", 100)
    made["start to result, ms"] = statistics.median(took_each) * 1000
    return made


async def measure(files: Project, shared: Project, rounds: int) -> None:
    """Print the medians of both, and what lies between them."""
    sides = [(await Client().open(each.socket), each) for each in (files, shared)]
    for client, _ in sides:
        await many(client, "five", 300, 64)
    taken: list[list[Measures]] = [[], []]
    for _ in range(rounds):
        for side, measures in zip(sides, taken, strict=True):
            measures.append(await measured(*side))
    for name in taken[0][0]:
        here, there = (statistics.median(each[name] for each in measures) for measures in taken)
        if name.endswith("ms"):
            print(f"{name:<32} {here:10.3f} {there:10.3f}   + {there - here:.3f}")
        else:
            print(f"{name:<32} {here:10,.0f} {there:10,.0f}   x {there / here:.2f}")


def main() -> None:
    """Start both and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--url", help="the database; without it, a server of its own")
    parser.add_argument("--standby", action="store_true", help="with a synchronous standby")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        url, servers = given.url, list[Postgres]()
        if url is None:
            if not IS_THERE:
                sys.exit(MISSING)
            servers.append(server := Postgres(Path(folder, "server")))
            server.start("fsync=on")
            url = server.url
            if given.standby:
                servers.append(standby := server.attach(Path(folder, "standby")))
                standby.stop()
                standby.start("fsync=on")
        try:
            with running(Project(slots=SLOTS)) as files, running(project_in(url)) as shared:
                print(f"{'':<32} {'files':>10} {'PostgreSQL':>10}")
                uvloop.run(measure(files, shared, given.rounds))
        finally:
            for each in servers:
                each.stop()


if __name__ == "__main__":
    main()
