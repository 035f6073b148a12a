"""What an answer of `daemon.reload` has done with files, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stackshift_cli.output.safe_text import safe
from stackshift_jobs.project.locate import CONFIG_FILE


def files(reply: Mapping[str, Any]) -> str:
    """`reloaded jobs/a.py and removed jobs/b.py`; without any, whether anything came of it, as it
    does if a job depends on what is not in the project."""
    gone = reply.get("gone", ())
    loaded = [file for file in reply["changed"] if file not in gone]
    if reply.get("sections"):
        loaded.append(CONFIG_FILE)
    did = [f"reloaded {', '.join(loaded)}"] if loaded else []
    did += [f"removed {', '.join(gone)}"] if gone else []
    if not did and any(reply["jobs"].values()):
        did = ["reloaded the job modules"]
    return safe(" and ".join(did)) or "nothing had changed: the job modules were loaded again"
