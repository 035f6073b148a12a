"""Maintenance: takes snapshots, drops what is too old, and reads the history from the journal.

Never blocks the daemon: the index is built on a thread, a snapshot is made by a separate process.
Only records below the older of two snapshots are dropped, so that a run that is still in memory
never loses its records.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from stackshift_jobs.errors import Busy, JournalDamaged, StackshiftError, from_json
from stackshift_jobs.project.config import Config
from stackshiftd.core import commands as c
from stackshiftd.core.records import Entry, RunCreated, RunRemoved, RunRetried
from stackshiftd.core.snapshot import snapshot_entries
from stackshiftd.history.index import History
from stackshiftd.history.rows import RowBuilder, RunRow
from stackshiftd.journal.interface import Journal
from stackshiftd.journal.line_format import text_in_line
from stackshiftd.shell.damage import Damage
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.params import Answer
from stackshiftd.shell.tasks import Tasks

log = logging.getLogger("stackshiftd")

SYNC_SECONDS: Final = 0.05
"""How long to wait for a sync, with `durability = "interval"`."""
PAUSE_SECONDS: Final = 10.0
"""The least time between two automatic compactions."""
LOGS_SECONDS: Final = 3600.0
"""The most time between two looks for logs that are older than `[journal] retention`. It is a tenth
of a retention that is short, but not less than a second."""


class Maintenance:
    """The maintenance of one daemon's files.

    `published` returns the record up to which everything is in the history.
    """

    def __init__(
        self,
        engine: Engine,
        journal: Journal,
        history: History,
        config: Config,
        published: Callable[[], int],
        tasks: Tasks,
        damage: Damage,
    ) -> None:
        self._engine = engine
        self._journal = journal
        self._history = history
        self._config = config
        self._published = published
        self._tasks = tasks
        self._damage = damage
        self._compacting = False
        self._again_at = 0.0
        self._logs_at = 0.0

    def compact(self, answer: Answer) -> None:
        """Write a snapshot; answer `{seq, state_hash, bytes}` when it is stored. Raises `Busy`
        while another one is being written."""
        if self._compacting:
            raise Busy("a compaction is already running", hint="try again when it is done")
        self._compacting = True
        self._tasks.begin(self._compact(), answer)

    # --- history.index.Origin --------------------------------------------------------------

    def rows(self, until_seq: int) -> Iterator[RunRow | str]:
        """The rows of the runs that finished by records up to `until_seq`, oldest first, and the
        ids of those that were removed. Blocks while it reads.

        A run of which retention has removed the first records has a row only if the snapshot still
        has them, since it was unfinished.
        """
        try:
            yield from self._rows(until_seq)
        except JournalDamaged as damaged:
            self._damage.note(damaged)
            raise

    def _rows(self, until_seq: int) -> Iterator[RunRow | str]:
        builder = RowBuilder()
        first = self._journal.stats()["first_seq"]
        for place, entry in snapshot_entries(self._journal.snapshot_lines()):
            if entry.seq < first:
                builder.add(place, entry)
        for place, entry in self._journal.read(1):
            if entry.seq > until_seq:
                return
            row = builder.add(place, entry)
            if row is not None:
                yield row
            elif isinstance(entry.record, RunRemoved):
                yield entry.record.run

    def row(self, run: str) -> RunRow | None:
        """The row of one finished run, from the journal alone. Blocks while it reads."""
        found: list[tuple[int, Entry]] = []
        for part in self._journal.search((text_in_line(run),)):
            if part is not None and getattr(part[1].record, "run", None) == run:
                found.append(part)
                if isinstance(part[1].record, RunCreated):
                    break
        builder = RowBuilder()
        row: RunRow | None = None
        for place, entry in reversed(found):
            row = builder.add(place, entry) or row
            if isinstance(entry.record, RunRemoved | RunRetried):
                row = None
        return row

    async def durable(self) -> int:
        """Return, once it can be read, the last record of which the history may know."""
        known = self._engine.durable_seq
        while self._journal.durable_seq < known:  # Acknowledged, but not synced yet.
            await asyncio.sleep(SYNC_SECONDS)
        return known

    def compact_if_due(self) -> None:
        """Take a snapshot if segments were sealed since the last one, and if together they are as
        large as that: so a snapshot of very many runs costs no more than their records did."""
        stats = self._journal.stats()
        snapshot = stats["snapshot"]
        base, size = (snapshot["seq"], snapshot["bytes"]) if snapshot else (0, 0)
        segments = stats["segments"]
        sealed = [each["bytes"] for each in segments[:-1] if each["first_seq"] > base]
        due = (
            bool(sealed)
            and sum(sealed) >= size
            and not self._compacting
            and time.monotonic() >= self._again_at
        )
        if due and self._damage.first is None:  # A damaged segment stays so until it is repaired.
            self._compacting = True
            # A failed compaction is not repeated at once; a successful one leaves nothing to do.
            self._again_at = time.monotonic() + PAUSE_SECONDS
            self._tasks.begin(self._compact(), _log_compaction)

    async def _compact(self) -> dict[str, Any]:
        """Run the compaction process up to the last durable record, then drop what is too old; what
        the process has told. Raises `StackshiftError`."""
        try:
            # Both are ends of appends; everything published is in the history.
            upto = min(self._journal.durable_seq, self._published())
            await self._history.flushed(upto)
            snapshot = await _snapshot(self._config.data_dir, upto)
            await self._journal.adopt_snapshot()
            if not self._engine.is_writer:  # Of a copy, nobody else needs to know.
                await self._retain()
                return snapshot
            self._engine.submit(c.NoteSnapshot(snapshot["seq"], snapshot["state_hash"]))
            await self._retain()
            # If the journal fails meanwhile, nobody is answered: the daemon ends.
            noted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._engine.when_durable(noted.set_result, None)
            await noted
        except StackshiftError as bad:
            self._damage.note(bad)
            raise
        except OSError as bad:
            raise StackshiftError(
                f"the compaction failed: {bad}", hint="look after the disk, then try again"
            ) from bad
        else:
            return snapshot
        finally:
            self._compacting = False

    async def _retain(self) -> None:
        """Drop segments that are entirely older than `[journal] retention`, with the rows and logs
        of their runs."""
        cutoff_us = self._engine.now_us() - self._config.journal.retention_ms * 1000
        old: int | None = None
        for segment in self._journal.stats()["segments"]:
            first = next(iter(self._journal.read(segment["first_seq"])), None)
            if first is None or first[1].at_us >= cutoff_us:
                break
            old = segment["first_seq"]
        if old is not None:
            await self._journal.trim(old)
            self._history.forget_before(cutoff_us)
        await self._retain_logs()

    def drop_logs_if_due(self) -> None:
        """Remove the logs that are too old, from time to time. They do not wait for a segment to be
        dropped, which may take years where little is recorded and much is printed."""
        if time.monotonic() >= self._logs_at:
            retention = self._config.journal.retention_ms / 1000
            self._logs_at = time.monotonic() + min(LOGS_SECONDS, max(1.0, retention / 10))
            self._tasks.begin(self._retain_logs())

    async def _retain_logs(self) -> None:
        # By the clock that the system dates files with, which daemon time may be ahead of.
        cutoff = time.time() - self._config.journal.retention_ms / 1000
        kept = frozenset(self._engine.state.runs)
        await asyncio.to_thread(_drop_logs, self._config.data_dir / "logs", kept, cutoff)


async def _snapshot(data_dir: Path, upto_seq: int) -> dict[str, Any]:
    """Have a process write the snapshot at `upto_seq`; what it answers. Raises its error."""
    ours, its = os.pipe()  # The process ends when this end is closed, by us or by our death.
    try:
        python = (sys.executable, "-P", "-m", "stackshiftd", "compact")
        process = await asyncio.create_subprocess_exec(
            *(*python, "--data-dir", str(data_dir), "--upto-seq", str(upto_seq)),
            stdin=ours,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            out, _ = await process.communicate()
        except BaseException:  # The daemon ends meanwhile: nothing of it is left behind.
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()
            raise
    finally:
        os.close(ours)
        os.close(its)
    answer: dict[str, Any] = json.loads(out) if out else {}
    if "error" in answer:
        raise from_json(answer["error"])
    if process.returncode != 0 or not answer:
        raise StackshiftError(
            f"the compaction process ended with status {process.returncode}",
            hint="stackshift daemon logs",
        )
    return answer


def _drop_logs(folder: Path, kept: frozenset[str], cutoff: float) -> None:
    """Remove the logs not written to since `cutoff` (seconds since 1970), except those of the runs
    `kept`, which are not over."""
    if not folder.is_dir():
        return
    for file in folder.iterdir():
        with contextlib.suppress(OSError):  # Removed meanwhile, or on a disk that is read-only.
            if file.stem not in kept and file.stat().st_mtime < cutoff:
                file.unlink()


def _log_compaction(result: Any) -> None:
    if isinstance(result, StackshiftError):
        log.error("%s", result)
    else:
        log.info("snapshot at record %d, %d bytes", result["seq"], result["bytes"])
