"""`sys.stdout`, `sys.stderr` and the root logger of a process that imports job modules.

What is printed while a handler runs goes to its run's log; anything else to the process's own log,
which is the daemon's, with the worker's name before each line. The streams are whole text streams:
they have a `buffer`, can be reconfigured and wrapped, and `fileno` is that of the process. A job
cannot close them, because other jobs print to them too. In either log, secrets are masked.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from threading import RLock
from typing import Any, Final

from stackshift_jobs.values.clocks import monotonic
from stackshift_jobs.values.secrets import PROCESS, SHARED, current_secrets
from stackshiftd.worker.output.log_lines import MAX_LINE
from stackshiftd.worker.output.run_log import current_log

MAX_OWN_BYTES: Final = 1 << 20
OWN_SECONDS: Final = 10.0
"""What belongs to no run is bounded too: `MAX_OWN_BYTES` in `OWN_SECONDS`, the rest is dropped."""


class OwnLog:
    """Where output goes that belongs to no run: whole lines to `fd`, each after `label`."""

    def __init__(self, fd: int, label: str = "") -> None:
        self._fd = fd
        self._label = label.encode()
        self._lock = RLock()
        self._rests: dict[str, bytes] = {}
        self._cut: set[str] = set()
        """Streams of which the line that has begun is dropped, up to its end."""
        self._left = MAX_OWN_BYTES
        self._since = 0.0

    def write(self, stream: str, data: bytes) -> None:
        """Write the whole lines of `data`; the rest waits for its end or for `flush`."""
        with self._lock:
            if self._is_full():
                # Not taken apart: to look for secrets in what is dropped would only cost time.
                self._rests[stream] = b""
                (self._cut.discard if data.endswith(b"\n") else self._cut.add)(stream)
                return
            if stream in self._cut:
                _, end, data = data.partition(b"\n")
                if not end:
                    return
                self._cut.discard(stream)
            *ends, rest = (self._rests.get(stream, b"") + data).split(b"\n")
            lines = [_masked(line) for line in ends]
            if len(rest) > MAX_LINE:
                shown, rest = _split(rest)
                lines.append(shown)
            self._rests[stream] = rest
            self._put(lines)

    def flush(self, stream: str) -> None:
        """Write what has not ended, as a line of its own, except what may be the beginning of a
        secret."""
        with self._lock:
            shown, rest = _split(self._rests.pop(stream, b""))
            if rest:
                self._rests[stream] = rest
            if shown:
                self._put([shown])

    def forked(self) -> None:
        """Go on in a forked process, where other threads, which may hold the lock, are gone."""
        self._lock = RLock()
        self._rests = {}
        self._cut = set()

    def _is_full(self) -> bool:
        return self._left < 0 and monotonic() - self._since < OWN_SECONDS

    def _put(self, lines: list[bytes]) -> None:
        text = b"".join(self._label + line[:MAX_LINE] + b"\n" for line in lines)
        now = monotonic()
        if now - self._since >= OWN_SECONDS:
            self._since, self._left = now, MAX_OWN_BYTES
        if len(text) > self._left:
            if self._left < 0:
                return
            text = b"%smore than %d bytes in %d s: the rest is dropped\n" % (
                self._label,
                MAX_OWN_BYTES,
                OWN_SECONDS,
            )
            self._left = -1
        else:
            self._left -= len(text)
        with contextlib.suppress(OSError):
            os.write(self._fd, text)


def _masked(line: bytes) -> bytes:
    return _bytes(PROCESS.mask(_text(line)))


def _split(line: bytes) -> tuple[bytes, bytes]:
    """See `Secrets.split`."""
    shown, held = PROCESS.split(_text(line))
    return _bytes(shown), _bytes(held)


def _text(line: bytes) -> str:
    return line.decode("utf-8", "surrogateescape")


def _bytes(line: str) -> bytes:
    return line.encode("utf-8", "surrogateescape")


class _RunBuffer(io.BufferedIOBase):
    """The bytes of a `RunStream`."""

    mode = "wb"

    def __init__(self, stream: str, fd: int, own: OwnLog) -> None:
        self._stream = stream
        self._fd = fd
        self._own = own

    @property
    def name(self) -> str:
        """`<stdout>` or `<stderr>`, as everywhere."""
        return f"<{self._stream}>"

    @property
    def raw(self) -> Any:
        """Itself: nothing is buffered above it."""
        return self

    def writable(self) -> bool:
        """Always true."""
        return True

    def write(self, data: Any) -> int:
        """Send bytes to the running handler's log, or else to the process's own."""
        taken = bytes(memoryview(data))
        log = current_log.get()
        if log is not None:
            log.write_bytes(self._stream, taken)
        else:
            self._own.write(self._stream, taken)
        return len(taken)

    def flush(self) -> None:
        """Store what has been written, though its line has not ended."""
        log = current_log.get()
        if log is not None:
            log.flush(self._stream)
        else:
            self._own.flush(self._stream)

    def fileno(self) -> int:
        """The descriptor that programs inherit."""
        return self._fd

    def isatty(self) -> bool:
        """Always false."""
        return False

    def close(self) -> None:
        """Flush only: other jobs print here too."""
        self.flush()


class RunStream(io.TextIOWrapper):
    """Replaces `sys.stdout` or `sys.stderr`; `fd` is the descriptor that programs inherit."""

    mode = "w"

    def __init__(self, stream: str, fd: int, own: OwnLog) -> None:
        self._stream = stream
        super().__init__(
            _RunBuffer(stream, fd, own),
            encoding="utf-8",
            errors="backslashreplace",
            write_through=True,
        )

    def write(self, text: str) -> int:
        """Send `text` to the running handler's log, or else to the process's own. The logs are
        UTF-8, whatever encoding the stream was given."""
        log = current_log.get()
        if log is None or not isinstance(text, str):
            return super().write(text)
        log.write(self._stream, text)
        return len(text)

    def close(self) -> None:
        """Flush only: other jobs print here too."""
        self.flush()


class RunLogHandler(logging.Handler):
    """Sends `logging` records of a handler to its run's log, all others to the process's own."""

    def __init__(self, own: OwnLog) -> None:
        super().__init__()
        self._own = own

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; outside of handlers with its level and logger's name."""
        log = current_log.get()
        try:
            text = self.format(record)
        except Exception:  # As in any handler of logging, the caller must not fail.
            self.handleError(record)
            return
        if log is not None:
            log.record(record.levelname, text)
        else:
            line = f"{record.levelname} {record.name}: {text}\n"
            self._own.write("log", line.encode("utf-8", "backslashreplace"))


