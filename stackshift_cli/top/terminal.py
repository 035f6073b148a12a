"""The terminal while `top` runs: keys one by one, the alternate screen, and all as it was after it.

It is restored at the end of the `with` block however that is left: by a key, Ctrl-C, an exception,
SIGTERM, SIGHUP or a terminal that is gone. Ctrl-Z restores it, stops, and draws everything again at
`fg`. Only lines that have changed are sent, so that a slow connection has little to carry.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from types import FrameType, TracebackType
from typing import Any, Final

_ENTER: Final = "\x1b[?1049h\x1b[?25l"
_LEAVE: Final = "\x1b[0m\x1b[?25h\x1b[?1049l"
_READ_BYTES: Final = 4096


class Gone(Exception):
    """The terminal is gone."""


class Screen:
    """The terminal on standard input and output."""

    def __init__(self) -> None:
        self._input, self._output = sys.stdin.fileno(), sys.stdout.fileno()
        self._modes: list[Any] = termios.tcgetattr(self._input)
        self._shown: list[str] = []
        self._handlers: dict[int, Any] = {}
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

    def __enter__(self) -> Screen:
        handlers = {
            signal.SIGWINCH: self._resized,
            signal.SIGTSTP: self._stopped,
            signal.SIGTERM: self._terminated,
            signal.SIGHUP: self._terminated,
        }
        for number, handler in handlers.items():
            self._handlers[number] = signal.signal(number, handler)
        self._wakeup_before = signal.set_wakeup_fd(self.wake, warn_on_full_buffer=False)
        try:
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
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._end()
        signal.signal(signal.SIGINT, interrupt)

    def wait(self, seconds: float) -> None:
        """Return when a key, a byte from `wake` or a signal has come, at the latest after
        `seconds`."""
        select.select([self._input, self.wakes], [], [], seconds)
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

    def draw(self, lines: list[str]) -> None:
        """Show `lines`, which are as many as the screen has; they may have colours. Raises `Gone`
        if nothing can be shown any more."""
        # Set first: a signal that arrives while these are sent has everything drawn anew.
        before, self._shown = self._shown, lines
        parts = [] if before else ["\x1b[2J"]
        for n, line in enumerate(lines):
            if n >= len(before) or before[n] != line:
                parts.append(f"\x1b[{n + 1};1H{line}\x1b[0m\x1b[K")
        if parts:
            self._write("".join(parts))

    def forget(self) -> None:
        """Draw every line anew at the next `draw`."""
        self._shown = []

    # --- Beginning and end -----------------------------------------------------------------

    def _begin(self) -> None:
        # Keys come one by one and are not shown; Ctrl-C and Ctrl-Z stay signals.
        tty.setcbreak(self._input)
        self._shown = []
        self._write(_ENTER)

    def _end(self) -> None:
        with contextlib.suppress(OSError, termios.error, Gone):
            self._write(_LEAVE)
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

    def _resized(self, _number: int, _frame: FrameType | None) -> None:
        self.forget()

    def _stopped(self, number: int, _frame: FrameType | None) -> None:
        self._end()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        # Here the process stands still until `fg`.
        signal.signal(signal.SIGTSTP, self._stopped)
        with contextlib.suppress(Gone):
            self._begin()

    def _terminated(self, number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)
