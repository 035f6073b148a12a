"""`jobs list|show|check|schema`: what the project's job modules define."""

from __future__ import annotations

import contextlib
import difflib
import json
from fnmatch import fnmatchcase
from typing import Any, Final

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.session import Session
from stackshift_cli.output import messages
from stackshift_cli.output.safe_text import safe
from stackshift_cli.output.terminal import draws
from stackshift_cli.render import tsv
from stackshift_jobs.errors import BadConfiguration, StackshiftError
from stackshift_jobs.project.locate import FarProject
from stackshift_jobs.values.names import BUILT_IN_JOBS
from stackshift_jobs.values.quantities import quantity

_FAILED: Final = BadConfiguration.exit_status


def list_(session: Session, _given: Given) -> int:
    """`jobs list`: list the jobs; on stderr the modules that failed to import."""
    reply = session.whole("job.list", "jobs")
    for module in reply["failed_modules"]:
        session.say(f"failed to import: {safe(messages.failed_module(module))}")
    session.note(reply)
    if session.json:
        messages.data(messages.compact(reply["jobs"]))
    elif draws(session.options):
        from stackshift_cli.render.lists import print_jobs

        print_jobs(session.options, reply["jobs"])
    else:
        for job in reply["jobs"]:
            messages.data(tsv.columns(job, tsv.JOB_COLUMNS))
    return 0


def show(session: Session, given: Given) -> int:
    """`jobs show JOB`: print everything that is known about it: fields with their values."""
    job = session.call("job.get", {"job": given.word("job")})
    session.note(job)
    if session.json:
        messages.data(messages.compact(job))
        return 0
    if draws(session.options):
        from stackshift_cli.render.objects import print_object

        job.pop("cron", None)  # The whole schedule is there.
        print_object(session.options, job, as_json=frozenset(("schema", "payload")))
        return 0
    for name, value in job.items():
        if value is not None:
            messages.data(tsv.tabbed((name, value)))
    return 0


def schema(session: Session, given: Given) -> int:
    """`jobs schema JOB`: print the JSON Schema of its payload; `null` if it accepts anything."""
    job = session.call("job.get", {"job": given.word("job")})
    session.note(job)
    payload_schema = job["schema"]
    messages.data(
        messages.compact(payload_schema) if session.json else json.dumps(payload_schema, indent=2)
    )
    if payload_schema is None:
        name = safe(given.word("job"))
        session.say(f"{name} has no payload type, so it accepts any JSON")
    return 0


def check(session: Session, given: Given) -> int:
    """`jobs check`: import every module as a worker would, without a daemon; 78 if any fails. With
    `--in-flight` the daemon also replays the record of every unfinished run on them, which changes
    nothing; 5 if any would not go on as it is recorded."""
    from stackshift_cli.flows.doctor.modules import checked  # `list` has no use for subprocesses.

    modules = checked(session)
    if given.flag("in_flight") and not any(module["error"] for module in modules):
        from stackshift_cli.flows.preflight import check_runs

        return check_runs(session, None, {"modules": modules})
    failed = [module for module in modules if module["error"]]
    if session.json:
        messages.data(messages.compact({"modules": modules}))
    else:
        for module in modules:
            messages.data(_module_line(module))
    if failed:
        session.say(f"{len(failed)} of {quantity(len(modules), 'module')} failed to import")
        return _FAILED
    _say_unmatched(session, [job for module in modules for job in module["jobs"]])
    _say_boot_hint_if_scheduled(session, modules)
    return 0


def _say_boot_hint_if_scheduled(session: Session, modules: list[dict[str, Any]]) -> None:
    from stackshift_cli.daemon.scheduled import Scheduled, scheduled

    if session.options.quiet or session.json:
        return
    if scheduled(session.project, modules, are_whole=True) is Scheduled.YES:
        say_boot_hint(session)


def _say_unmatched(session: Session, jobs: list[str]) -> None:
    """Name the patterns of `[notify.NAME] jobs` that match nothing in the project's files: of jobs,
    nobody would be told. What a program is called is only known when it runs."""
    from stackshift_jobs.project.config import load_config

    config = load_config(session.project.root)
    named = {*jobs, *BUILT_IN_JOBS, *config.schedules}
    for name, terms in config.notify.items():
        for pattern in terms.jobs:
            if any(fnmatchcase(job, pattern) for job in named):
                continue
            near = difflib.get_close_matches(pattern, named, 1)
            meant = (
                f"did you mean {safe(near[0])}?" if near else "only a program could be called so"
            )
            session.say(f"notify.{safe(name)}.jobs: no job matches {safe(pattern)}: {meant}")


def say_boot_hint(session: Session) -> None:
    """Say how to have the daemon started at boot, to a person and if it is not already: without it
    schedules start nothing after a reboot. On another machine, only somebody there knows."""
    if session.options.quiet or session.json or isinstance(session.project, FarProject):
        return
    from stackshift_cli.daemon.boot import boot_hint

    # Whatever is wrong with the settings, the command has done what it was to do.
    with contextlib.suppress(StackshiftError):
        if hint := boot_hint(session.project):
            session.say(f"hint: {hint}")


def _module_line(module: dict[str, Any]) -> str:
    if (error := module["error"]) is None:
        return tsv.tabbed(("ok", module["module"], ", ".join(module["jobs"])))
    problem = messages.failed_module({"file": module["file"], **error})
    return tsv.tabbed(("failed", module["module"], problem))
