"""Whether the code that runs now is a handler, and whether it is between its steps.

The worker sets `in_handler` around a handler to the name by which messages call its context
(`ctx`), and `current_step` around the function of a step, where the client may be used. Context
variables, since handlers share threads and event loops; `asyncio` tasks inherit them by themselves,
a thread that the handler starts does only if its context is copied.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

from stackshift_jobs.calls import methods
from stackshift_jobs.errors import InsideHandler

in_handler: Final[ContextVar[str | None]] = ContextVar("stackshift_in_handler", default=None)
current_step: Final[ContextVar[str | None]] = ContextVar("stackshift_step", default=None)
"""Name of the step whose function is running here, if one is."""


def refuse_in_handler(method: str) -> None:
    """Raise `InsideHandler`, naming the `ctx` call to use, if a handler calls this outside a step.

    A handler is run again from the top after every wait: what the client did would be done again.
    """
    context = in_handler.get()
    if context is None or current_step.get() is not None:
        return
    called, instead = methods.method(method).in_handler or (method, "step.run")
    raise InsideHandler(
        f"{called} was called in a handler, which runs again on every replay: "
        f"use {context}.{instead} instead",
        hint=f"{context}.{instead}",
    )
