"""What a picture of a run shows: the run with its records, its children and lines of its log.

Owns which requests that takes. Bounded: `_CHILDREN` runs, `_DEPTH` deep, and for each of
`_FAILED_STEPS` failing steps the last `_TAIL_LINES` lines of its log.
"""

from __future__ import annotations

from typing import Any, Final

from stackshift_cli.daemon.session import Session
from stackshift_cli.output.safe_text import safe
from stackshift_jobs.errors import NotFound

PAGE: Final = 1000
"""The most lines that the daemon returns in a page."""
_CHILDREN: Final = 50
_DEPTH: Final = 5
_FAILED_STEPS: Final = 3
_TAIL_LINES: Final = 3


class Shown:
    """A run as it is drawn: the run object with detail, in which `children` has those of other runs
    by id; lines of its log; by step, the last lines that a failing one printed; and the project's
    directory, from which files are named."""

    # No dataclass: that module costs every `runs` command more than it saves here.
    def __init__(
        self,
        run: dict[str, Any],
        logs: list[dict[str, Any]] | None = None,
        tails: dict[str, list[dict[str, Any]]] | None = None,
        root: str = "",
    ) -> None:
        self.run = run
        self.logs = logs or []
        self.tails = tails or {}
        self.root = root


def fetch(session: Session, run: str, logs: bool = False, tree: bool = False) -> Shown:
    """The run `run`; with `logs` all of its log, with `tree` also the timelines of its children,
    with both their logs. Raises `NotFound`."""
    found = session.detail(run)
    shown = Shown(found, root=session.project.root_text)
    found["children"] = children(session, found, tree)
    if logs and tree:
        for child in found["children"].values():
            child["logs"] = log_lines(session, child["id"])
    if logs:
        shown.logs = log_lines(session, found["id"])
    else:
        add_tails(session, shown)
    return shown


def add(run: dict[str, Any], record: dict[str, Any]) -> None:
    """Add its newest record to `run`. What `steps` says of those that it may change is out of date
    then, and goes: until `run` is fetched again, records are all that is known of them."""
    run["timeline"].append(record)
    named = {record.get("step"), *(record.get("forgotten") or ()), *(record.get("replaced") or ())}
    is_about_all = record["kind"].startswith(("run.", "attempt.", "undo."))
    run["steps"] = [
        step
        for step in run["steps"]
        if step["name"] not in named and not (is_about_all and step["status"] != "completed")
    ]


def children(session: Session, run: dict[str, Any], tree: bool) -> dict[str, dict[str, Any]]:
    """The runs that `run` started or waits for, by id; with `tree` theirs too, and theirs."""
    found: dict[str, dict[str, Any]] = {run["id"]: run}
    _add_children(session, run, tree, _DEPTH, found)
    del found[run["id"]]
    return found


def _add_children(
    session: Session, run: dict[str, Any], tree: bool, depth: int, found: dict[str, Any]
) -> None:
    for child in child_ids(run):
        if child in found or len(found) >= _CHILDREN:
            continue
        try:
            found[child] = (
                session.detail(child) if tree else session.call("run.get", {"run": child})
            )
        except NotFound:  # past the journal's retention, or removed
            continue
        if tree and depth > 1:
            _add_children(session, found[child], tree, depth - 1, found)


def child_ids(run: dict[str, Any]) -> list[str]:
    """The runs that the records of `run` name as started or awaited."""
    kinds = ("child.started", "wait.started")
    named = [r["child"] for r in run["timeline"] if r["kind"] in kinds and r.get("child")]
    return list(dict.fromkeys(named))


def add_tails(session: Session, shown: Shown) -> None:
    """Add the last lines that the failing steps of `shown` printed."""
    failing = [s["name"] for s in shown.run["steps"] if s["status"] in ("failed", "retrying")]
    for step in failing[-_FAILED_STEPS:]:
        if step not in shown.tails:
            shown.tails[step] = log_lines(session, shown.run["id"], step)[-_TAIL_LINES:]


def log_lines(session: Session, run: str, step: str | None = None) -> list[dict[str, Any]]:
    """What the run, or one step of it, has printed and logged."""
    params: dict[str, Any] = {"run": run, **({"step": step} if step is not None else {})}
    lines: list[dict[str, Any]] = []
    after: Any = 0
    silent: set[str] = set()
    while True:
        page = session.call("run.logs", {**params, "after": after, "limit": PAGE})
        say_missing(session, page, silent)
        lines += page["lines"]
        after = page["next"]
        if not page["more"]:
            return lines


def say_missing(session: Session, page: dict[str, Any], silent: set[str]) -> None:
    """Say of each machine that has some of the log, and does not answer, that this is missing in
    `page`; but not again of one that is among the `silent`, to which it is added."""
    for machine in page.get("elsewhere", ()):
        if machine not in silent:
            session.say(f"note: {safe(machine)} does not answer: what it printed there is missing")
        silent.add(machine)
