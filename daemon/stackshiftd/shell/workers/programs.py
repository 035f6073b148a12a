"""What workers have started, seen from outside: it is ended when its worker or daemon is gone.

All of it has the mark of its worker in its environment, which begins with that of the daemon, and
this with that of the project. Programs of `step.command` have their groups recorded as well: that
finds those that have cleared their environment, and those of systems where no marks are seen.

Nothing here gives up. As long as something cannot be ended, or not even be looked for, its run is
not executed again, and the daemon's log says why.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from stackshift_jobs.programs.ending import Remains, end
from stackshift_jobs.programs.processes import (
    WORKER_VARIABLE,
    Mark,
    ProcessGroup,
    project_mark,
    started,
)
from stackshiftd.core.state.state import Phase, Run

log = logging.getLogger("stackshiftd.programs")

FORCED_SECONDS: Final = 0.2
"""The grace of what handlers have started, where the grace of their worker has passed already."""
AGAIN_SECONDS: Final = 1.0
"""How long to wait where the system did not say what runs."""
_THIS_DAEMON: Final = secrets.token_hex(8)


def daemon_mark(data_dir: Path) -> Mark:
    """The mark of all workers of this daemon, and of no other's. Raises `OSError`."""
    return Mark(WORKER_VARIABLE, f"{project_mark(data_dir)}{_THIS_DAEMON}/", is_prefix=True)


def worker_mark(data_dir: Path) -> Mark:
    """The mark of a new worker, different each time. Raises `OSError`."""
    return Mark(WORKER_VARIABLE, daemon_mark(data_dir).value + secrets.token_hex(8))


def recorded(runs: Iterable[Run]) -> list[ProcessGroup]:
    """The groups of programs that `runs` have started and whose steps have no outcome yet."""
    return [
        ProcessGroup(call.program.group, call.program.started)
        for run in runs
        for call in run.calls.values()
        if call.phase is Phase.OPEN and call.program is not None
    ]


def end_of_worker(
    pid: int, mark: Mark, programs: Iterable[ProcessGroup], grace_seconds: float
) -> None:
    """End all that the worker `pid` has started; the worker itself has ended before. Blocks until
    it is gone."""

    def remains() -> Remains:
        # A process with this id is another one by now, and so is its group.
        own = (pid,) if not started(pid) else ()
        return Remains((*own, *_led(programs)), mark)

    _end(remains, grace_seconds, f"worker {pid}")


def end_strays(data_dir: Path, programs: Iterable[ProcessGroup], grace_seconds: float) -> None:
    """End all that workers of earlier daemons have left, and these workers themselves; not those of
    this one. Blocks until it is gone."""
    mark = Mark(WORKER_VARIABLE, project_mark(data_dir), is_prefix=True)
    own = daemon_mark(data_dir)
    _end(lambda: Remains(_led(programs), mark, own), grace_seconds, "an earlier daemon")


def _led(programs: Iterable[ProcessGroup]) -> tuple[int, ...]:
    """The groups that certainly are the recorded ones: their leaders run. Of another, the id might
    be somebody else's by now; its processes are found by their mark."""
    return tuple(group.id for group in programs if group.is_led)


def _end(look: Callable[[], Remains], grace_seconds: float, whose: str) -> None:
    remains: Remains | None = None
    while True:
        try:
            remains = remains or look()
            left = end(remains, grace_seconds)
        except OSError as bad:  # Such as too many open files, which passes.
            log.error("what %s has started cannot be looked for: %s", whose, bad)
            time.sleep(AGAIN_SECONDS)
        else:
            if not left:
                return
            log.error("what %s has started does not end: %s", whose, sorted(map(abs, left)))
        grace_seconds = 0
