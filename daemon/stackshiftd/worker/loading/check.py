"""`stackshift jobs check`: imports every job module once, in this process, and prints the result.

A process of its own, so that a module that hangs or exits at import harms nobody. It is given the
variables of a worker, and makes the rest of what it has inherited like that of one.
"""

from __future__ import annotations

import os
import sys
import threading
from functools import wraps
from json import dumps, loads
from pathlib import Path
from typing import Any, TextIO

from stackshift_jobs.errors import BadConfiguration, StackshiftError
from stackshift_jobs.programs import inheritance
from stackshift_jobs.project.config import load_config
from stackshift_jobs.registry import registry
from stackshift_jobs.values.text import readable
from stackshiftd.worker import code_files
from stackshiftd.worker.frames import FailedModule, JobFacts
from stackshiftd.worker.job_names import without_job
from stackshiftd.worker.loading import loader
from stackshiftd.worker.loading.file_schedules import AT_BOOT, file_schedules, problem_of
from stackshiftd.worker.output.streams import OwnLog


def check(root: Path, deadly: str = "{}") -> int:
    """Print one object `{modules: [{module, file, jobs, schedules, error}]}` on standard output,
    and before it, for whoever wants to know where this process ended, `{importing}` for each module
    that is imported. `deadly` is an object: module → why it is not to be.

    Returns the exit status: 0, or 78 if any module failed, or has a job that names one which does
    not exist, or a schedule that has no ticks in this project. If the configuration is invalid,
    prints `{error}` and returns that error's status.
    """
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What modules print at import goes to standard error; it is not data.
    inheritance.reset()
    try:
        config = load_config(root)
        file_schedules(config)
    except StackshiftError as bad:
        _say(out, {"error": bad.as_json()})
        return bad.exit_status
    inheritance.adopt(config.workers.umask, config.workers.nice)
    jobs = list(config.project.jobs)

    def importing(module: str) -> None:
        _say(out, {"importing": module})

    _wait_for_no_thread()
    facts, failed = loader.import_project(root, jobs, OwnLog(2), importing, loads(deadly))
    for job, text in list(without_job(facts, failed)):
        failed.append(loader.invalid(registry[job], BadConfiguration(text)))
    for facts_of in facts:
        for terms in facts_of.schedules.values():
            if problem := problem_of(config, terms.schedule):
                bad_schedule = BadConfiguration(f"job {facts_of.name}: {problem}; {AT_BOOT}")
                failed.append(loader.invalid(registry[facts_of.name], bad_schedule))
    errors = {failure.module: failure for failure in failed}
    sources = code_files.sources(root, jobs)
    files = {readable(each.module): readable(str(each.file)) for each in sources}
    # Modules elsewhere have jobs, too, if a job module imports them.
    for module in (*errors, *sorted({each.module for each in facts})):
        files.setdefault(module, _file_of(module))
    modules = [
        _module_json(module, file, facts, errors.get(module)) for module, file in files.items()
    ]
    _say(out, {"modules": modules})
    return 78 if failed else 0


def _say(out: TextIO, what: dict[str, Any]) -> None:
    """Write `what` as one line. The modules that are imported here may have replaced `print`."""
    out.write(dumps(what) + "\n")
    out.flush()


def _wait_for_no_thread() -> None:
    """Let this process end although modules have begun threads, which in a worker go on."""
    start: Any = threading.Thread.start

    @wraps(start)
    def start_as_daemon(thread: threading.Thread) -> None:
        thread.daemon = True
        start(thread)

    threading.Thread.start = start_as_daemon  # type: ignore[method-assign,assignment]


def _file_of(module: str) -> str:
    return getattr(sys.modules.get(module), "__file__", None) or module


def _module_json(
    module: str, file: str, facts: list[JobFacts], error: FailedModule | None
) -> dict[str, Any]:
    jobs = [job for job in facts if job.module == module]
    return {
        "module": module,
        "file": file,
        "jobs": sorted(job.name for job in jobs),
        "schedules": sorted(job.name for job in jobs if job.schedules),
        "error": None if error is None else _error_json(error),
    }


def _error_json(error: FailedModule) -> dict[str, Any]:
    return {"type": error.type, "message": error.message, "file": error.file, "line": error.line}
