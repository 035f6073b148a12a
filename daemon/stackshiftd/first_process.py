"""What the first process of a container owes to all others: to wait for those that are orphans.

A process whose parent has ended becomes a child of process 1, and stays a zombie until that waits
for it. A job's command that leaves something in the background is enough. The daemon cannot do that
beside its own work: who waits for any child takes the exit statuses that others wait for, those of
workers and hooks. So process 1 forks, and the daemon is its child.
"""

from __future__ import annotations

import os
import signal
from typing import Final

FORWARDED: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_AWAITED: Final = (*FORWARDED, signal.SIGCHLD)


def fork_from_first_process() -> int | None:
    """Fork. Returns None in the child, which goes on; in the parent, once the child has ended, its
    exit status as shells have it. Until then the parent passes signals on to the child, and waits
    for whatever becomes its own. For a process without threads."""
    # Blocked before the fork: none is lost between it and the wait.
    signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _AWAITED)
        return None
    while True:
        number = signal.sigwait(_AWAITED)
        if number != signal.SIGCHLD:
            os.kill(child, number)
        elif (status := _reap(child)) is not None:
            return status


def _reap(child: int) -> int | None:
    """Wait for all children that have ended; the exit status of `child` if it was among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            found = 128 - code if code < 0 else code
