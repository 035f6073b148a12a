"""A copy of the worker, which the function of a step has made with `os.fork`.

It shares the worker's connection and has none of its other threads. So it may do what it was made
for, and ends where its copy of the function does: it reports nothing, and calls nothing on `ctx`.
What `multiprocessing` forks ends by itself, before it comes here.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from typing import NoReturn

from stackshift_jobs.errors import Usage
from stackshift_jobs.handler.failures import original


class ProcessCopy:
    """Whether this process is one."""

    is_this = False


def install() -> None:
    """Know copies of this process, from now on."""

    def note() -> None:
        ProcessCopy.is_this = True

    os.register_at_fork(after_in_child=note)


def refuse_calls() -> None:
    """Raise `Usage` in a copy: the connection is its worker's."""
    if ProcessCopy.is_this:
        raise Usage(
            "a process that a step has forked called its run",
            hint="let it return what it has found to the step's function, and call ctx there",
        )


def end_copy(error: BaseException | None) -> NoReturn:
    """End this copy with the status that Python gives a program which returned (None) or raised
    `error`, after it has written what it has printed."""
    code: object = 0
    error = original(error) if error is not None else None
    if isinstance(error, SystemExit):
        code = 0 if error.code is None else error.code
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    elif error is not None:
        code = 1
        with contextlib.suppress(BaseException):
            traceback.print_exception(error)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()
    assert isinstance(code, int)
    os._exit(code & 0xFF)
