"""The log of a run: what is printed and logged while it executes, by attempt and step.

The files are JSON lines, not synced, and bounded: after `MAX_BYTES` an attempt's further output is
dropped, and the last line says so; what all attempts have printed is bounded by `log_lines`; a line
longer than `MAX_LINE` characters is cut and marked. What is flushed before its line has ended is
stored at once, as a part of the line: parts and end have the same `line`, the end alone has
`ended`. So it is seen while the handler runs, and survives it.

A replayed handler prints its earlier output again. Each line has `pos`, the number of `ctx` calls
made before it: on a later pass of an attempt, as many lines at each position are left out as are
already in the file.

Secrets are masked before anything is stored, cut or compared. A writer's text that may be the
beginning of a secret is held back until more of it comes, or its line ends.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import threading
from codecs import getincrementaldecoder
from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol, TextIO

from stackshift_jobs.handler.replay import Pass
from stackshift_jobs.handler.scope import current_step
from stackshift_jobs.values.masking import Secrets
from stackshift_jobs.values.secrets import PROCESS
from stackshiftd.worker.output.log_lines import NO_TEXT, Line, drop_oldest, line_json, open_log

MAX_BYTES: Final = 1 << 20
MAX_PARTS: Final = 256
"""Parts of one line that are stored before its end; what is flushed after that waits for it."""

current_log: ContextVar[RunLog | None] = ContextVar("stackshift_log", default=None)
program_numbers: Final = itertools.count(1)
"""By which a log tells programs apart."""
_Decoder: Final = getincrementaldecoder("utf-8")
_Key = tuple[str, str | None, int]
"""Stream, step, and who writes: the number of a program, or of a thread, as a negative one. So the
lines of threads do not mix, though `print` writes each of them in pieces."""


class Source(Protocol):
    """Where a log may find output that nobody has read yet."""

    def catch_up(self) -> None:
        """Store what has been written so far."""


@dataclass(slots=True)
class _Writer:
    """What one writer to a stream has not ended yet: its line, of which the first `stored`
    characters are in the file, in `parts` parts, as the line `number`; and what comes after it,
    but is `held` back."""

    decoder: Any = None
    held: str = ""
    line: Line = NO_TEXT
    stored: int = 0
    parts: int = 0
    number: str = ""


def _printing(stream: str) -> _Key:
    return (stream, current_step.get(), -threading.get_ident())


class RunLog:
    """The log of one execution, used by any thread, also after its end: a thread that it has left
    behind may still print. The file is opened at the first line, so that a silent run leaves none.
    """

    def __init__(self, folder: Path, run: str, attempt: int, token: int, pass_: Pass) -> None:
        self._folder = folder
        self._run = run
        self._attempt = attempt
        self._token = str(token)
        self._pass = pass_
        # Reentrant, here and below: an object that is collected meanwhile may print.
        self._lock = threading.RLock()
        self._file: TextIO | None = None
        self._closed = False
        self._size = -1
        """Bytes of this attempt in the file; -1 as long as it was not looked at."""
        self._others = 0
        """Bytes of other attempts in the file."""
        self._forked = False
        self._lines = 0
        self._printed: dict[int, int] = {}
        self._writers: dict[_Key, _Writer] = {}
        self.sources: list[Source] = []
        """Looked at before anything else is stored, so that the order is kept."""

    @cached_property
    def _path(self) -> Path:
        return self._folder / f"{self._run}.jsonl"

    # --- What is printed -------------------------------------------------------------------

    def write(self, stream: str, text: str) -> None:
        """Store the whole lines of `text`, printed by the running step; the rest is held back until
        its end, `flush` or `close`."""
        self.catch_up()
        with self._lock:
            self._add(_printing(stream), text)

    def write_bytes(self, stream: str, data: bytes) -> None:
        """As `write`, of bytes: UTF-8, anything else is escaped."""
        self.catch_up()
        with self._lock:
            key = _printing(stream)
            self._add(key, self._decoded(key, data))

    def flush(self, stream: str) -> None:
        """Store what the running step has printed, though its line has not ended."""
        with self._lock:
            self._store_part(_printing(stream))

    def record(self, level: str, text: str) -> None:
        """Store a formatted record of `logging` as one line."""
        self.catch_up()
        with self._lock:
            masked = self._pass.secrets.mask(text)
            self._keep("log", current_step.get(), level, NO_TEXT.longer(masked).marked())

    # --- What programs write ---------------------------------------------------------------

    def take(self, stream: str, step: str | None, writer: int, data: bytes) -> None:
        """Store what the program `writer` (above 0) has written, at once."""
        key = (stream, step, writer)
        with self._lock:
            self._add(key, self._decoded(key, data))
            self._store_part(key)

    def end(self, stream: str, step: str | None, writer: int) -> None:
        """Store the last line of a program that writes no more."""
        with self._lock:
            self._finish((stream, step, writer))

    # --- Its end ---------------------------------------------------------------------------

    def close(self) -> None:
        """Store what was printed without a line end, and close the file."""
        self.catch_up()
        with self._lock:
            for key in list(self._writers):
                self._finish(key)
            self._closed = True
            if self._file is not None:
                with contextlib.suppress(OSError):
                    self._file.close()
                self._file = None

    def forked(self) -> None:
        """Go on in a forked process, where other threads, which may hold the lock, are gone, and
        whose parent reads the sources and ends the lines that it has begun."""
        self._lock = threading.RLock()
        self.sources = []
        self._writers = {}
        self._token = f"{self._token}.{os.getpid()}"
        self._forked = True

    def catch_up(self) -> None:
        """Store what has been written to the sources so far."""
        for source in self.sources:
            source.catch_up()

    # --- Lines -----------------------------------------------------------------------------

    def _writer(self, key: _Key) -> _Writer:
        writer = self._writers.get(key)
        if writer is None:
            writer = self._writers[key] = _Writer()
        return writer

    def _add(self, key: _Key, text: str) -> None:
        writer = self._writer(key)
        *ends, rest = text.split("\n")
        secrets = self._secrets(key)
        for end in ends:
            writer.line = writer.line.longer(secrets.mask(writer.held + end))
            writer.held = ""
            self._end_line(key, writer)
        if rest:
            shown, writer.held = secrets.split(writer.held + rest)
            writer.line = writer.line.longer(shown)
        elif not writer.line.text and not writer.held and writer.decoder is None:
            del self._writers[key]

    def _secrets(self, key: _Key) -> Secrets:
        """What the writer may know. A program may be one that another run has left behind."""
        return PROCESS if key[2] > 0 else self._pass.secrets

    def _decoded(self, key: _Key, data: bytes) -> str:
        writer = self._writer(key)
        if writer.decoder is None:
            writer.decoder = _Decoder("backslashreplace")
        text: str = writer.decoder.decode(data)
        return text

    def _end_line(self, key: _Key, writer: _Writer) -> None:
        text = writer.line.marked()[writer.stored :]
        self._keep(key[0], key[1], "", text, writer.number, ended=True)
        writer.line, writer.stored, writer.parts, writer.number = NO_TEXT, 0, 0, ""

    def _finish(self, key: _Key) -> None:
        writer = self._writers.pop(key, None)
        if writer is None:
            return
        end = writer.decoder.decode(b"", True) if writer.decoder is not None else ""
        writer.line = writer.line.longer(self._secrets(key).mask(writer.held + end))
        if writer.line.text:
            self._end_line(key, writer)

    def _store_part(self, key: _Key) -> None:
        writer = self._writers.get(key)
        if writer is None or writer.parts >= MAX_PARTS:
            return
        text = writer.line.text[writer.stored :]
        if not text or (key[1] is None and self._repeats()):
            return
        if not writer.number:
            self._lines += 1
            writer.number = f"{self._token}.{self._lines}"
        self._keep(key[0], key[1], "", text, writer.number)
        writer.stored += len(text)
        writer.parts += 1

    def _repeats(self) -> bool:
        """Are lines of an earlier pass still to come? Then the whole line is compared at its end.
        One that the earlier pass did not end is stored again: it may end otherwise."""
        self._look()
        position = self._pass.calls
        return any(left > 0 for at, left in self._printed.items() if at >= position)

    # --- The file --------------------------------------------------------------------------

    def _keep(
        self,
        stream: str,
        step: str | None,
        level: str,
        text: str,
        number: str = "",
        *,
        ended: bool = False,
    ) -> None:
        # A full disk costs lines of the log, never the run that prints them.
        with contextlib.suppress(OSError):
            self._look()
            position = self._pass.calls
            if step is None and not number and self._printed.get(position, 0) > 0:
                self._printed[position] -= 1
                return
            line = line_json(self._attempt, step, stream, text, level=level)
            line["pos"] = position if step is None else None
            if number:
                line["line"] = number
                if ended:
                    line["ended"] = True
            self._append(line)

    def _append(self, line: dict[str, Any]) -> None:
        if self._size > MAX_BYTES:
            return
        written = json.dumps(line) + "\n"
        if self._forked:  # Its processes share the bound, and only the file knows all of them.
            with contextlib.suppress(FileNotFoundError):
                self._size = self._path.stat().st_size - self._others
        self._size += len(written)
        if self._size > MAX_BYTES:
            line["message"] = f"… more than {MAX_BYTES} bytes in this attempt: the rest is dropped"
            line["level"] = "WARNING"
            written = json.dumps(line) + "\n"
        if self._closed:
            with open_log(self._path) as file:
                file.write(written)
            return
        if self._file is None:
            self._file = open_log(self._path)
        self._file.write(written)
        self._file.flush()

    def _look(self) -> None:
        """Once: see what earlier executions have stored."""
        if self._size >= 0:
            return
        self._size = 0
        printed: Counter[int] = Counter()
        if self._path.exists():
            raws = self._path.read_text(encoding="utf-8").split("\n")[:-1]
            for raw in raws:
                try:
                    line = json.loads(raw)
                except ValueError:
                    continue  # Half a line, from a worker that was killed.
                if line["attempt"] != self._attempt:
                    self._others += len(raw) + 1
                    continue
                self._size += len(raw) + 1
                # The end of a line counts, not its parts; a line of one piece has no number.
                if line["pos"] is not None and ("line" not in line or "ended" in line):
                    printed[line["pos"]] += 1
            with contextlib.suppress(OSError):  # As for other lines: the run goes on.
                drop_oldest(self._path, raws)
                self._others = self._path.stat().st_size - self._size
        self._printed = printed
