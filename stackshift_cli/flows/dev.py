"""`dev` on a terminal: what happens is printed, and stays; what is under way is redrawn below.

The daemon is asked for the runs that are under way; the ends of runs come from a feed, and reloads
from the daemon itself.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from stackshift_cli.daemon import run_detail
from stackshift_cli.daemon.attended import Attended
from stackshift_cli.daemon.run_detail import Shown
from stackshift_cli.daemon.session import Session
from stackshift_cli.output.clock import Clock
from stackshift_cli.render import dev
from stackshift_cli.render.console import console, glyphs, painted
from stackshift_cli.render.picture import Frame
from stackshift_cli.screen.keys import keys
from stackshift_cli.screen.terminal import Gone, Line, Region
from stackshift_cli.top.model import Mode, Model, answered, press, refused
from stackshift_jobs.errors import DaemonUnavailable, NotFound, StackshiftError

ENDS: Final = ("run.completed", "run.failed", "run.cancelled")
_KEYS: Final = frozenset(("up", "down", "j", "k", "c", "r", "q"))
"""What can be typed, besides the answer to a question."""
_FRAME_SECONDS: Final = 0.25
_CLOCK_SECONDS: Final = 1.0
_LEISURE: Final = 5
"""Between two frames passes so many times what one takes."""
_LISTED: Final = 8
"""Runs that are shown while they are under way."""
_PICTURES: Final = 4
"""So many of these are drawn, if there is room."""
_FAILED: Final = 3
"""Failed runs that can be retried by a key."""
_AT_ONCE: Final = 5
"""If more runs end at once, the others get one line each, and those beyond `_MANY` one together."""
_MANY: Final = 50
_TAIL_LINES: Final = 20
"""Lines of its log that are shown of a run that has ended."""


def on_terminal(session: Session, attended: Attended) -> int:
    """Show what happens until `q`. Raises `DaemonUnavailable` when the daemon ends by itself."""
    try:
        with Region() as region:
            _Loop(session, attended, region).run()
    except Gone:
        return 129
    return 0


class _Loop:
    def __init__(self, session: Session, attended: Attended, region: Region) -> None:
        self._session = session
        self._attended = attended
        self._region = region
        self._painted = partial(painted, console(session.options))
        self._marks = glyphs()
        self._root = session.project.root
        self._model = Model(activity={"runs": [], "counts": {}})
        self._failed: deque[dict[str, Any]] = deque(maxlen=_FAILED)
        self._ended: list[tuple[str, str]] = []
        """The runs that have ended since the last frame, and the kinds of their last records."""
        self._pictures: list[Shown] = []
        self._printed: list[Line] = []
        """What is to be printed with the next frame."""
        self._changed = True
        self._drawn_at = float("-inf")
        self._took = 0.0

    def run(self) -> None:
        """Until the model is over."""
        kinds = [*ENDS, "run.retried", "run.removed", "run.discarded"]
        self._session.call("feed.open", {"kinds": kinds})
        status = self._session.call("daemon.status")
        jobs = len(self._session.whole("job.list", "jobs")["jobs"])
        self._printed += self._painted(dev.heading(status, jobs, self._frame))
        for module in status["failed_modules"]:
            self._printed += self._painted(dev.broken(module, self._root, self._marks))
        connection = self._session.connection()
        noticed: list[tuple[str, dict[str, Any]]] = []
        while True:
            for outcome in self._attended.news():
                self._printed += self._painted(dev.reloaded(outcome, self._root, self._marks))
            for method, params in noticed:
                if method == "feed.record":
                    self._note(params["record"])
            for key in keys(self._region.typed()):
                self._press(key)
            if self._model.is_over:
                return
            self._refresh()
            noticed = connection.noticed()
            left = 0.0 if noticed else self._drawn_at + self._pause - time.monotonic()
            self._region.wait(max(0.0, left), connection, self._attended)

    @property
    def _pause(self) -> float:
        least = _FRAME_SECONDS if self._changed or self._model.activity["runs"] else _CLOCK_SECONDS
        return max(least, _LEISURE * self._took)

    def _note(self, record: dict[str, Any]) -> None:
        run = record["run"]
        if record["kind"] in ENDS:
            self._ended.append((run, record["kind"]))
        else:
            self._failed = deque((f for f in self._failed if f["id"] != run), _FAILED)
        self._changed = True

    def _press(self, key: str) -> None:
        if self._model.mode is not Mode.CONFIRM and key not in _KEYS:
            return
        self._model, asks = press(self._model, key)
        for ask in asks:
            try:
                body = self._session.call(ask.method, ask.params)
                self._model, _ = answered(self._model, ask.what, body)
            except DaemonUnavailable:
                raise
            except StackshiftError as bad:
                self._model = refused(self._model, bad.message)
        self._drawn_at = float("-inf")

    # --- Drawing ---------------------------------------------------------------------------

    @property
    def _frame(self) -> Frame:
        width, height = self._region.size
        return Frame(width - 1, height - 1, self._marks, verbose=self._session.options.verbose)

    def _refresh(self) -> None:
        began = time.monotonic()
        if not self._printed and began - self._drawn_at < self._pause:
            return
        self._changed = False
        ended, self._ended = self._ended, []
        frame = self._frame
        printed = [*self._printed, *self._endings(ended, frame)]
        self._printed = []
        self._look()
        now_us = time.time_ns() // 1000
        lines = dev.under_way(self._model, self._pictures, now_us, frame)
        self._region.draw(self._painted(lines), printed)
        self._drawn_at = time.monotonic()
        self._took = self._drawn_at - began

    def _look(self) -> None:
        """Ask what is under way."""
        activity = self._session.call("daemon.activity", {"limit": _LISTED})
        runs = activity["runs"]
        self._pictures = [shown for run in runs[:_PICTURES] if (shown := self._shown(run["id"]))]
        listed = {**activity, "runs": [*runs, *self._failed]}
        self._model, _ = answered(self._model, "activity", listed)

    def _shown(self, run: str) -> Shown | None:
        try:
            return run_detail.fetch(self._session, run)
        except NotFound:  # It has ended and been removed.
            return None

    def _endings(self, ended: list[tuple[str, str]], frame: Frame) -> Iterator[Line]:
        """What is printed of the runs that have ended since the last frame, by how they have: those
        that have failed come first, if not all can be shown."""
        ended.sort(key=lambda end: end[1] != "run.failed")
        for n, (run_id, kind) in enumerate(ended[:_MANY]):
            try:
                shown = run_detail.fetch(self._session, run_id)
            except NotFound:  # It has been removed already.
                continue
            if kind == "run.failed":
                self._failed.appendleft(shown.run)
            if n < _AT_ONCE:
                shown.logs = run_detail.log_lines(self._session, run_id)[-_TAIL_LINES:]
                yield from self._painted(dev.ended(shown, time.time_ns() // 1000, frame))
            else:
                yield from self._painted([dev.in_a_line(shown.run, Clock.now(), self._marks)])
        if len(ended) > _AT_ONCE:
            yield from self._painted(dev.skipped(ended[_MANY:]))
