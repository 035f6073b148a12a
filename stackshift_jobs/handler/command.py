"""Running a program as a step: what `ctx.step.command` takes, and the functions of such a step."""

from __future__ import annotations

import asyncio
import contextlib
import os
from _thread import start_new_thread
from asyncio import get_running_loop
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextvars import copy_context
from typing import Any, TypedDict

from stackshift_jobs.errors import CommandFailed, Usage
from stackshift_jobs.handler.undo import Undo
from stackshift_jobs.programs.program import TAIL_BYTES, Outcome, Program, run
from stackshift_jobs.programs.supervisor import Stop, current_supervisor
from stackshift_jobs.values.secrets import Secret, current_secrets


class CommandResult(TypedDict):
    """What a program did: its exit status (negative: killed by that signal), and the last 64 KiB of
    its output, decoded as UTF-8."""

    exit_code: int
    stdout: str
    stderr: str


UndoProgram = (
    Sequence[str | os.PathLike[str]]
    | Callable[[CommandResult], Sequence[str | os.PathLike[str]]]
    | Undo
    | None
)
"""The program that undoes another, or what makes its `argv` of the result."""


def program_of(
    argv: Sequence[str | os.PathLike[str]],
    timeout_ms: int | None,
    env: Mapping[str, str | Secret] | None,
    stdin: str | bytes | Secret | None,
    cwd: str | os.PathLike[str] | None,
) -> Program:
    """The program that a call of `ctx.step.command` describes. Raises `Usage` if it is not one."""
    _refuse_secrets(argv)
    if isinstance(argv, str | bytes):
        raise Usage(
            f"a command is a list of a program and its arguments, not {argv!r}",
            hint='["ls", "-l"], or ["sh", "-c", "ls -l | wc"] for a shell',
        )
    for word in argv:
        if not isinstance(word, str | os.PathLike):
            raise Usage(f"the words of a command are text or paths, not {word!r} in {argv!r}")
    if not argv:
        raise Usage("a command needs at least the name of a program")
    variables = {name: _revealed(text) for name, text in (env or {}).items()}
    wrong = [name for name, text in variables.items() if not isinstance(text, str)]
    if wrong:
        raise Usage(f"the variable {wrong[0]} in env is not text")
    given = _revealed(stdin)
    if not isinstance(given, str | bytes | None):
        raise Usage(f"stdin is text or bytes, not {type(stdin).__name__}")
    return Program(
        argv=tuple(os.fspath(word) for word in argv),
        env=variables,
        cwd=os.fspath(cwd) if cwd is not None else None,
        stdin=given.encode() if isinstance(given, str) else given or b"",
        timeout_ms=timeout_ms,
    )


def _refuse_secrets(argv: Sequence[object]) -> None:
    """Raise `Usage` for a secret, or text that contains one, in the arguments of a program."""
    if isinstance(argv, Secret):
        argv = [argv]
    known = current_secrets.get()
    for index, word in enumerate(argv):
        found = str(word) if isinstance(word, Secret) else known.found_in(str(word))
        if found is not None:
            raise Usage(
                f"argument {index} of the command contains {found}, and every user of this machine "
                "can read the arguments of a program",
                hint="hand it over in env=... or stdin=...",
            )


def _revealed(value: object) -> Any:
    return value.reveal() if isinstance(value, Secret) else value


def run_command(program: Program, check: bool) -> CommandResult:
    """Run `program`; blocks until nothing of it is left.

    Raises `CommandFailed` for a status other than 0 if `check` is set, `OSError` if it cannot be
    started, and `TimeoutError` after its timeout.
    """
    return _result(program, run(program, current_supervisor.get(), Stop()), check)


async def run_command_awaited(program: Program, check: bool) -> CommandResult:
    """Run `program` without blocking the loop; see `run_command`. If the task is cancelled, it
    leaves when nothing of the program is left."""
    loop = get_running_loop()
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
    # And not a `Thread`: a hook of `threading.settrace` that raises would end that before it began.
    start_new_thread(copy_context().run, (wait,))
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
    stdout, stderr = (_text(output) for output in (outcome.stdout, outcome.stderr))
    if check and outcome.exit_code != 0:
        raise CommandFailed(list(program.argv), outcome.exit_code, stdout, stderr)
    return CommandResult(exit_code=outcome.exit_code, stdout=stdout, stderr=stderr)


def _text(output: bytes) -> str:
    """The end of a program's output, with the secrets masked: it is recorded."""
    text = output.decode("utf-8", "replace")
    return current_secrets.get().mask(text, is_tail=len(output) >= TAIL_BYTES)


def undo_by_program(
    env: Mapping[str, str | Secret] | None, cwd: str | os.PathLike[str] | None
) -> Callable[[Any], Callable[[Any], CommandResult]]:
    """Makes the function that undoes a program by another, of what was given as `undo=`."""

    def made(given: Any) -> Callable[[Any], CommandResult]:
        def undo(result: Any) -> CommandResult:
            return run_command(_undoing(given, result, env, cwd), True)

        _check_undo(given, env, cwd)
        return undo

    return made


def undo_by_program_awaited(
    env: Mapping[str, str | Secret] | None, cwd: str | os.PathLike[str] | None
) -> Callable[[Any], Callable[[Any], Coroutine[Any, Any, CommandResult]]]:
    """As `undo_by_program`, of an `async def` handler."""

    def made(given: Any) -> Callable[[Any], Coroutine[Any, Any, CommandResult]]:
        async def undo(result: Any) -> CommandResult:
            return await run_command_awaited(_undoing(given, result, env, cwd), True)

        _check_undo(given, env, cwd)
        return undo

    return made


def _undoing(
    given: Any,
    result: Any,
    env: Mapping[str, str | Secret] | None,
    cwd: str | os.PathLike[str] | None,
) -> Program:
    """The program that undoes another with this result, None if that is not known. Raises
    `Usage`."""
    argv = given(result) if callable(given) else given
    return program_of(argv, None, env, None, cwd)


def _check_undo(
    given: Any, env: Mapping[str, str | Secret] | None, cwd: str | os.PathLike[str] | None
) -> None:
    """Raise `Usage` if `given` is not a program that undoes another, as far as that can be said
    before it is made of a result."""
    program_of(["true"] if callable(given) else given, None, env, None, cwd)
