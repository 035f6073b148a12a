"""A terminal as far as a live picture needs one: what is on it, and in its scrollback.

It knows the line feed, the carriage return, moving the cursor up, erasing a line or all below, and
becoming narrower, where it breaks lines as most terminals do. Other sequences only change colours
here.
"""

from __future__ import annotations

import re

_PIECE = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)")


class Screen:
    """Lines of at most `width` cells; the last `height` of them can be reached by the cursor."""

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self.height = height
        self.lines = [""]
        self.row = 0
        self.column = 0

    def feed(self, text: str) -> None:
        """Show what a program has printed."""
        for parameter, command, control, words in _PIECE.findall(text):
            if control == "\n":
                self._down()
            elif control == "\r":
                self.column = 0
            elif command == "A":
                top = max(0, len(self.lines) - self.height)
                self.row = max(top, self.row - int(parameter or 1))
            elif command == "K":
                self.lines[self.row] = "" if parameter == "2" else self._left()
            elif command == "J":
                self.lines[self.row :] = [self._left()]
            elif words:
                self._write(words)

    def _left(self) -> str:
        return self.lines[self.row][: self.column]

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append("")

    def _write(self, words: str) -> None:
        for character in words:
            if self.column == self.width:
                self._down()
                self.column = 0
            after = self.lines[self.row][self.column + 1 :]
            self.lines[self.row] = self._left().ljust(self.column) + character + after
            self.column += 1

    def narrow(self, width: int) -> None:
        """Become narrower: longer lines are broken, and the cursor stays where it was in its."""
        broken: list[str] = []
        for number, line in enumerate(self.lines):
            if number == self.row:
                self.row = len(broken) + max(0, self.column - 1) // width
                self.column -= max(0, self.column - 1) // width * width
            broken += [line[at : at + width] for at in range(0, max(1, len(line)), width)]
        self.lines, self.width = broken, width

    @property
    def text(self) -> str:
        """All lines, also those that have left the screen."""
        return "\n".join(line.rstrip() for line in self.lines)
