"""The built-in job `sh`, whose runs are scripts in no project: what `stackshift sh FILE` starts.

The file is read when a pass begins, as that of a shell job is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from stackshift_jobs.handler.context import JobContext
from stackshift_jobs.programs.program import Program
from stackshift_jobs.registry import Job
from stackshift_jobs.values.names import SH_JOB
from stackshiftd.worker.scripts.script import ScriptHandler

SHELL: Final = "/bin/sh"
"""What runs a script that names no interpreter, or whose interpreter is `stackshift sh`."""


@dataclass(frozen=True)
class FileCall:
    """The payload of a run of `sh`: the absolute path of the script and its arguments, the
    directory and the umask that it starts with (None: those of the workers), and the variables that
    are added to theirs."""

    file: str
    args: list[str] = field(default_factory=list)
    cwd: str | None = None
    umask: int | None = None
    env: dict[str, str] = field(default_factory=dict)


class FileHandler(ScriptHandler):
    """The handler of `sh`."""

    def __call__(self, ctx: JobContext[FileCall]) -> dict[str, int]:
        """Run a script that is in no project as a shell job."""
        call = ctx.payload
        argv = (*interpreter_of(Path(call.file)), call.file, *call.args)
        program = Program(argv, env=call.env, cwd=call.cwd, umask=call.umask)
        return self.run_script(ctx, program, {"args": call.args}, os.path.basename(call.file))  # noqa: PTH119


def interpreter_of(file: Path) -> list[str]:
    """The words before the name of the script, as its first line gives them. Raises `OSError`."""
    with file.open("rb") as opened:
        line = opened.readline(1024)
    first, _, rest = os.fsdecode(line).strip().removeprefix("#!").strip().partition(" ")
    if not line.startswith(b"#!") or not first:
        return [SHELL]
    if any(os.path.basename(word) == "stackshift" for word in (first, *rest.split())):  # noqa: PTH119
        return [SHELL]
    return [first, rest.strip()] if rest.strip() else [first]


SH: Final = Job(
    name=SH_JOB,
    handler=FileHandler(),
    queue="default",
    retry=None,
    timeout_ms=None,
    priority=0,
    concurrency_key="",
    payload_type=FileCall,
    idempotency_ttl_ms=None,
    is_async=False,
    module="",
    place="",
)
