"""`worker join`: workers of this machine, for the daemon on another one."""

from __future__ import annotations

import os
import sys
from typing import Final

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.session import Session
from stackshift_jobs.errors import Usage
from stackshift_jobs.project.settings import HOST_NAME
from stackshift_jobs.values.names import check_name

MOST: Final = 1024


def join(session: Session, given: Given) -> int:
    """`worker join`: replace this process with one that lends workers, in the foreground."""
    root = session.project.root
    command = [sys.executable, "-P", "-m", "stackshiftd", "join", "--project", str(root)]
    for name in ("processes", "slots"):
        number = given.whole(name, 1, MOST)
        if number is not None:
            command += [f"--{name}", str(number)]
    for name in ("queue", "host"):
        word = given.text(name)
        if word is not None:
            command += [f"--{name}", check_name(word, "queue") if name == "queue" else _host(word)]
    os.chdir(root)
    os.execv(command[0], command)


def _host(word: str) -> str:
    try:
        return str(HOST_NAME.read(word))
    except ValueError as bad:
        raise Usage(f"--host takes {bad}, not {word!r}") from None
