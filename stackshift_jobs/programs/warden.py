"""A warden: a process that outlives its owner, if that is killed, and ends what that has started.
A daemon has one for the programs of its workers, and `state lock -- COMMAND` one for its command.

`python -m stackshift_jobs.programs.warden VARIABLE MARK GRACE_SECONDS [LOCK_FILE]` waits for the
end of its standard input, whose other end its owner alone has, and then ends all processes whose
variable begins with MARK. So it also ends when its owner does in good order, and then mostly finds
nothing to do; `LEAVE` tells it to do nothing. It holds the lock on the file, if one is given, while
it lives: a new daemon waits for it, so that no program is asked twice to end. It starts nothing.

Rejected: to have each program killed by the system when its parent dies (`PR_SET_PDEATHSIG`). That
reaches one process and not what it has started, knows no grace, and would have to be asked for
between fork and exec, where a process with threads and foreign libraries must not run Python.
"""

from __future__ import annotations

import contextlib
import fcntl
import signal
import sys
from typing import TYPE_CHECKING, Final

from stackshift_jobs.programs.ending import Remains, end
from stackshift_jobs.programs.processes import Mark

if TYPE_CHECKING:
    from pathlib import Path

LEAVE: Final = b"leave"
"""What an owner writes that leaves its processes running."""


def command(mark: Mark, grace_seconds: float, lock_file: Path | None = None) -> list[str]:
    """The command line of a warden for the processes with `mark`, which may be longer there."""
    lock = [] if lock_file is None else [str(lock_file)]
    warden = [sys.executable, "-P", "-m", "stackshift_jobs.programs.warden"]
    return [*warden, mark.variable, mark.value, str(grace_seconds), *lock]


def main(mark: Mark, grace_seconds: float, lock_file: str) -> None:
    """Wait until the owner is gone, then end all whose mark begins with that of `mark`."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.ExitStack() as stack:
        if lock_file:
            lock = stack.enter_context(open(lock_file))  # noqa: PTH123 - without pathlib
            fcntl.flock(lock, fcntl.LOCK_EX)
        if sys.stdin.buffer.read() == LEAVE:
            return
        left = end(Remains(mark=mark), grace_seconds)
    if left:
        sys.exit(f"still running, although killed: {sorted(left)}")


if __name__ == "__main__":
    main(
        Mark(sys.argv[1], sys.argv[2], is_prefix=True),
        float(sys.argv[3]),
        sys.argv[4] if len(sys.argv) > 4 else "",
    )
