"""The report on the runs of a failed test: each run with its records, one per line."""

from __future__ import annotations

from typing import Any, Final

from stackshiftd.testing.runs import Run

MAX_RUNS: Final = 20
MAX_RECORDS: Final = 40
"""Records shown of one run: the last ones."""
MAX_LINE: Final = 160
_FACTS: Final = ("step", "wait", "attempt", "status", "reason", "error", "result")


def run_report(runs: list[Run]) -> str:
    """The last `MAX_RUNS` of `runs` with their last records, oldest first."""
    lines: list[str] = []
    if len(runs) > MAX_RUNS:
        lines.append(f"({len(runs) - MAX_RUNS} earlier runs)")
    for run in runs[-MAX_RUNS:]:
        timeline = run.timeline
        lines.append(repr(run)[1:-1])
        if len(timeline) > MAX_RECORDS:
            lines.append(f"    ({len(timeline) - MAX_RECORDS} earlier records)")
        lines += [f"    {_line(record)[:MAX_LINE]}" for record in timeline[-MAX_RECORDS:]]
    return "\n".join(lines)


def _line(record: dict[str, Any]) -> str:
    """`2026-01-05T09:00:00Z step.failed step=charge-card attempt=1 error=CardRefused: no`."""
    second = str(record["at"]).partition(".")[0]
    facts = [f"{name}={_shown(record[name])}" for name in _FACTS if record.get(name) is not None]
    return " ".join([f"{second}Z", str(record["kind"]), *facts])


def _shown(value: Any) -> str:
    """A fact on one line; for an error its type and message."""
    if isinstance(value, dict) and "message" in value:
        value = f"{value.get('type', value.get('code', ''))}: {value['message']}"
    return str(value).replace("\n", " ")
