"""The environment of the processes that the daemon starts.

It does not depend on who started the daemon: a shell, cron or a service manager.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from stackshift_jobs.errors import BadConfiguration
from stackshift_jobs.project.config import Config

KEPT_ENVIRONMENT: Final = ("HOME", "USER", "PATH", "LANG", "TZ")


def environment(config: Config) -> dict[str, str]:
    """The variables of a worker: the kept ones, those of `[workers] inherit_env`, and those of
    `[project] env_file`, which take precedence. Raises `BadConfiguration`."""
    inherited = config.workers.inherit_env
    names = list(os.environ) if "*" in inherited else [*KEPT_ENVIRONMENT, *inherited]
    variables = {name: os.environ[name] for name in names if name in os.environ}
    variables.setdefault("PATH", os.defpath)
    if config.project.env_file is not None:
        path = config.root / config.project.env_file
        try:
            variables |= read_env_file(path)
        except (OSError, UnicodeDecodeError) as bad:
            raise BadConfiguration(
                f"[project] env_file {path} cannot be read: {bad}", hint="see stackshift.toml"
            ) from bad
    return variables


def read_env_file(path: Path) -> dict[str, str]:
    """The variables in a file of `NAME=value` lines. `#` comments, `export` before the name and
    quotes around the value are allowed. Raises `OSError` and `UnicodeDecodeError`."""
    variables: dict[str, str] = {}
    for raw in path.read_text().splitlines():
        line = raw.strip().removeprefix("export ")
        name, equals, value = line.partition("=")
        if not line.startswith("#") and equals:
            value = value.strip()
            if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
                value = value[1:-1]
            variables[name.strip()] = value
    return variables
