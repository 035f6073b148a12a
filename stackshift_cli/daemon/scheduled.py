"""Whether a project has schedules, whatever they come from.

Those of the code are in the job modules, and those of the settings in `stackshift.toml`. Those that
`schedules add` and `crontab import` made are in the journal alone, so only a daemon that runs knows
them; none is started to ask.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any, Final

from stackshift_cli.daemon.connection import Connection
from stackshift_jobs.errors import StackshiftError
from stackshift_jobs.project.config import load_config
from stackshift_jobs.project.locate import Project

_SECONDS: Final = 10.0


class Scheduled(Enum):
    """Has the project schedules?"""

    YES = auto()
    NO = auto()
    NO_DAEMON = auto()
    """There is a journal, and no daemon to ask what is in it."""
    NO_MODULE = auto()
    """A module does not import, and says nothing of its schedules."""


def scheduled(project: Project, modules: list[dict[str, Any]], *, are_whole: bool) -> Scheduled:
    """What `modules`, as `checked` reports them, the settings and the daemon say; `are_whole` if
    every module has imported. Raises `BadConfiguration`."""
    config = load_config(project.root)
    if config.schedules or any(module.get("schedules") for module in modules):
        return Scheduled.YES
    try:
        with Connection.open(project.data_dir_text, connect_timeout=_SECONDS) as connection:
            known = connection.call("schedule.list", {}, _SECONDS)["schedules"]
    except (StackshiftError, TimeoutError):
        has_journal = config.journal.url is not None or (project.data_dir / "journal").exists()
        if are_whole and has_journal:
            return Scheduled.NO_DAEMON
    else:
        if any(not schedule["retired"] for schedule in known):
            return Scheduled.YES
    return Scheduled.NO if are_whole else Scheduled.NO_MODULE
