"""Ids: different, in order of time, of the documented form."""

from __future__ import annotations

import itertools
import re

from stackshiftd.shell.ids import Ids


def test_ids_are_different_and_in_order_of_time() -> None:
    """Many more than their random bytes are fetched for at once."""
    now_us = itertools.count(1_700_000_000_000_000, 1000)
    ids = Ids(lambda: next(now_us))
    made = [ids.run() for _ in range(2000)]
    assert len({each[-16:] for each in made}) == 2000
    assert made == sorted(made)
    assert all(re.fullmatch(r"run_[0-9a-hjkmnp-tv-z]{26}", each) for each in made)


def test_ids_of_two_daemons_share_no_chance() -> None:
    """Each has bytes of its own from the system."""
    first, second = Ids(), Ids()
    chances = {ids.event()[-16:] for ids in (first, second) for _ in range(500)}
    assert len(chances) == 1000
