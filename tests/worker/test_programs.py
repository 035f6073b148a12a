"""The programs of an execution: admitted, stopped together, their lines in its log."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stackshift_jobs.handler.replay import Pass, Unwinding
from stackshift_jobs.handler.scope import current_step
from stackshift_jobs.programs.processes import PROGRAM_VARIABLE, ProcessGroup
from stackshift_jobs.programs.supervisor import Stop
from stackshift_jobs.values.masking import Secrets
from stackshiftd.worker.output import run_log
from stackshiftd.worker.output.log_file import LogFile
from stackshiftd.worker.output.run_log import RunLog
from stackshiftd.worker.programs import Programs


class Scene:
    """The programs of one execution, whose step `dump` runs."""

    def __init__(self, folder: Path) -> None:
        self.reported: list[tuple[str, ProcessGroup]] = []
        self.log = RunLog(LogFile(folder, "run_1", 1), 1, 7, Pass({}))
        self.programs = Programs(
            "run_1/7", self.log, lambda step, group: self.reported.append((step, group))
        )
        self._file = folder / "run_1.jsonl"

    def lines(self) -> list[tuple[str, str, str]]:
        """`(step, stream, message)` of each line of the log, or part of one."""
        stored = map(json.loads, self._file.read_text().splitlines())
        return [(line["step"], line["stream"], line["message"]) for line in stored]


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """The programs of an execution, and its log; no secret is known that would be masked there."""
    monkeypatch.setattr(run_log, "PROCESS", Secrets())
    inside = current_step.set("dump")
    made = Scene(tmp_path)
    yield made
    made.log.close()
    current_step.reset(inside)


def test_output_is_stored_under_the_step_as_it_comes(scene: Scene) -> None:
    """Also what is not a whole line yet; a letter that is cut in two is stored once it is whole."""
    stop = Stop()
    scene.programs.admit(stop)
    scene.programs.wrote(stop, "stdout", b"one\ntw\xc3")
    assert scene.lines() == [("dump", "stdout", "one"), ("dump", "stdout", "tw")]
    scene.programs.wrote(stop, "stderr", b"bad \xff\n")
    scene.programs.wrote(stop, "stdout", b"\xb6\n")
    assert scene.lines()[2:] == [("dump", "stderr", "bad \\xff"), ("dump", "stdout", "ö")]


def test_last_line_is_stored_when_the_program_has_ended(scene: Scene) -> None:
    """What the next try prints is not appended to it; a whole last line is followed by none."""
    for text in (b"half", b"whole\n", b"\xc3"):
        stop = Stop()
        scene.programs.admit(stop)
        scene.programs.wrote(stop, "stdout", text)
        scene.programs.ended(stop)
    assert [message for _, _, message in scene.lines()] == ["half", "", "whole", "\\xc3"]


def test_program_is_reported_with_its_step(scene: Scene) -> None:
    """So that its group is recorded."""
    group = ProcessGroup(4711, "boot:17")
    scene.programs.started(group)
    assert scene.reported == [("dump", group)]


def test_each_program_has_a_mark_of_its_own(scene: Scene) -> None:
    """A step that is tried again does not end its second program while it looks for the first."""
    marks = [scene.programs.admit(Stop()) for _ in range(2)]
    assert {mark.variable for mark in marks} == {PROGRAM_VARIABLE}
    assert marks[0].value != marks[1].value
    assert all(mark.value.startswith("run_1/7/dump/") for mark in marks)


def test_stop_reaches_every_program_and_lets_no_other_start(scene: Scene) -> None:
    """The first reason is the one that counts."""
    reason = Unwinding("cancelled")
    stops = [Stop(), Stop()]
    for stop in stops:
        scene.programs.admit(stop)
    scene.programs.stop(reason)
    scene.programs.stop(Unwinding("ended"))
    assert [stop.reason for stop in stops] == [reason, reason]
    with pytest.raises(Unwinding, match="cancelled"):
        scene.programs.admit(Stop())


def test_closing_waits_for_the_last_program(scene: Scene) -> None:
    """Only then may the execution be reported as ended."""
    one, other = Stop(), Stop()
    scene.programs.admit(one)
    scene.programs.admit(other)
    closed = threading.Thread(target=scene.programs.close, args=(Unwinding("ended"),))
    closed.start()
    scene.programs.ended(one)
    assert closed.is_alive()
    scene.programs.ended(other)
    closed.join()
    assert one.reason is not None


def test_closing_later_calls_when_the_last_program_is_gone(scene: Scene) -> None:
    """Once, and never if there was none to wait for."""
    gone: list[str] = []
    one, other = Stop(), Stop()
    scene.programs.admit(one)
    scene.programs.admit(other)
    assert not scene.programs.close_later(Unwinding("ended"), lambda: gone.append("gone"))
    scene.programs.ended(one)
    assert gone == []
    scene.programs.ended(other)
    assert gone == ["gone"]
    assert scene.programs.close_later(Unwinding("ended"), lambda: gone.append("again"))
    scene.programs.ended(other)
    assert gone == ["gone"]
