"""What a worker behind ssh costs, beside one of this machine: the same load in turns.

    python benchmarks/hosts.py [--rounds 5] [--command "ssh gpu-1" --python /opt/shop/bin/python]

Without a command, an sshd of its own on this machine is the host, so both have the same processors.
The figures that matter are the difference of the latencies and the ratio of the rates. At the end:
how long it takes until code with a new digest serves there.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path

import uvloop
from load import Client, Project, running

from core import Measures, Ours

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from helpers.sshd import Sshd

CODE_BYTES = 1_000_000


def far_project(command: str, python: str) -> Project:
    """A project whose only worker is behind `command`."""
    project = Project()
    (project.root / "stackshift.toml").write_text(
        '[workers]\nprocesses = 1\nslots = 64\nhosts = ["box"]\n'
        f"[hosts.box]\ncommand = {shlex.split(command)}\npython = '{python}'\n"
    )
    return project


async def measure(local: Project, far: Project, rounds: int) -> None:
    """Print the medians of both, and what lies between them."""
    sides = [await Ours(project).open() for project in (local, far)]
    taken: list[list[Measures]] = [[], []]
    for _ in range(rounds):
        for side, measures in zip(sides, taken, strict=True):
            measures.append(await side.round(600, 150))
    for name in taken[0][0]:
        here, there = (statistics.median(each[name] for each in measures) for measures in taken)
        if name.endswith("ms"):
            print(f"{name:<32} {here:10.3f} {there:10.3f}   + {there - here:.3f}")
        else:
            print(f"{name:<32} {here:10,.0f} {there:10,.0f}   x {there / here:.2f}")
    print(f"{'a new digest of 1 MB serves, s':<32} {await renewed(far):21.2f}")


async def renewed(project: Project) -> float:
    """Seconds from a reload of changed code until a run has executed on it."""
    client = await Client().open(project.socket)
    jobs = project.root / "jobs"
    (jobs / "table.bin").write_bytes(os.urandom(CODE_BYTES))
    (jobs / "more.py").write_text(
        "import stackshift_jobs as stackshift\n"
        "@stackshift.job\nasync def newest(ctx):\n    return 1\n"
    )
    began = time.perf_counter()
    await client.ask("daemon.reload", "{}")
    await client.run("newest", 1)
    return time.perf_counter() - began


def main() -> None:
    """Start both and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--command", help="what reaches the host; without it, an sshd of its own")
    parser.add_argument("--python", default=sys.executable, help="the interpreter there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command, python, server = given.command, given.python, None
        if command is None:
            server = Sshd(Path(folder, "sshd"))
            server.start()
            command, python = f"ssh -F {server.config} gpu-1", server.python
        try:
            with running(Project()) as local, running(far_project(command, python)) as far:
                print(f"{'':<32} {'local':>10} {'host':>10}")
                uvloop.run(measure(local, far, given.rounds))
        finally:
            if server is not None:
                server.stop()


if __name__ == "__main__":
    main()
