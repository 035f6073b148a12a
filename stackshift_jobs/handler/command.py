"""Running a program as a step: what `ctx.step.command` takes, and the functions of such a step."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Mapping, Sequence
from contextvars import copy_context
from typing import TypedDict

from stackshift_jobs.errors import CommandFailed, Usage
from stackshift_jobs.programs.program import Outcome, Program, run
from stackshift_jobs.programs.supervisor import Stop, current_supervisor


class CommandResult(TypedDict):
    """What a program did: its exit status (negative: killed by that signal), and the last 64 KiB of
    its output, decoded as UTF-8."""

    exit_code: int
    stdout: str
    stderr: str


def program_of(
    argv: Sequence[str | os.PathLike[str]],
    timeout_ms: int | None,
    env: Mapping[str, str] | None,
    stdin: str | bytes | None,
    cwd: str | os.PathLike[str] | None,
) -> Program:
    """The program that a call of `ctx.step.command` describes. Raises `Usage` if it is not one."""
    if isinstance(argv, str | bytes) or not all(isinstance(w, str | os.PathLike) for w in argv):
        raise Usage(
            f"a command is a list of a program and its arguments, not {argv!r}",
            hint='["ls", "-l"], or ["sh", "-c", "ls -l | wc"] for a shell',
        )
    if not argv:
        raise Usage("a command needs at least the name of a program")
    wrong = [name for name, text in (env or {}).items() if not isinstance(text, str)]
    if wrong:
        raise Usage(f"the variable {wrong[0]} in env is not text")
    if not isinstance(stdin, str | bytes | None):
        raise Usage(f"stdin is text or bytes, not {type(stdin).__name__}")
    return Program(
        argv=tuple(os.fspath(word) for word in argv),
        env=dict(env or {}),
        cwd=os.fspath(cwd) if cwd is not None else None,
        stdin=stdin.encode() if isinstance(stdin, str) else stdin or b"",
        timeout_ms=timeout_ms,
    )


def run_command(program: Program, check: bool) -> CommandResult:
    """Run `program`; blocks until nothing of it is left.

    Raises `CommandFailed` for a status other than 0 if `check` is set, `OSError` if it cannot be
    started, and `TimeoutError` after its timeout.
    """
    return _result(program, run(program, current_supervisor.get(), Stop()), check)


async def run_command_awaited(program: Program, check: bool) -> CommandResult:
    """Run `program` without blocking the loop; see `run_command`. If the task is cancelled, it
    leaves when nothing of the program is left."""
    loop = asyncio.get_running_loop()
    supervisor = current_supervisor.get()
    stop = Stop()
    ended = loop.create_future()
    outcomes: list[Outcome | BaseException] = []

    def wait() -> None:
        try:
            outcomes.append(run(program, supervisor, stop))
        except BaseException as error:
            outcomes.append(error)
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits any more.
            loop.call_soon_threadsafe(ended.set_result, None)

    # A thread of its own: a pool's could all be taken by functions that wait for something else.
    threading.Thread(target=copy_context().run, args=(wait,), name="program", daemon=True).start()
    cancelled: asyncio.CancelledError | None = None
    while not ended.done():
        try:
            await asyncio.wait([ended])
        except asyncio.CancelledError as error:
            cancelled = error
            stop.request(error)
    if cancelled is not None:
        raise cancelled
    [outcome] = outcomes
    if isinstance(outcome, BaseException):
        raise outcome
    return _result(program, outcome, check)


def _result(program: Program, outcome: Outcome, check: bool) -> CommandResult:
    stdout, stderr = (text.decode("utf-8", "replace") for text in (outcome.stdout, outcome.stderr))
    if check and outcome.exit_code != 0:
        raise CommandFailed(list(program.argv), outcome.exit_code, stdout, stderr)
    return CommandResult(exit_code=outcome.exit_code, stdout=stdout, stderr=stderr)
