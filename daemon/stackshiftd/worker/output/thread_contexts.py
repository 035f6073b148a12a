"""Threads that a handler or a step starts belong to it: what they print is in its run's log, and
the client refuses in them what it refuses in a handler.

Python gives a new thread an empty context (a build without the GIL copies it). Here it receives the
variables that say which run and step are executing, and no others: those of libraries and of
`decimal` stay as the program expects. The threads of a pool outlive what they were started for, so
each function that is submitted brings its own. Threads that are started below `threading` have
none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

from stackshift_jobs.handler.current_step import current_try
from stackshift_jobs.handler.scope import current_pass, current_step, in_handler
from stackshift_jobs.values.secrets import current_secrets
from stackshiftd.worker.output.run_log import current_log

P = ParamSpec("P")
T = TypeVar("T")

_VARIABLES: Final[tuple[ContextVar[Any], ...]] = (
    current_log,
    current_secrets,
    in_handler,
    current_pass,
    current_step,
    current_try,
)


def bound(function: Callable[P, T]) -> Callable[P, T]:
    """`function`, to be called on another thread as part of what is executing now."""
    values = [variable.get() for variable in _VARIABLES]

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        pairs = zip(_VARIABLES, values, strict=True)
        tokens = [variable.set(value) for variable, value in pairs]
        try:
            return function(*args, **kwargs)
        finally:
            for variable, token in zip(_VARIABLES, tokens, strict=True):
                variable.reset(token)

    return call


def install() -> None:
    """Have every thread and every function submitted to a pool of threads belong to what starts it,
    from now on."""
    start: Any = threading.Thread.start
    submit: Any = ThreadPoolExecutor.submit

    @wraps(start)
    def start_bound(thread: threading.Thread) -> None:
        if current_log.get() is not None:
            run = bound(_reporting(thread, thread.run))
            thread.run = _forgetting(thread, run)  # type: ignore[method-assign]
        start(thread)

    @wraps(submit)
    def submit_bound(
        pool: ThreadPoolExecutor, function: Callable[..., T], /, *args: Any, **kwargs: Any
    ) -> Future[T]:
        future: Future[T] = submit(pool, bound(function), *args, **kwargs)
        return future

    threading.Thread.start = start_bound  # type: ignore[method-assign,assignment]
    ThreadPoolExecutor.submit = submit_bound  # type: ignore[method-assign,assignment]


def _reporting(thread: threading.Thread, run: Callable[[], None]) -> Callable[[], None]:
    """`run`, with what it raises reported as `threading` does, but in its own context."""

    def call() -> None:
        try:
            run()
        except BaseException as error:
            raised = (type(error), error, error.__traceback__, thread)
            threading.excepthook(threading.ExceptHookArgs(raised))

    return call


def _forgetting(thread: threading.Thread, run: Callable[[], None]) -> Callable[[], None]:
    """`run`, after which the thread no longer refers to the context it was started in."""

    def call() -> None:
        try:
            run()
        finally:
            del thread.run

    return call
