"""The event loop of a worker."""

from __future__ import annotations

import asyncio
import subprocess
from typing import Any

from stackshiftd.worker.output.program_output import ProgramPipes


def new_loop(programs: ProgramPipes) -> asyncio.AbstractEventLoop:
    """A loop of uvloop where there is one. It starts programs without `subprocess`, so what they
    inherit is replaced here."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()

    class Loop(uvloop.Loop):
        async def subprocess_exec(
            self,
            *args: Any,
            stdout: Any = subprocess.PIPE,
            stderr: Any = subprocess.PIPE,
            **more: Any,
        ) -> Any:
            with programs.replaced(stdout, stderr) as (out, err):
                return await super().subprocess_exec(*args, stdout=out, stderr=err, **more)

        async def subprocess_shell(
            self,
            *args: Any,
            stdout: Any = subprocess.PIPE,
            stderr: Any = subprocess.PIPE,
            **more: Any,
        ) -> Any:
            with programs.replaced(stdout, stderr) as (out, err):
                return await super().subprocess_shell(*args, stdout=out, stderr=err, **more)

    return Loop()
