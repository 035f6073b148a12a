"""`start --batch` whose daemon, disk or own process fails in the middle: no line is started twice
that has a key, and none without one in silence."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from errno import ENOSPC

import pytest

from helpers.deadline import wait_until
from helpers.inner_daemon import FaultyFileSystem, InsideDaemon
from helpers.project import Project, environment
from helpers.project_factory import Make

JOBS = """
@stackshift.job("held")
async def held(ctx):
    await agate("never")
"""
LINES = 3000
KEYED = [True] * LINES
MIXED = [number % 3 != 0 for number in range(1, LINES + 1)]


class Batch:
    """`start --batch` in a project; what it prints goes to files, so that it never waits for the
    test."""

    def __init__(self, project: Project, source: str) -> None:
        self._out = project.root / f"ids-{time.monotonic_ns()}.txt"
        self._said = self._out.with_suffix(".err")
        with self._out.open("wb") as out, self._said.open("wb") as said:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "stackshift_cli",
                    "--no-start",
                    "start",
                    "--batch",
                    source,
                ],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=said,
                cwd=project.root,
                env=environment(),
            )

    def give(self, data: bytes, *, all: bool = False) -> Batch:
        """Write lines to it; `all`: there are no more."""
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()
        if all:
            self.process.stdin.close()
        return self

    def ids(self, at_least: int = 0) -> list[str]:
        """The ids printed so far, once there are so many."""
        wait_until(
            lambda: self._out.read_bytes().count(b"\n") >= at_least, f"{at_least} ids", seconds=60
        )
        return [each for each in self._out.read_text().split("\n")[:-1] if each]

    def ended(self) -> int:
        """Its exit status."""
        return self.process.wait(60)

    def said(self) -> str:
        """Everything that the command wrote to standard error."""
        return self._said.read_text()

    def close(self) -> None:
        """Kill the command."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()


Begin = Callable[..., Batch]


@pytest.fixture
def batch() -> Iterator[Begin]:
    """Begins batches, none of which outlives the test."""
    begun: list[Batch] = []

    def begin(project: Project, source: str = "-") -> Batch:
        begun.append(Batch(project, source))
        return begun[-1]

    yield begin
    for each in begun:
        each.close()


def text(keyed: list[bool], first: int = 1, last: int = LINES) -> bytes:
    """Lines `first` to `last`; the payload of each is its number."""
    made = []
    for number in range(first, last + 1):
        key = {"idempotency_key": f"k{number}"} if keyed[number - 1] else {}
        made.append(json.dumps({"job": "held", "payload": number, **key}) + "\n")
    return "".join(made).encode()


def created(project: Project) -> Counter[int]:
    """How many runs there are of each line."""
    return Counter(
        record["payload"] for record in project.journal() if record["kind"] == "run.created"
    )


def ids_by_line(project: Project) -> dict[int, str]:
    """Line number → the run that was created for it."""
    return {
        record["payload"]: record["run"]
        for record in project.journal()
        if record["kind"] == "run.created"
    }


def told_unknown(said: str) -> set[int]:
    """The numbers that stderr names as not known."""
    found: set[int] = set()
    for ranges in re.findall(r"^lines? ([0-9, -]+): error\[daemon_unavailable\]", said, re.M):
        for part in ranges.split(", "):
            first, _, last = part.partition("-")
            found.update(range(int(first), int(last or first) + 1))
    return found


@pytest.mark.parametrize("keyed", [KEYED, MIXED], ids=["keyed", "mixed"])
def test_batch_outlives_a_killed_daemon_without_doubling_a_line(
    make_project: Make, batch: Begin, keyed: list[bool]
) -> None:
    """The daemon is killed with lines under way and comes back: each keyed line has one run; each
    other has at most one, and exactly one unless its number was reported as unknown."""
    project = make_project(JOBS)
    project.start()
    half = LINES // 2
    running = batch(project).give(text(keyed, 1, half))
    running.ids(at_least=100)
    project.kill()
    project.start()
    status = running.give(text(keyed, half + 1), all=True).ended()
    said = running.said()
    unknown = told_unknown(said)
    counts = created(project)
    assert max(counts.values()) == 1
    sure = [number for number in range(1, LINES + 1) if number not in unknown]
    assert all(counts[number] == 1 for number in sure)
    assert not any(keyed[number - 1] for number in unknown)
    by_line = ids_by_line(project)
    assert running.ids() == [by_line[number] for number in sure]
    assert status == (3 if unknown else 0), said


def test_batch_that_was_killed_goes_on_from_the_same_file(make_project: Make, batch: Begin) -> None:
    """The same lines again: the ids that were printed are printed again, each line has one run."""
    project = make_project(JOBS)
    project.start()
    file = project.root / "starts.jsonl"
    file.write_bytes(text(KEYED))
    first = batch(project, str(file))
    first.ids(at_least=700)
    first.close()
    printed = first.ids()
    again = batch(project, str(file))
    assert again.ended() == 0
    ids = again.ids()
    assert ids[: len(printed)] == printed
    assert len(set(ids)) == LINES
    assert created(project) == Counter(range(1, LINES + 1))
    counts = re.match(r"([0-9,]+) started, ([0-9,]+) reused in ", again.said())
    assert counts is not None, again.said()
    started, reused = (int(count.replace(",", "")) for count in counts.groups())
    assert started + reused == LINES and reused >= len(printed)


def test_full_disk_ends_a_batch_with_the_first_line_that_was_not_started(
    make_project: Make, batch: Begin
) -> None:
    """Exit 75. Lines before that one have runs, and lines reported as not started have none."""
    project = make_project(JOBS)
    disk = FaultyFileSystem()
    daemon = InsideDaemon(project, fs=disk)
    try:
        first = batch(project).give(text(MIXED, 1, 1000))
        ids = first.ids(at_least=1000)
        disk.fault = lambda call, _data: ENOSPC if call == "pwrite" else None
        with suppress(BrokenPipeError):  # it need not read to the end
            first.give(text(MIXED, 1001), all=True)
        assert first.ended() == 75
        assert first.ids() == ids
        error = first.said().splitlines()[0]
        assert error.startswith("error[disk_full]: ")
        assert "; lines 1001-" in error and "not started" in error
        disk.fault = lambda _call, _data: None
        wait_until(
            lambda: project.call("daemon.status")["mode"] == "serving", "room on the disk again"
        )
        second = batch(project).give(text(MIXED, 1001), all=True)
        assert second.ended() == 0
        ids += second.ids()
    finally:
        daemon.close()
    assert created(project) == Counter(range(1, LINES + 1))
    by_line = ids_by_line(project)
    assert ids == [by_line[number] for number in range(1, LINES + 1)]


def test_batch_without_a_daemon_says_where_it_stands(make_project: Make, batch: Begin) -> None:
    """Exit 3 and nothing started; the lines can all be given again."""
    project = make_project(JOBS)
    lonely = batch(project).give(text(KEYED, 1, 3), all=True)
    assert (lonely.ended(), lonely.ids()) == (3, [])
    assert lonely.said().startswith("error[daemon_unavailable]: ")
    assert "nothing from line 1 on was sent" in lonely.said()
