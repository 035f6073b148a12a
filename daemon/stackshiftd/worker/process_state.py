"""Settings of the whole process, which are put back between runs.

A process has one umask, one limit of recursion and one handler of a signal. What modules set when
they are imported stands for all runs. What a run sets is seen by those that execute beside it, and
could make later ones fail; so once no run is executing, it is undone. Other things that a run
changes for its process stay: libraries set themselves up when they are first used.

Nothing here acts before `settle`, as in tests of jobs, whose process is the test's.
"""

from __future__ import annotations

import gc
import locale
import logging
import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from stackshiftd.worker.output.streams import RunLogHandler

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD)
_ANY_WARNING: Final = ("error", None, Warning, None, 0)
"""The filter of `warnings.simplefilter("error")`."""


def _collect(automatically: bool) -> None:
    (gc.enable if automatically else gc.disable)()


_SETTINGS: Final[list[tuple[Callable[[], Any], Callable[[Any], Any]]]] = [
    (sys.getrecursionlimit, sys.setrecursionlimit),
    (sys.getswitchinterval, sys.setswitchinterval),
    (gc.isenabled, _collect),
    (socket.getdefaulttimeout, socket.setdefaulttimeout),
    (lambda: logging.root.manager.disable, logging.disable),
    (lambda: logging.root.level, logging.root.setLevel),
    (partial(locale.setlocale, locale.LC_ALL), partial(locale.setlocale, locale.LC_ALL)),
    *((partial(signal.getsignal, each), partial(signal.signal, each)) for each in _SIGNALS),
]
"""How each is read, and how it is written."""
_environment: Final = os.environ
_set_umask: Final = os.umask


class _Standing:
    """How the process stood when the modules had been imported."""

    def __init__(self) -> None:
        self.umask = _set_umask(0o077)
        _set_umask(self.umask)
        self.values = [read() for read, _ in _SETTINGS]
        self.variables = dict(_environment)
        self.fails_of_warnings = _ANY_WARNING in warnings.filters
        self.log_handlers = [h for h in logging.root.handlers if isinstance(h, RunLogHandler)]


class _Process:
    standing: _Standing | None = None


def settle() -> None:
    """Let the process stand as it is now."""
    _Process.standing = _Standing()


def put_back() -> None:
    """Undo what a run has set, on the main thread of a worker that executes no other."""
    standing = _Process.standing
    if standing is None:
        return
    _set_umask(standing.umask)
    for (read, write), value in zip(_SETTINGS, standing.values, strict=True):
        if read() != value:
            with suppress(Exception):  # A handler of a signal that is not Python's, say.
                write(value)
    if len(_environment) < len(standing.variables):
        for name in standing.variables.keys() - _environment.keys():
            _environment[name] = standing.variables[name]
    if not standing.fails_of_warnings and _ANY_WARNING in warnings.filters:
        warnings.filters.remove(_ANY_WARNING)  # type: ignore[attr-defined]  # it is a list
    if not logging.root.handlers:
        logging.root.handlers += standing.log_handlers
