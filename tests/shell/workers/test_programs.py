"""What workers have started is found by marks and by recorded groups, and by nothing else."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.story import Story
from helpers.processes import alive
from helpers.tools import DEAF, python
from stackshift_jobs.programs.ending import Remains
from stackshift_jobs.programs.processes import ProcessGroup, members, project_mark, started
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.shell.workers import programs
from stackshiftd.shell.workers.programs import (
    daemon_mark,
    end_of_worker,
    end_strays,
    recorded,
    worker_mark,
)

Begin = Callable[..., int]
ENDED = 2**22 + 1
"""The id of no process: it is above all that Linux gives."""


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Starts a process in a group of its own, with `variable` in its environment; its id. It is
    deaf to TERM if that is asked for."""
    begun: list[subprocess.Popen[bytes]] = []

    def start(variable: tuple[str, str] | None = None, code: str = "") -> int:
        ready, ready_end = os.pipe()
        process = subprocess.Popen(
            python(f"{code}\nos.write({ready_end}, b'!')\ntime.sleep(600)"),
            env=os.environ | dict([variable] if variable is not None else []),
            pass_fds=(ready_end,),
            start_new_session=True,
        )
        begun.append(process)
        os.close(ready_end)
        os.read(ready, 1)
        os.close(ready)
        return process.pid

    yield start
    for process in begun:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def group(pid: int) -> ProcessGroup:
    """The group that is recorded for the program `pid`."""
    return ProcessGroup(pid, started(pid))


def test_what_a_worker_has_started_is_ended_and_nothing_else(begin: Begin, tmp_path: Path) -> None:
    """By its mark, wherever it went, or by its recorded group; the programs of other workers and
    processes that have the id of a recorded one run on."""
    mine, other = worker_mark(tmp_path), worker_mark(tmp_path)
    own = begin((mine.variable, mine.value))
    unmarked = begin()
    neighbour = begin((other.variable, other.value))
    namesake = begin()
    on_record = [group(unmarked), ProcessGroup(namesake, "another boot:1")]
    end_of_worker(ENDED, mine, on_record, 60)
    assert not alive(unmarked)
    assert alive(own) == (sys.platform != "linux")
    assert alive(neighbour)
    assert alive(namesake)


def test_group_of_a_worker_is_ended_with_it(begin: Begin, tmp_path: Path) -> None:
    """What its handlers have forked is in it; but not if its id has been used again by now."""
    worker = begin(None, "subprocess.Popen(['sleep', '600'])")
    end_of_worker(worker, worker_mark(tmp_path), [], 60)
    assert alive(worker)
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
    assert len(members(worker)) == 1
    end_of_worker(worker, worker_mark(tmp_path), [], 60)
    assert members(worker) == set()


def test_strays_of_all_earlier_daemons_are_ended(begin: Begin, tmp_path: Path) -> None:
    """Those of the project, by force if they do not end at TERM; but not the worker that this
    daemon has started already."""
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    mark, other = worker_mark(here), worker_mark(elsewhere)
    own = begin((mark.variable, mark.value))
    stray, deaf = begin((mark.variable, f"{project_mark(here)}earlier/1")), begin(None, DEAF)
    foreign = begin((other.variable, other.value))
    end_strays(here, [group(deaf)], 0.1)
    assert not alive(deaf)
    assert alive(stray) == (sys.platform != "linux")
    assert alive(foreign)
    assert alive(own)


def test_what_cannot_be_looked_for_is_looked_for_again(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the daemon has too many files open, say; the log tells why nothing happens."""
    program = group(begin())
    find = Remains.find
    failures = [OSError(errno.EMFILE, "too many open files")] * 2

    def fails_at_first(remains: Remains) -> set[int]:
        if failures:
            raise failures.pop()
        return find(remains)

    monkeypatch.setattr(Remains, "find", fails_at_first)
    monkeypatch.setattr(programs, "AGAIN_SECONDS", 0)
    end_strays(tmp_path, [program], 0.1)
    assert not alive(program.id)
    assert caplog.text.count("cannot be looked for: [Errno 24] too many open files") == 2


def test_marks_say_which_daemon_and_which_worker(tmp_path: Path) -> None:
    """A warden ends the programs of its own daemon, also while the next one has workers."""
    one, other = worker_mark(tmp_path), worker_mark(tmp_path)
    assert one.value != other.value
    assert one.value.startswith(daemon_mark(tmp_path).value)


def test_recorded_are_the_programs_of_steps_without_an_outcome() -> None:
    """Of those runs that are asked about."""
    story = Story()
    runs = [story.start(), story.start()]
    for number, run in enumerate(runs):
        story.assign()
        for step in ("done", "open", "plain"):
            program = r.Program(number, step) if step != "plain" else None
            story.do(c.OpenStep(run, story.token(run), step, 1, program))
        story.step_done(run, "done")
    assert recorded([story.run(runs[1])]) == [ProcessGroup(1, "open")]
    assert len(recorded(story.state.runs.values())) == 2
