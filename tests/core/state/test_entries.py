"""Pages of state entries, against a search of all of them."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from stackshiftd.core.state.entries import CLIENT, Value, Values, page_json

FAR_US = 1_000_000
keys = st.text("ab:", max_size=4)
changes = st.lists(
    st.tuples(keys, st.sampled_from(("set", "set", "expiring", "delete")), st.integers(1, 20)),
    max_size=60,
)


def written(made: list[tuple[str, str, int]]) -> Values:
    """Values after these writes, one in each microsecond."""
    values = Values()
    for at_us, (key, change, span_us) in enumerate(made, 1):
        version = values.version(key, at_us) + 1
        body = b"" if change == "delete" else b"%d" % at_us
        expires_us = 0 if change == "set" else at_us + span_us
        values.put(key, Value(body, version, expires_us, at_us, CLIENT), at_us)
    return values


def searched(values: Values, prefix: str, after: str, now_us: int) -> list[str]:
    """The keys of a list without limits, found by looking at each."""
    return sorted(
        key
        for key in values.by_key
        if key.startswith(prefix) and key > after and values.get(key, now_us) is not None
    )


@given(changes, keys, keys, st.integers(1, 4))
def test_page_is_what_a_search_of_all_entries_finds(
    made: list[tuple[str, str, int]], prefix: str, after: str, limit: int
) -> None:
    """From any place, with any prefix, page after page, at once and when more has expired."""
    values = written(made)
    values.forget(len(made))
    for now_us in (len(made), len(made) + 10, FAR_US):
        wanted = searched(values, prefix, after, now_us)
        found: list[str] = []
        cursor: Any = after
        while cursor is not None:
            page = json.loads(page_json(values, prefix, cursor, limit, now_us))
            found += [entry["key"] for entry in page["entries"]]
            assert len(page["entries"]) <= limit
            cursor = page["next"]
        assert found == wanted
    living = sorted(key for key, value in values.by_key.items() if value.lives)
    assert list(values.keys.ascending("")) == living
