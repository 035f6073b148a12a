"""Would anything start the daemon when the machine does? Where nothing would, what is due while it
is off waits for the next command that needs the daemon."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Final

_SECONDS: Final = 5.0


def boot_hint(root: Path) -> str | None:
    """What would have the daemon of the project `root` started at boot; None where something
    does."""
    if _in_crontab():
        return None
    line = f"@reboot stackshift daemon start -C {shlex.quote(str(root))}"
    return f"start it at boot, e.g. {line} in your crontab"


def _in_crontab() -> bool:
    """Does the user's crontab start a daemon of ours at boot? (Whose project it is for is the
    person's business: the line may be a script, or several.)"""
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
