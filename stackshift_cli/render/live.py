"""The live picture of a run: redrawn in place until the run ends; the last frame stays.

At most four frames a second, no alternate screen. Invariant: no frame is higher than the terminal,
so that each one can be erased, and one frame is left in the scrollback. If the terminal has become
narrower, it has broken the lines of the frame that it shows into more of them, which are erased
too.
"""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any, Final

from rich.console import Group
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType
from rich.text import Text

from stackshift_cli.daemon import run_detail
from stackshift_cli.daemon.feed import Deadline, End, FeedRecord, follow
from stackshift_cli.daemon.session import Session
from stackshift_cli.render.console import console, glyphs
from stackshift_cli.render.picture import Frame, picture
from stackshift_cli.screen.echo import echo_off, is_foreground
from stackshift_cli.screen.signals import Signals
from stackshift_jobs.errors import DaemonUnavailable, NotFound
from stackshift_jobs.values.limits import FINISHED

_FRAME_SECONDS: Final = 0.25
_CLOCK_SECONDS: Final = 1.0
"""How often it is redrawn if only the time has changed."""
_LEISURE: Final = 5
"""Between two frames passes so many times what one takes: a run of thousands of steps is drawn less
often, and leaves the processor to others."""
_CHILDREN: Final = 4
"""So many unfinished children are asked why they are not progressing, once a second."""
_ECHO_CELLS: Final = 2
"""Cells left free on the right. The cursor is at the end of the last line, where the terminal shows
`^C`: without room for it the line would wrap, and stay on the screen twice."""
_SPARE_LINES: Final = 1
"""Lines left free below, for the cursor after the last frame."""


def draw_until_end(session: Session, run_id: str, deadline: Deadline) -> dict[str, Any]:
    """Draw the run `run_id` until it ends and return the run object. Raises `TimedOut` at
    `deadline`."""
    drawing = _Drawing(session, run_id)
    with echo_off(drawing.terminal, drawing) as signals:
        with signals.drawing():
            drawing.live.start()
        try:
            return _drawn_until_end(drawing, deadline, signals)
        finally:
            with signals.drawing():
                drawing.stop()


def _drawn_until_end(drawing: _Drawing, deadline: Deadline, signals: Signals) -> dict[str, Any]:
    run_id = str(drawing.run["id"])
    if drawing.run["status"] in FINISHED:
        return drawing.run
    feed = {"run": run_id, "since_seq": drawing.newest_seq}
    for happening in follow(drawing.session, feed):
        if isinstance(happening, End):
            drawing.run.update(happening.run)
            drawing.end()
            return happening.run
        if isinstance(happening, FeedRecord):
            drawing.take(happening.body)
        if drawing.is_due():
            drawing.ask()
            with signals.drawing():
                drawing.draw()
        deadline.check(run_id)
    raise AssertionError("a feed of a run ends with the run")


