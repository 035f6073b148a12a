"""Importing all job modules as a worker would, without a daemon: what `jobs check` reports."""

from __future__ import annotations

import json
import subprocess
from typing import Any, Final

from stackshift_cli.daemon.session import Session
from stackshift_jobs.errors import BadConfiguration, StackshiftError, from_json

_CHECK_SECONDS: Final = 300


def checked(session: Session) -> list[dict[str, Any]]:
    """Each module as the worker's check reports it; raises the error that the check ended with.

    A module whose import ends the process is found by that, and the others are imported again
    without it.
    """
    deadly: dict[str, str] = {}
    while True:
        done = _run_check(session, deadly)
        *_, last = _objects(done.stdout) or [{}]
        if "error" in last:
            raise from_json(last["error"])
        if "modules" in last:
            return list(last["modules"])
        module = last.get("importing")
        if module is None or module in deadly:
            raise _unreported(done)
        deadly[module] = f"the process died while it imported this module{_manner(done.returncode)}"


def _run_check(session: Session, deadly: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    from stackshift_jobs.project.code import check_code
    from stackshift_jobs.project.config import load_config
    from stackshift_jobs.project.environment import environment, interpreter

    root = session.project.root
    config = load_config(root)
    check_code(config)
    python = interpreter(config)
    more = [json.dumps(deadly)] if deadly else []
    try:
        return subprocess.run(
            [python, "-P", "-m", "stackshiftd.worker", "--check", str(root), *more],
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
    except subprocess.TimeoutExpired as late:
        *_, last = _objects(late.stdout or b"") or [{}]
        module = last.get("importing", "a module")
        raise BadConfiguration(
            f"{module} is still being imported after {_CHECK_SECONDS} s"
        ) from late


def _objects(output: bytes) -> list[dict[str, Any]]:
    """The objects that the check has printed, one a line; empty if it printed something else."""
    try:
        found = [json.loads(line) for line in output.splitlines()]
    except ValueError:
        return []
    return found if all(isinstance(each, dict) for each in found) else []


def _manner(status: int) -> str:
    return f" (signal {-status})" if status < 0 else f" (exit status {status})"


def _unreported(done: subprocess.CompletedProcess[bytes]) -> StackshiftError:
    output = (done.stderr or b"").decode("utf-8", "replace").strip().splitlines()
    last = output[-1] if output else "no output"
    return StackshiftError(
        f"the check exited with status {done.returncode}: {last}",
        hint="-v shows its full output",
    )
