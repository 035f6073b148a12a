"""What a terminal shows after what `top` has sent it: as much of one as `top` needs."""

from __future__ import annotations

import re
from collections.abc import Callable

import pexpect

from helpers.deadline import wait_until

_PLACED = re.compile(r"\x1b\[(\d+);1H(.*?)\x1b\[K", re.DOTALL)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Shown:
    """The screen of a `top` that runs in `child`."""

    def __init__(self, child: pexpect.spawn[str]) -> None:
        self.child = child
        self.sent = ""

    def read(self) -> str:
        """Everything that was sent so far."""
        try:
            while True:
                self.sent += self.child.read_nonblocking(65_536, timeout=0.05)
        except (pexpect.TIMEOUT, pexpect.EOF):
            return self.sent

    @property
    def lines(self) -> list[str]:
        """The lines of the screen, without colours."""
        lines: dict[int, str] = {}
        for number, text in _PLACED.findall(self.read().rpartition("\x1b[2J")[2]):
            lines[int(number)] = _COLOUR.sub("", text).rstrip()
        return [lines.get(n, "") for n in range(1, max(lines, default=0) + 1)]

    def until(self, is_there: Callable[[str], object], what: str) -> str:
        """The text of the screen once `is_there` is true of it."""

        def there() -> str | None:
            text = "\n".join(self.lines)
            return text if is_there(text) else None

        try:
            return wait_until(there, what) or ""
        except AssertionError as late:
            raise AssertionError(f"{late}; shown was: {self.lines}") from None

    def until_shown(self, *words: str) -> str:
        """The text of the screen once all of `words` are in it."""
        return self.until(
            lambda text: all(word in text for word in words), f"{words} on the screen"
        )

    def press(self, keys: str) -> None:
        """Type `keys`."""
        self.child.send(keys)
