"""Starting a worker on each host as the daemon would, without one: what `hosts check` reports."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from stackshift_cli.daemon.session import Session
from stackshift_jobs.errors import NotFound, StackshiftError


def checked(session: Session, names: list[str]) -> list[dict[str, Any]]:
    """What was found on each of the hosts `names`, or on all. Raises `BadConfiguration`, and
    `NotFound` for another name."""
    from stackshift_jobs.project.config import load_config

    root = session.project.root
    hosts = load_config(root).hosts
    for name in names:
        if name not in hosts:
            known = f"one of: {', '.join(hosts)}" if hosts else ""
            raise NotFound(
                f"there is no host {name!r}", hint=known or "man stackshift.toml, at [hosts.NAME]"
            )
    if not hosts:
        return []
    tool = [sys.executable, "-P", "-m", "stackshiftd", "hosts", "--project", str(root), *names]
    done = subprocess.run(
        tool,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=None if session.options.verbose else subprocess.PIPE,
        check=False,
    )
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)
    except ValueError:
        said = (done.stderr or b"").decode("utf-8", "replace").strip().splitlines()
        raise StackshiftError(
            f"the check exited with status {done.returncode}: {said[-1] if said else 'no output'}",
            hint="-v shows its full output",
        ) from None
    return found
