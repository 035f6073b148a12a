"""Signals that wait until a drawing is whole.

Python calls the handler of a signal between any two instructions, also in the middle of a write to
the terminal. A handler that draws there itself fails, because a buffered stream refuses a second
write inside the first, or counts lines from a cursor that is not where it should be.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from types import FrameType, TracebackType
from typing import Any, Self


class Signals:
    """Within the `with` block each of the signals in `handlers` calls its handler, which gets its
    number: at once, or at the end of a drawing or of another handler. What is ignored, as SIGHUP is
    under nohup, stays so."""

    def __init__(self, handlers: Mapping[int, Callable[[int], None]]) -> None:
        self._handlers = handlers
        self._before: dict[int, Any] = {}
        self._waiting: list[int] = []
        self._is_busy = False

    def __enter__(self) -> Self:
        for number in self._handlers:
            if signal.getsignal(number) == signal.SIG_DFL:
                self._before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def drawing(self) -> Iterator[None]:
        """Within the block the signals wait; at its end those that have come call their handlers,
        which may raise."""
        if self._is_busy:
            yield
            return
        self._is_busy = True
        try:
            yield
        finally:
            self._is_busy = False
            self._serve()

    def pass_on(self, number: int) -> None:
        """Let `number` do to this process what it does by default. Returns if it only stopped the
        process, when that is continued."""
        handler = signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        # Here the process stands still until it is continued.
        signal.signal(number, handler)

    def _arrived(self, number: int, _frame: FrameType | None) -> None:
        self._waiting.append(number)
        if not self._is_busy:
            self._serve()

    def _serve(self) -> None:
        while self._waiting:
            number = self._waiting.pop(0)
            self._is_busy = True
            try:
                self._handlers[number](number)
            finally:
                self._is_busy = False
