"""Transcripts: commands of the core, and below each of them what it leads to.

A file in `testdata` is a list of blocks, separated by blank lines:

    # Comments say what to look at.
    StartRun run="run_1" job="resize" queue="media" payload={}
    ----
    1 run.created run="run_1" job="resize" queue="media" payload={}
    < Started run="run_1" reused=false

A command is a class of `core.commands` with its fields as JSON. `time +2s` moves the clock, `runs`
shows the runs in memory. The answer has a line for each record (with its sequence number), each
effect (`>`), the reply (`<`) and the error that a client gets (`!`). Fields that have their default
are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw

from stackshift_jobs.errors import StackshiftError
from stackshift_jobs.values.durations import milliseconds
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.decide.decide import decide
from stackshiftd.core.fold.fold import fold
from stackshiftd.core.snapshot import state_hash
from stackshiftd.core.state.state import Run, State

START_US: Final = 1_767_603_600_000_000
"""2026-01-05T09:00:00Z, a Monday morning."""
LINE: Final = "----"
_FIELD: Final = re.compile(r"\s*(\w+)=")
_NOT_SHOWN: Final = ("crc", "seq", "at", "kind", "part", "v", "watermark")


class Block(NamedTuple):
    """Comments, the lines of a command, and the answer that the file shows."""

    comments: list[str]
    command: str
    answer: list[str]


def blocks(text: str) -> Iterator[Block | str]:
    """The blocks of a file; text without a command (a heading) as it is."""
    for part in text.strip().split("\n\n"):
        lines = part.splitlines()
        comments = [line for line in lines if line.startswith("#")]
        rest = [line for line in lines if not line.startswith("#")]
        if not rest:
            yield part
            continue
        at = rest.index(LINE) if LINE in rest else len(rest)
        yield Block(comments, " ".join(rest[:at]), rest[at + 1 :])


def rewritten(text: str) -> str:
    """The file with the answers that the core gives now."""
    core = Core()
    parts = []
    for block in blocks(text):
        if isinstance(block, str):
            parts.append(block)
        else:
            answer = core.answer(block.command)
            shown = [LINE, *answer] if answer else []
            parts.append("\n".join([*block.comments, block.command, *shown]))
    core.check()
    return "\n\n".join(parts) + "\n"


class Core:
    """State and clock, and nothing else."""

    def __init__(self) -> None:
        self.state = State()
        self.now_us = START_US
        self.entries: list[r.Entry] = []

    def answer(self, line: str) -> list[str]:
        """Do what `line` says; what comes of it."""
        word, _, rest = line.partition(" ")
        if word == "time":
            self.now_us += milliseconds(rest.removeprefix("+")) * 1000
            return []
        if word == "runs":
            return [_shown_run(run) for run in self.state.runs.values()] or ["none"]
        command = parse(word, rest)
        try:
            decision = decide(self.state, command, self.now_us)
        except StackshiftError as refused:
            return [f"! {type(refused).__name__} {json.dumps(str(refused))}"]
        answer = []
        for record in decision.records:
            entry = r.Entry(self.state.seq + 1, self.now_us, record)
            fold(self.state, entry)
            self.entries.append(entry)
            answer.append(_shown_entry(entry))
        answer += [f"> {_shown(effect)}" for effect in decision.effects]
        if decision.reply is not None:
            answer.append(f"< {_shown(decision.reply)}")
        return answer or ["nothing"]

    def check(self) -> None:
        """What was decided reads the same from the journal."""
        again = State()
        for entry in self.entries:
            fold(again, r.entry_from_json(r.entry_json(entry)))
        assert state_hash(again) == state_hash(self.state)


def parse(name: str, text: str) -> Any:
    """The command `name` with the fields in `text`: `key=JSON`, separated by spaces."""
    kind: Any = getattr(c, name)
    fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
    values: dict[str, Any] = {}
    decoder = json.JSONDecoder()
    at = 0
    while match := _FIELD.match(text, at):
        value, at = decoder.raw_decode(text, match.end())
        values[match[1]] = _typed(value, fields[match[1]])
    assert not text[at:].strip(), f"not a field: {text[at:]!r}"
    return kind(**values)


def _typed(value: Any, kind: Any) -> Any:
    if kind is Raw:
        return Raw(msgspec.json.encode(value))
    if kind is bytes:
        return msgspec.json.encode(value)
    if getattr(kind, "__name__", "") == "StartRun":
        return parse("StartRun", " ".join(f"{k}={json.dumps(v)}" for k, v in value.items()))
    if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        unknown = value.keys() - {field.name for field in msgspec.structs.fields(kind)}
        assert not unknown, f"{kind.__name__} has no {unknown}"
    return msgspec.convert(value, kind)


def _shown_entry(entry: r.Entry) -> str:
    body = json.loads(r.entry_json(entry))
    kind = body["kind"]
    return f"{entry.seq} {kind} " + _fields({k: v for k, v in body.items() if k not in _NOT_SHOWN})


def _shown(value: msgspec.Struct) -> str:
    body = {
        field.name: msgspec.to_builtins(found, builtin_types=(Raw,))
        for field in msgspec.structs.fields(value)
        if (found := getattr(value, field.name)) != field.default
    }
    body = {k: json.loads(bytes(v)) if isinstance(v, Raw) else v for k, v in body.items()}
    return f"{type(value).__name__} " + _fields(body)


def _fields(body: dict[str, Any]) -> str:
    return " ".join(
        f"{name}={json.dumps(value, separators=(',', ':'), ensure_ascii=False)}"
        for name, value in body.items()
    )


def _shown_run(run: Run) -> str:
    calls = ", ".join(f"{name} {call.phase}" for name, call in run.calls.items())
    executes = f" token {run.token}" if run.token else ""
    shown = f"{run.id} {run.status} attempt {run.attempt}{executes}"
    return f"{shown}: {calls}" if calls else shown
