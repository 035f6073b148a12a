"""How long a daemon takes until it serves, with a long history behind it, and after a kill.

    python benchmarks/recovery.py [--mb 1024] [--rounds 7] [--queued 60000]

Runs with a payload of 16 KB are finished until the journal has nearly so many megabytes, and then
runs of five steps: what a start reads, the records after the newest snapshot, is of these. In each
round the daemon is stopped in good order and started, and killed with SIGKILL while 100 runs are in
flight and started: each time, the seconds from the start of its process until it is ready (jobs are
loaded and clients served), and after a kill until all 100 execute again. A second project is killed
with so many runs queued.

At last two journals are replayed in this process, without a daemon: one of finished runs of five
steps, and the queued runs.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import uvloop
from load import Client, Project, many

from stackshiftd.core.records import Entry
from stackshiftd.journal.file_journal import FileJournal
from stackshiftd.shell.departures import replay

IN_FLIGHT = 100
PART = 2_000
"""Runs that are finished between two looks at the size of the journal."""
LAST_BYTES = 64 << 20
"""So much of the journal is of runs of five steps."""
PAYLOAD = f'"{"x" * 16_000}"'
REPLAYED = 300_000
"""Records of finished runs that are replayed."""


async def ask(project: Project, method: str, params: str = "{}") -> Any:
    """The answer to one request."""
    client = await Client().open(project.socket)
    answer = await client.ask(method, params)
    client.transport.close()
    return answer


async def finish(project: Project, size_bytes: int) -> None:
    """Finish runs until the journal is so large."""
    client = await Client().open(project.socket)

    async def large(runs: Iterator[int]) -> None:
        for _ in runs:
            await client.run("noop", PAYLOAD)

    while (size := (await client.ask("journal.stats", "{}"))["bytes"]) < size_bytes:
        if size < size_bytes - LAST_BYTES:
            runs = iter(range(PART))
            await asyncio.gather(*(large(runs) for _ in range(64)))
        else:
            await many(client, "five", PART, 256)
    client.transport.close()


async def settled(project: Project) -> None:
    """Return when the newest snapshot covers all segments but the last."""
    client = await Client().open(project.socket)
    while True:
        found = await client.ask("journal.stats", "{}")
        if found["snapshot"] and found["snapshot"]["seq"] >= found["segments"][-1]["first_seq"] - 1:
            return
        await asyncio.sleep(0.1)


async def begin(project: Project, runs: int) -> None:
    """Let so many runs execute that do not end by themselves."""
    client = await Client().open(project.socket)
    asked = [client.ask("run.start", '{"job":"block"}') for _ in range(runs)]
    await asyncio.gather(*asked)
    await executing(client, runs)
    client.transport.close()


async def executing(client: Client, runs: int) -> None:
    """Return when so many runs execute."""
    while True:
        workers = (await client.ask("daemon.status", "{}"))["workers"]
        if sum(worker["running"] for worker in workers) >= runs:
            return
        await asyncio.sleep(0.002)


async def again(project: Project) -> None:
    """Return when the runs that were in flight execute again."""
    await executing(await Client().open(project.socket), IN_FLIGHT)


def started(project: Project) -> float:
    """Start the daemon; the seconds until it is ready."""
    began = time.perf_counter()
    project.start()
    return time.perf_counter() - began


def kill(project: Project) -> None:
    """End the daemon as a power cut would."""
    assert project.daemon is not None
    project.daemon.kill()
    project.daemon.wait()


class Beginning:
    """The first records of a journal, for `replay`."""

    def __init__(self, journal: FileJournal, records: int) -> None:
        self._journal = journal
        self._records = records

    def read(self, from_seq: int) -> Iterator[tuple[int, Entry]]:
        """As `Journal.read`."""
        return islice(self._journal.read(from_seq), self._records)


async def fives(project: Project) -> None:
    """Finish runs of five steps."""
    await many(await Client().open(project.socket), "five", REPLAYED // 8, 256)


def of_finished_runs() -> Project:
    """A project with a journal of runs of five steps alone, whose daemon has stopped."""
    project = Project(processes=1, slots=256)
    project.start()
    uvloop.run(fives(project))
    project.stop()
    return project


def records_per_second(project: Project, records: int, rounds: int) -> float:
    """How many records are replayed in a second, of so many from the first on; the median. No
    daemon may be running."""
    journal = FileJournal.open(Path(project.root, ".stackshift"))
    rates = []
    for _ in range(rounds):
        began = time.perf_counter()
        state = replay(Beginning(journal, records), None, 0).state  # type: ignore[arg-type]
        rates.append(state.seq / (time.perf_counter() - began))
    journal.close()
    return statistics.median(rates)


async def queue(project: Project, runs: int) -> None:
    """Queue so many runs."""
    client = await Client().open(project.socket)
    page = ",".join(['{"job":"block","payload":1}'] * 500)
    for _ in range(0, runs, 500):
        await client.ask("run.start_many", f'{{"runs":[{page}]}}')
    client.transport.close()


def with_history(size_bytes: int, rounds: int, table: dict[str, list[float]]) -> Project:
    """Start and kill a daemon with a long history; its project."""
    project = Project(processes=1, slots=256)
    project.start()
    uvloop.run(finish(project, size_bytes))
    uvloop.run(settled(project))
    print(f"filled {project.root}", flush=True)
    for _ in range(rounds):
        project.stop()
        table.setdefault("stopped: ready", []).append(started(project))
        uvloop.run(begin(project, IN_FLIGHT))
        kill(project)
        began = time.perf_counter()
        table.setdefault("killed, 100 in flight: ready", []).append(started(project))
        uvloop.run(again(project))
        name = "killed, 100 in flight: all of them execute"
        table.setdefault(name, []).append(time.perf_counter() - began)
        uvloop.run(ask(project, "run.cancel_all", '{"job":"block","limit":500}'))
    found = uvloop.run(ask(project, "journal.stats"))
    kept = found["snapshot"] or {"seq": 0}
    print(f"{found['bytes'] / 1e6:,.0f} MB, {found['durable_seq']:,} records", end="; ")
    print(f"{found['durable_seq'] - kept['seq']:,} of them after the newest snapshot")
    project.stop()
    return project


def with_queue(runs: int, rounds: int, table: dict[str, list[float]]) -> Project:
    """Kill and start a daemon with many queued runs; its project."""
    project = Project(processes=1, slots=4)
    project.start()
    uvloop.run(queue(project, runs))
    for _ in range(rounds):
        kill(project)
        table.setdefault(f"killed, {runs:,} queued: ready", []).append(started(project))
    project.stop()
    return project


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mb", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--queued", type=int, default=60_000)
    chosen = parser.parse_args()
    table: dict[str, list[float]] = {}
    long = with_history(chosen.mb << 20, chosen.rounds, table)
    queued = with_queue(chosen.queued, chosen.rounds, table)
    for name, took in table.items():
        print(f"{name:44} {statistics.median(took):6.2f} s, {min(took):.2f} to {max(took):.2f}")
    long.remove()
    finished = of_finished_runs()
    for name, project in (("of finished runs", finished), ("of queued runs", queued)):
        rate = records_per_second(project, REPLAYED, chosen.rounds)
        print(f"replayed records {name:27} {rate:8,.0f} per second")
        project.remove()


if __name__ == "__main__":
    main()
