"""Importing the project's job modules, here in the worker and nowhere else.

A module that does not import is told with file, line and message, leaves no job behind, and does
not keep the others from being loaded.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from msgspec import Raw

from stackshift_jobs.errors import BadConfiguration, PayloadRefused, StackshiftError
from stackshift_jobs.registry import Job, TwoJobsOneName, queues, registry
from stackshift_jobs.values import payload_types
from stackshift_jobs.values.strict_json import dumps, loads
from stackshiftd.core.commands import ScheduleTerms
from stackshiftd.core.decide.ticks import clock_of
from stackshiftd.core.records import QueueTerms, RetryTerms
from stackshiftd.worker.frames import FailedModule, JobFacts

MAX_SCHEDULE_PAYLOAD: Final = 64 << 10
"""The daemon keeps it in memory."""


class ModuleSource(NamedTuple):
    """A module by name, and its file."""

    module: str
    file: Path


def sources(project: Path, jobs: list[str]) -> Iterator[ModuleSource]:
    """The job modules of a project: each file named in `jobs`, and in each folder every `*.py`, but
    those (and folders) whose name begins with `_` or `.`."""
    for entry in jobs:
        place = project / entry
        if place.is_file():
            yield ModuleSource(_module_name(project, place), place)
            continue
        for file in sorted(place.rglob("*.py")):
            if not any(part.startswith(("_", ".")) for part in file.relative_to(place).parts):
                yield ModuleSource(_module_name(project, file), file)


def _module_name(project: Path, file: Path) -> str:
    return ".".join(file.relative_to(project).with_suffix("").parts)


def load(
    project: Path, jobs: list[str], importing: Callable[[str], None] = lambda module: None
) -> tuple[list[JobFacts], list[FailedModule]]:
    """Import all job modules of `project`: what jobs there are, and which modules failed.
    `importing` is told the name of each before it is imported."""
    failed: list[FailedModule] = []
    ambiguous: set[str] = set()
    for entry in jobs:
        if not (project / entry).exists():
            failed.append(
                FailedModule(entry, str(project / entry), 0, "FileNotFoundError", "does not exist")
            )
    for source in sources(project, jobs):
        before, queues_before = dict(registry), dict(queues)
        importing(source.module)
        try:
            importlib.import_module(source.module)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a module may raise anything, SystemExit included
            registry.clear()
            registry.update(before)
            queues.clear()
            queues.update(queues_before)
            if isinstance(error, TwoJobsOneName):
                ambiguous.add(str(error.fields["job"]))
            failed.append(_failure(source, error))
    # Which of the two was meant is not for the order of file names to say.
    for name in ambiguous:
        registry.pop(name, None)
    return described(failed), failed


def described(failed: list[FailedModule]) -> list[JobFacts]:
    """What there is to say of all jobs; those of which nothing can be said are taken out, and told
    in `failed`."""
    facts: list[JobFacts] = []
    for job in list(registry.values()):
        try:
            # Resolved once: an execution must not look at annotations again.
            job = registry[job.name] = replace(
                job, payload_type=payload_types.payload_type(job.handler, job.payload_type)
            )
            facts.append(_facts(job))
        except Exception as error:
            del registry[job.name]
            file = Path(getattr(sys.modules.get(job.module), "__file__", "") or job.module)
            failed.append(_failure(ModuleSource(job.module, file), error))
    return facts


def _facts(job: Job) -> JobFacts:
    return JobFacts(
        name=job.name,
        module=job.module,
        queue=job.queue,
        code=code_digest(job),
        doc=job.doc,
        retry=RetryTerms(**job.retry.as_json()) if job.retry is not None else None,  # type: ignore[arg-type]
        timeout_ms=job.timeout_ms,
        priority=job.priority,
        concurrency_key=job.concurrency_key,
        idempotency_ttl_ms=job.idempotency_ttl_ms,
        schema=payload_types.schema(job.payload_type),
        schedule=_schedule(job),
    )


def _schedule(job: Job) -> ScheduleTerms | None:
    """The job's schedule, checked: its expression, its zone, and whether its payload fits. Raises
    `BadConfiguration`."""
    named = job.schedule
    if named is None:
        return None
    try:
        clock_of(named.expression, named.timezone, 0)
    except StackshiftError as bad:
        told = f"job {job.name!r}: {bad.message}" + (f"; {bad.hint}" if bad.hint else "")
        raise BadConfiguration(told) from bad
    try:
        payload = dumps(named.payload, MAX_SCHEDULE_PAYLOAD)
        payload_types.convert(loads(payload), job.payload_type)
    except PayloadRefused as bad:
        raise BadConfiguration(f"job {job.name!r}: schedule_payload: {bad.message}") from bad
    return ScheduleTerms(
        named.expression, named.timezone, named.catch_up, named.overlap, Raw(payload)
    )


def queue_terms() -> dict[str, QueueTerms]:
    """What the loaded modules say of queues."""
    return {
        name: QueueTerms(
            concurrency=limits.concurrency,
            key_concurrency=limits.key_concurrency,
            rate=limits.rate.count if limits.rate is not None else None,
            rate_per_ms=limits.rate.per_ms if limits.rate is not None else 0,
            rate_burst=limits.rate_burst,
            paused=limits.paused,
        )
        for name, limits in queues.items()
    }


def code_digest(job: Job) -> str:
    """Seven hexadecimal digits that change when the file of the job's module does."""
    file = getattr(sys.modules.get(job.module), "__file__", None)
    try:
        return sha256(Path(file).read_bytes()).hexdigest()[:7] if file else ""
    except OSError:
        return ""


def _failure(source: ModuleSource, error: BaseException) -> FailedModule:
    file, line = str(source.file), 0
    if isinstance(error, SyntaxError) and error.filename:
        file, line = error.filename, error.lineno or 0
    else:
        own = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == str(source.file)
        ]
        line = (own[-1].lineno or 0) if own else 0
    message = error.message if isinstance(error, StackshiftError) else str(error)
    return FailedModule(source.module, file, line, type(error).__name__, message)
