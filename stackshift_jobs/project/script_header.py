"""The header of a shell job: comments at its beginning that say which job it is, and its options.

    #!/bin/sh
    # stackshift: job nightlyBackup
    # stackshift: schedule 15 3 * * *  timezone Europe/Berlin  retry 3  timeout 2h
    # stackshift: schedule weekend: 0 11 * * 6,0  jitter 10m

A schedule with a name (`weekend:`) is one of several; what stands behind a schedule in its line is
said of that one alone.

Only the comments before the first line of code count. They begin with `#`, `//`, `--` or `;`,
whatever the interpreter wants. An executable file without a header is no job, and no mistake.
"""

from __future__ import annotations

import codecs
import difflib
import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from stackshift_jobs.errors import Usage
from stackshift_jobs.retry import Retry
from stackshift_jobs.schedules import TERMS, Schedule
from stackshift_jobs.values.durations import milliseconds
from stackshift_jobs.values.expectations import check_expectation
from stackshift_jobs.values.limits import MAX_ATTEMPTS, MAX_PRIORITY
from stackshift_jobs.values.names import check_name

MAX_HEADER_BYTES: Final = 16 * 1024
_COMMENT: Final = re.compile(r"\s*(?:#+|//+|--+|;+)(.*)")
_OURS: Final = re.compile(r"\s*stackshift:(.*)")
_SUFFIXES: Final = frozenset((".sh", ".bash", ".zsh", ".ksh"))
_FIELDS: Final = 5
"""Those of a cron expression."""


class HeaderError(SyntaxError):
    """A mistake in the header of a shell job, with its line."""

    def __init__(self, message: str, file: Path, line: int) -> None:
        super().__init__(message, (str(file), line, None, None))


class Header(NamedTuple):
    """What a header says: the job's name, in which line that stands, the options of the job as
    `stackshift_jobs.job` takes them, and what the other comments of it say."""

    name: str
    line: int
    options: dict[str, Any]
    doc: str


def read_header(file: Path) -> Header | None:
    """The header of `file`; None if it has none. Raises `HeaderError`, and `OSError`."""
    with file.open("rb") as opened:
        data = opened.read(MAX_HEADER_BYTES)
    if b"\0" in data or b"stackshift:" not in data:
        return None
    doc: list[str] = []
    words: list[tuple[str, int]] = []
    # What an editor has put before the first line is for `check_runnable` to say.
    text = data.decode("utf-8", "replace").removeprefix("\ufeff")
    for number, comment in _comments(text.splitlines()):
        ours = _OURS.fullmatch(comment)
        if ours is None:
            doc.append(comment.strip())
            continue
        try:
            words += [(word, number) for word in shlex.split(ours[1])]
        except ValueError as bad:
            raise HeaderError(f"{bad}".lower(), file, number) from None
    if not words:
        return None
    return _Reader(file, words).header("\n".join(doc).strip())


def is_script(file: Path) -> bool:
    """Is `file` a shell job, as far as its name and its header tell? One whose header has a mistake
    is, and one that is called like a script and cannot be executed. What is neither called so nor
    executable is not looked into: it may be anything, and large."""
    if file.suffix in (".py", ".pyc") or not file.is_file():
        return False
    if file.suffix not in _SUFFIXES and not os.access(file, os.X_OK):
        return False
    try:
        return read_header(file) is not None
    except HeaderError:
        return True
    except OSError:
        return False


def check_runnable(file: Path) -> None:
    """Raise `HeaderError` if a file with a header cannot be started as a program."""
    with file.open("rb") as opened:
        first = opened.readline(MAX_HEADER_BYTES)
        if first.startswith(codecs.BOM_UTF8):
            raise HeaderError("it begins with a byte order mark: save it without one", file, 1)
        if first.endswith(b"\r\n"):
            told = f"its lines end in CR LF, and its interpreter is called so: dos2unix {file.name}"
            raise HeaderError(told, file, 1)
        if not first.startswith(b"#!"):
            raise HeaderError("no interpreter is named: the first line is not #!/bin/sh", file, 1)
    if not os.access(file, os.X_OK):
        raise HeaderError(f"it is not executable: chmod +x {file.name}", file, 1)


def _comments(lines: list[str]) -> Iterator[tuple[int, str]]:
    """The comments before the first line of code, each with its number, without the first line."""
    for number, line in enumerate(lines, 1):
        if number == 1 and line.startswith("#!"):
            continue
        if not line.strip():
            continue
        comment = _COMMENT.fullmatch(line)
        if comment is None:
            return
        yield number, comment[1]


