"""When a snapshot is due: what it costs is in proportion to what was recorded."""

from __future__ import annotations

from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any, cast

import pytest

from stackshiftd.shell.background.maintenance import Maintenance
from stackshiftd.shell.damage import Damage


class Story:
    """A journal of these segments, as (first record, bytes), with a snapshot or without."""

    def __init__(self, segments: list[tuple[int, int]], snapshot: tuple[int, int] | None) -> None:
        self.begun = 0
        stats = {
            "segments": [{"first_seq": seq, "bytes": size} for seq, size in segments],
            "snapshot": snapshot and {"seq": snapshot[0], "bytes": snapshot[1]},
        }
        journal = SimpleNamespace(stats=lambda: stats)
        config: Any = None
        self.damage = Damage()
        self.maintenance = Maintenance(
            *cast(Any, (None, journal, None, config, lambda: 0, self, self.damage))
        )

    def begin(self, work: Coroutine[Any, Any, Any], _told: Any) -> None:
        """Count it."""
        work.close()
        self.begun += 1

    def is_due(self) -> bool:
        """Is a compaction begun?"""
        self.maintenance.compact_if_due()
        return self.begun == 1


@pytest.mark.parametrize(
    ("segments", "snapshot", "due"),
    [
        ([(1, 800)], None, False),  # nothing is sealed
        ([(1, 800), (9, 10)], None, True),
        ([(1, 800), (9, 10)], (8, 50), False),  # covered
        ([(1, 800), (9, 800), (20, 5)], (8, 50), True),
        ([(1, 800), (9, 800), (20, 5)], (8, 801), False),  # it would cost more than the records
        ([(1, 800), (9, 800), (20, 800), (31, 5)], (8, 1600), True),
    ],
)
def test_snapshot_is_due_once_as_much_is_sealed_as_the_last_one_has(
    segments: list[tuple[int, int]], snapshot: tuple[int, int] | None, due: bool
) -> None:
    """So one of a million runs is not written for every few thousand records."""
    assert Story(segments, snapshot).is_due() is due


def test_only_one_compaction_at_a_time() -> None:
    """The next look does not begin another."""
    story = Story([(1, 800), (9, 10)], None)
    assert story.is_due()
    assert story.is_due()
