"""What a slow disk costs: the same load with the disk as it is, and with a sync that takes longer.

    python benchmarks/slow_disk.py [--more-ms 2] [--rounds 5] [--in-flight 512]

Each round loads two daemons in turn, so that what the machine does meanwhile hits both alike. One
of them is started with a library in front of the C library's that sleeps after each sync; a C
compiler has to be there for it. It prints what a step takes one after another, next to the sync
itself, and how many steps are done per second with many in flight. Figures are medians of the
rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import uvloop
from load import Client, Project, many, running

SLOWED = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>
static int slowed(const char *name, int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, name);
    int result = real(fd);
    usleep(atoi(getenv("SLOWED_US")));
    return result;
}
int fsync(int fd) { return slowed("fsync", fd); }
int fdatasync(int fd) { return slowed("fdatasync", fd); }
"""
SYNCS = 50
SINGLES = 40


class Measured:
    """A daemon, up and warm, whose syncs take `more_ms` longer than the disk's."""

    def __init__(self, project: Project, more_ms: float, in_flight: int) -> None:
        self._project = project
        self._in_flight = in_flight
        self.more_ms = more_ms
        self.sync_ms: list[float] = []
        self.step_ms: list[float] = []
        self.steps_per_second: list[float] = []

    async def open(self) -> Measured:
        self._client = await Client().open(self._project.socket)
        await many(self._client, "five", 2 * self._in_flight, self._in_flight)
        return self

    async def round(self, runs: int) -> None:
        """Steps one after another, the disk by itself, and many runs in flight."""
        steps: list[float] = []
        for number in range(SINGLES):
            steps += await self._client.run("five_timed", number)
        self.step_ms.append(1000 * statistics.median(steps))
        self.sync_ms.append(self.more_ms + 1000 * sync_seconds(self._project.root))
        took = await many(self._client, "five", runs, self._in_flight)
        self.steps_per_second.append(5 * runs / took)


def sync_seconds(place: Path) -> float:
    """What a write of 200 bytes and its sync take there, in the median."""
    took = []
    with (place / "sync").open("wb", buffering=0) as file:
        for _ in range(SYNCS):
            began = time.perf_counter()
            file.write(b"x" * 200)
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - began)
    return statistics.median(took)


def slowed_by(more_ms: float, scratch: Path) -> dict[str, str]:
    """The variables of a process whose syncs take so much longer."""
    source, library = scratch / "slowed.c", scratch / "slowed.so"
    source.write_text(SLOWED)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "SLOWED_US": str(round(1000 * more_ms))}


async def compare(disks: list[Measured], rounds: int, runs: int) -> None:
    """Rounds of both in turn."""
    for disk in disks:
        await disk.open()
    for _ in range(rounds):
        for disk in disks:
            await disk.round(runs)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--more-ms", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--in-flight", type=int, default=512)
    chosen = parser.parse_args()
    runs = 4 * chosen.in_flight
    with tempfile.TemporaryDirectory() as scratch:
        variables = slowed_by(chosen.more_ms, Path(scratch))
        with (
            running(Project(slots=chosen.in_flight)) as quick,
            running(Project(slots=chosen.in_flight), variables) as slow,
        ):
            disks = [
                Measured(quick, 0.0, chosen.in_flight),
                Measured(slow, chosen.more_ms, chosen.in_flight),
            ]
            uvloop.run(compare(disks, chosen.rounds, runs))
    print(f"{'':32} {'as it is':>10} {'slowed':>10}")
    rows = {
        "a sync, ms": [statistics.median(each.sync_ms) for each in disks],
        "one step after another, ms": [statistics.median(each.step_ms) for each in disks],
        f"steps/s, {chosen.in_flight} in flight": [
            statistics.median(each.steps_per_second) for each in disks
        ],
    }
    for name, (quick_one, slow_one) in rows.items():
        print(f"{name:32} {quick_one:10,.2f} {slow_one:10,.2f}")
    rates = zip(disks[1].steps_per_second, disks[0].steps_per_second, strict=True)
    print(
        f"rate with the slowed disk, of the other: {statistics.median(a / b for a, b in rates):.2f}"
    )


if __name__ == "__main__":
    main()
