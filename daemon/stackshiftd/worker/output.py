"""What a handler prints and logs, stored by run, attempt and step.

`sys.stdout`, `sys.stderr` and the root logger are routed: a line written while a handler runs goes
to its run's log file, anything else to the worker's own stderr, which is the daemon's log. The
files are JSON lines, not synced, and bounded: after `MAX_BYTES` an attempt's further output is
dropped, and the last line says so; a line longer than `MAX_LINE` characters is cut and marked.

A replayed handler prints its earlier output again. Each line has `pos`, the number of `ctx` calls
made before it: on a later pass of an attempt, as many lines at each position are left out as are
already in the file.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
import threading
import time
from collections import Counter
from contextvars import ContextVar
from pathlib import Path
from typing import Final, NamedTuple, TextIO

from stackshift_jobs.handler.replay import Pass
from stackshift_jobs.handler.scope import current_step
from stackshift_jobs.values.durations import rfc3339
from stackshift_jobs.values.text import readable

MAX_BYTES: Final = 1 << 20
MAX_LINE: Final = 16 * 1024

current_log: ContextVar[RunLog | None] = ContextVar("stackshift_log", default=None)


class _Line(NamedTuple):
    """The beginning of a line, at most `MAX_LINE` characters, and how many bytes were cut off."""

    text: str = ""
    cut_bytes: int = 0

    def longer(self, more: str) -> _Line:
        """The line with `more` appended."""
        text = self.text + more
        if len(text) <= MAX_LINE:
            return _Line(text, self.cut_bytes)
        cut = text[MAX_LINE:].encode("utf-8", "surrogatepass")
        return _Line(text[:MAX_LINE], self.cut_bytes + len(cut))

    def marked(self) -> str:
        """The text; if it was cut, with a mark that says by how many bytes."""
        return f"{self.text}… ({self.cut_bytes} bytes more)" if self.cut_bytes else self.text


class RunLog:
    """The log of one execution, used by any thread. The file is opened at the first line, so that a
    silent run leaves none."""

    def __init__(self, folder: Path, run: str, attempt: int, pass_: Pass) -> None:
        self._folder = folder
        self._run = run
        self._attempt = attempt
        self._pass = pass_
        self._lock = threading.Lock()
        self._file: TextIO | None = None
        self._size = 0
        self._printed: dict[int, int] = {}
        self._partial: dict[tuple[str, str | None], _Line] = {}

    def write(self, stream: str, text: str) -> None:
        """Store the whole lines of `text`; the rest is held back until its newline or `close`."""
        key = (stream, current_step.get())
        with self._lock:
            line = self._partial.pop(key, _Line())
            *ends, rest = text.split("\n")
            for end in ends:
                self._keep(stream, key[1], "", line.longer(end))
                line = _Line()
            if rest or line.text:
                self._partial[key] = line.longer(rest)

    def record(self, level: str, text: str) -> None:
        """Store a formatted record of `logging` as one line."""
        with self._lock:
            self._keep("log", current_step.get(), level, _Line().longer(text))

    def close(self) -> None:
        """Store what was printed without a newline, and close the file."""
        with self._lock:
            for (stream, step), rest in self._partial.items():
                self._keep(stream, step, "", rest)
            self._partial.clear()
            if self._file is not None:
                with contextlib.suppress(OSError):
                    self._file.close()
                self._file = None

    def _keep(self, stream: str, step: str | None, level: str, line: _Line) -> None:
        # A full disk costs lines of the log, never the run that prints them.
        with contextlib.suppress(OSError):
            self._write(stream, step, level, line.marked())

    def _write(self, stream: str, step: str | None, level: str, text: str) -> None:
        if self._file is None:
            self._open()
        assert self._file is not None
        position = self._pass.calls
        if step is None and self._printed.get(position, 0) > 0:
            self._printed[position] -= 1
            return
        if self._size > MAX_BYTES:
            return
        line = {
            "at": rfc3339(time.time_ns() // 1000),
            "attempt": self._attempt,
            "step": step,
            "stream": stream,
            "level": level,
            "pos": position if step is None else None,
            "message": readable(text),
        }
        written = json.dumps(line) + "\n"
        self._size += len(written)
        if self._size > MAX_BYTES:
            line["message"] = f"… more than {MAX_BYTES} bytes in this attempt: the rest is dropped"
            line["level"] = "WARNING"
            written = json.dumps(line) + "\n"
        self._file.write(written)
        self._file.flush()

    def _open(self) -> None:
        path = self._folder / f"{self._run}.jsonl"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        printed: Counter[int] = Counter()
        if path.exists():
            for raw in path.read_text().splitlines():
                try:
                    line = json.loads(raw)
                except ValueError:
                    continue  # Half a line, from a worker that was killed.
                if line["attempt"] == self._attempt:
                    self._size += len(raw) + 1
                    if line["pos"] is not None:
                        printed[line["pos"]] += 1
        self._printed = printed
        self._file = open(  # noqa: SIM115  # kept open for the execution
            path, "a", encoding="utf-8", opener=_private
        )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


class Router(io.TextIOBase):
    """Replaces `sys.stdout` or `sys.stderr`; `own` is where text outside of handlers goes."""

    def __init__(self, stream: str, own: TextIO) -> None:
        self._stream = stream
        self._own = own

    def writable(self) -> bool:
        """Always true."""
        return True

    def write(self, text: str) -> int:
        """Send `text` to the running handler's log, or else to the process's own stream."""
        log = current_log.get()
        if log is not None:
            log.write(self._stream, text)
        else:
            self._own.write(text)
            self._own.flush()
        return len(text)

    def flush(self) -> None:
        """Flush the process's own stream; a log is flushed at each line."""
        self._own.flush()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Always `utf-8`, the encoding of the logs."""
        return "utf-8"

    def fileno(self) -> int:
        """The descriptor of the process's own stream: programs that are started write there."""
        return self._own.fileno()


class RunLogHandler(logging.Handler):
    """Sends `logging` records of a handler to its run's log, all others to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; outside of handlers with its level and logger's name."""
        log = current_log.get()
        text = self.format(record)
        if log is not None:
            log.record(record.levelname, text)
        else:
            assert sys.__stderr__ is not None
            sys.__stderr__.write(f"{record.levelname} {record.name}: {text}\n")


def install() -> None:
    """Route this process's output and `logging` from now on; records below INFO are dropped."""
    assert sys.__stderr__ is not None
    sys.stdout = Router("stdout", sys.__stderr__)
    sys.stderr = Router("stderr", sys.__stderr__)
    root = logging.getLogger()
    root.addHandler(RunLogHandler())
    root.setLevel(logging.INFO)
