"""A script as the handler of a job: it is run from the top on every attempt and after every wait.

It runs on the supervisor of all programs and calls `stackshift`, which `calls` turns into calls on
`ctx`. When one of them waits, the script is ended, and with it the pass.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from stackshift_jobs.callables import Place, Written
from stackshift_jobs.errors import BeingCancelled, CommandFailed
from stackshift_jobs.handler.cancelling import Cancelling
from stackshift_jobs.handler.context import JobContext
from stackshift_jobs.programs.program import Program, run
from stackshift_jobs.programs.supervisor import Stop, current_supervisor
from stackshift_jobs.values.secrets import current_secrets
from stackshiftd.worker.scripts.calls import Calls
from stackshiftd.worker.scripts.folder import Folder


class ScriptHandler:
    """A handler that runs a script, whose output is that of the run."""

    def run_script(
        self, ctx: JobContext[Any], program: Program, payload: Any, shown: str
    ) -> dict[str, int]:
        """Run `program`, a script that is called `shown`, to its end; it can read `payload`. Raises
        what ended it: the failure of its last call, if it exits with that status, else
        `CommandFailed`."""
        with Folder(ctx.run_id) as folder:
            calls = Calls(ctx, folder)
            folder.record(calls.recorded)
            variables = {
                "STACKSHIFT_RUN": ctx.run_id,
                "STACKSHIFT_ATTEMPT": str(ctx.attempt),
                "STACKSHIFT_JOB": ctx.job,
                "STACKSHIFT_PAYLOAD": str(folder.write_payload(payload)),
            }
            env = {**(program.env or {}), **variables}
            env |= folder.variables(env.get("PATH") or os.environ.get("PATH", os.defpath))
            outcome = run(program._replace(env=env), current_supervisor.get(), Stop(), calls)
            failure = calls.failure_behind(outcome.exit_code)
        if failure is not None:
            raise failure
        if calls.is_told and outcome.exit_code == BeingCancelled.exit_status:
            raise Cancelling  # It has cleaned up since, and says so.
        if outcome.exit_code != 0:
            stderr = current_secrets.get().mask(outcome.stderr.decode("utf-8", "replace"))
            raise CommandFailed([shown], outcome.exit_code, "", stderr)
        return {"exit_code": 0}


class Script(ScriptHandler, Written):
    """The handler of the shell job in `file`, which says so in its line `line`."""

    def __init__(self, project: Path, file: Path, line: int, doc: str) -> None:
        super().__init__(Place(str(file), line), doc)
        self._project = project
        self._file = file

    def __call__(self, ctx: JobContext[Any]) -> dict[str, int]:
        """Run the script where handlers are, which is in the project."""
        program = Program((str(self._file),))
        return self.run_script(
            ctx, program, ctx.payload, os.path.relpath(self._file, self._project)
        )
