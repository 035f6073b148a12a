"""`top`: one live screen of what is going on; `--once` prints one frame of it."""

from __future__ import annotations

import os
import sys
from typing import Final

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.session import Session
from stackshift_cli.output import messages
from stackshift_cli.output.terminal import is_terminal
from stackshift_jobs.errors import Usage

_HINT: Final = "stackshift top --once prints one frame"


def top(session: Session, given: Given) -> int:
    """`top`: show the screen until `q`. With `--once` print one frame, with `--json` an object."""
    if session.json or given.flag("once"):
        return _once(session)
    if not (is_terminal(sys.stdin) and is_terminal(sys.stdout)):
        raise Usage("top needs a terminal", hint=_HINT)
    if os.environ.get("TERM") in (None, "", "dumb"):
        raise Usage("top needs a terminal whose cursor can be moved", hint=_HINT)
    # Here, so that a daemon that has to be started, or is not there, is reported on a whole screen.
    session.connection()
    from stackshift_cli.flows.top import run

    return run(session)


def _once(session: Session) -> int:
    from stackshift_cli.top.model import Model, answered, refresh

    model = Model()
    answers = {ask.what: session.call(ask.method, ask.params) for ask in refresh(model)}
    if session.json:
        messages.data(messages.compact({**answers["activity"], "daemon": answers["status"]}))
        return 0
    for what, body in answers.items():
        model, _ = answered(model, what, body)
    from stackshift_cli.render.top import print_once

    print_once(session.options, model)
    return 0
