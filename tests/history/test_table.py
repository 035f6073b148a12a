"""The file of the index: what it lists and counts is what a look at every row finds."""

from __future__ import annotations

import random
import sqlite3
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackshiftd.history.filters import Filters, Group, group_of
from stackshiftd.history.rows import RunRow
from stackshiftd.history.table import Table, Unreliable

PAGE = 3
picks = st.integers(0, 10_000)


def row(number: int, pick: int) -> RunRow:
    """A finished run that was created by the record `number`."""
    labels: tuple[dict[str, str], ...] = (
        {},
        {"env": "shop"},
        {"env": "test", "n": str(number)},
        {"env": "shop", "n": "7"},
    )
    return RunRow(
        id=f"run_{number:026d}",
        job=("resize", "mail")[pick % 2],
        queue=("media", "office")[pick // 2 % 2],
        status=("completed", "failed", "cancelled")[pick // 4 % 3],
        attempt=1,
        max_attempts=3,
        priority=0,
        key=None,
        labels=labels[pick // 12 % 4],
        parent=(None, "run_p", "run_q")[pick // 48 % 3],
        code="",
        created_us=1000 * number,
        scheduled_us=0,
        started_us=0,
        finished_us=pick,
        created_seq=number,
        finished_seq=pick,
        end=0,
        forked_from=(None, None, "run_f")[pick // 144 % 3],
        places=array("q", (number, pick)),
    )


def filters(known: dict[int, RunRow], chance: random.Random) -> Iterator[Filters]:
    """Nothing that is wanted, and several things that some runs are, mostly."""
    yield Filters()
    rows = list(known.values()) or [row(1, 0)]
    for _ in range(20):
        one, other = chance.choice(rows), chance.choice(rows)
        labels = [*one.labels.items(), *other.labels.items()]
        yield Filters(
            chance.choice((None, None, one.job)),
            chance.choice((None, None, frozenset((one.status, other.status)))),
            chance.choice((None, None, one.queue)),
            dict(chance.sample(labels, min(len(labels), chance.randrange(3)))),
            since_us=chance.choice((0, 0, one.created_us)),
            before_seq=chance.choice((None, None, one.created_seq)),
            from_seq=chance.choice((0, 0, other.created_seq)),
            is_root=chance.random() < 0.3,
            parent=chance.choice((None, None, one.parent)),
            forked_from=chance.choice((None, None, one.forked_from)),
            until_us=chance.choice((None, None, other.created_us)),
        )


def audit(table: Table, known: dict[int, RunRow], chance: random.Random) -> None:
    """Page by page, and by group, the file has what is known."""
    for wanted in filters(known, chance):
        newest_first = [known[seq] for seq in sorted(known, reverse=True)]
        found: list[RunRow] = []
        rest = wanted
        while page := table.newest(rest, PAGE):
            found += page
            rest = wanted._replace(before_seq=page[-1].created_seq)
        assert found == [row for row in newest_first if wanted.match(row)]
        if len(wanted.terms) <= 1:
            timeless = wanted._replace(since_us=0, until_us=None, before_seq=None, from_seq=0)
            without = set(chance.sample(range(12), 3))
            left = [row for row in newest_first if row.created_seq not in without]
            counted = Counter(group_of(row) for row in left if timeless.match(row))
            assert +table.counts(timeless, without) == counted


@given(
    st.lists(st.tuples(st.lists(st.tuples(st.integers(1, 12), picks), max_size=5), picks)),
    st.randoms(use_true_random=False),
)
def test_table_lists_and_counts_what_was_written(
    made: list[tuple[list[tuple[int, int]], int]], chance: random.Random
) -> None:
    """Whatever rows are written again with another end, in whatever order, removed or forgotten."""
    table = Table(None, "jrn_1")
    known: dict[int, RunRow] = {}
    for batch, pick in made:
        rows = [row(number, at) for number, at in batch]
        gone = [f"run_{pick % 12:026d}"] if pick % 3 == 0 else []
        table.write(rows, gone, 0)
        for each in rows:
            before = known.get(each.created_seq)
            if before is None or each.finished_seq >= before.finished_seq:
                known[each.created_seq] = each
        known = {seq: each for seq, each in known.items() if each.id not in gone}
        if pick % 5 == 0:
            left = {seq: each for seq, each in known.items() if each.finished_us >= pick}
            assert table.forget_before(pick) == len(known) - len(left)
            known = left
    audit(table, known, chance)
    table.empty()
    audit(table, {}, chance)
    table.close()


def written(path: Path) -> tuple[Table, dict[int, RunRow]]:
    """A file with many rows, some of them written twice."""
    chance = random.Random(3)
    table = Table(path, "jrn_1")
    known: dict[int, RunRow] = {}
    for number in (*range(1, 200), *range(1, 50)):
        later = row(number, 5000 * (number in known) + chance.randrange(5000))
        known[number] = later
        table.write([later], [], 0)
    return table, known


def test_reopened_table_has_what_was_written(tmp_path: Path) -> None:
    """And its check finds nothing."""
    table, known = written(tmp_path / "history.db")
    table.close()
    again = Table(tmp_path / "history.db", "jrn_1")
    again.check()
    audit(again, known, random.Random(5))
    again.close()


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM terms WHERE created_seq = (SELECT min(created_seq) FROM terms)",
        "UPDATE terms SET grp = grp + 1000 WHERE created_seq > 150",
        "INSERT INTO terms VALUES (1, 1, 1)",
        "DELETE FROM runs WHERE created_seq = 8",
        "UPDATE runs SET grp = grp % 3 + 1 WHERE created_seq = 8",
        "UPDATE runs SET terms = terms + 1 WHERE created_seq = 8",
        "UPDATE groups SET runs = runs + 1 WHERE grp = 1",
        "UPDATE groups SET job = 'other' WHERE grp = 1",
        "DELETE FROM groups WHERE grp = 1",
    ],
)
def test_check_finds_rows_that_no_list_would_lead_to(tmp_path: Path, damage: str) -> None:
    """Or that would be listed or counted where they do not belong."""
    path = tmp_path / "history.db"
    table, _ = written(path)
    table.check()
    with sqlite3.connect(path) as other:
        assert other.execute(damage).rowcount > 0
    other.close()
    with pytest.raises(Unreliable):
        table.check()
    table.close()


def test_terms_of_labels_are_not_those_of_parents() -> None:
    """A label cannot be named like what stands for the run that started another."""
    table = Table(None, "jrn_1")
    labelled = msgspec.structs.replace(row(1, 0), labels={"parent": "run_p"}, parent=None)
    started = msgspec.structs.replace(row(2, 0), labels={}, parent="run_p")
    table.write([labelled, started], [], 0)
    assert table.newest(Filters(parent="run_p"), 9) == [started]
    assert table.newest(Filters(labels={"parent": "run_p"}), 9) == [labelled]
    counts = +table.counts(Filters(parent="run_p"))
    assert counts == {Group("resize", "media", "completed", False): 1}
    table.close()
