"""`journal verify`: is every byte of the journal what was written?

Owns the report. Reads everything, changes nothing, needs no lock: it may run while the daemon does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from stackshiftd.journal.filesystem import FileSystem, RealFileSystem
from stackshiftd.journal.layout import Layout, check_root
from stackshiftd.journal.offline import inspect
from stackshiftd.journal.offline.inspect import Look, Problem
from stackshiftd.journal.scan import known_durable


@dataclass(slots=True)
class Report:
    """What `verify` found. `watermark` is the highest record that the journal itself says was
    durable; `notes` are worth knowing, but are not damage."""

    journal: str = ""
    first_seq: int = 0
    last_seq: int = 0
    watermark: int = 0
    segments: int = 0
    records: int = 0
    bytes: int = 0
    snapshots: list[int] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True if there are no problems; notes do not count."""
        return not self.problems


def verify(data_dir: Path, *, fs: FileSystem | None = None) -> Report:
    """Check all segments (crc, gaps, parts, records, hash chain, watermark) and all snapshots.

    Raises `NewerFormat`, and `BadConfiguration` if there is no data directory.
    """
    fs = fs or RealFileSystem()
    layout = Layout(data_dir)
    check_root(fs, layout)
    report = Report()
    found = inspect.survey(fs, layout)
    if not found.segments and not found.losses():
        report.notes.append("there is no journal yet")
    report.journal = found.journal
    report.snapshots = [snapshot.seq for snapshot in found.snapshots]
    report.problems += found.strays()
    flaws = found.flaws()
    for number, one in enumerate(found.segments):
        _judge(report, one, flaws.get(number), found.durable)
    report.segments = len(found.segments)
    report.problems += found.losses()
    report.problems += found.bad_snapshots
    if fs.lstat(layout.quarantine) is not None:
        report.notes += [f"set aside: quarantine/{name}" for name in fs.listdir(layout.quarantine)]
    return report


def _judge(report: Report, one: Look, problem: Problem | None, durable: int) -> None:
    report.bytes += one.size
    if problem is not None:
        report.problems.append(problem)
    if one.segment is None or one.found is None:
        return
    found = one.found
    report.first_seq = report.first_seq or one.first_seq
    report.last_seq = max(report.last_seq, found.seq)
    report.watermark = max(report.watermark, known_durable(found, durable))
    report.records += found.seq - one.segment.header.prev_seq
    if problem is None and found.fault is not None:
        report.notes.append(
            f"{one.name} ends with {found.size - found.end} bytes of an incomplete append (from "
            f"byte {found.end}): it is being written, or a crash cut it off; it was never "
            "acknowledged"
        )
