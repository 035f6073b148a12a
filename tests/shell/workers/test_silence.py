"""A silent worker is lost if it does nothing, and left alone while it works; but not for ever."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stackshiftd.shell.workers.process import clock_seconds, cpu_seconds
from stackshiftd.shell.workers.silence import LIMIT, Silence, Verdict


class Worker:
    """A worker that uses `share` of a CPU in each second of its silence."""

    def __init__(self, heartbeat: float) -> None:
        self.silence = Silence(heartbeat, lambda: self.used)
        self.used = 1000.0

    def silent(self, seconds: int, share: float) -> list[Verdict]:
        """The verdict of each of these seconds."""
        verdicts = []
        for _ in range(seconds):
            self.used += share
            verdicts.append(self.silence.tick())
        return verdicts


@pytest.mark.parametrize("heartbeat", [1, 3, 15])
def test_worker_that_does_nothing_is_lost_after_the_heartbeat(heartbeat: int) -> None:
    """Whatever it has used before."""
    worker = Worker(heartbeat)
    assert worker.silent(heartbeat, 0.0) == [Verdict.HEARD] * heartbeat
    assert not worker.silence.is_long
    assert worker.silent(1, 0.0) == [Verdict.DEAD]


@pytest.mark.parametrize("heartbeat", [1, 3, 15])
def test_worker_that_works_is_asked_again_after_each_heartbeat(heartbeat: int) -> None:
    """Once it does nothing for a heartbeat, it is lost."""
    worker = Worker(heartbeat)
    verdicts = worker.silent(10 * heartbeat, 0.5)
    assert verdicts == [Verdict.HEARD] * heartbeat + [Verdict.BUSY] * (9 * heartbeat)
    assert worker.silence.is_long
    *busy, last = worker.silent(2 * heartbeat + 2, 0.0)
    assert Verdict.DEAD in [*busy, last]
    assert Verdict.HEARD not in [*busy, last]


def test_no_worker_is_busy_for_ever() -> None:
    """After the limit it is lost, though it works."""
    worker = Worker(3)
    verdicts = worker.silent(LIMIT * 3 + 4, 1.0)
    assert verdicts.index(Verdict.DEAD) >= LIMIT * 3


def test_worker_that_is_heard_begins_again() -> None:
    """Each silence counts by itself."""
    worker = Worker(3)
    for _ in range(5):
        assert worker.silent(3, 0.0) == [Verdict.HEARD] * 3
        worker.silence.broken()
    worker.silent(10, 0.9)
    worker.silence.broken()
    assert not worker.silence.is_long
    assert worker.silent(3, 0.0) == [Verdict.HEARD] * 3


def test_cpu_time_is_that_of_the_process() -> None:
    """It grows with the work that is done; that of a process which is gone is 0."""
    before = cpu_seconds(os.getpid())
    while cpu_seconds(os.getpid()) == before:
        sum(range(10_000))
    assert cpu_seconds(os.getpid()) > before > 0
    assert cpu_seconds(int(Path("/proc/sys/kernel/pid_max").read_text()) + 1) == 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0:00.05", 0.05), ("12:34.50", 754.5), ("1:00:00", 3600), ("2-01:00:01", 176_401)],
)
def test_cpu_time_of_ps_is_read(text: str, seconds: float) -> None:
    """As macOS and Linux write it."""
    assert clock_seconds(text) == seconds
