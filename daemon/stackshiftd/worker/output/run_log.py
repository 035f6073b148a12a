"""The log of a run: what is printed and logged while it executes, by attempt and step.

Lines go to a store: the run's file (`log_file`), or the daemon that keeps it. A line longer than
`MAX_LINE` characters is cut and marked. What is flushed before its line has ended is stored at
once, as a part of the line: parts and end have the same `line`, the end alone has `ended`. So it is
seen while the handler runs, and survives it.

A replayed handler prints its earlier output again. Each line has `pos`, the number of `ctx` calls
made before it: on a later pass of an attempt, as many lines at each position are left out as are
already in the store.

Secrets are masked before anything is stored, cut or compared. A writer's text that may be the
beginning of a secret is held back until more of it comes, or its line ends.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from codecs import getincrementaldecoder
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from threading import RLock, get_ident
from typing import Any, Final, Protocol

from stackshift_jobs.handler.replay import Pass
from stackshift_jobs.handler.scope import current_step
from stackshift_jobs.values.masking import Secrets
from stackshift_jobs.values.secrets import PROCESS
from stackshiftd.worker.output.log_lines import NO_TEXT, Line, line_json

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


class SharedSource(Source, Protocol):
    """A source of all runs of the process, which is looked at after every step."""

    @property
    def is_readable(self) -> Callable[[], object]:
        """Has anything been written? (Not a method, so that it can be a single call of C.)"""


@dataclass(slots=True)
class _Writer:
    """What one writer to a stream has not ended yet: its line, of which the first `stored`
    characters are in the file, in `parts` parts, as the line `number`; and what comes after it,
    but is `held` back."""

    decoder: Any = None
    held: str = ""
    line: Line = NO_TEXT
    is_escaped: bool = False
    """Were there bytes in it that are not UTF-8? They are not kept as they were."""
    stored: int = 0
    parts: int = 0
    number: str = ""


def _printing(stream: str) -> _Key:
    return (stream, current_step.get(), -get_ident())


class LogStore(Protocol):
    """Keeps the lines of one attempt. Its methods raise `OSError`."""

    @property
    def is_full(self) -> bool:
        """Would every further line be dropped? From then on that is so."""

    def printed(self) -> dict[int, int]:
        """How many whole lines earlier executions of this attempt have stored that a later pass
        prints again, by their `pos`. The caller may change it."""

    def append(self, line: dict[str, Any]) -> None:
        """Store a line, also after `close`."""

    def close(self) -> None:
        """The execution has ended."""

    def forked(self) -> None:
        """Go on in a forked process."""


class RunLog:
    """The log of one execution, used by any thread, also after its end: a thread that it has left
    behind may still print."""

    def __init__(self, store: LogStore, attempt: int, token: int, pass_: Pass) -> None:
        self._store = store
        self._attempt = attempt
        self._token = str(token)
        self._pass = pass_
        # Reentrant, here and below: an object that is collected meanwhile may print.
        self._lock = RLock()
        self._lines = 0
        self._writers: dict[_Key, _Writer] = {}
        self.is_script = False
        """Is the handler a script, which prints by itself? Then it is not known how many calls were
        made before a line: all lines of earlier passes count as one part."""
        self.tries: Mapping[str | None, Any] = {}
        """Step → the try whose function is running, which may be alive as long as it prints."""
        self.shared: SharedSource | None = None
        self.sources: list[Source] = []
        """Looked at before anything else is stored, so that the order is kept."""

    # --- What is printed -------------------------------------------------------------------

    def write(self, stream: str, text: str) -> None:
        """Store the whole lines of `text`, printed by the running step; the rest is held back until
        its end, `flush` or `close`."""
        if self._is_full(current_step.get()):
            return
        self.catch_up()
        with self._lock:
            self._add(_printing(stream), text)

    def write_bytes(self, stream: str, data: bytes) -> None:
        """As `write`, of bytes: UTF-8, anything else is escaped."""
        if self._is_full(current_step.get()):
            return
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
        if self._is_full(current_step.get()):
            return
        self.catch_up()
        with self._lock:
            masked = self._pass.secrets.mask(text)
            self._note_beat(current_step.get())
            self._keep("log", current_step.get(), level, NO_TEXT.longer(masked).marked())

    # --- What programs write ---------------------------------------------------------------

    def take(self, stream: str, step: str | None, writer: int, data: bytes) -> None:
        """Store what the program `writer` (above 0) has written, at once."""
        if self._is_full(step):
            return
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
        """Store what was printed without a line end, and close the store."""
        self.catch_up()
        with self._lock:
            for key in list(self._writers):
                self._finish(key)
            with contextlib.suppress(OSError):
                self._store.close()

    def forked(self) -> None:
        """Go on in a forked process, where other threads, which may hold the lock, are gone, and
        whose parent reads the sources and ends the lines that it has begun."""
        self._lock = RLock()
        self.shared = None
        self.sources = []
        self._writers = {}
        self._token = f"{self._token}.{os.getpid()}"
        self._store.forked()

    def catch_up(self) -> None:
        """Store what has been written to the sources so far."""
        if (shared := self.shared) is not None and shared.is_readable():
            shared.catch_up()
        for source in self.sources:
            source.catch_up()

    # --- Lines -----------------------------------------------------------------------------

    def _is_full(self, step: str | None) -> bool:
        """Is nothing to be made of what `step` prints, but that it is alive? To take millions of
        lines apart that are dropped would cost their job, and all others of the process, minutes.
        """
        if not self._store.is_full:
            return False
        self._note_beat(step)
        return True

    def _writer(self, key: _Key) -> _Writer:
        writer = self._writers.get(key)
        if writer is None:
            writer = self._writers[key] = _Writer()
        return writer

    def _add(self, key: _Key, text: str) -> None:
        self._note_beat(key[1])
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

    def _note_beat(self, step: str | None) -> None:
        begun = self.tries.get(step)
        if begun is not None and begun.output_beats:
            begun.note_beat()

    def _secrets(self, key: _Key) -> Secrets:
        """What the writer may know. A program may be one that another run has left behind."""
        return PROCESS if key[2] > 0 else self._pass.secrets

    def _decoded(self, key: _Key, data: bytes) -> str:
        writer = self._writer(key)
        if writer.decoder is None:
            writer.decoder = _Decoder("surrogateescape")
        return self._escaped(writer, writer.decoder.decode(data))

    def _escaped(self, writer: _Writer, text: str) -> str:
        """`text` with what stands for bytes that are not UTF-8 as `\\xff`."""
        if text.isascii():
            return text
        shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        writer.is_escaped = writer.is_escaped or shown != text
        return shown

    def _end_line(self, key: _Key, writer: _Writer, *, is_open: bool = False) -> None:
        text = writer.line.marked()[writer.stored :]
        is_cut = bool(writer.line.cut_bytes) or writer.is_escaped
        writer.is_escaped = False
        self._keep(
            key[0], key[1], "", text, writer.number, ended=True, is_cut=is_cut, is_open=is_open
        )
        writer.line, writer.stored, writer.parts, writer.number = NO_TEXT, 0, 0, ""

    def _finish(self, key: _Key) -> None:
        writer = self._writers.pop(key, None)
        if writer is None:
            return
        end = ""
        if writer.decoder is not None:
            end = self._escaped(writer, writer.decoder.decode(b"", True))
        writer.line = writer.line.longer(self._secrets(key).mask(writer.held + end))
        if writer.line.text:
            # What a program prints is passed on as it was, without a newline that it did not print.
            self._end_line(key, writer, is_open=key[2] > 0)

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

    @property
    def _position(self) -> int:
        return 0 if self.is_script else self._pass.calls

    def _repeats(self) -> bool:
        """Are lines of an earlier pass still to come? Then the whole line is compared at its end.
        One that the earlier pass did not end is stored again: it may end otherwise."""
        position = self._position
        return any(left > 0 for at, left in self._store.printed().items() if at >= position)

    def _keep(
        self,
        stream: str,
        step: str | None,
        level: str,
        text: str,
        number: str = "",
        *,
        ended: bool = False,
        is_cut: bool = False,
        is_open: bool = False,
    ) -> None:
        # A full disk costs lines of the log, never the run that prints them.
        with contextlib.suppress(OSError):
            position = self._position
            if step is None and not number:
                printed = self._store.printed()
                if printed.get(position, 0) > 0:
                    printed[position] -= 1
                    return
            line = line_json(self._attempt, step, stream, text, level=level)
            line["pos"] = position if step is None else None
            if number:
                line["line"] = number
                if ended:
                    line["ended"] = True
            if is_cut:
                line["cut"] = True
            if is_open:
                line["open"] = True
            self._store.append(line)
