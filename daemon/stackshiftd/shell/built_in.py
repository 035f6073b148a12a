"""The jobs that every worker has, whatever its project: no module defines them, and no list of the
project's jobs has them."""

from __future__ import annotations

from typing import Final

from stackshift_jobs.values import payload_types
from stackshiftd.core.records import RetryTerms
from stackshiftd.worker.exec_job import EXEC
from stackshiftd.worker.frames import JobFacts
from stackshiftd.worker.notices.job import NOTIFY
from stackshiftd.worker.scripts.file_job import SH

ONCE: Final = RetryTerms(max_attempts=1, jitter=0.0)
"""What they run is tried again only if somebody says so."""

BUILT_IN: Final = {
    job.name: JobFacts(
        name=job.name,
        module=job.module,
        queue=job.queue,
        code="",
        doc=job.doc,
        retry=ONCE,
        schema=payload_types.schema(job.payload_type),
    )
    for job in (EXEC, SH, NOTIFY)
}
"""By name."""
CODES: Final = {name: job.code for name, job in BUILT_IN.items()}
