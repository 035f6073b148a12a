"""SIGTERM and SIGINT, from the first moment of the process to its last: none of them is lost.

A handler of the event loop would not do. It hears nothing before the loop runs and after it, and
what it hears while the daemon is ending already leads to nothing; but after a failed write a daemon
that ends starts again. So the signals are noted here, whoever listens, and while the process
replaces itself they are blocked: those that arrive then wait for its successor. Before anybody
listens they end the process at once, for nothing has begun that the next daemon would not do again.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Final

NUMBERS: Final = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Notes whether this process was asked to stop, and tells the daemon. Create it in the main
    thread, before anything else is done."""

    def __init__(self) -> None:
        self.asked = False
        self._tell: Callable[[], object] | None = None
        for number in NUMBERS:
            signal.signal(number, self._arrived)
        # They are blocked if the process before this one has replaced itself by it.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, NUMBERS)

    def listen(self, tell: Callable[[], object]) -> None:
        """Call `tell`, in the main thread and in the midst of anything, when this process is asked
        to stop."""
        self._tell = tell

    def hold(self) -> bool:
        """Let no more signals arrive; true if none has until now. Then the process may be replaced,
        and whatever is sent from now on arrives there."""
        signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)
        return not self.asked

    def _arrived(self, _number: int, _frame: object) -> None:
        self.asked = True
        if self._tell is None:
            raise SystemExit(0)
        self._tell()
