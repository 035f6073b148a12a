"""Which lines the rows of branches become."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from stackshift_cli.timeline.branches import MOST, Line, lines
from stackshift_cli.timeline.intervals import Interval, Kind
from stackshift_cli.timeline.model import HANDLER, QUEUED, Row

STATUSES = ("completed", "failed", "cancelled", "running", "waiting", "retrying")


def row(key: str, start_ms: int = 0, status: str = "completed") -> Row:
    """A row with one span of 10 ms."""
    return Row(key, status, [Interval(Kind.WORK, start_ms * 1000, start_ms * 1000 + 10_000)])


def drawn(*keys: str) -> list[str]:
    """The lines of rows that begin a second after each other: indentation and label."""
    return shown(lines(row(key, 1000 * index) for index, key in enumerate(keys)))


def shown(made: list[Line]) -> list[str]:
    """Indentation and label of each line."""
    return [". " * line.depth + line.label for line in made]


def test_rows_of_a_branch_are_below_its_header() -> None:
    """The main branch has no header; a branch is where its first row is."""
    assert drawn(QUEUED, "a", "index/fetch", "b", "index/[lock k/1]", "index/fetch#2", "c") == [
        "queued",
        "a",
        "index",
        ". fetch",
        ". lock k/1",
        ". fetch#2",
        "b",
        "c",
    ]


def test_branches_of_branches_are_indented_further() -> None:
    """A branch that made nothing but another branch has one header with it."""
    assert drawn("in/a", "in/leaf/x", "in/leaf/y", "out/in/x", "out/in/y") == [
        "in",
        ". a",
        ". leaf",
        ". . x",
        ". . y",
        "out/in",
        ". x",
        ". y",
    ]


def test_branch_with_one_row_is_one_line() -> None:
    """Its name stands before the call, and so a name with a slash stays as it was written."""
    assert drawn("index/fetch", "index#2/fetch", "in/leaf#2/[timer 5.0s]", "db/migrate") == [
        "index/fetch",
        "index#2/fetch",
        "in/leaf#2/timer 5.0s",
        "db/migrate",
    ]


def test_branches_that_begin_together_are_in_the_order_of_their_numbers() -> None:
    """Milliseconds do not shuffle them; those of another name and later ones stay where they
    are."""
    rows = [row("f#10/a", 0), row("other/a", 1), row("f#9/a", 2), row("f/a", 3)]
    rows += [row("main", 1000), row("f#12/a", 2000), row("f#11/a", 9000), row("other#2/a", 9500)]
    assert shown(lines(rows)) == [
        "f/a",
        "f#9/a",
        "f#10/a",
        "other/a",
        "main",
        "f#11/a",
        "f#12/a",
        "other#2/a",
    ]


def header(*statuses: str) -> str:
    """The status of a branch whose calls have these, in the order in which they were made."""
    rows = [row(f"f/{index}", index, status) for index, status in enumerate(statuses)]
    return lines(rows)[0].row.status


def test_header_says_how_its_branch_is() -> None:
    """What is under way outranks what failed; otherwise the call that was made last decides."""
    assert header("completed", "completed") == "completed"
    assert header("completed", "failed", "completed") == "failed"
    assert header("failed", "waiting", "completed") == "waiting"
    assert header("waiting", "retrying", "running") == "running"
    assert header("completed", "cancelled") == "cancelled"
    assert header("cancelled", "completed") == "completed"


def test_header_has_the_bar_of_all_its_rows() -> None:
    """Rows of nested branches are in it too."""
    spans = lines([row("f/a", 0), row("f/g/b", 500)])[0].row.spans
    assert [(span.start_us, span.end_us) for span in spans] == [(0, 10_000), (500_000, 510_000)]


def test_of_very_many_branches_those_that_matter_are_shown() -> None:
    """Failed ones and those under way have lines; one line counts the others by status."""
    status = {7: "failed", 150: "waiting", 299: "cancelled"}
    made = lines(
        row(f"f#{n}/{name}", n, status.get(n, "completed"))
        for n in range(2, 302)
        for name in ("a", "b")
    )
    headers = [line.label for line in made if not line.rows]
    numbers = [2, 3, 4, 5, 6, 7, 8, 9, 150, 299]
    assert headers == [f"f#{n}" for n in [*numbers[:8], 10, *numbers[8:]]]
    last = made[-1]
    assert (last.label, last.row.note) == ("289 more f", "289 completed")
    assert (last.row.status, len(last.rows)) == ("completed", 578)


def test_line_for_the_others_counts_them_by_status() -> None:
    """As many failed as have no line are said to have failed."""
    made = lines(row(f"f#{n}/a", n, "failed" if n < 20 else "completed") for n in range(2, 40))
    assert len(made) == MOST
    assert (made[-1].label, made[-1].row.note) == ("27 more f", "20 completed, 7 failed")
    assert made[-1].row.status == "failed"


def test_as_many_branches_as_there_may_be_have_lines_of_their_own() -> None:
    """No line stands for a single branch."""
    assert len(lines(row(f"f#{n}/a", n) for n in range(1, MOST + 1))) == MOST
    made = lines(row(f"f#{n}/a", n) for n in range(1, MOST + 2))
    assert (len(made), made[-1].label) == (MOST, "2 more f")


def test_branches_in_branches_have_no_limit() -> None:
    """Thousands of branches, one in the other, are one line."""
    assert drawn("f/" * 3000 + "a") == ["f/" * 3000 + "a"]


KEYS = st.lists(st.sampled_from(["f", "f#2", "f#3", "g", "g#2", "h"]), max_size=4).flatmap(
    lambda path: st.sampled_from(["a", "a#2", "b/c", "[now]", "[lock k/1]", "m[0]"]).map(
        lambda own: "/".join([*path, own])
    )
)


@given(
    st.dictionaries(
        st.one_of(
            KEYS,
            st.integers(2, 40).map("many#{}/x".format),
            st.integers(2, 40).map("f/many#{}/y".format),
            st.sampled_from([QUEUED, HANDLER]),
        ),
        st.tuples(st.integers(0, 50), st.sampled_from(STATUSES)),
        max_size=120,
    )
)
def test_grouping_neither_loses_nor_duplicates_a_row(
    made: dict[str, tuple[int, str]],
) -> None:
    """Each row is drawn in one line, or counted in one; each line that stands for branches stands
    for at least two."""
    rows = sorted((row(key, *of) for key, of in made.items()), key=lambda r: r.spans[0].start_us)
    told = lines(rows)
    assert Counter(id(each) for line in told for each in line.rows) == Counter(map(id, rows))
    for line in told:
        if len(line.rows) == 1:
            assert line.row is line.rows[0]
    # Main rows keep their order.
    mains = [each.key for each in rows if "/" not in each.key.partition("[")[0]]
    assert [line.row.key for line in told if line.row.key in mains] == mains