class _Drawing:
    """The run as far as it is known, and the time of its last frame."""

    def __init__(self, session: Session, run_id: str) -> None:
        self.session = session
        self.shown = run_detail.fetch(session, run_id)
        self.run = self.shown.run
        self.screen = console(session.options)
        self.terminal = sys.stdout.fileno()
        # Now, since Rich replaces stdout while it is live, and its stream has no encoding to ask.
        self._marks = glyphs()
        self._lines: list[int] = []
        """The cells of each line of the frame that is on the screen."""
        self.live = self._new_live()
        self._width = self.screen.width
        self._changed = True
        self._drawn_at = 0.0
        self._took = 0.0
        self._asked_at = time.monotonic()
        self._log_seen: Any = 0
        self._is_over = False

    def _new_live(self) -> Live:
        return Live(self._live_frame(), console=self.screen, auto_refresh=False, transient=True)

    def leave(self) -> None:
        """Erase the live frame, and show the cursor: the process is about to be stopped."""
        self.live.stop()
        self._lines = []

    def come_back(self) -> None:
        """Go on below whatever was printed meanwhile. A `Live` that was stopped would erase it."""
        if self._is_over:
            return
        self.live = self._new_live()
        self.live.start()
        self._changed, self._drawn_at = True, 0.0

    @property
    def newest_seq(self) -> int:
        """The sequence number of the run's newest known record."""
        return max((int(record["seq"]) for record in self.run["timeline"]), default=0)

    def take(self, record: dict[str, Any]) -> None:
        """Add a record of the run."""
        run_detail.add(self.run, record)
        self._changed = True

    def is_due(self) -> bool:
        """Is there something new to draw, and has the last frame been shown for long enough?"""
        pause = _FRAME_SECONDS if self._changed else _CLOCK_SECONDS
        pause = max(pause, _LEISURE * self._took)
        return time.monotonic() - self._drawn_at >= pause and is_foreground(self.terminal)

    def ask(self) -> None:
        """Ask the daemon for what the feed does not tell: why the run is not progressing, its
        output, its children. If the daemon is gone for a moment, the follower waits for it and
        reports it."""
        with contextlib.suppress(DaemonUnavailable):
            self._ask()

    def _ask(self) -> None:
        reply = self.session.call("run.why", {"run": self.run["id"]})
        self.run.update({name: reply[name] for name in ("status", "why", "waiting_for")})
        if time.monotonic() - self._asked_at < _CLOCK_SECONDS:
            return
        self._asked_at = time.monotonic()
        self._ask_children()
        params = {"run": self.run["id"], "after": self._log_seen, "limit": run_detail.PAGE}
        page = self.session.call("run.logs", params)
        self._log_seen = page["next"]
        self.shown.logs = page["lines"][-1:] or self.shown.logs

    def _ask_children(self) -> None:
        known = self.run["children"]
        asked = 0
        for child in reversed(run_detail.child_ids(self.run)):
            if asked < _CHILDREN and known.get(child, {}).get("status") not in FINISHED:
                asked += 1
                with contextlib.suppress(NotFound):
                    known[child] = self.session.call("run.get", {"run": child})

    def end(self) -> None:
        """The run has ended: show what it has printed last where it failed."""
        self.shown.logs = []
        with contextlib.suppress(DaemonUnavailable, NotFound):
            self.run |= self.session.detail(self.run["id"])
            self.run["children"] = run_detail.children(self.session, self.run, tree=False)
            run_detail.add_tails(self.session, self.shown)

    def stop(self) -> None:
        """Erase the live frame and print the last one, which stays."""
        self.draw()
        self.live.stop()
        self._is_over = True
        self.screen.print(self._frame(self.screen.width))

    def draw(self) -> None:
        """Redraw the live frame."""
        began = time.monotonic()
        self._erase_broken_lines()
        self.live.update(self._live_frame(), refresh=True)
        self._changed, self._drawn_at = False, time.monotonic()
        self._took = self._drawn_at - began

    def _erase_broken_lines(self) -> None:
        """Erase the lines that the frame on the screen has more than when it was drawn, because the
        terminal has become narrower. Rich erases as many as it has drawn."""
        width, before = self.screen.width, self._width
        self._width = width
        if width < before:
            more = sum((cells - 1) // width for cells in self._lines if cells > width)
            up = (ControlType.CURSOR_UP, 1)
            erase = (ControlType.ERASE_IN_LINE, 2)
            self.screen.control(Control(*[code for _ in range(more) for code in (erase, up)]))

    def _live_frame(self) -> Group:
        drawn = self._frame(self.screen.width - _ECHO_CELLS)
        self._lines = [text.cell_len for text in drawn.renderables if isinstance(text, Text)]
        return drawn

    def _frame(self, width: int) -> Group:
        height = self.screen.height - _SPARE_LINES
        verbose = self.session.options.verbose
        now_us = time.time_ns() // 1000
        return picture(self.shown, now_us, Frame(width, height, self._marks, verbose=verbose))
