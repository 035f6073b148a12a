"""A run object over the wire with all that belongs to it, which takes several pages.

Imports next to nothing, since `stackshift runs show` pays for each module.
"""

from __future__ import annotations

from typing import Any

from stackshift_jobs.calls.drive import Calls


def detailed(run: str) -> Calls[dict[str, Any]]:
    """The calls that read a run object with all of its steps, attempts and timeline, page by page;
    returns it."""
    params: dict[str, Any] = {"run": run, "detail": True}
    page = yield "run.get", params
    whole = dict(page)
    cursor = whole.pop("cursor")
    while cursor is not None:
        # By its id, since `@last` could be another run by now.
        page = yield "run.get", {**params, "run": whole["id"], "cursor": cursor}
        for part in ("steps", "attempts", "timeline"):
            whole[part] = [*whole[part], *page[part]]
        cursor = page["cursor"]
    return whole
