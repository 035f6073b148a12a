"""A list that stays sorted, against a set."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackshiftd.core.state import sorted_list
from stackshiftd.core.state.sorted_list import CHUNK, SortedList

changes = st.lists(st.tuples(st.booleans(), st.integers(0, 60)), max_size=200)


def audit(numbers: SortedList[int], known: set[int], places: range) -> None:
    """It has the items that are known, in order, from wherever one looks."""
    assert len(numbers) == len(known)
    assert list(numbers.descending()) == sorted(known, reverse=True)
    for place in places:
        below = [number for number in sorted(known, reverse=True) if number < place]
        assert list(numbers.descending(place)) == below
        above = [number for number in sorted(known) if number >= place]
        assert list(numbers.ascending(place)) == above
        after = [number for number in above if number != place]
        assert list(numbers.ascending(place, inclusive=False)) == after
    assert [chunk[-1] for chunk in numbers._chunks] == numbers._lasts


@given(changes)
def test_list_is_sorted_whatever_is_added_and_removed(made: list[tuple[bool, int]]) -> None:
    """With chunks so small that every history splits and empties some."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorted_list, "CHUNK", 2)
        numbers, known = SortedList[int](), set[int]()
        for adds, number in made:
            if adds:
                numbers.add(number)
                known.add(number)
            else:
                assert numbers.discard(number) == (number in known)
                known.discard(number)
        audit(numbers, known, range(-1, 63))


def test_long_list_has_no_long_chunk() -> None:
    """So a change in the middle of it moves little."""
    numbers, known = SortedList[int](), list(range(20_000))
    random.Random(7).shuffle(known)
    for number in known:
        numbers.add(number)
    assert max(map(len, numbers._chunks)) < 2 * CHUNK
    for number in known[:15_000]:
        assert numbers.discard(number)
    audit(numbers, set(known[15_000:]), range(0, 20_000, 1999))
