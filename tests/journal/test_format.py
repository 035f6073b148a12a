"""The released format: what docs/journal.md shows is what is written and read, forever."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from journal.builders import FIRST, ROOT, opened
from journal.disk import Disk
from stackshiftd.core.records import BY_KIND
from stackshiftd.journal.line_format import encode_group

PAGE = (Path(__file__).parents[2] / "docs" / "journal.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """The page's block in this language."""
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


SAMPLE = block("jsonl").encode()


def test_documented_segment_opens() -> None:
    """A journal of the first release is read by every later one; this sample never changes."""
    disk = Disk()
    disk.mkdir(ROOT)
    disk.mkdir(ROOT / "journal")
    disk.put(FIRST, SAMPLE)
    journal = opened(disk)
    assert journal.journal_id == "jrn_9f3c1a77d02b4e5f8a61"
    kinds = [type(entry.record) for _, entry in journal.read(1)]
    names = ["journal.opened", "run.created", "attempt.started", "step.completed"]
    assert kinds == [BY_KIND[name] for name in names]
    journal.close()


def test_documented_lines_are_those_that_are_written() -> None:
    """The sample's entries are encoded to the same bytes again."""
    disk = Disk()
    disk.mkdir(ROOT)
    disk.mkdir(ROOT / "journal")
    disk.put(FIRST, SAMPLE)
    journal = opened(disk)
    entries = [entry for _, entry in journal.read(1)]
    journal.close()
    groups = [(entries[:1], 0), (entries[1:3], 1), (entries[3:], 3)]
    lines = [line for group, watermark in groups for line in encode_group(group, watermark)]
    assert b"".join(lines) == SAMPLE.split(b"\n", 1)[1]


def test_documented_reader_reads(tmp_path: Path) -> None:
    """The reader shown on the page yields whole appends, and stops where the file is cut."""
    scope: dict[str, Any] = {}
    exec(block("python"), scope)
    read: Callable[[Path], Iterator[dict[str, Any]]] = scope["read"]
    (tmp_path / "journal").mkdir()
    file = tmp_path / "journal" / "00000000000000000001.jsonl"
    file.write_bytes(SAMPLE)
    assert [record["seq"] for record in read(tmp_path)] == [1, 2, 3, 4]
    ends = [i + 1 for i, byte in enumerate(SAMPLE) if byte == 10]
    for size in range(ends[0], len(SAMPLE)):
        file.write_bytes(SAMPLE[:size])
        whole = sum(end <= size for end in ends) - 1
        assert len(list(read(tmp_path))) == (1 if whole == 2 else whole)
