"""`import`: child runs, a lock, and a line that fails each first time."""

from __future__ import annotations

from stackshift_jobs.testing import Stackshift

FILE = "import:data/customers.csv"
REPORT = {"rows": 24, "imported": 22, "rejected": ["cus_005", "cus_018"]}


def test_import_reads_every_row_through_child_runs(stackshift: Stackshift) -> None:
    """Each child asks twice for its rows; what they count comes together."""
    run = stackshift.start("import")
    assert [child.steps["parse"].status for child in run.children] == ["retrying"] * 3
    assert run.finish().result == REPORT
    assert [child.result["imported"] for child in run.children] == [7, 8, 7]
    assert stackshift.state.get(f"{FILE}:rows") == 24
    assert stackshift.state.get(f"{FILE}:last") == REPORT


def test_read_goes_on_where_the_line_broke(stackshift: Stackshift) -> None:
    """The rows before that are not read again."""
    run = stackshift.start("import")
    first, *_ = run.children
    read = first.steps["parse"].checkpoint
    assert [row["id"] for row in read] == ["cus_001", "cus_002", "cus_003", "cus_004"]
    run.finish()
    last = [r["value"] for r in first.timeline if r["kind"] == "step.checkpointed"][-1]
    assert [row["id"] for row in last] == [f"cus_{number:03}" for number in range(1, 9)]


def test_imports_of_one_file_take_turns(stackshift: Stackshift) -> None:
    """The lock is for a file; another file is imported meanwhile."""
    first, second = stackshift.start("import"), stackshift.start("import")
    other = stackshift.start("import", {"file": "data/../data/customers.csv"})
    assert second.waiting_for is not None
    assert second.waiting_for["owner"] == first.id
    assert [len(run.children) for run in (first, second, other)] == [3, 0, 3]
    assert second.finish().result == REPORT
    assert first.status == "completed"


def test_lock_is_given_back_by_an_import_that_is_cancelled(stackshift: Stackshift) -> None:
    """With the child runs that it called."""
    first, second = stackshift.start("import"), stackshift.start("import")
    assert first.cancel()
    assert [child.status for child in first.children] == ["cancelled"] * 3
    assert second.finish().result == REPORT


def test_rows_are_counted_once_though_the_worker_dies(stackshift: Stackshift) -> None:
    """A counter that many runs write to is right to the row."""
    with stackshift.crashing(f"[state.increment {FILE}:rows]", "after_record", times=3):
        stackshift.start("import").finish()
    assert stackshift.state.get(f"{FILE}:rows") == 24
