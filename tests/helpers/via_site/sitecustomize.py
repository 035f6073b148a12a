"""Imported by each Python that a test starts while `STACKSHIFT_VIA` is set; see `helpers.via`."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path


def begin() -> None:
    """Do what this program is for."""
    words = sys.orig_argv[1:]
    program = Path(next((word for word in words if not word.startswith("-")), "")).name
    is_command = program in ("stackshift", "stackshift_cli")
    is_daemon = not is_command and {"run", "--project"} <= set(words)
    if not (is_daemon or (is_command and os.environ.get("STACKSHIFT_VIA") == "ssh")):
        return
    # On the path where this one is, and nowhere else. Only here, because it takes its time.
    import via_ways  # type: ignore[import-not-found]

    if is_command:
        via_ways.be_far(sys.argv)
    else:
        via_ways.be_daemon(Path(words[words.index("--project") + 1]))


try:
    begin()
except Exception:  # Python itself would go on.
    traceback.print_exc()
    os._exit(70)
