"""Running a program as a step."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from typing import IO, Any, Final, TypedDict

from stackshift_jobs.errors import CommandFailed

TAIL_BYTES: Final = 64 * 1024
"""How much of the end of each stream is kept, where programs usually say what went wrong."""


class CommandResult(TypedDict):
    """What a program did: its exit status (negative: killed by that signal), and the last 64 KiB of
    its output, decoded as UTF-8."""

    exit_code: int
    stdout: str
    stderr: str


def run_command(
    argv: list[str], timeout_ms: int | None, env: dict[str, str] | None, check: bool
) -> CommandResult:
    """Run `argv` in a process group of its own, with `env` added to the environment.

    Raises `CommandFailed` for a status other than 0 if `check` is set, and `TimeoutError` after
    `timeout_ms`, once the whole group has been killed.
    """
    # Files, not pipes: a grandchild that keeps a pipe open would make us wait until it ends.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**os.environ, **env} if env else None,
            start_new_session=True,
        )
        try:
            exit_code = process.wait(timeout_ms / 1000 if timeout_ms is not None else None)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{argv[0]} ran longer than {timeout_ms} ms") from None
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        result = CommandResult(exit_code=exit_code, stdout=_tail(out), stderr=_tail(err))
    if check and exit_code != 0:
        raise CommandFailed(argv, exit_code, result["stdout"], result["stderr"])
    return result


def _tail(stream: IO[Any]) -> str:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - TAIL_BYTES))
    return bytes(stream.read()).decode("utf-8", "replace")
