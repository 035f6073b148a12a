"""Signals that come in the middle of a drawing, on this process itself."""

from __future__ import annotations

import io
import signal
from collections.abc import Iterator

import pytest

from stackshift_cli.screen.signals import Signals


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    """What this process does about the signals, as a program finds it at its start."""
    before = {n: signal.signal(n, signal.SIG_DFL) for n in (signal.SIGUSR1, signal.SIGUSR2)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class SlowTerminal(io.RawIOBase):
    """A terminal on which a signal arrives in the middle of each write."""

    def __init__(self) -> None:
        self.text = b""

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        text = bytes(data)  # type: ignore[call-overload]
        if text.startswith(b"frame"):
            signal.raise_signal(signal.SIGUSR1)
        self.text += text
        return len(text)


def test_handler_that_draws_waits_for_the_drawing() -> None:
    """A buffered stream refuses a write inside a write: the handler is called after it."""
    terminal = SlowTerminal()
    stream = io.BufferedWriter(terminal)

    def leave(_number: int) -> None:
        stream.write(b"erased\n")
        stream.flush()

    with Signals({signal.SIGUSR1: leave}) as signals, signals.drawing():
        stream.write(b"frame\n")
        stream.flush()
    assert terminal.text == b"frame\nerased\n"


def test_signal_between_two_drawings_is_answered_at_once() -> None:
    """Nothing waits for a drawing that may be long in coming."""
    seen: list[int] = []
    with Signals({signal.SIGUSR1: seen.append}) as signals:
        with signals.drawing():
            assert seen == []
        signal.raise_signal(signal.SIGUSR1)
        assert seen == [signal.SIGUSR1]


def test_signals_of_one_drawing_are_answered_one_after_another() -> None:
    """No handler begins inside another, nor at the end of an inner drawing."""
    seen: list[str] = []

    def first(_number: int) -> None:
        seen.append("first begins")
        signal.raise_signal(signal.SIGUSR2)
        seen.append("first ends")

    with (
        Signals(
            {signal.SIGUSR1: first, signal.SIGUSR2: lambda _: seen.append("second")}
        ) as signals,
        signals.drawing(),
    ):
        signal.raise_signal(signal.SIGUSR1)
        with signals.drawing():
            seen.append("inner drawing")
        seen.append("drawn")
    assert seen == ["inner drawing", "drawn", "first begins", "first ends", "second"]


def test_handler_ends_what_is_drawn_when_the_drawing_is_whole() -> None:
    """A handler that raises ends the block, and the signals do again what they did before."""
    drawn: list[str] = []

    def ended(number: int) -> None:
        raise SystemExit(128 + number)

    with (
        pytest.raises(SystemExit) as end,
        Signals({signal.SIGUSR1: ended}) as signals,
        signals.drawing(),
    ):
        signal.raise_signal(signal.SIGUSR1)
        drawn.append("to its end")
    assert drawn == ["to its end"]
    assert end.value.code == 128 + signal.SIGUSR1
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_ignored_signal_stays_ignored() -> None:
    """As SIGHUP is under nohup."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    seen: list[int] = []
    with Signals({signal.SIGUSR1: seen.append}):
        signal.raise_signal(signal.SIGUSR1)
    assert seen == []
