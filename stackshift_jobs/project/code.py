"""The code of a project: its job modules, and what its workers are started with.

Owns which interpreter runs the workers, and the list of all that other users must not be able to
change (`trust` has the rules): the settings name it, so it is known only when they have been read.
Nothing of it is opened here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from stackshift_jobs.project import trust
from stackshift_jobs.project.config import Config
from stackshift_jobs.project.environment import interpreter


def check_code(config: Config) -> None:
    """Refuse the project if somebody else can change what it runs. Raises `BadConfiguration`."""
    trust.check_code(os.fspath(config.root), _modules(config), _others(config))


def _modules(config: Config) -> Iterator[str]:
    """The folders and files of jobs, and the modules and packages beside them, which they can
    import: the root is the first place where imports are looked for."""
    yield from (os.fspath(config.root / entry) for entry in config.project.jobs)
    for entry in os.scandir(config.root):
        if entry.name.endswith(".py") or os.path.exists(f"{entry.path}/__init__.py"):  # noqa: PTH110
            yield entry.path


def _others(config: Config) -> Iterator[str]:
    """The file of variables, the hooks, and the interpreter with the place of its packages."""
    root = config.root
    if config.project.env_file is not None:
        yield os.fspath(root / config.project.env_file)
    for hook in (config.hooks.on_failed, config.hooks.on_completed):
        # A program, or the script that one is given. A word that is neither names no file.
        yield from (os.fspath(root / word) for word in hook or () if (root / word).is_file())
    python = interpreter(config)
    if python != sys.executable:  # Else it is what runs us already.
        yield python
        environment = Path(python).parent.parent
        yield os.fspath(environment / "pyvenv.cfg")
        yield from map(os.fspath, environment.glob("lib/python3*/site-packages"))
