"""The settings that take effect while the daemon runs: schedules, the heartbeat, and who gets
alerts. A change of any other takes effect when it starts again."""

from __future__ import annotations

import logging
from typing import Any

from stackshift_jobs.errors import StackshiftError
from stackshift_jobs.project.config import Config, load_config
from stackshiftd.shell.background.alerts import Alerts
from stackshiftd.shell.background.heartbeats import Heartbeats
from stackshiftd.shell.background.schedule_timer import ScheduleTimer
from stackshiftd.shell.code_files import LoadedCode
from stackshiftd.worker.loading.file_schedules import file_schedules

log = logging.getLogger("stackshiftd")


class LiveSettings:
    """Reads `stackshift.toml` again, and passes what it says to the parts concerned."""

    def __init__(
        self,
        config: Config,
        code: LoadedCode,
        schedule_timer: ScheduleTimer,
        heartbeats: Heartbeats,
        alerts: Alerts,
    ) -> None:
        self._config = config
        self._code = code
        self._schedule_timer = schedule_timer
        self._heartbeats = heartbeats
        self._alerts = alerts

    def watched(self) -> None:
        """Put in force what the file has now, after it was changed. If it is not valid, the log
        says so."""
        try:
            self.reread()
        except StackshiftError as bad:
            log.error("the settings of before go on: %s", bad.message)

    def reread(self) -> dict[str, Any]:
        """Put in force what the file has now: `{schedules: {added, changed, removed}, sections}`,
        of which `sections` names those that differ. Raises `BadConfiguration`."""
        self._code.read_settings()
        before, config = self._config, load_config(self._config.root)
        declared, known = file_schedules(config), self._schedule_timer.in_file
        self._heartbeats.reread(config)
        self._alerts.define(config)
        if declared != known:
            self._schedule_timer.declare(declared)
        if not self._code.needs_restart(config):
            self._code.settings_apply()
        self._config = config
        names = declared.keys() & known.keys()
        schedules = {
            "added": sorted(declared.keys() - known.keys()),
            "changed": sorted(
                name for name in names if before.schedules.get(name) != config.schedules.get(name)
            ),
            "removed": sorted(known.keys() - declared.keys()),
        }
        differs = {
            "schedules": any(schedules.values()),
            "notify": config.notify != before.notify,
            "heartbeat": config.heartbeat != before.heartbeat,
        }
        sections = [section for section, it_differs in differs.items() if it_differs]
        if sections:
            log.info("read again from stackshift.toml: %s", ", ".join(sections))
        return {"schedules": schedules, "sections": sections}
