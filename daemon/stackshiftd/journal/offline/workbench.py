"""Where `journal repair` works: it reads and replaces files, and writes down what it did.

Owns the report, and the rule that nothing is deleted: what a file loses goes to quarantine first,
durably. In a dry run nothing is written, and later reads see what would have been.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from stackshiftd.journal.filesystem import FileSystem, put_file, read_file
from stackshiftd.journal.layout import Layout
from stackshiftd.journal.offline import inspect
from stackshiftd.journal.offline.inspect import Look, Problem
from stackshiftd.journal.recovery import aside_name, set_aside


class LostRange(NamedTuple):
    """A record that the journal no longer has. If its line is intact in quarantine, `kind` is set,
    and `run` if it belonged to one; otherwise only the sequence number is known."""

    seq: int
    kind: str | None = None
    run: str | None = None


@dataclass(slots=True)
class Repair:
    """What was wrong, what was done (in a dry run: would be done), and what was lost."""

    problems: list[Problem] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    quarantined: list[str] = field(default_factory=list)
    kept_from: int = 0
    kept_to: int = 0
    lost: list[LostRange] = field(default_factory=list)
    """Records whose effect on the state is gone."""
    history_lost: tuple[int, int] | None = None
    """First and last record that only the snapshot's state still reflects."""


class Workbench:
    """The files of one journal, under the lock, and the `report` on what is done to them."""

    def __init__(self, fs: FileSystem, layout: Layout, report: Repair, *, dry_run: bool) -> None:
        self._fs = fs
        self._layout = layout
        self._report = report
        self._dry_run = dry_run
        self._written: dict[Path, bytes] = {}
        """What a dry run would have written."""

    def do(self, what: str) -> None:
        """Report that `what` was done, in the imperative."""
        self._report.done.append(what)

    def read(self, path: Path) -> bytes:
        """The contents of a file."""
        written = self._written.get(path)
        return read_file(self._fs, path) if written is None else written

    def write(self, path: Path, data: bytes) -> Look:
        """Put a segment with `data` at `path`, durably; in a dry run only in memory."""
        if self._dry_run:
            self._written[path] = data
        else:
            put_file(self._fs, path, [data])
        return inspect.look(path, data)

    def aside(self, path: Path, offset: int, data: bytes) -> None:
        """Put `data`, cut off `path` at `offset`, into quarantine."""
        name = aside_name(path, offset, data, "cut")
        self._report.quarantined.append(f"quarantine/{name}")
        if not self._dry_run:
            set_aside(self._fs, self._layout, path, offset, data, "cut")

    def move_aside(self, path: Path) -> None:
        """Move a segment or snapshot to quarantine, and report it."""
        data = self.read(path)
        digest = hashlib.sha256(data).hexdigest()[:12]
        name = f"{path.stem}-{digest}.{path.parent.name}"
        self.do(f"move {path.parent.name}/{path.name} to quarantine/{name}")
        self._report.quarantined.append(f"quarantine/{name}")
        if not self._dry_run:
            # Copied, then removed: half of a rename between two directories may reach the disk.
            put_file(self._fs, self._layout.quarantine / name, [data])
            self._fs.unlink(path)
            self._fs.sync_dir(path.parent)
