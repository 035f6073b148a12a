"""The warden of a daemon: a process that outlives it, if it is killed, and ends what its workers
have started.

`python -m stackshift_jobs.programs.warden MARK GRACE_SECONDS LOCK_FILE`, started by the daemon. It
waits for the end of its standard input, whose other end the daemon alone has; so it also ends when
the daemon stops in good order, and then finds nothing to do. It holds the lock on the file while it
lives: a new daemon waits for it, so that no program is asked twice to end. It starts nothing.

Rejected: to have each program killed by the system when its parent dies (`PR_SET_PDEATHSIG`). That
reaches one process and not what it has started, knows no grace, and would have to be asked for
between fork and exec, where a process with threads and foreign libraries must not run Python.
"""

from __future__ import annotations

import fcntl
import signal
import sys
from pathlib import Path

from stackshift_jobs.programs.ending import Remains, end
from stackshift_jobs.programs.processes import WORKER_VARIABLE, Mark


def main(mark: str, grace_seconds: float, lock_file: Path) -> None:
    """Wait until the daemon is gone, then end all whose mark begins with `mark`."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with lock_file.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sys.stdin.buffer.read()
        left = end(Remains(mark=Mark(WORKER_VARIABLE, mark, is_prefix=True)), grace_seconds)
    if left:
        sys.exit(f"still running, although killed: {sorted(left)}")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]))
