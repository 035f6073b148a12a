"""Journals on shared logs."""

from __future__ import annotations

from typing import Any

from journal.builders import ROOT
from journal.disk import Disk
from stackshiftd.journal.shared.log import SharedLog
from stackshiftd.journal.shared.shared_journal import SharedJournal


async def leading(log: SharedLog, disk: Disk, **options: Any) -> SharedJournal:
    """The journal in `log`, with its copy on `disk`, as its leader."""
    options.setdefault("lease_ms", 300)
    return await SharedJournal.lead(ROOT, log, "the log", fs=disk, **options)
