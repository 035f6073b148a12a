"""Whether the jobs that jobs name as their follow-ups exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from stackshiftd.worker.frames import FailedModule, JobFacts


def without_job(
    facts: Sequence[JobFacts], failed: Sequence[FailedModule]
) -> Iterator[tuple[str, str]]:
    """The jobs whose `on_failure` or `on_success` no module defines, each with the sentence that
    says so. None while any module fails to import: what is missing may be in that one."""
    names = [job.name for job in facts]
    for job in () if failed else facts:
        for option, name in (("on_failure", job.on_failure), ("on_success", job.on_success)):
            if name and name not in names:
                near = difflib.get_close_matches(name, names, 1)
                meant = f"; did you mean {near[0]}?" if near else ""
                yield job.name, f"{option} of job {job.name!r}: no job is named {name!r}{meant}"
