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
from typing import Final

from stackshift_jobs.project import trust
from stackshift_jobs.project.config import Config

_SUFFIXES: Final = (".py", ".pyc", ".so")
"""Of the files in the folders of jobs, those that an import can run."""


def worker_python(config: Config) -> str:
    """The interpreter of the workers: `[workers] python`; else that of the project's `.venv`, if
    StackShift is installed in it; else ours."""
    chosen = config.workers.python
    if chosen is not None:
        return str(config.root / Path(chosen).expanduser())
    own = config.root / ".venv" / "bin" / "python"
    has_us = any(config.root.glob(".venv/lib/python3*/site-packages/stackshift_jobs*"))
    return str(own) if has_us and own.exists() else sys.executable


def check_code(config: Config) -> None:
    """Refuse the project if somebody else can change what it runs. Raises `BadConfiguration`."""
    trust.check_code(os.fspath(config.root), _run_by(config))


def _run_by(config: Config) -> Iterator[str]:
    """All that is run for the project, or says how."""
    root = config.root
    for entry in config.project.jobs:
        yield os.fspath(root / entry)
        yield from _modules(root / entry)
    if config.project.env_file is not None:
        yield os.fspath(root / config.project.env_file)
    python = worker_python(config)
    if python != sys.executable:  # Else it is what runs us already.
        yield python
        environment = Path(python).parent.parent
        yield os.fspath(environment / "pyvenv.cfg")
        yield from map(os.fspath, environment.glob("lib/python3*/site-packages"))


def _modules(folder: Path) -> Iterator[str]:
    """The folders below `folder`, and the files in them that can be imported."""
    for directory, folders, files in os.walk(folder):
        for name in (*folders, *(name for name in files if name.endswith(_SUFFIXES))):
            yield os.path.join(directory, name)  # noqa: PTH118 - there can be thousands
