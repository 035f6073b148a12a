"""Bytes between two pairs of descriptors."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from stackshiftd.keeper.relay import FULL_BYTES, Lines, Outlet


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe, whose ends are closed if the test has not done so."""
    ends = os.pipe()
    yield ends
    for fd in ends:
        try:
            os.close(fd)
        except OSError:
            continue


def test_lines_are_whole_however_they_arrive(pipe: tuple[int, int]) -> None:
    """What has no end yet waits for it."""
    taken: list[bytes] = []
    lines = Lines(pipe[0], taken.append)
    lines.read()
    for data in (b"one\ntw", b"o", b"\n", b"three\nfour\n"):
        os.write(pipe[1], data)
        lines.read()
    assert taken == [b"one\n", b"two\n", b"three\nfour\n"]
    assert not lines.has_ended
    os.close(pipe[1])
    lines.read()
    assert lines.has_ended


def test_outlet_keeps_what_there_is_no_room_for(pipe: tuple[int, int]) -> None:
    """And loses nothing of it, in order."""
    outlet = Outlet(pipe[1])
    sent = b"".join(b"%08d\n" % number for number in range(100_000))
    for at in range(0, len(sent), 9000):
        outlet.add(sent[at : at + 9000])
    got = b""
    while len(got) < len(sent):
        outlet.write()
        got += os.read(pipe[0], 1 << 16)
    assert got == sent
    assert outlet.is_empty
    assert not outlet.has_ended


def test_outlet_is_full_when_nobody_reads(pipe: tuple[int, int]) -> None:
    """So that nothing more is read for it."""
    outlet = Outlet(pipe[1])
    outlet.add(b"x" * FULL_BYTES)
    assert outlet.is_full
    outlet.write()
    assert not outlet.is_full
    assert not outlet.is_empty


def test_outlet_notices_that_its_reader_is_gone(pipe: tuple[int, int]) -> None:
    """Once it writes."""
    outlet = Outlet(pipe[1])
    os.close(pipe[0])
    outlet.add(b"x\n")
    outlet.write()
    assert outlet.has_ended