_STREAMS: list[RunStream] = []
"""Kept for ever: a stream that a job replaces may still be in use."""


def install(own: OwnLog) -> None:
    """Route this process's output and `logging` from now on; records below INFO are dropped."""
    sys.stdout, sys.stderr = RunStream("stdout", 1, own), RunStream("stderr", 2, own)
    _STREAMS.extend((sys.stdout, sys.stderr))
    root = logging.getLogger()
    root.addHandler(RunLogHandler(own))
    root.setLevel(logging.INFO)

    def forked() -> None:
        own.forked()
        log = current_log.get()
        if log is not None:
            log.forked()
        current_secrets.get().forked()
        SHARED.forked()

    os.register_at_fork(after_in_child=forked)


class Standing:
    """What `sys.stdout` and `sys.stderr` are between runs: these streams, or what modules have put
    in their place."""

    streams: tuple[Any, Any] | None = None


def settle() -> None:
    """Let the streams stand as they are now, when the modules have been imported. One that would
    hold text back, as a `TextIOWrapper` over ours, hands it on at once: it belongs to the run that
    prints it, and another may be the next to print."""
    Standing.streams = (sys.stdout, sys.stderr)
    for stream in Standing.streams:
        if isinstance(stream, io.TextIOWrapper) and not isinstance(stream, RunStream):
            with contextlib.suppress(ValueError):  # Closed or detached.
                stream.reconfigure(write_through=True)


def put_back() -> None:
    """Undo what a run has left in the place of the streams; for a worker that executes no other."""
    if Standing.streams is None:
        return
    for name, stream in zip(("stdout", "stderr"), Standing.streams, strict=True):
        if getattr(sys, name) is not stream and _is_usable(stream):
            setattr(sys, name, stream)


def _is_usable(stream: Any) -> bool:
    try:
        stream.flush()
    except Exception:  # Of a stream that a run has detached from its bytes, or of a module's own.
        return False
    return True
