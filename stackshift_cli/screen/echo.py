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
from typing import Final, Protocol

from stackshift_cli.screen.signals import Signals

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
def echo_off(terminal: int, picture: Picture) -> Iterator[Signals]:
    """Within the block the terminal with the descriptor `terminal` shows nothing of what is typed,
    while this process is in its foreground. `picture` leaves it while the process is stopped, but
    not in the middle of what is drawn within `drawing()` of the signals."""
    echo = _Echo(terminal, picture)
    with echo.signals:
        try:
            echo.hide()
            yield echo.signals
        finally:
            echo.restore()


class _Echo:
    def __init__(self, terminal: int, picture: Picture) -> None:
        self._terminal = terminal
        self._picture = picture
        self._hidden = False
        self.signals = Signals(
            {
                signal.SIGTSTP: self._stopped,
                signal.SIGCONT: self._continued,
                **dict.fromkeys(_ENDING, self._ended),
            }
        )

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

    def _stopped(self, number: int) -> None:
        self._picture.leave()
        self.restore()
        self.signals.pass_on(number)
        self.hide()
        self._picture.come_back()

    def _continued(self, _number: int) -> None:
        self.hide()

    def _ended(self, number: int) -> None:
        with contextlib.suppress(OSError):  # After SIGHUP the terminal may be gone.
            self._picture.leave()
        self.restore()
        self.signals.pass_on(number)
