"""Why a job that is in a file is not known to the daemon: a file whose name begins with `_` is not
loaded by itself. (That a file has changed since it was loaded, the daemon says itself.)

Read only after the daemon has refused the name of a job. It parses no Python and imports nothing of
the project: a file counts if it contains the name as a word. It never changes what went wrong, only
what the person is told to do about it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from stackshift_jobs.errors import NotFound, StackshiftError
from stackshift_jobs.project.folders import walk
from stackshift_jobs.project.locate import Project

_MAX_FILES: Final = 2000
MAX_FILE_BYTES: Final = 1 << 20


def explained(project: Project, job: str, bad: NotFound) -> NotFound:
    """`bad`, which says that there is no job `job`; with what to do if a private file has it."""
    word = re.compile(rf"(?<![\w.-]){re.escape(job)}(?![\w-])")
    try:
        for file, is_private in job_files(project):
            if is_private and file.stat().st_size <= MAX_FILE_BYTES and word.search(_text(file)):
                shown = file.relative_to(project.root)
                why = f"{shown} is not loaded, because its name begins with _"
                return NotFound(f"{bad.message}: {why}", hint="rename it", **bad.fields)
    except (OSError, StackshiftError):
        return bad  # The files cannot be read; what the daemon said still holds.
    return bad


def _text(file: Path) -> str:
    return file.read_text("utf-8", "replace")


def job_files(project: Project) -> Iterator[tuple[Path, bool]]:
    """The Python files in the folders of job modules, and whether each is private, and so not
    loaded by itself; at most two thousand."""
    from stackshift_jobs.project.config import load_config

    count = 0
    for entry in load_config(project.root).project.jobs:
        place = project.root / entry
        below = (Path(each.path) for each in walk(str(place)) if each.name.endswith(".py"))
        for file in [place] if place.is_file() else below:
            count += 1
            if count > _MAX_FILES:
                return
            inside = file.relative_to(project.root)
            named = inside.parent if file.name == "__init__.py" else inside
            yield file, any(part.startswith("_") for part in named.parts)
