"""The live picture of a run: redrawn in place until the run ends; the last frame stays.

At most four frames a second, no alternate screen. While the run goes on, the picture may be cut to
the height of the terminal; the last frame is printed in full, also after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any, Final

from rich.console import Group
from rich.live import Live

from stackshift_cli.daemon.feed import Deadline, End, FeedRecord, follow
from stackshift_cli.daemon.session import Session
from stackshift_cli.render.console import console, glyphs
from stackshift_cli.render.picture import picture
from stackshift_jobs.errors import DaemonUnavailable
from stackshift_jobs.values.limits import FINISHED

_FRAME_SECONDS: Final = 0.25
_CLOCK_SECONDS: Final = 1.0
"""How often it is redrawn if only the time has changed."""
_ECHO_CELLS: Final = 2
"""Cells left free on the right. The cursor is at the end of the last line, where the terminal shows
`^C`: without room for it the line would wrap, and stay on the screen twice."""


def draw_until_end(session: Session, run_id: str, deadline: Deadline) -> dict[str, Any]:
    """Draw the run `run_id` until it ends and return the run object. Raises `TimedOut` at
    `deadline`."""
    drawing = _Drawing(session, run_id)
    drawing.live.start()
    try:
        if drawing.run["status"] in FINISHED:
            return drawing.run
        for happening in follow(session, {"run": run_id, "since_seq": drawing.newest_seq}):
            if isinstance(happening, End):
                drawing.run.update(happening.run)
                return happening.run
            if isinstance(happening, FeedRecord):
                drawing.take(happening.body)
            drawing.refresh()
            deadline.check(run_id)
    finally:
        drawing.live.stop()
        drawing.screen.print(drawing.frame(drawing.screen.width))
    raise AssertionError("a feed of a run ends with the run")


class _Drawing:
    """The run as far as it is known, and the time of its last frame."""

    def __init__(self, session: Session, run_id: str) -> None:
        self.session = session
        self.run: dict[str, Any] = session.detail(run_id)
        self.screen = console(session.options)
        # Now, since Rich replaces stdout while it is live, and its stream has no encoding to ask.
        self._marks = glyphs()
        self.live = Live(
            self._live_frame(), console=self.screen, auto_refresh=False, transient=True
        )
        self._changed = True
        self._drawn_at = 0.0

    @property
    def newest_seq(self) -> int:
        """The sequence number of the run's newest known record."""
        return max((int(record["seq"]) for record in self.run["timeline"]), default=0)

    def take(self, record: dict[str, Any]) -> None:
        """Add a record of the run."""
        self.run["timeline"].append(record)
        self._changed = True

    def refresh(self) -> None:
        """Redraw if something has changed, but not more often than `_FRAME_SECONDS`."""
        pause = _FRAME_SECONDS if self._changed else _CLOCK_SECONDS
        if time.monotonic() - self._drawn_at < pause:
            return
        # If the daemon is gone for a moment, the follower waits for it and reports it.
        with contextlib.suppress(DaemonUnavailable):
            reply = self.session.call("run.why", {"run": self.run["id"]})
            self.run.update({name: reply[name] for name in ("status", "why", "waiting_for")})
        self.live.update(self._live_frame(), refresh=True)
        self._changed, self._drawn_at = False, time.monotonic()

    def _live_frame(self) -> Group:
        return self.frame(self.screen.width - _ECHO_CELLS)

    def frame(self, width: int) -> Group:
        """The picture at the present time, `width` cells wide."""
        now_us = time.time_ns() // 1000
        return picture(self.run, [], False, now_us, width, self._marks)
