"""Whether a word is the name of one of the project's jobs, found out without starting anything.

A daemon that runs is asked. Without one the files of job modules are read as text, as in
`unloaded`: nothing of the project is imported. An answer is a guess for a hint, so whatever cannot
be read counts as "no".
"""

from __future__ import annotations

import re
from typing import Final

from stackshift_cli.arguments import Globals
from stackshift_cli.daemon.connection import Connection
from stackshift_cli.daemon.session import Session
from stackshift_cli.daemon.unloaded import MAX_FILE_BYTES, job_files
from stackshift_jobs.errors import DaemonUnavailable, StackshiftError
from stackshift_jobs.project.locate import Project

_ANSWER_SECONDS: Final = 1.0


def is_job(name: str, directory: str | None) -> bool:
    """Has the project in `directory` (None: the one that is found) a job called `name`?"""
    try:
        project = Session(Globals(project=directory)).project
        try:
            with Connection.open(
                project.data_dir_text, connect_timeout=_ANSWER_SECONDS
            ) as connection:
                connection.call("job.get", {"job": name}, _ANSWER_SECONDS)
            return True
        except DaemonUnavailable:
            return _is_written(name, project)
    except (StackshiftError, OSError, TimeoutError):
        return False


def _is_written(name: str, project: Project) -> bool:
    """Is there a `job("name")`, or a function `name` that a bare `@job` decorates?"""
    quoted = re.escape(name)
    registered = re.compile(
        rf"""\bjob\(\s*(?:name\s*=\s*)?["']{quoted}["']"""
        rf"""|^@(?:\w+\.)?job(?:\(\s*\))?\s*\n(?:async\s+)?def\s+{quoted}\(""",
        re.MULTILINE,
    )
    return any(
        file.stat().st_size <= MAX_FILE_BYTES
        and registered.search(file.read_text("utf-8", "replace"))
        for file, is_private in job_files(project)
        if not is_private
    )
