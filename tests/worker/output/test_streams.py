"""What is printed outside of runs: whole lines, after the worker's name, and not too many."""

from __future__ import annotations

import os

import pytest

from stackshiftd.worker.output import streams
from stackshiftd.worker.output.log_lines import MAX_LINE
from stackshiftd.worker.output.streams import MAX_OWN_BYTES, OWN_SECONDS, OwnLog


@pytest.fixture
def pipe() -> tuple[int, int]:
    """The ends of a pipe that holds all that a test writes."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    return reading, writing


def test_lines_have_the_workers_name_and_are_written_whole(pipe: tuple[int, int]) -> None:
    """Streams do not mix; a line that is too long is cut, and `flush` ends one."""
    reading, writing = pipe
    own = OwnLog(writing, "w7: ")
    own.write("stdout", b"one\ntw")
    own.write("stderr", b"error\n")
    own.write("stdout", b"o\nrest")
    assert os.read(reading, 100) == b"w7: one\nw7: error\nw7: two\n"
    own.flush("stdout")
    own.flush("stdout")
    assert os.read(reading, 100) == b"w7: rest\n"
    own.write("stdout", b"x" * (MAX_LINE + 1))
    assert os.read(reading, 1 << 16) == b"w7: " + b"x" * MAX_LINE + b"\n"


def test_output_of_no_run_is_bounded(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The rest of what a module prints in a loop is dropped, and the log says so once."""
    path = tmp_path_factory.mktemp("own") / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    own = OwnLog(fd)
    for _ in range(3):
        own.write("stdout", b"y" * 999 + b"\n")
    for _ in range(3):
        own.write("stdout", (b"z" * 999 + b"\n") * (MAX_OWN_BYTES // 1000))
    lines = path.read_bytes().splitlines()
    assert len(lines) == 4
    assert lines[-1].endswith(b"the rest is dropped")


def test_what_is_dropped_is_not_taken_apart(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that prints for hours costs the process that reads it next to nothing. When there
    is room again, the line that was cut is dropped to its end, and the next one is whole."""
    reading, writing = pipe
    now = 100.0
    looked_at: list[bytes] = []

    def masked(line: bytes) -> bytes:
        looked_at.append(line)
        return line

    monkeypatch.setattr(streams, "_masked", masked)
    monkeypatch.setattr(streams, "monotonic", lambda: now)
    own = OwnLog(writing)
    own.write("stdout", b"y" * MAX_LINE + b"\n")
    for _ in range(MAX_OWN_BYTES // (MAX_LINE + 1)):
        os.read(reading, 1 << 16)
        own.write("stdout", b"y" * MAX_LINE + b"\n")
    assert b"the rest is dropped" in os.read(reading, 1 << 16)
    looked_at.clear()
    own.write("stdout", b"one\ntwo\nthr")
    assert looked_at == []
    now += OWN_SECONDS
    own.write("stdout", b"ee")
    own.write("stdout", b" and more\nfour\n")
    assert looked_at == [b"four"]
    assert os.read(reading, 100) == b"four\n"
