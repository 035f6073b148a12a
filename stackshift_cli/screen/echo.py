"""The terminal below a picture that is redrawn in place: what is typed is not shown.

The terminal would show Enter as a new line, of which the picture knows nothing: it would be redrawn
one line too low, and its first line left above it.

The terminal shows it again at the end of the `with` block, and before a signal stops or ends the
process. What was typed waits for whoever reads the terminal next, as it does without the picture.
The picture itself leaves the terminal, too, while the process is stopped: what a shell prints then
would be overwritten, and its cursor hidden.
"""

from __future__ import annotations

import contextlib
import os
import signal
import termios
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final, Protocol

_LOCAL: Final = 3
"""The index of the local modes, of which echo is one, in what `tcgetattr` returns."""
_ENDING: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Picture(Protocol):
    """What is drawn on the terminal."""

    def leave(self) -> None:
        """Erase it, and show the cursor."""

    def come_back(self) -> None:
        """Draw it where the cursor is now."""


def is_foreground(terminal: int) -> bool:
    """May this process draw on `terminal`, or has the shell taken it back (`&`, `bg`)? A terminal
    that does not control us is nobody else's."""
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return True


@contextlib.contextmanager
def echo_off(terminal: int, picture: Picture) -> Iterator[None]:
    """Within the block the terminal with the descriptor `terminal` shows nothing of what is typed,
    while this process is in its foreground. `picture` leaves it while the process is stopped."""
    echo = _Echo(terminal, picture)
    before: dict[int, Any] = {}
    for number, handler in echo.handlers.items():
        # What is ignored, as SIGHUP is under nohup, stays so.
        if signal.getsignal(number) == signal.SIG_DFL:
            before[number] = signal.signal(number, handler)
    try:
        echo.hide()
        yield
    finally:
        echo.restore()
        for number, handler in before.items():
            signal.signal(number, handler)


class _Echo:
    def __init__(self, terminal: int, picture: Picture) -> None:
        self._terminal = terminal
        self._picture = picture
        self._hidden = False
        self.handlers: dict[int, Any] = {
            signal.SIGTSTP: self._stopped,
            signal.SIGCONT: self._continued,
            **dict.fromkeys(_ENDING, self._ended),
        }

    def hide(self) -> None:
        """Turn echo off, unless it is off or the terminal is another's now: a process in the
        background that changed it would be stopped."""
        with contextlib.suppress(OSError, termios.error):
            if os.tcgetpgrp(self._terminal) != os.getpgrp():
                return
            modes = termios.tcgetattr(self._terminal)
            if modes[_LOCAL] & termios.ECHO:
                modes[_LOCAL] &= ~termios.ECHO
                termios.tcsetattr(self._terminal, termios.TCSADRAIN, modes)
                self._hidden = True

    def restore(self) -> None:
        """Turn echo on again, if `hide` has turned it off."""
        with contextlib.suppress(OSError, termios.error):
            if self._hidden and os.tcgetpgrp(self._terminal) == os.getpgrp():
                modes = termios.tcgetattr(self._terminal)
                modes[_LOCAL] |= termios.ECHO
                termios.tcsetattr(self._terminal, termios.TCSADRAIN, modes)
        self._hidden = False

    def _stopped(self, number: int, _frame: FrameType | None) -> None:
        self._picture.leave()
        self.restore()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        # Here the process stands still until it is continued.
        signal.signal(number, self._stopped)
        self.hide()
        self._picture.come_back()

    def _continued(self, _number: int, _frame: FrameType | None) -> None:
        self.hide()

    def _ended(self, number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(OSError):  # After SIGHUP the terminal may be gone.
            self._picture.leave()
        self.restore()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
