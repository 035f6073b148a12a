"""What a run is called in lists and pictures: the name of its job, or of what a
built-in job runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stackshift_jobs.values.names import BUILT_IN_JOBS, NAME_LABEL


def run_name(run: Mapping[str, Any]) -> str:
    """The name of the job of the run object `run`; of a run of a built-in job that of its
    program, script or message."""
    job = str(run["job"])
    return str((run.get("labels") or {}).get(NAME_LABEL) or job) if job in BUILT_IN_JOBS else job
