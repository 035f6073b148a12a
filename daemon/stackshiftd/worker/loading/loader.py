"""Imports the job modules: in a worker, and for `jobs check` in a process like one.

Both call `import_project`, before any event loop exists, so that what the check accepts is what a
worker can import. A module that cannot be imported is reported with file, line and message. It
leaves no job behind and does not prevent the others from being loaded.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Raw

from stackshift_jobs import callables
from stackshift_jobs.errors import BadConfiguration, PayloadRefused, StackshiftError, Usage
from stackshift_jobs.handler import asyncio_order
from stackshift_jobs.handler.failures import Failure
from stackshift_jobs.registry import (
    Job,
    TwoJobsOneName,
    forget_failed_modules,
    queues,
    registry,
)
from stackshift_jobs.schedules import Declared
from stackshift_jobs.values import payload_types
from stackshift_jobs.values.limits import MAX_SCHEDULE_PAYLOAD
from stackshift_jobs.values.secrets import with_secrets
from stackshift_jobs.values.strict_json import dumps, loads
from stackshift_jobs.values.text import readable
from stackshiftd.core.commands import ExpectationTerms, ScheduleTerms
from stackshiftd.core.decide.cron.ticks import clock_of, zone_of
from stackshiftd.core.records import QueueTerms, RetryTerms
from stackshiftd.worker.code_files import ModuleSource, sources
from stackshiftd.worker.frames import FailedModule, JobFacts
from stackshiftd.worker.isolation import contexts, monkey_patches, process_state
from stackshiftd.worker.output import streams, thread_contexts
from stackshiftd.worker.output.streams import OwnLog
from stackshiftd.worker.scripts.discovery import load_script
from stackshiftd.worker.secrets import unresolved

NO_MODULES: Final[Mapping[str, str]] = {}


def import_project(
    project: Path,
    jobs: list[str],
    own: OwnLog,
    importing: Callable[[str], None] = lambda _module: None,
    deadly: Mapping[str, str] = NO_MODULES,
) -> tuple[list[JobFacts], list[FailedModule]]:
    """Make `project` the working directory and the first place to import from, take this process's
    arguments away, route what is printed (outside of runs to `own`), prepare asyncio for handlers,
    and then `load` the project's modules.
    For a process of its own: nothing of this is undone."""
    # A module that is saved twice within a second, with the same size, would be taken from the
    # bytecode of the first time.
    sys.dont_write_bytecode = True
    del sys.argv[1:]  # They are not for a `main` that a job calls, and reads its arguments there.
    os.chdir(project)
    sys.path.insert(0, str(project))
    streams.install(own)
    thread_contexts.install()
    asyncio_order.install()
    monkey_patches.refuse()
    loaded = load(project, jobs, importing, deadly)
    streams.settle()
    process_state.settle()
    contexts.settle()
    return loaded


def load(
    project: Path,
    jobs: list[str],
    importing: Callable[[str], None] = lambda _module: None,
    deadly: Mapping[str, str] = NO_MODULES,
) -> tuple[list[JobFacts], list[FailedModule]]:
    """Import all job modules of `project`; return the facts of their jobs and the failed modules.

    `importing` is called with the name of each module before it is imported. `deadly` are modules
    that have failed elsewhere already, with the reason: their import would end this process.
    """
    failed: list[FailedModule] = []
    ambiguous: dict[str, TwoJobsOneName] = {}
    for entry in jobs:
        if not (project / entry).exists():
            failed.append(
                FailedModule(entry, str(project / entry), 0, "FileNotFoundError", "does not exist")
            )
    for source in sources(project, jobs):
        if problem := source.problem:
            failed.append(_left_out(source, "BadConfiguration", problem))
            continue
        if source.module in deadly:
            failed.append(_left_out(source, "WorkerDied", deadly[source.module]))
            continue
        importing(source.module)
        try:
            if source.is_script:
                load_script(project, source.file, source.module)
            else:
                importlib.import_module(source.module)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # A module may raise anything, including SystemExit.
            forget_failed_modules()
            if isinstance(error, TwoJobsOneName):
                ambiguous.setdefault(str(error.fields["job"]), error)
            failed.append(_failure(source, error))
        finally:
            os.chdir(project)  # A module that moves the process must not move the next ones.
    # The order of file names must not decide which of the two is meant, nor which one is to blame.
    for name, doubled in ambiguous.items():
        first = registry.pop(name, None)
        if first is not None and all(failure.module != first.module for failure in failed):
            failed.append(invalid(first, doubled))
    return described(failed), failed


def described(failed: list[FailedModule]) -> list[JobFacts]:
    """The facts of all registered jobs. A job whose options or payload type are invalid is removed
    from the registry, and a failure with the place of its handler is added to `failed`."""
    facts: list[JobFacts] = []
    for job in list(registry.values()):
        try:
            # Resolved once, so that executions need not look at annotations again.
            job = registry[job.name] = replace(
                job, payload_type=callables.payload_type(job.handler, job.payload_type)
            )
            made = _facts(job)
            # As the daemon will read it: it would refuse the greeting, with all other jobs.
            msgspec.json.decode(msgspec.json.encode(made), type=JobFacts)
            facts.append(made)
        except Exception as error:
            del registry[job.name]
            failed.append(invalid(job, error))
    return facts


def invalid(job: Job, error: Exception) -> FailedModule:
    """The failure of a module whose `job` is not valid, with the place of its handler."""
    place = callables.place_of(job.handler)
    file = place.file or getattr(sys.modules.get(job.module), "__file__", "") or job.module
    failure = Failure.of(error)
    return FailedModule(job.module, readable(file), place.line, failure.type, failure.message)


def _facts(job: Job) -> JobFacts:
    return JobFacts(
        name=job.name,
        module=job.module,
        queue=job.queue,
        code=code_digest(job),
        doc=job.doc,
        retry=RetryTerms(**job.retry.as_json()) if job.retry is not None else None,
        timeout_ms=job.timeout_ms,
        priority=job.priority,
        concurrency_key=job.concurrency_key,
        unique=job.unique,
        on_duplicate=job.on_duplicate,
        ttl_ms=job.ttl_ms,
        deadline_ms=job.deadline_ms,
        on_failure=job.on_failure,
        on_success=job.on_success,
        expect=_expectation(job),
        max_runtime_ms=job.max_runtime_ms,
        heartbeat=job.heartbeat,
        idempotency_ttl_ms=job.idempotency_ttl_ms,
        schema=_schema(job),
        schedules=_schedules(job),
    )


def _schema(job: Job) -> dict[str, Any] | None:
    """The JSON Schema of the job's payload; None if it has no type. Raises `BadConfiguration` for a
    type of which nothing can be made: no payload would fit."""
    try:
        return payload_types.schema(job.payload_type)
    except Usage as bad:
        raise BadConfiguration(f"the payload of job {job.name!r}: {bad.message}") from bad


def _expectation(job: Job) -> ExpectationTerms | None:
    """What is expected of the job, after checking its time zone. Raises `BadConfiguration`."""
    if not job.expect:
        return None
    try:
        zone_of(job.expect_timezone)
    except StackshiftError as bad:
        raise BadConfiguration(f"job {job.name!r}: {bad.message}", hint=bad.hint) from bad
    return ExpectationTerms(job.expect, job.expect_timezone)


def _schedules(job: Job) -> dict[str, ScheduleTerms]:
    """The job's schedules by name, after checking their expressions, their time zones, and that
    their payloads fit the job. Raises `BadConfiguration`."""
    return {schedule.name: _terms(job, schedule) for schedule in job.schedules}


def _terms(job: Job, schedule: Declared) -> ScheduleTerms:
    try:
        clock_of(schedule.expression, schedule.timezone, 0)
    except StackshiftError as bad:
        why = f"{bad.message}; {bad.hint}" if bad.hint else bad.message
        raise BadConfiguration(f"job {job.name!r}: {why}") from bad
    try:
        payload = dumps(schedule.payload, MAX_SCHEDULE_PAYLOAD)
        payload_types.convert(with_secrets(loads(payload), unresolved), job.payload_type)
    except PayloadRefused as bad:
        raise BadConfiguration(f"job {job.name!r}: schedule_payload: {bad.message}") from bad
    return ScheduleTerms(
        schedule.expression,
        schedule.timezone,
        schedule.catch_up,
        schedule.overlap,
        Raw(payload),
        job=job.name if schedule.name != job.name else "",
        catch_up_for_ms=schedule.catch_up_for_ms,
        jitter_ms=schedule.jitter_ms,
        expect=schedule.expect,
        max_runtime_ms=schedule.max_runtime_ms,
        heartbeat=schedule.heartbeat,
    )


def queue_terms() -> dict[str, QueueTerms]:
    """The limits of queues that the loaded modules declare, by queue name."""
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
    """Seven hexadecimal digits that change with the file of the job's module; empty without one."""
    file = callables.place_of(job.handler).file if "/" in job.module else None
    file = file or getattr(sys.modules.get(job.module), "__file__", None)
    try:
        return sha256(Path(file).read_bytes()).hexdigest()[:7] if file else ""
    except OSError:
        return ""


def _left_out(source: ModuleSource, kind: str, why: str) -> FailedModule:
    return FailedModule(readable(source.module), readable(str(source.file)), 0, kind, why)


def _failure(source: ModuleSource, error: BaseException) -> FailedModule:
    file, line = str(source.file), 0
    if isinstance(error, SyntaxError) and error.filename:
        file, line = error.filename, error.lineno or 0
    else:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == file]
        line = (lines[-1] or 0) if lines else 0
    failure = Failure.of(error)
    message = failure.message
    if isinstance(error, SyntaxError) and error.msg:
        message = readable(error.msg)  # without the place, which is told by itself
    return FailedModule(source.module, readable(file), line, failure.type, message)
