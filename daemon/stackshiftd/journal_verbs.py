"""`python -m stackshiftd journal VERB`: the journal's tools for the command line, with JSON lines
on standard output."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, Final

from stackshift_jobs.errors import DiskFull, OutputFailed, Usage
from stackshiftd.journal.filesystem import NO_SPACE
from stackshiftd.journal.offline import tools

_READING: Final = ("cat", "stats", "verify")
"""What these write goes to standard output alone."""


def run_verb(
    verb: str, data_dir: Path, file: Path | None, since_seq: int, *, dry_run: bool = False
) -> int:
    """Run the verb and return the exit status. Raises what the tools raise, `DiskFull` and
    `OutputFailed`."""
    try:
        status = _run(verb, data_dir, file, since_seq, dry_run)
        sys.stdout.flush()
        return status
    except OSError as failed:
        if failed.errno not in NO_SPACE:
            raise
        if verb in _READING:
            message = f"standard output cannot be written: {failed.strerror}"
            raise OutputFailed(message) from failed
        raise DiskFull(
            f"no space for journal {verb}: {failed.strerror}",
            hint="free some disk space, then try again",
        ) from failed


def _run(verb: str, data_dir: Path, file: Path | None, since_seq: int, dry_run: bool) -> int:
    match verb:
        case "cat":
            out = sys.stdout.buffer
            for line in tools.cat(data_dir, since_seq):
                out.write(line + b"\n")
            out.flush()
        case "stats":
            _print(tools.stats(data_dir))
        case "verify":
            report = tools.verify(data_dir)
            problems = [
                {"file": p.file, "offset": p.offset, "seq": p.seq, "message": p.what}
                for p in report.problems
            ]
            _print({"ok": report.ok} | _plain(report) | {"problems": problems})
            return 0 if report.ok else 78
        case "repair":
            _print(_plain(tools.repair(data_dir, dry_run=dry_run)))
        case "backup":
            _print(_plain(tools.backup(data_dir, _required(file, verb))))
        case "restore":
            _print(_plain(tools.restore(_required(file, verb), data_dir)))
    return 0


def _required(file: Path | None, verb: str) -> Path:
    if file is None:
        raise Usage(f"journal {verb} needs a file")
    return file


def _print(value: Any) -> None:
    print(json.dumps(value))


def _plain(value: Any) -> Any:
    """Dataclasses, named tuples and paths as JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if hasattr(value, "_asdict"):
        return {name: _plain(field) for name, field in value._asdict().items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