class _Reader:
    """Reads the words of a header, of which each has the number of its line."""

    def __init__(self, file: Path, words: list[tuple[str, int]]) -> None:
        self._file = file
        self._words = words
        self._given: dict[str, Any] = {}
        self._lines: dict[str, int] = {}
        self._schedules: dict[str, dict[str, Any]] = {}
        """The terms of each schedule by its name; that without a name is ""."""
        self._current: tuple[str, int] | None = None
        """The schedule that was named last, and its line."""

    def header(self, doc: str) -> Header:
        """The header that the words make."""
        first = self._words[0][1]
        while self._words:
            self._option()
        given, lines = self._given, self._lines
        if "job" not in given:
            raise HeaderError("the header names no job: # stackshift: job NAME", self._file, first)
        name = given.pop("job")
        for term in TERMS:
            if term in given and not self._schedules:
                if term == "timezone" and "expect" in given:
                    continue
                raise self._wrong(f"{term} is given without a schedule", lines[term])
        given |= self._scheduled()
        if (retry := self._retry(given)) is not None:
            given["retry"] = retry
        return Header(name, lines["job"], given, doc)

    def _option(self) -> None:
        word, line = self._words.pop(0)
        name = word.replace("-", "_")
        read = _OPTIONS.get(name)
        if read is None:
            near = difflib.get_close_matches(name, _OPTIONS, 1)
            meant = f"did you mean {near[0]}?" if near else f"one of: {', '.join(_OPTIONS)}"
            raise self._wrong(f"unknown option {word!r}; {meant}", line)
        if name == "schedule":
            self._schedule(line)
            return
        into = self._given
        if name in TERMS and self._current is not None and self._current[1] == line:
            into = self._schedules[self._current[0]]
        if name in into:
            raise self._wrong(f"{name} is given twice", line)
        text = self._next(name, line)
        try:
            into[name] = read(text)
        except Usage as bad:
            hint = f" ({bad.hint})" if bad.hint else ""
            raise self._wrong(f"{name}: {bad.message}{hint}", line) from None
        self._lines[name] = line

    def _schedule(self, line: int) -> None:
        """Take `[NAME:] EXPRESSION`."""
        first, name = self._next("schedule", line), ""
        if first.endswith(":"):
            name, first = first[:-1], self._next("schedule", line)
        if name in self._schedules:
            what = f"schedule {name}" if name else "schedule"
            raise self._wrong(f"{what} is given twice", line)
        more = 1 if first == "@every" else 0 if first[:1] == "@" else _FIELDS - 1
        taken = [first, *(self._next("schedule", line) for _ in range(more))]
        self._schedules[name] = {"expression": " ".join(taken)}
        self._current = name, line
        self._lines["schedule"] = line

    def _scheduled(self) -> dict[str, Any]:
        """The options of `job` that the schedules make."""
        named = dict(self._schedules)
        own = named.pop("", None)
        if not named:
            return {} if own is None else {"schedule": own.pop("expression"), **own}
        options: dict[str, Any] = {} if own is None else {"schedule": Schedule(**own)}
        options["schedules"] = {name: Schedule(**terms) for name, terms in named.items()}
        return options

    def _next(self, name: str, line: int) -> str:
        """The next word, which must stand in the same line as the option `name`."""
        if not self._words or self._words[0][1] != line:
            whole = " of five fields" if name == "schedule" else ""
            raise self._wrong(f"{name} needs a value{whole}", line)
        return self._words.pop(0)[0]

    def _retry(self, given: dict[str, Any]) -> Retry | None:
        """The policy that `retry` and `backoff` make; None without them."""
        retries, backoff_ms = given.pop("retry", None), given.pop("backoff", None)
        if retries is None:
            if backoff_ms is not None:
                raise self._wrong("backoff is given without retry", self._lines["backoff"])
            return None
        if backoff_ms is None:
            return Retry(max_attempts=retries + 1)
        return Retry(max_attempts=retries + 1, backoff=backoff_ms / 1000)

    def _wrong(self, message: str, line: int) -> HeaderError:
        return HeaderError(message, self._file, line)


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise Usage(f"{text!r} is not a whole number") from None
        if not low <= number <= high:
            raise Usage(f"{text} is out of range", hint=f"use {low} to {high}")
        return number

    return read


def _seconds(text: str) -> float:
    return milliseconds(text) / 1000


_OPTIONS: Final[dict[str, Callable[[str], Any]]] = {
    "job": lambda text: check_name(text, "job"),
    "queue": lambda text: check_name(text, "queue"),
    "retry": _whole(0, MAX_ATTEMPTS - 1),
    "backoff": milliseconds,
    "timeout": _seconds,
    "priority": _whole(-MAX_PRIORITY, MAX_PRIORITY),
    "concurrency_key": str,
    "unique": str,
    "on_duplicate": str,
    "ttl": _seconds,
    "deadline": _seconds,
    "on_failure": lambda text: check_name(text, "job"),
    "on_success": lambda text: check_name(text, "job"),
    "expect": check_expectation,
    "max_runtime": _seconds,
    "heartbeat": str,
    "idempotency_ttl": _seconds,
    "schedule": str,
    "timezone": str,
    "catch_up": str,
    "catch_up_for": _seconds,
    "overlap": str,
    "jitter": _seconds,
}
"""The options by name, and what reads the text of each."""


def start_terms(options: dict[str, Any]) -> dict[str, Any]:
    """Those of the options of a header that concern a single run, as params of `run.start`."""
    terms: dict[str, Any] = {
        name: options[name] for name in ("queue", "priority", "on_duplicate") if name in options
    }
    for name in ("timeout", "ttl", "deadline"):
        if name in options:
            terms[f"{name}_ms"] = round(options[name] * 1000)
    if "unique" in options:
        terms["unique"] = options["unique"]
    if (retry := options.get("retry")) is not None:
        policy = retry.as_json()
        terms |= {name: policy[name] for name in ("max_attempts", "backoff_ms")}
    return terms
