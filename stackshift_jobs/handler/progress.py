"""What a handler reports of its progress, checked before it is recorded."""

from __future__ import annotations

import math
from typing import Final

from stackshift_jobs.errors import Usage
from stackshift_jobs.values.masking import Secrets
from stackshift_jobs.values.text import readable

MAX_MESSAGE: Final = 1000
"""Characters of a message; what follows is left out. The daemon has the last one of each run in
memory."""


def report(
    done: float, total: float | None, message: str | None, secrets: Secrets
) -> tuple[float, float | None, str]:
    """The figures and the message as they are recorded, without secrets. Raises `Usage` for a
    figure that JSON has no number for."""
    for name, figure in (("done", done), ("total", total)):
        if figure is not None and not math.isfinite(figure):
            raise Usage(f"{name} is {figure}", hint="report a finite number")
    return done, total, secrets.mask(readable(message or ""))[:MAX_MESSAGE]
