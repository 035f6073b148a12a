"""Is the daemon started when the machine boots? If not, runs that are due after a reboot wait until
the next command that needs the daemon."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Final

_SECONDS: Final = 5.0


def boot_hint(root: Path) -> str | None:
    """How to have the daemon of the project `root` started at boot, as a hint; None if the user's
    crontab does it already."""
    if _in_crontab():
        return None
    line = f"@reboot stackshift daemon start -C {shlex.quote(str(root))}"
    return f"to start the daemon at boot, add this line to your crontab: {line}"


def _in_crontab() -> bool:
    """Does the user's crontab start a StackShift daemon at boot? It is not checked for which
    project: the line may name a script that starts several."""
    try:
        done = subprocess.run(
            ["crontab", "-l"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    return any(line.lstrip().startswith("@reboot") and "stackshift" in line for line in lines)
