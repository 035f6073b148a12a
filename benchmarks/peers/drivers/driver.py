"""What the comparison asks of a driver, and how that answers: one line of JSON each way.

    → {"work": "steps", "runs": 500, "in_flight": 64}    ← {"seconds": 0.61}
    → {"work": "result", "runs": 50}                      ← {"took": [0.0012, …]}
    → {"work": "memory"}                                  ← {"megabytes": 45.1}

A driver is a program in its peer's own environment, where nothing of ours is installed: this module
needs the standard library alone. At the end of its standard input it ends what it has started.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

STEPS = 5
"""Steps of the run that is measured."""


class Peer:
    """A peer that is up. What it has not is None, and left out of the table."""

    version = ""
    durability = ""
    """What of it is on disk before it is acknowledged, in a few words."""

    steps: Callable[[int, int], float] | None = None
    """`steps(runs, in_flight)`: the seconds that so many runs of `STEPS` steps took."""
    jobs: Callable[[int, int], float] | None = None
    """`jobs(runs, in_flight)`: the seconds that so many runs took that do nothing."""
    step: Callable[[int], list[float]] | None = None
    """`step(runs)`: the seconds of each step of so many runs, one after another."""
    result: Callable[[int], list[float]] | None = None
    """`result(runs)`: the seconds from the start of a run to its result, one after another."""

    def pids(self) -> Iterable[int]:
        """The processes whose memory is the peer's, with their children."""
        return [os.getpid()]

    def close(self) -> None:
        """End what was started."""


def serve(make: Callable[[], Peer]) -> None:
    """Answer the comparison until it has had enough."""
    answers, sys.stdout = sys.stdout, sys.stderr  # Whatever the peer prints is not for it.

    def say(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    peer = make()
    try:
        say({"version": peer.version, "durability": peer.durability})
        for line in sys.stdin:
            say(_answer(peer, json.loads(line)))
    finally:
        peer.close()


def _answer(peer: Peer, order: dict[str, Any]) -> dict[str, Any]:
    work = order.pop("work")
    if work == "memory":
        return {"megabytes": memory_mb(peer.pids())}
    function = getattr(peer, work)
    if function is None:
        return {}
    made = function(**order)
    return {"took": made} if isinstance(made, list) else {"seconds": made}


def memory_mb(pids: Iterable[int]) -> float:
    """The proportional set size of these processes and their children, in megabytes."""
    total, left, seen = 0, list(pids), set()
    while left:
        pid = left.pop()
        if pid in seen:
            continue
        seen.add(pid)
        process = Path("/proc", str(pid))
        try:
            rollup = (process / "smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
            for children in process.glob("task/*/children"):
                left += [int(child) for child in children.read_text().split()]
        except OSError:
            continue  # it has ended
    return total / 1000


def in_threads(call: Callable[[int], Any], runs: int, in_flight: int) -> float:
    """The seconds that `runs` calls take, `in_flight` at a time, each on a thread."""
    left, lock = iter(range(runs)), threading.Lock()

    def lane() -> None:
        while True:
            with lock:
                number = next(left, None)
            if number is None:
                return
            call(number)

    threads = [threading.Thread(target=lane) for _ in range(in_flight)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def one_by_one(call: Callable[[int], Any], runs: int) -> list[float]:
    """The seconds of each of `runs` calls, one after another."""
    took = []
    for number in range(runs):
        began = time.perf_counter()
        call(number)
        took.append(time.perf_counter() - began)
    return took


def until(is_so: Callable[[], Any], pause_seconds: float = 0.001, most_seconds: float = 60) -> None:
    """Wait until that is so. Raises `TimeoutError`."""
    ends = time.monotonic() + most_seconds
    while not is_so():
        if time.monotonic() > ends:
            raise TimeoutError("the peer has not done it in time")
        time.sleep(pause_seconds)
