"""An error in the worker's own code, which ends its process.

An earlier run may have left something that raises there: a builtin that it has replaced, an alarm,
an exception thrown into a thread. What the worker knows may be half changed then, and runs that it
executes would wait for ever. So it ends at once; the daemon starts another, and has the runs
executed again from their records, as after any other death of a worker.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from traceback import format_exception
from types import TracebackType
from typing import Final, NoReturn

from stackshiftd.worker.output.streams import OwnLog

EXIT_STATUS: Final = 70
"""`EX_SOFTWARE` of sysexits.h."""

OnError = Callable[[BaseException], None]
"""Called on any thread with an error of the worker's own code."""

_LOOPS: Final = ("asyncio.events", "uvloop")
_OWN: Final = "stackshiftd."
_exit: Final = os._exit


def end_process(error: BaseException, own: OwnLog | None) -> NoReturn:
    """End this process, and say why in `own`, the daemon's log."""
    try:
        if own is not None:
            text = "".join(format_exception(error))
            own.write(
                "log", f"ERROR the worker's own code failed: {text}".encode("utf-8", "replace")
            )
    finally:
        _exit(EXIT_STATUS)


def is_own(error: BaseException) -> bool:
    """Was the callback of a loop that raised `error` one of the worker's, and not one that the
    function of a step has given to the loop?"""
    trace = error.__traceback__
    while trace is not None and _module(trace).startswith(_LOOPS):
        trace = trace.tb_next
    return trace is not None and _module(trace).startswith(_OWN)


def _module(trace: TracebackType) -> str:
    return str(trace.tb_frame.f_globals.get("__name__"))
