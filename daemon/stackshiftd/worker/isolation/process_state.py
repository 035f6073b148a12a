"""Settings of the whole process, which are put back between runs.

A process has one umask, one limit of recursion and one handler of a signal. What modules set when
they are imported stands for all runs. What a run sets is seen by those that execute beside it, and
could make later ones fail; so once no run is executing, it is undone. Other things that a run
changes for its process stay: libraries set themselves up when they are first used.

Nothing here acts before `settle`, as in tests of jobs, whose process is the test's.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # without the enumerations of `signal`
import builtins
import gc
import locale
import logging
import os
import resource
import signal
import socket
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from stackshiftd.worker.output.streams import RunLogHandler

_SIGNALS: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGPIPE,
    signal.SIGCHLD,
    signal.SIGALRM,
    signal.SIGXCPU,
    signal.SIGXFSZ,
)
_LIMITS: Final = [
    getattr(resource, f"RLIMIT_{name}")
    for name in ("AS", "CPU", "DATA", "FSIZE", "NOFILE", "NPROC", "STACK")
]
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
    *((partial(_signal.getsignal, each), partial(_signal.signal, each)) for each in _SIGNALS),
]
"""How each is read, and how it is written."""
_environment: Final = os.environ
_set_umask: Final = os.umask


class _Standing:
    """How the process stood when the modules had been imported."""

    def __init__(self) -> None:
        self.builtins = dict(vars(builtins))
        self.umask = _set_umask(0o077)
        _set_umask(self.umask)
        self.values = [read() for read, _ in _SETTINGS]
        self.has_alarm = signal.getitimer(signal.ITIMER_REAL)[0] > 0
        self.limits = [resource.getrlimit(each) for each in _LIMITS]
        self.variables = dict(_environment)
        self.fails_of_warnings = _ANY_WARNING in warnings.filters
        self.log_handlers = [h for h in logging.root.handlers if isinstance(h, RunLogHandler)]


class _Process:
    standing: _Standing | None = None


def settle() -> None:
    """Let the process stand as it is now."""
    _Process.standing = _Standing()


def put_back() -> None:
    """Undo what a run has set, on the main thread of a worker that executes no other. Raises
    `RuntimeError` if that is not possible."""
    standing = _Process.standing
    if standing is None:
        return
    if vars(builtins) != standing.builtins:
        vars(builtins).update(standing.builtins)
    _set_umask(standing.umask)
    for (read, write), value in zip(_SETTINGS, standing.values, strict=True):
        if read() != value:
            with suppress(Exception):  # A handler of a signal that is not Python's, say.
                write(value)
    if not standing.has_alarm and signal.getitimer(signal.ITIMER_REAL)[0] > 0:
        signal.setitimer(signal.ITIMER_REAL, 0)
    for each, limits in zip(_LIMITS, standing.limits, strict=True):
        if resource.getrlimit(each) != limits:
            _put_back_limit(each, limits)
    if len(_environment) < len(standing.variables):
        for name in standing.variables.keys() - _environment.keys():
            _environment[name] = standing.variables[name]
    if not standing.fails_of_warnings and _ANY_WARNING in warnings.filters:
        warnings.filters.remove(_ANY_WARNING)  # type: ignore[attr-defined]  # it is a list
    if not logging.root.handlers:
        logging.root.handlers += standing.log_handlers


def _put_back_limit(number: int, limits: tuple[int, int]) -> None:
    try:
        resource.setrlimit(number, limits)
    except (OSError, ValueError):
        raise RuntimeError("an earlier run has lowered a limit of the process for good") from None
