"""What `doctor` looks at in the daemon and the job modules. It never starts the daemon."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Final

from stackshift_cli.daemon.boot import NO_WAY, NO_WAY_HINT, installed, ways
from stackshift_cli.daemon.connection import Connection
from stackshift_cli.daemon.log import LogFile
from stackshift_cli.daemon.presence import absent
from stackshift_cli.daemon.scheduled import Scheduled, scheduled
from stackshift_cli.daemon.session import Session
from stackshift_cli.flows.cluster_members import problems
from stackshift_cli.flows.doctor.checkup import GOOD, NOTE, PROBLEM, Finding
from stackshift_cli.flows.doctor.hosts import checked as checked_hosts
from stackshift_cli.flows.doctor.modules import checked
from stackshift_cli.output.messages import failed_module
from stackshift_jobs.errors import BadConfiguration, DaemonUnavailable, StackshiftError
from stackshift_jobs.project.config import load_config
from stackshift_jobs.project.discovery import (
    LOG_FILE,
    MAX_SOCKET_BYTES,
    read_daemon_elsewhere,
    socket_path,
)
from stackshift_jobs.project.locate import Project
from stackshift_jobs.values.quantities import quantity
from stackshift_jobs.version import __version__

_SECONDS: Final = 10.0
_BAD_MODULE: Final = BadConfiguration.exit_status


def about_modules(session: Session) -> Iterator[Finding]:
    """Whether all job modules import, as a worker would import them, and whether the daemon is
    started at boot if there are schedules."""
    try:
        modules = checked(session)
    except StackshiftError as bad:
        yield Finding("modules", PROBLEM, bad.message, bad.hint or "stackshift jobs check")
        yield _boot(session, [], are_whole=False)
        return
    failed = [module for module in modules if module["error"]]
    for module in failed:
        text = failed_module({"file": module["file"], **module["error"]})
        yield Finding("modules", PROBLEM, text, "stackshift jobs check -v", _BAD_MODULE)
    jobs = sum(len(module["jobs"]) for module in modules)
    if not modules:
        yield Finding(
            "modules", NOTE, "there is no job module", "stackshift config get project.jobs"
        )
    elif not failed:
        yield Finding(
            "modules", GOOD, f"{quantity(jobs, 'job')} in {quantity(len(modules), 'module')}"
        )
    yield _boot(session, modules, are_whole=not failed)


def about_hosts(session: Session) -> Iterator[Finding]:
    """Whether a worker comes up on each host that workers are placed on; nothing if there is no
    other host."""
    try:
        found = checked_hosts(session, [])
    except StackshiftError as bad:
        yield Finding("hosts", PROBLEM, bad.message, bad.hint or "stackshift hosts check")
        return
    for host in found:
        if host["ok"]:
            trip = (
                f", {host['round_trip_ms']:.1f} ms there and back" if host["round_trip_ms"] else ""
            )
            what = f"{host['name']}: {quantity(host['jobs'], 'job')}{trip}"
            yield Finding("hosts", GOOD, what)
        else:
            what = f"{host['name']}: {host['problem']}"
            hint = f"stackshift hosts check {host['name']} -v"
            yield Finding("hosts", PROBLEM, what, hint, BadConfiguration.exit_status)


def _boot(session: Session, modules: list[dict[str, Any]], *, are_whole: bool) -> Finding:
    project = session.project
    way = installed(project)
    if way is not None:
        return Finding("boot", GOOD, f"{way.kind} starts the daemon at boot: {way.place}")
    found = scheduled(project, modules, are_whole=are_whole)
    if found is Scheduled.YES:
        why = "there are schedules, and nothing starts the daemon at boot"
        if next(ways(project), None) is None:
            return Finding("boot", NOTE, f"{why}; {NO_WAY}", NO_WAY_HINT)
        return Finding("boot", NOTE, why, "stackshift daemon install")
    why = "nothing starts the daemon at boot"
    if found is Scheduled.NO:
        return Finding("boot", GOOD, f"{why}, and there are no schedules")
    unknown, hint = _UNKNOWN[found]
    return Finding("boot", NOTE, f"{why}; whether there are schedules is not known {unknown}", hint)


_UNKNOWN: Final = {
    Scheduled.NO_MODULE: ("until all modules import", "stackshift jobs check"),
    Scheduled.NO_DAEMON: ("while no daemon is running", "stackshift schedules list"),
}


def about_socket(project: Project) -> Iterator[Finding]:
    """Where the daemon's socket is, and whether its path is short enough."""
    try:
        path = socket_path(project.data_dir)
    except StackshiftError as bad:
        yield Finding("socket", PROBLEM, bad.message, bad.hint)
        return
    elsewhere = read_daemon_elsewhere(project.data_dir)
    if elsewhere is not None:
        where = f"{elsewhere[1]}, because {project.data_dir} could not be written"
        yield Finding("socket", GOOD, where)
        return
    size = len(os.fsencode(project.data_dir / path.name))
    if path.parent != project.data_dir:
        why = f"{path}, because {project.data_dir} makes {size} bytes, over {MAX_SOCKET_BYTES}"
        yield Finding("socket", GOOD, why)
    else:
        yield Finding("socket", GOOD, str(path))


