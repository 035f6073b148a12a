"""The order of what a run has printed on several machines."""

from __future__ import annotations

from typing import Any

from stackshift_jobs.values.durations import rfc3339
from stackshiftd.shell.views.log_lines import Page
from stackshiftd.shell.views.run_output import Choice, Execution, Executions, Printed, next_lines

SECOND = 1_000_000


def line(attempt: int, at: int = 0) -> dict[str, Any]:
    """A line of the log, printed at this second."""
    return {"attempt": attempt, "at": rfc3339(at * SECOND), "message": ""}


def page(*lines: dict[str, Any]) -> Page:
    """A page of one machine."""
    return Page(list(lines), len(lines), False)


def executions(*shown: str) -> Executions:
    """`"1 a 5"`: attempt 1 began on a, or went on there, in second 5."""
    made = []
    for each in shown:
        attempt, host, at = each.split()
        made.append(Execution(int(attempt), host, int(at) * SECOND))
    return Executions(made)


def test_lines_come_in_the_order_of_their_executions_whatever_the_clocks_say() -> None:
    """The clock of b is far behind; the lines of a that come later are not on the same page."""
    run = executions("1 a 100", "2 b 101", "3 a 102")
    pages = {"b": page(line(2, at=1)), "a": page(line(1, at=100), line(1, at=100), line(3, at=102))}
    assert next_lines(pages, run) == Choice("a", 2)
    assert next_lines(pages | {"a": page(line(3, at=102))}, run) == Choice("b", 1)


def test_attempt_that_comes_back_to_a_machine_is_told_apart_by_time() -> None:
    """What it printed before it was elsewhere comes before that, and what it printed after comes
    after."""
    run = executions("1 a 100", "1 b 200", "1 a 300")
    pages = {"a": page(line(1, at=150), line(1, at=300)), "b": page(line(1, at=250))}
    assert next_lines(pages, run) == Choice("a", 1)
    assert next_lines(pages | {"a": page(line(1, at=300))}, run) == Choice("b", 1)
    assert run.number_of("a", line(2, at=310)) == 2


def test_machine_alone_has_all_that_comes_next() -> None:
    """Also lines of which no execution is known; without any there is nothing to choose."""
    assert next_lines({"a": page(line(7), line(8)), "b": page()}, executions()) == Choice("a", 2)
    assert next_lines({"a": page(), "b": page()}, executions("1 a 1")) is None


def test_only_an_attempt_that_was_elsewhere_before_can_repeat_a_line() -> None:
    """And only what was printed until it went on here counts."""
    run = executions("1 a 100", "2 a 110", "2 b 200", "3 b 210")
    assert run.hosts == ("a", "b")
    assert run.printed_before("a", line(2, at=110)) is None
    assert run.printed_before("b", line(3, at=210)) is None
    assert run.printed_before("b", line(2)) == Printed(2, 200 * SECOND, frozenset({"a"}))
