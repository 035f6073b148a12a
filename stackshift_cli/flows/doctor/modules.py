"""Importing all job modules as a worker would, without a daemon: what `jobs check` reports."""

from __future__ import annotations

import json
import subprocess
from typing import Any, Final

from stackshift_cli.daemon.session import Session
from stackshift_jobs.errors import BadConfiguration, StackshiftError, from_json

_CHECK_SECONDS: Final = 300


def checked(session: Session) -> list[dict[str, Any]]:
    """Each module as the worker's check reports it; raises the error that the check ended with."""
    from stackshift_jobs.project.code import check_code
    from stackshift_jobs.project.config import load_config
    from stackshift_jobs.project.environment import environment, interpreter

    root = session.project.root
    config = load_config(root)
    check_code(config)
    python = interpreter(config)
    try:
        done = subprocess.run(
            [python, "-P", "-m", "stackshiftd.worker", "--check", str(root)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if session.options.verbose else subprocess.PIPE,
            cwd=root,
            env=environment(config),
            timeout=_CHECK_SECONDS,
            check=False,
        )
    except OSError as bad:
        raise BadConfiguration(
            f"the workers' interpreter {python} cannot be run: {bad.strerror}",
            hint="see [workers] python in stackshift.toml",
        ) from bad
    try:
        report = json.loads(done.stdout)
        if "error" in report:
            raise from_json(report["error"])
        return list(report["modules"])
    except (ValueError, KeyError, TypeError) as bad:
        output = (done.stderr or b"").decode("utf-8", "replace").strip().splitlines()
        last = output[-1] if output else "no output"
        raise StackshiftError(
            f"the check exited with status {done.returncode}: {last}",
            hint="-v shows its full output",
        ) from bad
