"""What a process inherits beside its variables, made independent of who started it.

Owns umask, niceness, resource limits, signals and the OOM score. The daemon resets what it has
inherited from the command that started it (`reset`); workers go on to what the settings say
(`adopt`). Programs of jobs inherit it from there. Left alone is what only an administrator sets:
hard limits, the CPU set, groups of processes, capabilities.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from pathlib import Path
from typing import Any, Final

from stackshift_jobs.errors import BadConfiguration

OPEN_FILES: Final = 65_536
"""The soft limit, where it is allowed. Not more: there are programs that close every descriptor up
to the limit before they do anything else."""
_FEWER_OPEN_FILES: Final = 10_240
"""The most that macOS allows."""
STACK_BYTES: Final = 8 << 20
"""The usual soft limit. A higher one would be the size of each thread's stack."""
DATA_UMASK: Final = 0o077
MIN_OPEN_FILES: Final = 1024
LEAST_OPEN_FILES: Final = 64
"""With fewer, a daemon cannot have its files, its workers and a few clients."""
_OOM_SCORE: Final = "/proc/self/oom_score_adj"
_CAPPED: Final = {
    "RLIMIT_CPU": "seconds of CPU time",
    "RLIMIT_FSIZE": "bytes in a file",
    "RLIMIT_DATA": "bytes of data",
    "RLIMIT_AS": "bytes of address space",
}
"""Limits that are usually not set, and in what they count. A daemon or a job that meets one ends or
fails."""
_PYTHONS_OWN: Final = frozenset((signal.SIGPIPE, signal.SIGXFSZ))
"""Ignored by Python itself, which restores them for the programs that it starts."""


def reset() -> list[str]:
    """Reset what this process has inherited, as far as the system permits. Returns a sentence for
    each thing in which it still depends on who started it.

    Call it first of all: the signal mask is that of the calling thread.
    """
    os.umask(DATA_UMASK)
    _reset_signals()
    if _oom_score() > 0:  # A negative one protects the daemon: somebody has chosen it.
        _set_oom_score()
    for name in dir(resource):
        if name.startswith("RLIMIT_") and name not in ("RLIMIT_CORE", "RLIMIT_OFILE"):
            _raise_limit(name)
    notes = _low_limits()
    if not _set_niceness(0):
        notes.append(
            f"the daemon and its jobs run at niceness {niceness()}, as whatever started it: only a "
            "privileged user may lower it"
        )
    return notes


def check_open_files() -> None:
    """Raise `BadConfiguration` if a daemon cannot work with so few open files as it may have, which
    would show at the most varied places."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < LEAST_OPEN_FILES:
        raise BadConfiguration(
            f"only {files} files may be open at once, and a daemon needs {LEAST_OPEN_FILES}",
            hint="raise the limit of what starts it: ulimit -n 4096, or LimitNOFILE= of a service",
        )


def adopt(umask: int, nice: int) -> str:
    """Give this process the umask and the niceness of jobs, and the usual OOM score. Returns a
    sentence if the system does not permit the niceness, else nothing."""
    os.umask(umask)
    _set_oom_score()
    if _set_niceness(nice):
        return ""
    return f"[workers] nice = {nice} is not permitted to this user: niceness stays {niceness()}"


def niceness() -> int:
    """The niceness of the calling thread, and of what it starts."""
    return os.getpriority(os.PRIO_PROCESS, 0)


def _set_niceness(nice: int) -> bool:
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    return niceness() == nice


def _reset_signals() -> None:
    """Unblock all signals, and ignore none. SIGHUP does nothing if it was ignored, as by `nohup`,
    but is not ignored: what this process starts has the default again."""
    for number in signal.valid_signals() - _PYTHONS_OWN:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, _nothing if number == signal.SIGHUP else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def pass_on() -> None:
    """Let the program that is about to replace this one inherit what this one did."""
    if signal.getsignal(signal.SIGHUP) is _nothing:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _nothing(_number: int, _frame: Any) -> None:
    """Handle a signal by doing nothing."""


def _raise_limit(name: str) -> None:
    """Raise a soft limit to the hard one, or to the value that is documented for it."""
    kind = getattr(resource, name)
    _, hard = resource.getrlimit(kind)
    wanted: tuple[tuple[int, int], ...] = ((hard, hard),)
    if name == "RLIMIT_STACK":
        wanted = ((_lower(STACK_BYTES, hard), hard),)
    elif name == "RLIMIT_NOFILE":
        # The first is for the privileged, who may raise the hard limit too.
        fewer = _lower(OPEN_FILES, hard), _lower(_FEWER_OPEN_FILES, hard)
        wanted = ((OPEN_FILES, _higher(OPEN_FILES, hard)), *((soft, hard) for soft in fewer))
    for limits in wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, limits)
            return


def _lower(value: int, hard: int) -> int:
    return value if hard == resource.RLIM_INFINITY else min(value, hard)


def _higher(value: int, hard: int) -> int:
    return hard if hard == resource.RLIM_INFINITY else max(value, hard)


def _low_limits() -> list[str]:
    """A sentence for each limit that could not be raised and that jobs will meet."""
    low = []
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files < MIN_OPEN_FILES:
        low.append(f"{files} open files")
    for name, what in _CAPPED.items():
        value, _ = resource.getrlimit(getattr(resource, name))
        if value != resource.RLIM_INFINITY:
            low.append(f"{value} {what}")
    return [
        f"the daemon and its jobs are limited to {each}: the hard limit of whatever started it"
        for each in low
    ]


def _oom_score() -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(Path(_OOM_SCORE).read_text())
    return 0


def _set_oom_score() -> None:
    """Let the system choose this process as it chooses others when memory runs out."""
    with contextlib.suppress(OSError):  # There is none, or it may not be lowered.
        Path(_OOM_SCORE).write_text("0")
