"""The built-in job `exec`, whose runs are programs: what `stackshift exec -- COMMAND` starts.

The program is one step of the run, on the supervisor of all programs: it ends with its attempt, and
never runs beside a copy of itself. Its output is in the run's log and nowhere else, so a run's
record holds no more of it than the end of standard error, and that only if it failed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from stackshift_jobs.handler.command import program_of, run_command
from stackshift_jobs.handler.context import JobContext
from stackshift_jobs.programs.program import Program
from stackshift_jobs.registry import Job
from stackshift_jobs.values.names import EXEC_JOB

STEP: Final = "command"
"""The name of the step that is the program."""


@dataclass(frozen=True)
class ProgramCall:
    """The payload of a run of `exec`: the program and its arguments, the directory and the umask
    that it starts with (None: those of the workers), the variables that are added to theirs, how
    long each try may take, and how long it may be silent, in milliseconds. With `output_beats`,
    what it prints says that it is alive. `stdin` is what it reads on standard input."""

    command: list[str]
    cwd: str | None = None
    umask: int | None = None
    env: dict[str, str] = field(default_factory=dict)
    timeout_ms: int | None = None
    heartbeat_ms: int | None = None
    output_beats: bool = False
    stdin: str | None = None


def run_program(ctx: JobContext[ProgramCall]) -> dict[str, int]:
    """Run a program as it was typed after `stackshift exec --`."""
    call = ctx.payload
    program = program_of(call.command, call.timeout_ms, call.env, call.stdin, call.cwd)
    return ctx.step.run(
        STEP,
        _run,
        program._replace(umask=call.umask),
        heartbeat=None if call.heartbeat_ms is None else call.heartbeat_ms / 1000,
        output_beats=call.output_beats,
    )


def _run(program: Program) -> dict[str, int]:
    return {"exit_code": run_command(program, check=True)["exit_code"]}


EXEC: Final = Job(
    name=EXEC_JOB,
    handler=run_program,
    queue="default",
    retry=None,
    timeout_ms=None,
    priority=0,
    concurrency_key="",
    payload_type=ProgramCall,
    idempotency_ttl_ms=None,
    is_async=False,
    module="",
    place="",
)
