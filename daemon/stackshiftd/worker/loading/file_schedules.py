"""The schedules that `stackshift.toml` declares, as the loader has those of the code."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw

from stackshift_jobs.errors import BadConfiguration, Usage
from stackshift_jobs.project.config import Config, ScheduleSection
from stackshift_jobs.project.locate import CONFIG_FILE
from stackshift_jobs.values.names import EXEC_JOB, NAME_LABEL
from stackshiftd.core.commands import ScheduleTerms, StartOptions
from stackshiftd.core.decide.cron.ticks import REBOOT, clock_of
from stackshiftd.core.state.schedules import IN_FILE

AT_BOOT: Final = "have the machine that is meant run, at its start, stackshift start JOB"


def problem_of(config: Config, expression: str) -> str:
    """Why an expression that is valid has no ticks in this project; empty if it has."""
    if expression == REBOOT and config.member:
        return f"{REBOOT} has no ticks where several machines share the journal"
    return ""


def file_schedules(config: Config) -> dict[str, ScheduleTerms]:
    """They by name. Raises `BadConfiguration` for an expression or a zone that is not valid, and
    for one that has no ticks: what the file says is checked before anything runs."""
    found: dict[str, ScheduleTerms] = {}
    for name, section in config.schedules.items():
        try:
            clock_of(section.cron, section.timezone, 0)
        except Usage as bad:
            where = str(config.root / CONFIG_FILE)
            raise BadConfiguration(
                f"{where}: schedules.{name}: {bad.message}", hint=bad.hint, file=where
            ) from bad
        if problem := problem_of(config, section.cron.strip()):
            where = str(config.root / CONFIG_FILE)
            raise BadConfiguration(
                f"{where}: schedules.{name}: {problem}", hint=AT_BOOT, file=where
            )
        found[name] = _terms(name, section)
    return found


def _terms(name: str, section: ScheduleSection) -> ScheduleTerms:
    job, payload = section.job or EXEC_JOB, (section.payload or "{}").encode()
    labels: dict[str, str] = {}
    if section.command is not None:
        labels = {NAME_LABEL: name}
        payload = msgspec.json.encode({"command": section.command})
    return ScheduleTerms(
        schedule=" ".join(section.cron.split()),
        timezone=section.timezone,
        catch_up=section.catch_up,
        overlap=section.overlap,
        payload=Raw(payload),
        job=job,
        source=IN_FILE,
        catch_up_for_ms=section.catch_up_for_ms or 0,
        jitter_ms=section.jitter_ms,
        start=Raw(msgspec.json.encode(StartOptions(queue=section.queue, labels=labels))),
        expect=section.expect or "",
        max_runtime_ms=section.max_runtime_ms or 0,
    )
