"""`start --batch`: a stream of starts, one JSON object a line, over one connection.

Lines are sent in chunks, the next chunk before the last one was answered, so that the daemon is
never idle between two. Good lines are kept whatever becomes of the others; a bad one is named by
its number on stderr. Ids come out in the order of the lines.

If the connection breaks nothing is sent again: what was not answered may have been started, and the
message says from which line on. Lines with an `idempotency_key` can simply be given again.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from typing import IO, Any, Final

from stackshift_cli import talk
from stackshift_cli.request import MAX_PAYLOAD_BYTES, moment
from stackshift_cli.safe_text import safe
from stackshift_cli.session import Session
from stackshift_cli.streams import standard_input
from stackshift_cli.terminal import is_terminal
from stackshift_jobs import strict
from stackshift_jobs.durations import milliseconds
from stackshift_jobs.errors import DaemonUnavailable, StackshiftError, Usage, from_json

CHUNK_RUNS: Final = 500
_CHUNK_BYTES: Final = 1 << 20
"""A chunk is also sent once its lines are this long, so that it always fits a line of the
protocol."""
_UNANSWERED: Final = 2
"""Chunks under way at a time."""
_MAX_LINE: Final = MAX_PAYLOAD_BYTES + 65_536
_FIELDS: Final = frozenset((
    "job", "payload", "queue", "idempotency_key", "idempotency_ttl", "delay", "scheduled_at",
    "priority", "max_attempts", "labels",
))  # fmt: skip
_REFUSED: Final = 6


def start_batch(session: Session, source: str) -> int:
    """Start a run for each line of the file `source` (`-`: standard input); 6 if any was bad."""
    if source == "-":
        return _Batch(session).run(standard_input("the batch"))
    try:
        file = open(source, "rb")  # noqa: PTH123, SIM115 - closed below, where it is used
    except OSError as bad:
        raise Usage(f"cannot read {source}: {bad.strerror}") from bad
    with file:
        return _Batch(session).run(file)


class _Batch:
    """The state of one batch: chunks under way, and what became of the lines so far."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._under_way: deque[tuple[int, list[int]]] = deque()
        self._answers: dict[int, list[dict[str, Any]]] = {}
        self._started = 0
        self._bad = 0
        self._draws = is_terminal(sys.stderr) and not session.options.quiet

    def run(self, file: IO[bytes]) -> int:
        connection = self._session.connection()
        try:
            for numbers, runs in self._chunks(file):
                id = connection.send("run.start_many", {"runs": runs})
                self._under_way.append((id, numbers))
                if len(self._under_way) >= _UNANSWERED:
                    self._take_answer()
            while self._under_way:
                self._take_answer()
        except DaemonUnavailable as bad:
            self._cut_short(bad)
        finally:
            self._clear()
        return _REFUSED if self._bad else 0

    def _chunks(self, file: IO[bytes]) -> Iterator[tuple[list[int], list[dict[str, Any]]]]:
        """Good lines, gathered; bad ones are said at once."""
        numbers: list[int] = []
        runs: list[dict[str, Any]] = []
        size = 0
        for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE), b""), 1):
            if not line.strip():
                continue
            if runs and (size + len(line) > _CHUNK_BYTES or len(runs) == CHUNK_RUNS):
                yield numbers, runs
                numbers, runs, size = [], [], 0
            try:
                runs.append(_params(line))
            except StackshiftError as bad:
                self._refuse(number, bad)
            else:
                numbers.append(number)
                size += len(line)
        if runs:
            yield numbers, runs

    def _take_answer(self) -> None:
        """Wait for the answer to the oldest chunk and print what became of its lines."""
        id, numbers = self._under_way[0]
        reply = self._session.connection().receive()
        while reply.id != id:
            assert reply.id is not None
            self._answers[reply.id] = reply.value()["results"]
            if id in self._answers:
                break
            reply = self._session.connection().receive()
        else:
            self._answers[id] = reply.value()["results"]
        self._under_way.popleft()
        for number, result in zip(numbers, self._answers.pop(id), strict=True):
            self._tell(number, result)
        sys.stdout.flush()
        self._progress()

    def _tell(self, number: int, result: dict[str, Any]) -> None:
        if "error" in result:
            self._refuse(number, from_json(result["error"]))
            return
        self._started += 1
        talk.data(talk.compact({"line": number, **result}) if self._session.json else result["id"])

    def _refuse(self, number: int, bad: StackshiftError) -> None:
        self._clear()
        self._bad += 1
        talk.say(f"line {number}: error[{bad.code}]: {safe(bad.message)}")
        if self._session.json:
            talk.say(talk.compact({"line": number, "error": bad.as_json()}))

    def _cut_short(self, bad: DaemonUnavailable) -> None:
        """Say what is known of the lines when the connection broke; `bad` ends the command."""
        if not self._under_way:
            raise bad
        first = self._under_way[0][1][0]
        raise DaemonUnavailable(
            f"{bad.message}; lines from {first} on may or may not have been started",
            hint="give them again if they have idempotency keys, else see stackshift runs list",
            **{**bad.fields, "line": first},
        ) from bad

    def _progress(self) -> None:
        if self._draws:
            sys.stderr.write(f"\r{self._started} started, {self._bad} bad\x1b[K")
            sys.stderr.flush()

    def _clear(self) -> None:
        if self._draws:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _params(line: bytes) -> dict[str, Any]:
    """The params of `run.start` that a line asks for."""
    given = strict.loads(line, _MAX_LINE)
    if not isinstance(given, dict):
        raise Usage("not an object")
    if unknown := sorted(given.keys() - _FIELDS):
        raise Usage(f"unknown field {unknown[0]!r}", hint=" ".join(sorted(_FIELDS)))
    if not isinstance(given.get("job"), str):
        raise Usage("job is missing")
    params = {k: v for k, v in given.items() if v is not None or k == "payload"}
    for name in ("delay", "idempotency_ttl"):
        if (duration := params.pop(name, None)) is not None:
            params[f"{name}_ms"] = milliseconds(duration)
    if isinstance(at := params.get("scheduled_at"), str):
        params["scheduled_at"], _ = moment(at)
    return params
