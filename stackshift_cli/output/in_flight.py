"""A report of `daemon.preflight` in words: what would become of runs in flight with other code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from stackshift_cli.output.safe_text import safe

_SENTENCES: Final = {
    "wait_gone": ("waits at {}, which", "wait at {}, which"),
    "again": ("would run {} again", "would run {} again"),
    "unused": ("has recorded {}, which", "have recorded {}, which"),
    "fails": ("would fail: {}", "would fail: {}"),
    "stopped": ("does not come to rest", "do not come to rest"),
}
"""By the kind of a finding: of one run, and of several. What is incomplete goes on with `_GONE`."""
_GONE: Final = " the code no longer asks for"
_UNUSED: Final = ", and would not use it"


def lines(report: dict[str, Any]) -> Iterator[str]:
    """A report of `daemon.preflight` in lines: how many runs go on, then each finding with those
    that it is about."""
    unchecked = report["unchecked"]
    late = f", {unchecked} not checked for lack of time" if unchecked else ""
    yield f"{report['in_flight']} in flight: {report['go_on']} go on as recorded{late}"
    for each in report["findings"]:
        count, kind = each["count"], each["kind"]
        sentence = _SENTENCES[kind][count != 1]
        sentence += _GONE if sentence.endswith("which") else ""
        sentence += _UNUSED if kind == "unused" else ""
        about = each["about"] if kind == "fails" else repr(each["about"])
        ids = ", ".join(each["runs"]) + (", …" if count > len(each["runs"]) else "")
        yield safe(f"  {count} of {each['job']} {sentence.format(about)}: {ids}")
