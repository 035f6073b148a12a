"""`[hooks] on_failed, on_completed`: commands that run when a run has ended.

A command gets the run's JSON as one line on standard input; its output and exit status go to the
daemon's log. It runs at most once for each end of a run: only the journal is durable, so if the
daemon is killed at that moment, the hook does not run later. Invariants:

- A hook changes nothing about the run and delays neither the engine nor the loop: it starts when
  the end is durable, its output is read in small pieces, and nothing waits for it.
- Everything is bounded: the hooks running, the hooks waiting (more are dropped, with a warning),
  their time, and how much of their output is kept.
- No hook outlives its time limit, nor a daemon that stops in an orderly way. Processes that it
  leaves in the background when it ends by itself are not tracked.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from stackshift_jobs.errors import StackshiftError
from stackshift_jobs.project.config import Config
from stackshift_jobs.project.environment import environment
from stackshift_jobs.project.locate import PROJECT_VARIABLE
from stackshiftd.history.rows import RunRow
from stackshiftd.shell.background.pipes import Tail, Teller
from stackshiftd.shell.tuning import Tuning

log = logging.getLogger("stackshiftd.hooks")

RUN_VARIABLE: Final = "STACKSHIFT_RUN"
NO_START_VARIABLE: Final = "STACKSHIFT_NO_START"
LINGER_SECONDS: Final = 0.5
"""How long to wait for more output after the command has ended, if the pipe is still open."""
KILLED_SECONDS: Final = 5.0
"""How long to wait for a killed process to end."""
_FIRST_LOOK_SECONDS: Final = 0.001
_LOOK_SECONDS: Final = 0.05


class Hook(NamedTuple):
    """A command to run for the end of a run described by `row`. The run's JSON is built only when
    the hook starts, so that waiting hooks hold no payloads."""

    name: str
    command: tuple[str, ...]
    row: RunRow


class Hooks:
    """Runs the commands. `run_object` builds the run object of a run as it was when it ended."""

    def __init__(
        self,
        config: Config,
        run_object: Callable[[RunRow], dict[str, Any]],
        tuning: Tuning,
    ) -> None:
        self._config = config
        self._run_object = run_object
        self._tuning = tuning
        self._commands: Mapping[str, tuple[str, tuple[str, ...]]] = {
            status: (name, command)
            for status, name, command in (
                ("failed", "on_failed", config.hooks.on_failed),
                ("completed", "on_completed", config.hooks.on_completed),
            )
            if command is not None
        }
        self._waiting: deque[Hook] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._closing = False

    def ended(self, row: RunRow) -> None:
        """Queue the command for a run whose end is durable, if one is configured."""
        command = self._commands.get(row.status)
        if command is None:
            return
        if self._closing or len(self._waiting) >= self._tuning.hooks_waiting:
            limit = f"{len(self._waiting)} hooks are already waiting"
            why = "the daemon is stopping" if self._closing else limit
            log.warning("%s: hook %s is not run: %s", row.id, command[0], why)
            return
        self._waiting.append(Hook(*command, row))
        self._start_next()

    def _start_next(self) -> None:
        while (
            self._waiting and len(self._running) < self._tuning.hooks_at_once and not self._closing
        ):
            task = asyncio.get_running_loop().create_task(self._run(self._waiting.popleft()))
            self._running.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a hook failed because of an internal error", exc_info=task.exception())
        self._start_next()

    async def close(self, seconds: float) -> None:
        """Let the hooks finish, for at most `seconds`; then kill those running and drop those
        waiting. No hook starts after that."""
        deadline = time.monotonic() + seconds
        while self._running and (left := deadline - time.monotonic()) > 0:
            await asyncio.wait(self._running, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            # Let the callback of the hook that has ended start the next one.
            await asyncio.sleep(0)
        self._closing = True
        for hook in self._waiting:
            log.warning("%s: hook %s is not run: the daemon is stopping", hook.row.id, hook.name)
        self._waiting.clear()
        if self._running:
            await asyncio.wait(self._running, timeout=KILLED_SECONDS)

    # --- One hook --------------------------------------------------------------------------

    async def _run(self, hook: Hook) -> None:
        run = hook.row.id
        try:
            text = msgspec.json.encode(self._run_object(hook.row)) + b"\n"
            process = subprocess.Popen(
                hook.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd=self._config.root,
                env=self._environment(run),
                start_new_session=True,
                umask=self._config.workers.umask,
            )
        except (OSError, ValueError, StackshiftError) as bad:
            log.error("%s: hook %s cannot be run: %s", run, hook.name, bad)
            return
        with contextlib.suppress(OSError):  # It has ended, or the niceness is not permitted.
            os.setpriority(os.PRIO_PROCESS, process.pid, self._config.workers.nice)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        teller = Teller(process.stdin, text)
        tails = {"stdout": Tail(process.stdout), "stderr": Tail(process.stderr)}
        try:
            killed = await self._end_of(process)
            await asyncio.wait([tail.ended for tail in tails.values()], timeout=LINGER_SECONDS)
        finally:
            teller.close()
            for tail in tails.values():
                tail.close()
        for stream, tail in tails.items():
            if tail.size:
                log.info("%s: hook %s: %s: %s", run, hook.name, stream, tail.text())
        _log_end(run, hook.name, process, killed)

    def _environment(self, run: str) -> dict[str, str]:
        """The workers' environment, plus variables that point a `stackshift` command to this
        project. Such a command must not start a daemon: if this one is gone, somebody stopped it.
        """
        return environment(self._config) | {
            RUN_VARIABLE: run,
            PROJECT_VARIABLE: str(self._config.root),
            NO_START_VARIABLE: "1",
        }

    async def _end_of(self, process: subprocess.Popen[bytes]) -> str:
        """Wait until the process has ended; return why it was killed, or an empty string.

        The process is polled and reaped only here, so that no signal can reach an unrelated process
        that has got the same pid.
        """
        deadline = time.monotonic() + self._tuning.hook_seconds
        killed = ""
        pause = _FIRST_LOOK_SECONDS
        while process.poll() is None:
            if not killed and (killed := self._over(deadline)):
                _kill_group(process)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LOOK_SECONDS)
        return killed

    def _over(self, deadline: float) -> str:
        if self._closing:
            return "the daemon is stopping"
        if time.monotonic() > deadline:
            return f"it ran longer than {self._tuning.hook_seconds:g} s"
        return ""


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _log_end(run: str, name: str, process: subprocess.Popen[bytes], killed: str) -> None:
    status = process.returncode
    if killed:
        log.warning("%s: hook %s was killed: %s", run, name, killed)
    elif status < 0:
        log.warning("%s: hook %s was terminated by signal %d", run, name, -status)
    else:
        level = logging.WARNING if status else logging.INFO
        log.log(level, "%s: hook %s ended with status %d", run, name, status)
