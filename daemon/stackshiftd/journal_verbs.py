"""`python -m stackshiftd journal VERB`: the journal's tools for the command line, with JSON lines
on standard output."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

from stackshift_jobs.errors import DiskFull, OutputFailed, Usage
from stackshift_jobs.project.config import load_config
from stackshift_jobs.project.database_url import masked
from stackshiftd.journal.filesystem import NO_SPACE, RealFileSystem
from stackshiftd.journal.layout import Layout
from stackshiftd.journal.offline import tools
from stackshiftd.journal.shared import copying

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
            copying.refuse_repair(RealFileSystem(), Layout(data_dir))
            _print(_plain(tools.repair(data_dir, dry_run=dry_run)))
        case "backup":
            _print(_plain(tools.backup(data_dir, _required(file, verb))))
        case "restore":
            _print(_plain(tools.restore(_required(file, verb), data_dir)))
    return 0


def move(root: Path, to: str, *, dry_run: bool = False) -> int:
    """`journal move`: the journal of the project at `root` into the database that the environment
    or the settings name, (`files`) from there into files, or (`rescue`) into it what it has lost of
    the copy here."""
    from stackshiftd.journal.shared import moving
    from stackshiftd.journal.shared.postgres_log import PostgresLog

    config = load_config(root)
    url = config.journal.url
    if url is None:
        raise Usage("the URL of the database is needed: [journal] url, or --to URL")
    log = PostgresLog(url, config.project.name)
    if to == "rescue":
        work = moving.rescue(config.data_dir, log, masked(url), dry_run=dry_run)
    elif to == "files":
        work = moving.to_files(config.data_dir, log, masked(url), dry_run=dry_run)
    else:
        lease_ms = config.journal.lease_ms
        work = moving.to_log(config.data_dir, log, masked(url), lease_ms=lease_ms, dry_run=dry_run)
    _print(asyncio.run(_made(log, work)))
    return 0


async def _made(log: Any, work: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await work
    finally:
        log.close()


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
