"""How quiet the machine is while something is measured.

Three signs, of which each makes a round noisy: time that the hypervisor gave to others (steal),
processors that others use while nothing of ours runs, and a loop of Python that takes longer than
it did at its fastest.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MAX_STEAL = 0.02
MAX_OTHERS = 0.10
"""Of one processor."""
MAX_SLOWNESS = 1.25
_PAUSE_SECONDS = 0.3
_LOOP = range(60_000)


@dataclass
class Noise:
    """What was seen: shares of one processor, and a multiple of the fastest loop."""

    steal: float = 0.0
    others: float = 0.0
    slowness: float = 1.0

    @property
    def is_quiet(self) -> bool:
        """May what was measured be called a result?"""
        return (
            self.steal <= MAX_STEAL and self.others <= MAX_OTHERS and self.slowness <= MAX_SLOWNESS
        )

    def __str__(self) -> str:
        return f"steal {self.steal:.0%}, others {self.others:.0%}, loop x {self.slowness:.2f}"


class Machine:
    """This machine; it learns how fast it can be."""

    def __init__(self) -> None:
        self._fastest = min(_loop_seconds() for _ in range(20))

    @contextmanager
    def watched(self) -> Iterator[Noise]:
        """Fill in the noise before and during the block. Nothing of ours may run before it."""
        noise = Noise()
        before = _ticks()
        time.sleep(_PAUSE_SECONDS)
        noise.others = _share(before, _ticks(), busy=True)
        slow = self._slowness()
        before = _ticks()
        yield noise
        noise.steal = _share(before, _ticks(), busy=False)
        noise.slowness = max(slow, self._slowness())

    def _slowness(self) -> float:
        took = min(_loop_seconds() for _ in range(5))
        self._fastest = min(self._fastest, took)
        return took / self._fastest


def description() -> str:
    """The machine in a line: processors, kernel, Python."""
    system = os.uname()
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    version = platform.python_version()
    return f"{os.cpu_count()} x {model or system.machine}, Linux {system.release}, Python {version}"


def _loop_seconds() -> float:
    began = time.perf_counter()
    for _ in _LOOP:
        pass
    return time.perf_counter() - began


def _ticks() -> tuple[float, float, float]:
    """Seconds since the start of the machine; processor time in use and stolen until then."""
    first = Path("/proc/stat").read_text().partition("\n")[0]
    user, nice, system, _, _, irq, softirq, steal = map(int, first.split()[1:9])
    tick = os.sysconf("SC_CLK_TCK")
    return time.monotonic(), (user + nice + system + irq + softirq) / tick, steal / tick


def _share(
    before: tuple[float, float, float], after: tuple[float, float, float], *, busy: bool
) -> float:
    used = after[1] - before[1] if busy else after[2] - before[2]
    return used / (after[0] - before[0])