def about_daemon(project: Project) -> Iterator[Finding]:
    """Whether one is running, which, and how it is."""
    try:
        with Connection.open(project.data_dir_text, connect_timeout=_SECONDS) as connection:
            status = connection.call("daemon.status", {}, _SECONDS)
    except TimeoutError:
        silent = f"the daemon does not answer within {_SECONDS:g} s"
        yield Finding("daemon", PROBLEM, silent, "stackshift daemon restart", 3)
    except DaemonUnavailable as bad:
        if absent(bad):
            yield from _no_daemon(project, bad)
        else:
            yield Finding("daemon", PROBLEM, bad.message, bad.hint, bad.exit_status)
    except StackshiftError as bad:
        yield Finding("daemon", PROBLEM, bad.message, bad.hint, bad.exit_status)
    else:
        yield from _running(status)
    yield from _set_aside(project)


def _no_daemon(project: Project, bad: DaemonUnavailable) -> Iterator[Finding]:
    if bad.fields.get("reason") == "stale":
        log = LogFile(project.data_dir / LOG_FILE)
        last = [line for line in (*log.last_lines(1), log.unfinished) if line]
        said = f"; its log ends: {last[-1]}" if last else ""
        yield Finding("daemon", PROBLEM, f"it was killed or has crashed{said}", bad.hint, 3)
    else:
        why = "none is running; the next command that needs it starts it"
        yield Finding("daemon", NOTE, why, "stackshift daemon start")


def _running(status: dict[str, Any]) -> Iterator[Finding]:
    pid, version = status["pid"], status["version"]
    yield Finding("daemon", GOOD, f"version {version} is running (pid {pid})")
    if version != __version__:
        other = f"the daemon is version {version}, and this command is {__version__}"
        yield Finding("daemon", PROBLEM, other, "stackshift daemon restart")
    if status["mode"] != "serving":
        why = status.get("read_only_because") or "the disk is full"
        yield Finding("daemon", PROBLEM, f"it only reads: {why}", "df -h")
    for module in status["failed_modules"]:
        text = failed_module(module)
        if module.get("module") in status.get("kept_modules", ()):
            text = f"the code from before goes on, because {text}"
        else:
            text = f"it has loaded the jobs without {text}"
        yield Finding("daemon", PROBLEM, text, "stackshift jobs check", _BAD_MODULE)
    workers = status["workers"]
    # One that was started on a disk that cannot be written has none, and needs none; nor does one
    # that follows another.
    is_standby = status.get("role") == "follows"
    is_needed = bool(workers) or (status["mode"] == "serving" and not is_standby)
    if is_needed and not any(worker["status"] in ("serving", "ready") for worker in workers):
        yield Finding("workers", PROBLEM, "no worker serves", "stackshift daemon logs")
    for worker in workers:
        if worker["status"] == "silent":
            silent = f"worker {worker['id']} (pid {worker['pid']}) is silent: a call keeps it busy"
            yield Finding("workers", NOTE, silent, "stackshift runs list --status running")
    if status["dead"]:
        text = f"{quantity(status['dead'], 'run')} failed for good"
        yield Finding("dead letter", NOTE, text, "stackshift dead list")
    if status.get("undelivered"):
        text = f"{quantity(status['undelivered'], 'message')} about failures could not be delivered"
        yield Finding("notify", PROBLEM, text, "stackshift dead list")
    for trouble in status.get("troubles", ()):
        schedule = f" (schedule {trouble['schedule']})" if trouble.get("schedule") else ""
        text = f"{trouble['job']}{schedule}: {trouble['alert']} since {trouble['since']}"
        yield Finding("jobs", NOTE, text, f"stackshift runs list --job {trouble['job']}")
    if status.get("recovered"):
        text = f"at its last start the daemon set part of the journal aside: {status['recovered']}"
        yield Finding("journal", NOTE, text, "stackshift journal verify")


def about_cluster(project: Project) -> Iterator[Finding]:
    """The database that has the journal, and the daemons that share it; nothing where the journal
    is in files. What can be known is known by the daemon, if one runs."""
    if load_config(project.root).journal.url is None:
        return
    try:
        with Connection.open(project.data_dir_text, connect_timeout=_SECONDS) as connection:
            found = connection.call("cluster.status", {}, _SECONDS)
    except (TimeoutError, DaemonUnavailable):
        return  # It has been said of the daemon.
    except StackshiftError as bad:
        yield Finding("database", PROBLEM, bad.message, bad.hint, bad.exit_status)
        return
    yield Finding("database", GOOD, f"PostgreSQL {found['server']} at {found['url']}")
    if found["synchronous"] is None:
        text = "no synchronous standby is set there: a failover may lose acknowledged work"
        yield Finding(
            "database", NOTE, text, "docs/cluster.md, or the service that runs it, says how"
        )
    members = found["members"]
    for member in members:
        for problem in problems(member, members):
            text = f"{member['host']}: {problem}"
            yield Finding("cluster", NOTE, text, "stackshift cluster status")
    roles = [member["role"] for member in members]
    if "follows" in roles:
        text = f"{found['leader']} leads, {quantity(roles.count('follows'), 'daemon')} follow"
        yield Finding("cluster", GOOD, text)
    else:
        text = "no daemon follows: if this machine is lost, one must be started elsewhere"
        yield Finding("cluster", NOTE, text, "stackshift daemon start, on another machine")


def _set_aside(project: Project) -> Iterator[Finding]:
    """What recovery and repair have moved aside. None of it was acknowledged."""
    folder = project.data_dir / "quarantine"
    try:
        count = len(list(folder.iterdir()))
    except OSError:
        count = 0
    if count:
        text = f"{quantity(count, 'file')} in {folder}: what a power cut or damage has left"
        yield Finding("journal", NOTE, text, "stackshift journal verify")
