"""The working directory of handlers is the project, whatever other jobs of the worker do.

A process has one, which `os.chdir` moves for all of its threads. On Linux a thread can have its
own: those that run `def` handlers and `def` steps do (and the threads that they start share it).
Where that is refused (macOS, some containers), a step that moves it moves all others until it ends.
In either case it is put back when the module, step or handler ends that moved it. Coroutines share
the thread of the loop, and so its directory. A thread that has its own directory has its own umask,
too, which is put back when its handler or step ends.

Nothing here acts before `install`, as in tests of jobs, whose directory is the test's.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import wraps
from threading import current_thread, local, main_thread
from typing import Any, Final, TypeVar

T = TypeVar("T")

_CLONE_FS: Final = 0x200
_chdir: Final = os.chdir
_set_umask: Final = os.umask


class _Thread(local):
    """Has this thread a directory and a umask of its own?"""

    is_own = False


_thread: Final = _Thread()


class Home:
    """The directory that handlers are to be in, and whether any of them has ever left it: as long
    as none has, nobody looks."""

    path = ""
    left = False
    umask = 0


def install(project: str) -> None:
    """Keep the handlers of this process in `project`, from now on."""
    Home.path = project
    Home.umask = _set_umask(0o077)
    _set_umask(Home.umask)

    def noting(function: Callable[[Any], None]) -> Any:
        @wraps(function)
        def noted(path: Any) -> None:
            Home.left = True
            function(path)

        return noted

    os.chdir, os.fchdir = noting(os.chdir), noting(os.fchdir)


def own() -> None:
    """Give this thread a working directory of its own, if the system can."""
    if Home.path and sys.platform == "linux":
        _thread.is_own = ctypes.CDLL(None).unshare(_CLONE_FS) == 0


def here() -> str:
    """The working directory; the project if it has been removed."""
    if not Home.left:
        return Home.path
    try:
        return os.getcwd()  # noqa: PTH109  # asked for at every step, and a Path is not needed
    except OSError:
        return Home.path


def back(directory: str = "") -> None:
    """Return to `directory`, where something began that has ended; by default to the project."""
    if Home.left:
        with contextlib.suppress(OSError):
            _chdir(directory or Home.path)


def reset() -> None:
    """Let the next handler or step on this thread find the directory and the umask of jobs."""
    back()
    if _thread.is_own:
        _set_umask(Home.umask)


def back_on_loop() -> None:
    """Return to the project if this is the thread of the loop: a coroutine has ended there."""
    if Home.left and current_thread() is main_thread():
        back()


class StepThreads(ThreadPoolExecutor):
    """The threads of `def` steps of async handlers, each with a directory of its own."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads, "step", own)

    def submit(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """As for any pool; the function begins in the project."""

        def at_home() -> T:
            back()
            try:
                return function(*args, **kwargs)
            finally:
                reset()

        return super().submit(at_home)

    def all_alive(self) -> bool:
        """Is there still each thread that was started?"""
        return all(thread.is_alive() for thread in list(self._threads))
