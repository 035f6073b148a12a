"""The terminal while `top` or `dev` runs: keys one by one, and all as it was after it.

`Screen` is the alternate screen, of which only lines that have changed are sent, so that a slow
connection has little to carry. `Region` is the last lines of the normal one: what is printed goes
above them, and stays.

The terminal is restored at the end of the `with` block however that is left: by a key, Ctrl-C, an
exception, SIGTERM, SIGHUP or a terminal that is gone. Ctrl-Z restores it, stops, and draws
everything again at `fg`.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Sequence
from types import TracebackType
from typing import Any, ClassVar, Final, NamedTuple, Protocol, Self

from stackshift_cli.screen.signals import Signals

_READ_BYTES: Final = 4096


class Line(NamedTuple):
    """A line of a screen: what is sent for it, with colours, and how many cells it takes."""

    sent: str
    cells: int


class Gone(Exception):
    """The terminal is gone."""


class SupportsFileno(Protocol):
    """Something that `select` can wait for."""

    def fileno(self) -> int:
        """Its descriptor."""


class Terminal:
    """The terminal on standard input and output."""

    _enter: ClassVar = ""
    _leave: ClassVar = ""

    def __init__(self) -> None:
        self._input, self._output = sys.stdin.fileno(), sys.stdout.fileno()
        self._modes: list[Any] = termios.tcgetattr(self._input)
        self._shown: list[Line] = []
        """The lines that are on the screen."""
        self._signals = Signals(
            {
                signal.SIGWINCH: self._resized,
                signal.SIGTSTP: self._stopped,
                signal.SIGTERM: self._terminated,
                signal.SIGHUP: self._terminated,
            }
        )
        self.wakes, self.wake = os.pipe()
        """Whatever is written to `wake` ends `wait`."""
        os.set_blocking(self.wake, False)
        os.set_blocking(self.wakes, False)
        self._wakeup_before = -1

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in cells."""
        try:
            size = os.get_terminal_size(self._output)
        except OSError as bad:
            raise Gone from bad
        return max(1, size.columns), max(2, size.lines)

    def __enter__(self) -> Self:
        self._signals.__enter__()
        self._wakeup_before = signal.set_wakeup_fd(self.wake, warn_on_full_buffer=False)
        try:
            with self._signals.drawing():
                self._begin()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        # A second Ctrl-C must not leave the terminal half restored.
        interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.set_wakeup_fd(self._wakeup_before)
        self._signals.__exit__(None, None, None)
        self._end()
        signal.signal(signal.SIGINT, interrupt)

    def wait(self, seconds: float, *others: SupportsFileno) -> None:
        """Return when a key, a byte from `wake`, a signal or something from `others` has come, at
        the latest after `seconds`."""
        select.select([self._input, self.wakes, *others], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            os.read(self.wakes, _READ_BYTES)

    def typed(self) -> bytes:
        """What has been typed, without waiting. Raises `Gone` if nothing can be typed any more."""
        if not select.select([self._input], [], [], 0)[0]:
            return b""
        try:
            data = os.read(self._input, _READ_BYTES)
        except OSError as bad:
            raise Gone from bad
        if not data:
            raise Gone
        return data

    def forget(self) -> None:
        """Draw every line anew at the next `draw`."""
        self._shown = []

    # --- Beginning and end -----------------------------------------------------------------

    def _begin(self) -> None:
        # Keys come one by one and are not shown; Ctrl-C and Ctrl-Z stay signals.
        tty.setcbreak(self._input)
        self._shown = []
        self._write(self._enter)

    def _end(self) -> None:
        with contextlib.suppress(OSError, termios.error, Gone):
            self._write(self._leave)
        with contextlib.suppress(OSError, termios.error):
            termios.tcsetattr(self._input, termios.TCSADRAIN, self._modes)

    def _write(self, text: str) -> None:
        encoding = sys.stdout.encoding or "utf-8"
        data = text.encode(encoding, "backslashreplace")
        try:
            while data:
                data = data[os.write(self._output, data) :]
        except OSError as bad:
            raise Gone from bad

    # --- Signals ---------------------------------------------------------------------------

    def _resized(self, _number: int) -> None:
        self.forget()

    def _stopped(self, number: int) -> None:
        self._end()
        self._signals.pass_on(number)
        with contextlib.suppress(Gone):
            self._begin()

    def _terminated(self, number: int) -> None:
        raise SystemExit(128 + number)


class Screen(Terminal):
    """The alternate screen."""

    _enter = "\x1b[?1049h\x1b[?25l"
    _leave = "\x1b[0m\x1b[?25h\x1b[?1049l"

    def draw(self, lines: list[Line]) -> None:
        """Show `lines`, which are as many as the screen has. Raises `Gone` if nothing can be shown
        any more."""
        with self._signals.drawing():
            self._draw(lines)

    def _draw(self, lines: list[Line]) -> None:
        before, self._shown = self._shown, lines
        parts = [] if before else ["\x1b[2J"]
        for n, line in enumerate(lines):
            if n >= len(before) or before[n] != line:
                parts.append(f"\x1b[{n + 1};1H{line.sent}\x1b[0m\x1b[K")
        if parts:
            self._write("".join(parts))


class Region(Terminal):
    """The last lines of the normal screen, which are redrawn, below what has been printed. Each
    line must be narrower than the terminal."""

    _enter = "\x1b[?25l"
    _leave = "\x1b[0m\x1b[?25h"

    def draw(self, lines: list[Line], printed: Sequence[Line] = ()) -> None:
        """Print the lines `printed`, and show `lines` below. Raises `Gone` if nothing can be shown
        any more."""
        if lines == self._shown and not printed:
            return
        with self._signals.drawing():
            erase = self._erase()
            self._shown = lines
            self._write(erase + "".join(f"{line.sent}\x1b[0m\r\n" for line in (*printed, *lines)))

    def _erase(self) -> str:
        """What erases the lines that are shown: in a terminal that has become narrower since, each
        may have been broken into several."""
        width, _ = self.size
        rows = sum(1 + max(0, line.cells - 1) // width for line in self._shown)
        return f"\x1b[{rows}A\r\x1b[J" if rows else "\r\x1b[J"

    def _resized(self, _number: int) -> None:
        """What is shown is still known: it is erased by the next `draw`."""

    def _end(self) -> None:
        # After Ctrl-Z and `fg` the lines are shown again, below whatever was printed meanwhile.
        with contextlib.suppress(OSError, Gone):
            self._write(self._erase())
        self._shown = []
        super()._end()
