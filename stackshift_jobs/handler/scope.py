"""Whether the running code is a handler, in which pass, and whether it is inside the function of a
step.

While a handler runs, the worker sets `in_handler` to the name that messages use for its context
(`ctx`), and `current_pass`; while the function of a step runs, where the client may be used, it
sets `current_step`. They are context variables because handlers share threads and event loops.
Tasks of `asyncio` inherit them; a thread that the handler starts does so only if the context is
copied.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

from stackshift_jobs.calls import methods
from stackshift_jobs.errors import InsideHandler

in_handler: Final[ContextVar[str | None]] = ContextVar("stackshift_in_handler", default=None)
current_pass: Final[ContextVar[object | None]] = ContextVar("stackshift_pass", default=None)
"""The `Pass` that the running code belongs to; None outside of handlers, and where that is not
known, as in threads that are started below `threading`."""
current_step: Final[ContextVar[str | None]] = ContextVar("stackshift_step", default=None)
"""The name of the step whose function is running; None outside of one."""


def refuse_in_handler(method: str) -> None:
    """Raise `InsideHandler`, naming the `ctx` call to use, if a handler calls this outside a step.

    A handler runs again from the top after every wait, so the client's call would be repeated.
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
