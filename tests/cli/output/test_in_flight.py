"""The report of what would become of runs in flight, in sentences."""

from __future__ import annotations

from typing import Any

from cli.conftest import Shell
from stackshift_cli.output.in_flight import lines


def finding(kind: str, about: str = "", count: int = 1) -> dict[str, Any]:
    runs = [f"run_{number}" for number in range(min(count, 2))]
    return {"job": "order", "kind": kind, "about": about, "count": count, "runs": runs}


def test_report_is_a_line_a_finding() -> None:
    """With the call or the error, how many runs it is about, and the first of them; escaped."""
    findings = [
        finding("wait_gone", "approve", 5),
        finding("again", "pay/charge"),
        finding("unused", "bill", 2),
        finding("fails", "ReplayError: no\x1b[2J"),
        finding("stopped", "", 2),
    ]
    report = {"in_flight": 12, "go_on": 1, "unchecked": 3, "findings": findings}
    assert list(lines(report)) == [
        "12 in flight: 1 go on as recorded, 3 not checked for lack of time",
        "  5 of order wait at 'approve', which the code no longer asks for: run_0, run_1, …",
        "  1 of order would run 'pay/charge' again: run_0",
        "  2 of order have recorded 'bill', which the code no longer asks for, and would not"
        " use it: run_0, run_1",
        "  1 of order would fail: ReplayError: no\\x1b[2J: run_0",
        "  2 of order do not come to rest: run_0, run_1",
    ]


def test_replay_needs_check_and_either_runs_or_all(shell: Shell) -> None:
    """It changes nothing, and says what to type for what does."""
    told = shell("runs", "replay", "@last")
    assert (told.code, "needs --check" in told.stderr) == (2, True)
    assert shell("runs", "replay", "--check").code == 2
    assert shell("runs", "replay", "@last", "--all", "--check").code == 2
