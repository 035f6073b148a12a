"""`start --batch`: a stream of starts, one JSON object per line, over one connection.

Lines are read as they arrive and sent in chunks, several before the first is answered, so that the
daemon is never idle between two. If a pipe pauses, what was read so far is sent without waiting for
more. At most `IN_FLIGHT` chunks are unanswered, and nothing is read that cannot be sent soon, so
memory does not grow with the batch. Good lines are started whatever happens to the others, and ids
are printed in the order of the lines.

Invariant: a line is started once, or its number is reported. When the daemon is lost with chunks in
flight, lines with an idempotency key are sent again once it is back. Those without a key may have
been started, so they are never sent again, only reported. If the daemon has no room or no worker,
the batch ends with the number of the first line that was not started; so it does if the ids cannot
be printed any more.
"""

from __future__ import annotations

import select
from collections import deque
from time import monotonic
from typing import Any, Final

from stackshift_cli.daemon import silence
from stackshift_cli.daemon.connection import Connection
from stackshift_cli.daemon.feed import until_back
from stackshift_cli.daemon.session import SILENT_SECONDS, Session
from stackshift_cli.flows.batches.input import BatchInput, InputLine
from stackshift_cli.flows.batches.line import MAX_LINE, Entry, entry
from stackshift_cli.flows.batches.report import Report, lines
from stackshift_cli.output.streams import standard_input
from stackshift_jobs.errors import (
    DaemonUnavailable,
    OutputFailed,
    StackshiftError,
    Usage,
    from_json,
)
from stackshift_jobs.wire.jsonrpc import Reply

CHUNK_RUNS: Final = 500
"""Runs per request. The protocol allows 1,000, but other clients wait while one is handled."""
CHUNK_BYTES: Final = 60 << 10
"""The most that the lines of a chunk have together, unless a single one is larger; a request then
fits into a frame whatever `[limits] payload` is."""
IN_FLIGHT: Final = 4
"""The most chunks that are not answered yet."""
_ANSWER_SECONDS: Final = 60.0
_REFUSED: Final = 6
_UNKNOWN: Final = 3
_TEMPORARY: Final = frozenset(("disk_full", "busy"))
"""Refusals that are not about the line: the next line would be refused too."""


def start_batch(session: Session, source: str) -> int:
    """Start a run for each line of the file `source` (`-`: standard input). The exit status is 6 if
    a line was bad, 3 if it is not known of a line whether it was started."""
    if source == "-":
        return _Batch(session, standard_input("the batch").fileno()).run()
    try:
        file = open(source, "rb", buffering=0)  # noqa: PTH123, SIM115 - closed below
    except OSError as bad:
        raise Usage(f"cannot read {source}: {bad.strerror}") from bad
    with file:
        return _Batch(session, file.fileno()).run()


class _Chunk:
    """Lines of one request. `id` is the request's id on the present connection, 0 while it is not
    sent; `sent` stays true once it was sent on any connection."""

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries
        self.id = 0
        self.sent = False
        self.results: list[dict[str, Any]] | None = None

    @property
    def waits(self) -> bool:
        """Must it be sent, or sent again?"""
        return not self.id and self.results is None

    def answer(self, results: list[dict[str, Any]]) -> None:
        """Keep the outcomes of the lines until it is their turn to be reported."""
        self.results, self.id = results, 0


