"""The warden of a command that runs under a lock: it ends the command if we are killed.

Without it the command would work on while its lock expires, beside the next holder. What the warden
ends is what has our mark in its environment, so it reaches the processes of the command as well.
Linux shows such marks; elsewhere there is no warden.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
from typing import Final

from stackshift_jobs.programs.processes import LOCK_VARIABLE, ON_LINUX, Mark, unmarked
from stackshift_jobs.programs.warden import LEAVE, command


class Warden:
    """The warden of one command, until the block ends. `variables` are for the environment of that
    command."""

    def __init__(self, grace_seconds: float) -> None:
        self._mark: Final = Mark(LOCK_VARIABLE, secrets.token_hex(16))
        self.variables: Final = {self._mark.variable: self._mark.value}
        self._process: subprocess.Popen[bytes] | None = None
        if ON_LINUX:
            self._process = subprocess.Popen(
                command(self._mark, grace_seconds),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                # Of what we may be started in ourselves, it is no part: it has to outlive us.
                env=unmarked(os.environ),
                start_new_session=True,
            )

    def __enter__(self) -> Warden:
        return self

    def __exit__(self, *_: object) -> None:
        # What the command has left in the background goes on. The warden is not waited for: it may
        # not even have begun.
        process = self._process
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError), process.stdin:
                process.stdin.write(LEAVE)
            process.returncode = 0  # Popen does not warn that it runs.
