"""`python -m stackshiftd run|journal`, as the command line starts it.

`FAKE_DAEMON` says how a start goes, `FAKE_TOOL` what a journal tool prints, and `FAKE_TOOL_STATUS`
its exit status.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

from cli.fake_daemon import FakeDaemon


def run(argv: list[str]) -> int:
    """Be a daemon until `daemon.stop`, or fail to become one."""
    root = Path(argv[argv.index("--project") + 1])
    said: dict[str, Any] = {"ready": True, "pid": os.getpid()}
    how = os.environ.get("FAKE_DAEMON", "")
    if how == "dies":
        print("starting", file=sys.stderr)
        print("RuntimeError: no good", file=sys.stderr)
        return 1
    daemon = FakeDaemon(root / ".stackshift")
    if how == "refuses":
        said = {"error": {"code": "configuration", "message": "slots: 0 is too few", "hint": "1"}}
    elif how == "loses":
        said = {"error": {"code": "daemon_running", "message": "held by pid 1", "hint": ""}}
    else:
        daemon.protocol += how == "speaks otherwise"
        daemon.start()
    if "--ready-fd" in argv:
        fd = int(argv[argv.index("--ready-fd") + 1])
        os.write(fd, json.dumps(said).encode() + b"\n")
        os.close(fd)
    else:
        print("in the foreground", flush=True)
    if "error" in said:
        return 3
    daemon.stopped.wait()
    return 0


def journal(argv: list[str]) -> int:
    """Print the text that the test wants; keep the arguments for it to inspect."""
    data_dir = Path(argv[argv.index("--data-dir") + 1])
    data_dir.mkdir(mode=0o700, exist_ok=True)
    (data_dir / "tool.json").write_text(json.dumps(argv))
    print(os.environ.get("FAKE_TOOL", ""), end="")
    print(os.environ.get("FAKE_TOOL_STDERR", ""), end="", file=sys.stderr)
    return int(os.environ.get("FAKE_TOOL_STATUS", "0"))


sys.exit({"run": run, "journal": journal}[sys.argv[1]](sys.argv[2:]))
