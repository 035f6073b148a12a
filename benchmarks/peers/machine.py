"""How quiet the machine is while something is measured.

Three signs, of which each makes a round noisy: time that the hypervisor gave to others (steal),
processors that others use while nothing of ours runs, and a loop of Python that takes longer than
it usually does here. (Its fastest is no measure: a virtual machine whose neighbours share its cores
is half as fast again for a second now and then.)
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MAX_STEAL = 0.10
MAX_OTHERS = 0.10
"""Of one processor: what is measured is at most so much slower for it. Where a virtual machine is
shared, a load on all of its processors is never without some steal."""
MAX_SLOWNESS = 1.25
_PAUSE_SECONDS = 0.3
_PACE_SECONDS = 0.2
_LOOP = range(20_000)


@dataclass
class Noise:
    """What was seen: shares of one processor, and a multiple of what the loop usually takes."""

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
    """This machine; it learns how fast it usually is."""

    def __init__(self) -> None:
        self._paces = [_pace() for _ in range(10)]

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
        self._paces.append(_pace())
        return self._paces[-1] / statistics.median(self._paces)


def description() -> str:
    """The machine in a line: processors, kernel, Python."""
    system = os.uname()
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    version = platform.python_version()
    return f"{os.cpu_count()} x {model or system.machine}, Linux {system.release}, Python {version}"


def _pace() -> float:
    """Seconds that the loop takes, in the mean of some time."""
    began = time.perf_counter()
    turns = 0
    while True:
        for _ in _LOOP:
            pass
        turns += 1
        took = time.perf_counter() - began
        if took >= _PACE_SECONDS:
            return took / turns


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
