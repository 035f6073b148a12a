"""What a daemon says of a journal whose bytes are sound and whose records are not."""

from __future__ import annotations

import pytest

from journal.builders import add, claimed, opened, queued, run
from journal.disk import Disk
from stackshift_jobs.errors import JournalDamaged
from stackshiftd.shell.departures import replay


def test_record_that_cannot_follow_is_named() -> None:
    """It is no traceback, and says which record it is, so that a person can look at it."""

    async def work() -> None:
        journal = opened(Disk())
        claim = await claimed(journal)
        await add(journal, claim, [queued("run_unknown")])
        with pytest.raises(JournalDamaged, match=r"record 2 of the journal, run\.queued, ") as told:
            replay(journal, None, 0)
        assert told.value.fields["seq"] == 2
        assert "journal cat" in told.value.hint
        journal.close()

    run(work())
