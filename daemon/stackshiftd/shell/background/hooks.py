"""`[hooks] on_failed, on_completed`: commands that are run when a run has ended.

Each gets the run's JSON as one line on standard input; what it prints and how it ends goes to the
daemon's log. At most once an end: the journal is what is certain, and a hook whose daemon is killed
at that moment is not run later. Invariants:

- A hook changes nothing of the run, and holds up neither the engine nor the loop: it is started
  when the end is durable, its output is read a little at a time, and nobody waits for it.
- All is bounded: hooks at a time, hooks that wait (what is over is dropped, and said), their time,
  and what of their output is kept.
- No hook outlives its time, nor a daemon that stops in good order. What it leaves in the background
  when it ends by itself is its own affair.
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
from stackshift_jobs.project.locate import DATA_DIR_VARIABLE, PROJECT_VARIABLE
from stackshiftd.history.rows import RunRow
from stackshiftd.shell.background.pipes import Tail, Teller
from stackshiftd.shell.environment import environment
from stackshiftd.shell.tuning import Tuning

log = logging.getLogger("stackshiftd.hooks")

RUN_VARIABLE: Final = "STACKSHIFT_RUN"
NO_START_VARIABLE: Final = "STACKSHIFT_NO_START"
LINGER_SECONDS: Final = 0.5
"""So long the rest of the output is waited for where something else holds the pipe open."""
KILLED_SECONDS: Final = 5.0
"""So long a killed process is waited for."""
_FIRST_LOOK_SECONDS: Final = 0.001
_LOOK_SECONDS: Final = 0.05


class Hook(NamedTuple):
    """A command to be run for the end that `row` tells of. The run's JSON is made when its turn
    comes, so that those that wait hold no payloads."""

    name: str
    command: tuple[str, ...]
    row: RunRow


class Hooks:
    """Runs the commands. `run_object` makes the run object of a run as it was at its end."""

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
        """A run has ended, durably: have its command run, if there is one."""
        found = self._commands.get(row.status)
        if found is None:
            return
        if self._closing or len(self._waiting) >= self._tuning.hooks_waiting:
            why = "the daemon stops" if self._closing else f"{len(self._waiting)} others wait"
            log.warning("%s: hook %s is not run: %s", row.id, found[0], why)
            return
        self._waiting.append(Hook(*found, row))
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
            log.error("a hook failed by our own mistake", exc_info=task.exception())
        self._start_next()

    async def close(self, seconds: float) -> None:
        """Let those that there are end, for at most so long; then kill what runs and drop what
        waits. After that none is run any more."""
        deadline = time.monotonic() + seconds
        while self._running and (left := deadline - time.monotonic()) > 0:
            await asyncio.wait(self._running, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            # Whose turn is next is taken up by a callback of the one that has ended.
            await asyncio.sleep(0)
        self._closing = True
        for hook in self._waiting:
            log.warning("%s: hook %s is not run: the daemon stops", hook.row.id, hook.name)
        self._waiting.clear()
        if self._running:
            await asyncio.wait(self._running, timeout=KILLED_SECONDS)

    # --- One hook --------------------------------------------------------------------------

    async def _run(self, hook: Hook) -> None:
        run = hook.row.id
        try:
            told = msgspec.json.encode(self._run_object(hook.row)) + b"\n"
            process = subprocess.Popen(
                hook.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd=self._config.root,
                env=self._environment(run),
                start_new_session=True,
            )
        except (OSError, ValueError, StackshiftError) as bad:
            log.error("%s: hook %s cannot be run: %s", run, hook.name, bad)
            return
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        teller = Teller(process.stdin, told)
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
        """That of workers, and what leads a `stackshift` in it here. It does not start a daemon: if
        this one is gone by then, somebody has stopped it."""
        made = environment(self._config) | {
            RUN_VARIABLE: run,
            PROJECT_VARIABLE: str(self._config.root),
            NO_START_VARIABLE: "1",
        }
        if DATA_DIR_VARIABLE in os.environ:
            made[DATA_DIR_VARIABLE] = str(self._config.data_dir)
        return made

    async def _end_of(self, process: subprocess.Popen[bytes]) -> str:
        """Wait for the end of the process; why it was killed, if it was.

        It is looked at, and reaped, here alone, so that no signal can reach a stranger that has
        got its number.
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
            return "the daemon stops"
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
        log.warning("%s: hook %s was ended by signal %d", run, name, -status)
    else:
        level = logging.WARNING if status else logging.INFO
        log.log(level, "%s: hook %s ended with status %d", run, name, status)
