"""The jobs that every worker has, whatever its project: no module defines them, and no list of the
project's jobs has them."""

from __future__ import annotations

from typing import Final

from stackshift_jobs.values import payload_types
from stackshiftd.core.records import RetryTerms
from stackshiftd.worker.exec_job import EXEC, run_program
from stackshiftd.worker.frames import JobFacts

ONCE: Final = RetryTerms(max_attempts=1, jitter=0.0)
"""A program is tried again only if somebody says so."""

BUILT_IN: Final = {
    EXEC.name: JobFacts(
        name=EXEC.name,
        module=EXEC.module,
        queue=EXEC.queue,
        code="",
        doc=run_program.__doc__ or "",
        retry=ONCE,
        schema=payload_types.schema(EXEC.payload_type),
    )
}
"""By name."""
CODES: Final = {name: job.code for name, job in BUILT_IN.items()}
