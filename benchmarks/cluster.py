"""What a journal in PostgreSQL costs, beside one in files: the same load in turns.

    python benchmarks/cluster.py [--rounds 5] [--standby | --url postgresql://db-1/shop]

Without a URL, a server of its own on this machine, which syncs each commit; with `--standby`, each
is told only when a second one has synced it, too. The
figures that matter are the ratio of the rates and the difference of the latencies.

On a server of its own, single appends are timed as well, in two databases in turns: in one of them,
another program has had a transaction open for as long as its daemon takes for 10,000 beats, hours.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path

import asyncpg
import uvloop
from load import Client, Project, blocking_latencies, many, running

from core import Measures

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from helpers.postgres import IS_THERE, MISSING, Postgres
from stackshiftd.journal.shared.log import Lease, Tip, next_row
from stackshiftd.journal.shared.postgres_log import PostgresLog

SLOTS = 256
BEATS = 10_000
LINE = b"x" * 170


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


async def appended(log: PostgresLog, count: int) -> list[float]:
    """The seconds that each of `count` appends of a line takes."""
    tip, took = await log.tip(), []
    for _ in range(count):
        row = next_row(tip, tip.seq + 1, tip.seq + 1, LINE)
        began = time.perf_counter()
        await log.append(tip, row)
        took.append(time.perf_counter() - began)
        tip = row.tip
    return took


async def append(server: Postgres, rounds: int) -> None:
    """Print what an append takes by itself, and in a database with an old open transaction."""
    connection = await asyncpg.connect(server.url)
    logs = []
    for name in ("alone", "beside"):
        await connection.execute(f"CREATE DATABASE {name}")
        log = PostgresLog(server.url.rpartition("/")[0] + f"/{name}", "bench")
        first = next_row(Tip(0, 0, 0, b""), 1, 1, LINE)
        lease = await log.make(Lease("bench", 0, 0, "", 3000), [first])
        term = await log.lead(lease, "bench", 3000)
        assert term is not None
        logs.append((log, term))
    old = await asyncpg.connect(server.url.rpartition("/")[0] + "/beside")
    transaction = old.transaction(isolation="repeatable_read")
    await transaction.start()
    await old.fetch("SELECT * FROM stackshift_lease")
    for _ in range(BEATS):
        for log, term in logs:
            await log.beat(term)
    taken: list[list[float]] = [[], []]
    for _ in range(4 * rounds):
        for (log, _), times in zip(logs, taken, strict=True):
            times += await appended(log, 50)
    await transaction.rollback()
    await old.close()
    await connection.close()
    for log, _ in logs:
        log.close()
    alone, beside = (statistics.median(times) * 1000 for times in taken)
    name = "append by itself, and beside an old transaction, ms"
    print(f"{name} {alone:.3f} {beside:.3f}   x {beside / alone:.2f}")


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
            if servers:
                uvloop.run(append(servers[0], given.rounds))
        finally:
            for each in servers:
                each.stop()


if __name__ == "__main__":
    main()
