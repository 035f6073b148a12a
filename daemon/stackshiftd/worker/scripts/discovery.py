"""Makes jobs of the shell scripts of a project.

A mistake (in the header, or one that the shell itself finds by `sh -n`) is that of one file, with
its line, as that of a module is: the other jobs are loaded.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Final

from stackshift_jobs.errors import StackshiftError
from stackshift_jobs.project.script_header import HeaderError, check_runnable, read_header
from stackshift_jobs.registry import TwoJobsOneName, job, registry
from stackshiftd.worker.scripts.script import Script

_SHELLS: Final = frozenset(("sh", "bash", "dash", "ash", "ksh", "mksh", "zsh"))
"""Shells that read a script without running it, by `-n`."""
_CHECK_SECONDS: Final = 10.0
_LINE: Final = re.compile(r":\s*(?:line\s+)?([0-9]+):\s*(.*)")
"""How shells tell a mistake: `FILE: 12: Syntax error: …`, `FILE: line 12: syntax error …`."""


def load_script(project: Path, file: Path, module: str) -> None:
    """Register the job that `file` is; `module` is its name where modules have theirs. Raises
    `HeaderError` with the place of a mistake, and `TwoJobsOneName`."""
    header = read_header(file)
    if header is None:
        raise HeaderError("it is no job any more", file, 0)
    check_runnable(file)
    _check_syntax(file)
    other = registry.get(header.name)
    if other is not None and other.place != module:
        raise TwoJobsOneName(
            f"two jobs are named {header.name!r}: {other.place} and {module}",
            hint="give one of them another name",
            job=header.name,
        )
    registry.pop(header.name, None)  # It is this one, of an earlier load.
    script = Script(project, file, header.line, header.doc)
    try:
        job(header.name, script, **header.options)
    except StackshiftError as bad:
        raise HeaderError(bad.message, file, header.line) from bad
    # It is made here, but by the file.
    registry[header.name] = replace(registry[header.name], module=module, place=module)


def _check_syntax(file: Path) -> None:
    """Let the script's own shell read it without running it, if it is one that can."""
    with file.open("rb") as opened:
        words = opened.readline(1024).decode("utf-8", "replace").removeprefix("#!").split()
    shell = _shell(words)
    if shell is None:
        return
    try:
        done = subprocess.run(
            [*shell, "-n", str(file)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_CHECK_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return  # That there is no such shell is told when it is run: elsewhere there may be one.
    if done.returncode == 0:
        return
    told = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it cannot be read"]
    found = _LINE.search(told[0])
    line, what = (int(found[1]), found[2]) if found else (0, told[0])
    raise HeaderError(what.strip(), file, line)


def _shell(words: list[str]) -> list[str] | None:
    """The command line of the shell that a first line names; None if it names none that is
    known."""
    if words and os.path.basename(words[0]) == "env":  # noqa: PTH119
        words = [word for word in words[1:] if word != "-S"]
    if not words or os.path.basename(words[0]) not in _SHELLS:  # noqa: PTH119
        return None
    return words[:1]
