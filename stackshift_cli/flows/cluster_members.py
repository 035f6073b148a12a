"""What somebody should know of the daemons that share a journal."""

from __future__ import annotations

from typing import Any, Final

_WRONG_MS: Final = 1000
"""A clock that differs by more is worth a word."""


def problems(member: dict[str, Any], members: list[dict[str, Any]]) -> list[str]:
    """What somebody should look at."""
    if member["role"] == "stopped":
        return []
    problems = []
    if abs(member["clock_ahead_ms"]) > _WRONG_MS:
        which = "ahead of" if member["clock_ahead_ms"] > 0 else "behind"
        seconds = abs(member["clock_ahead_ms"]) / 1000
        problems.append(f"its clock is {seconds:.1f} s {which} the database's")
    if member["address"] is None:
        problems.append("it does not listen: it lacks stackshift-jobs[cluster]")
    leads = next((each for each in members if each["role"] == "leads"), None)
    if leads is not None and member["version"] != leads["version"]:
        problems.append(f"it is {member['version']}, and {leads['host']} {leads['version']}")
    return problems
