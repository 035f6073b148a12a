"""Where a line of a run's log is from, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stackshift_cli.output.safe_text import safe


def origin(line: Mapping[str, Any], *, with_step: bool = True) -> str:
    """The step and the stream of a line, with a blank after each: `upload stderr `; of a record of
    `logging` its level. Standard output, where most is from, goes without saying."""
    step = line.get("step") if with_step else None
    stream = line.get("level") or line.get("stream")
    return "".join(f"{safe(str(name))} " for name in (step, stream) if name and name != "stdout")
