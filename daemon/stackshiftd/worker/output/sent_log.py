"""The log of a run on another host: its lines go to the daemon, which keeps the file."""

from __future__ import annotations

import os
from collections.abc import Callable
from json import dumps
from typing import Any, Final

import msgspec

from stackshiftd.worker.frames import Printed
from stackshiftd.worker.output.log_file import MAX_BYTES

_STREAMS: Final = {"stdout": 1, "stderr": 2, "log": 2}


class SentLog:
    """A `LogStore` whose lines are sent by `send`. `printed` is what the daemon has stored of this
    attempt already."""

    def __init__(
        self, send: Callable[[Printed], None], run: str, token: int, printed: dict[int, int]
    ) -> None:
        self._send = send
        self._run = run
        self._token = token
        self._printed = printed
        self._size = 0
        self._forked = False

    def printed(self) -> dict[int, int]:
        """See `LogStore.printed`."""
        return self._printed

    @property
    def is_full(self) -> bool:
        """See `LogStore.is_full`."""
        return self._size > MAX_BYTES and not self._forked

    def append(self, line: dict[str, Any]) -> None:
        """Send a line. The daemon marks the last one that it keeps; many more need not be sent."""
        if self._forked:
            # The connection is the parent's; this process shares the pipes that the parent reads.
            os.write(_STREAMS[line["stream"]], (line["message"] + "\n").encode())
            return
        if self.is_full:
            return
        text = dumps(line).encode()
        self._size += len(text)
        self._send(Printed(self._run, self._token, msgspec.Raw(text)))

    def close(self) -> None:
        """Nothing to do: the daemon learns by itself that the execution has ended."""

    def forked(self) -> None:
        """See `LogStore.forked`."""
        self._forked = True
