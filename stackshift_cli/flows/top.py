"""The loop of `top`: keys, answers and the clock change the model, and the screen shows it."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

from stackshift_cli.daemon.session import Session
from stackshift_cli.output.clock import Clock
from stackshift_cli.render.console import console, glyphs, painted
from stackshift_cli.render.top import frame
from stackshift_cli.screen.keys import keys
from stackshift_cli.screen.terminal import Gone, Screen
from stackshift_cli.top.model import Model, answered, press, refresh, refused, unreachable
from stackshift_cli.top.source import Reply, Source
from stackshift_jobs.calls.methods import method

_REFRESH_SECONDS: Final = (1.0, 10.0)
"""How often the daemon is asked, two requests at a time: every second, less often if it takes long
to answer, so that a screen never costs it more than a tenth of its time."""
_SILENCE_SECONDS: Final = 5.0


def run(session: Session) -> int:
    """Show the screen until `q`; its exit status. Whatever ends it, the terminal is restored."""
    try:
        with Screen() as screen:
            _Loop(session, screen).run()
    except Gone:
        return 129
    return 0


class _Loop:
    def __init__(self, session: Session, screen: Screen) -> None:
        self._screen = screen
        self._console = console(session.options)
        self._marks = glyphs()
        self._source = Source(session, screen.wake)
        self._model = Model()
        self._asked_at = float("-inf")
        self._heard_at = time.monotonic()
        self._pause = _REFRESH_SECONDS[0]

    def run(self) -> None:
        """Until the model is over."""
        while not self._model.is_over:
            for reply in self._source.replies():
                self._take(reply)
            for key in keys(self._screen.typed()):
                self._press(key)
            now = time.monotonic()
            if now - self._asked_at >= self._pause and self._source.is_idle:
                self._asked_at = now
                self._source.ask(refresh(self._model))
            waits = not self._source.is_idle
            if waits and now - self._heard_at >= max(_SILENCE_SECONDS, 2 * self._pause):
                silent = f"the daemon has not answered for {now - self._heard_at:.0f}s"
                self._model = unreachable(self._model, silent)
            if not self._model.is_over:
                self._draw()
                # A reply ends the wait too, and until one comes only the clock changes.
                left = self._asked_at + self._pause - now
                self._screen.wait(1.0 if waits else max(0.0, min(1.0, left)))

    def _press(self, key: str) -> None:
        if key == "redraw":
            self._screen.forget()
            return
        self._model, asks = press(self._model, key)
        self._source.ask(asks)

    def _take(self, reply: Reply) -> None:
        self._heard_at = time.monotonic()
        least, most = _REFRESH_SECONDS
        self._pause = min(max(least, self._pause / 2, 10 * reply.seconds), most)
        if reply.is_away:
            away = "the daemon is gone; waiting for it to come back"
            self._model = unreachable(self._model, away)
            if not method(reply.ask.method).reads:
                text = "the daemon is gone: look again before you repeat that"
                self._model = replace(self._model, message=text)
        elif reply.error is not None:
            text = f"{reply.error.message}"
            self._model = refused(self._model, text)
        else:
            self._model, asks = answered(self._model, reply.ask.what, reply.body)
            self._source.ask(asks)

    def _draw(self) -> None:
        width, height = self._screen.size
        drawn = frame(self._model, Clock.now(), width, height, self._marks)
        self._screen.draw(painted(self._console, drawn))