class _Batch:
    """The state of one batch: lines read, chunks in flight, and why it stops early."""

    def __init__(self, session: Session, fd: int) -> None:
        self._session = session
        self._input = BatchInput(fd, MAX_LINE)
        self._report = Report(session)
        self._connection: Connection | None = None
        self._gone: DaemonUnavailable | None = None
        """How the last connection broke; None once there is another."""
        self._gathered: deque[Entry] = deque()
        self._gathered_bytes = 0
        self._chunks: deque[_Chunk] = deque()
        self._heard_at = 0.0
        self._said_silent = False
        self._stopped_by: StackshiftError | None = None
        self._left: list[int] = []
        """Numbers of lines that the daemon refused temporarily."""
        self._noted = False

    def run(self) -> int:
        """Run the batch to its end and return the exit status; raises the error that ended it."""
        try:
            while not self._finished():
                self._go_on()
        except StackshiftError as bad:
            self._report.summary()
            raise self._ended_by(bad) from bad
        except KeyboardInterrupt:
            self._report.say("; ".join(("interrupted", *self._where())))
            self._report.summary()
            raise
        finally:
            self._report.wipe()
        self._report.summary()
        if self._stopped_by is self._report.unread and self._report.unread is not None:
            self._end_unread(self._report.unread)
        elif self._stopped_by is not None:
            raise self._ended_by(self._stopped_by)
        if self._report.unknown:
            return _UNKNOWN
        return _REFUSED if self._report.bad else 0

    def _finished(self) -> bool:
        nothing_left = self._input.ended and not self._gathered
        return not self._chunks and (nothing_left or self._stopped_by is not None)

    def _go_on(self) -> None:
        """Send what can be sent, or wait for an answer or a line and process it."""
        if any(chunk.waits for chunk in self._chunks):
            self._send_waiting()
            return
        goes_on = self._stopped_by is None
        full = len(self._gathered) >= CHUNK_RUNS or self._gathered_bytes >= CHUNK_BYTES
        sends = goes_on and bool(self._gathered) and len(self._chunks) < IN_FLIGHT
        if sends and (full or self._input.ended):
            self._make_chunk()
            return
        reads = goes_on and not full and not self._input.ended
        answered, readable = self._wait(reads, 0.0 if sends else SILENT_SECONDS)
        if answered:
            self._take_answers()
        if readable:
            self._read()
        elif sends and not answered:
            self._make_chunk()  # the pipe pauses

    def _wait(self, reads: bool, seconds: float) -> tuple[bool, bool]:
        """Wait for an answer, or also for input if `reads`; which of the two there is. Raises
        `DaemonUnavailable` if the daemon has been silent for too long."""
        poll = select.poll()
        answers = -1
        if self._chunks:
            assert self._connection is not None
            answers = self._connection.fileno()
            poll.register(answers, select.POLLIN)
        if reads:
            poll.register(self._input.fd, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(seconds * 1000)}
        if self._connection is not None and self._chunks and answers not in ready:
            self._silent(self._connection)
        return answers in ready, reads and self._input.fd in ready

    def _silent(self, connection: Connection) -> None:
        """Say so if the daemon has been silent for long; raises `DaemonUnavailable` if for too
        long."""
        silent = monotonic() - self._heard_at
        if silent > _ANSWER_SECONDS:
            raise silence.given_up(connection.peer_pid, "run.start_many", _ANSWER_SECONDS)
        if silent > SILENT_SECONDS and not self._said_silent:
            self._said_silent = True
            for line in silence.notice(connection.peer_pid, "run.start_many", SILENT_SECONDS):
                self._report.note(line)

    # --- Lines in --------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            for line in self._input.read():
                self._take(line)
        except OSError as bad:
            raise Usage(f"cannot read the batch: {bad.strerror}") from bad

    def _take(self, line: InputLine) -> None:
        try:
            new = entry(self._session.project, line.number, line.text)
        except StackshiftError as bad:
            self._report.refused(line.number, bad)
            return
        if new.notes and not self._noted:
            self._noted = True  # The other lines will most likely have the same note.
            self._report.note(f"line {line.number}: {new.notes[0]}")
        self._gathered.append(new)
        self._gathered_bytes += len(new.body)

    def _make_chunk(self) -> None:
        """Make a chunk of the oldest gathered lines, as many as fit, to be sent next."""
        entries: list[Entry] = []
        size = 0
        while self._gathered and len(entries) < CHUNK_RUNS:
            size += len(self._gathered[0].body) + 1
            if entries and size > CHUNK_BYTES:
                break
            entries.append(self._gathered.popleft())
            self._gathered_bytes -= len(entries[-1].body)
        if not self._chunks:
            self._heard_at = monotonic()
        self._chunks.append(_Chunk(entries))

    # --- The daemon ------------------------------------------------------------------------

    def _send_waiting(self) -> None:
        """Send all chunks that wait to be sent; if the daemon was lost, once it is back."""
        if self._connection is None:
            if self._gone is not None:
                self._report.wipe()
                for _ in until_back(self._session, self._gone):
                    pass
            self._connection, self._gone = self._session.connection(), None
            self._heard_at = monotonic()
        for chunk in self._chunks:
            if not chunk.waits:
                continue
            body = b'{"runs":[' + b",".join(e.body for e in chunk.entries) + b"]}"
            try:
                chunk.id = self._connection.send_encoded("run.start_many", body)
            except DaemonUnavailable as bad:  # Sent incompletely, so it was not executed.
                self._lost(bad)
                return
            chunk.sent = True

    def _lost(self, bad: DaemonUnavailable) -> None:
        """Handle a broken connection: report lines that must not be sent again, keep the others."""
        self._connection, self._gone = None, bad
        uncertain: list[int] = []
        for chunk in self._chunks:
            if not chunk.id:
                continue
            uncertain += [e.number for e in chunk.entries if not e.keyed]
            chunk.entries = [e for e in chunk.entries if e.keyed]
            chunk.id = 0
            if not chunk.entries:
                chunk.answer([])
        if uncertain:
            self._report.uncertain(uncertain, bad)
        self._tell()

    def _take_answers(self) -> None:
        assert self._connection is not None
        try:
            while self._chunks and (replies := self._connection.arrived()):
                for reply in replies:
                    self._file(reply)
                self._tell()
        except DaemonUnavailable as bad:
            self._lost(bad)
        self._report.flush()
        if self._report.unread is not None:  # Nobody could tell what else was started.
            self._stopped_by = self._stopped_by or self._report.unread
        self._report.progress()

    def _file(self, reply: Reply) -> None:
        self._heard_at = monotonic()
        chunk = next(c for c in self._chunks if c.id == reply.id)
        if reply.error is None:
            chunk.answer(reply.result["results"])
        elif reply.error.code in _TEMPORARY:
            chunk.answer([{"error": reply.error.as_json()}] * len(chunk.entries))
        else:
            self._report.uncertain([e.number for e in chunk.entries], reply.error)
            chunk.entries = []
            chunk.answer([])
            self._stopped_by = self._stopped_by or reply.error

    def _tell(self) -> None:
        """Report the lines of all answered chunks up to the first that is not answered."""
        while self._chunks and (results := self._chunks[0].results) is not None:
            for line, result in zip(self._chunks.popleft().entries, results, strict=True):
                if "error" not in result:
                    self._report.done(line.number, result)
                    continue
                bad = from_json(result["error"])
                if bad.code in _TEMPORARY:
                    self._stopped_by = self._stopped_by or bad
                    self._left.append(line.number)
                else:
                    self._report.refused(line.number, bad)

    # --- The end ---------------------------------------------------------------------------

    def _end_unread(self, bad: OutputFailed) -> None:
        """Raise `bad`, with what was started, unless all was and standard output is merely closed:
        that is only told."""
        counted = f"{bad.message}; {self._report.counts()}"
        if self._first_left() is not None or self._report.unwritten is not None:
            raise self._ended_by(OutputFailed(counted, hint=bad.hint))
        self._report.say(counted)

    def _ended_by(self, bad: StackshiftError) -> StackshiftError:
        """`bad` with the progress of the batch added; its field `line` is the first line that may
        not have been started."""
        where = self._where()
        fields, hint = dict(bad.fields), bad.hint
        if where:
            fields["line"] = self._first_left()
            again = (
                "run it again with the lines that were not started,"
                " and with any that have an idempotency key"
            )
            hint = "; ".join(filter(None, (hint, again)))
        return type(bad)("; ".join((bad.message, *where)), hint=hint, **fields)

    def _where(self) -> list[str]:
        """Which lines were not started, or may not have been, in words."""
        parts = []
        if sent := [e.number for c in self._chunks if c.sent for e in c.entries]:
            parts.append(f"{lines(sent)} may or may not have been started")
        if self._left:
            parts.append(f"{lines(self._left)} not started")
        if (unsent := self._first_unsent()) is not None:
            parts.append(f"nothing from line {unsent} on was sent")
        return parts

    def _first_unsent(self) -> int | None:
        for chunk in self._chunks:
            if not chunk.sent:
                return chunk.entries[0].number
        if self._gathered:
            return self._gathered[0].number
        return None if self._input.ended else self._input.next_number

    def _first_left(self) -> int | None:
        sent = [e.number for c in self._chunks for e in c.entries]
        unsent = self._first_unsent()
        return min([*sent, *self._left, *([] if unsent is None else [unsent])], default=None)
