"""What the system says about processes: when they began, their groups, and their marks.

Owns the questions, and signals nothing. A process id alone identifies nothing, because the system
uses it again; so a group is known by the id and the start of its leader (`ProcessGroup`), and what
has left its group by a mark in its environment (`Mark`). Processes that have ended and were not
waited for count as ended. Those of other users are left out: they cannot be signalled.

On Linux this is read from `/proc`. Elsewhere `ps` knows groups and starts, and no marks are seen.
Raises `OSError` where the system does not answer, as with too many open files.

It loads little, since a warden, of which each daemon has one all the time, is made of this.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

WORKER_VARIABLE: Final = "STACKSHIFT_WORKER"
"""Marks a worker and all that is started in it: `PROJECT/DAEMON/WORKER`, see `project_mark`."""
PROGRAM_VARIABLE: Final = "STACKSHIFT_PROGRAM"
"""Marks a program of `step.command` and all that it starts."""
LOCK_VARIABLE: Final = "STACKSHIFT_LOCK_HOLDER"
"""Marks the command of a `state lock`, and all that it starts."""
MARKS: Final = (WORKER_VARIABLE, PROGRAM_VARIABLE, LOCK_VARIABLE)
NOT_INHERITED: Final = (*MARKS, "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""Variables about one process, which what it starts must not take for its own: the marks, and those
by which a service manager is reported to."""
_ENDED: Final = "ZX"
_UNSEEN: Final = (FileNotFoundError, ProcessLookupError, PermissionError)
"""It has ended, or is not ours. Any other error is raised: what was not seen must not count as
gone."""
ON_LINUX = sys.platform == "linux"
"""Is there a `/proc`? A test can pretend that there is none."""


class ProcessGroup(NamedTuple):
    """A process group: its id, which is that of its leader, and when the leader began, in terms of
    the system (empty if it is not known). On Linux the boot is part of it."""

    id: int
    started: str

    @classmethod
    def of_leader(cls, pid: int) -> ProcessGroup:
        """The group that the process `pid` leads."""
        return cls(pid, started(pid))

    @property
    def is_led(self) -> bool:
        """Does the leader still run? Then the id cannot belong to anybody else."""
        return bool(self.started) and started(self.id) == self.started


class Mark(NamedTuple):
    """A variable in the environment by which processes are found, whatever group they are in. With
    `is_prefix`, its value only begins with `value`."""

    variable: str
    value: str
    is_prefix: bool = False

    def is_in(self, environment: bytes) -> bool:
        """Does this environment, as in `/proc/PID/environ`, have the mark?"""
        entry = os.fsencode(f"{self.variable}={self.value}")
        if self.is_prefix:
            return environment.startswith(entry) or b"\0" + entry in environment
        return entry in environment.split(b"\0")


def project_mark(data_dir: Path) -> str:
    """What the marks of all workers of a project begin with. It is made of the data directory's
    place on the disk, not of its path: a copy of the project is another project. Raises
    `OSError`."""
    place = data_dir.stat()
    return f"{place.st_dev:x}.{place.st_ino:x}/"


def unmarked(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` for a process that is to outlive the program that starts it."""
    return {name: text for name, text in environment.items() if name not in NOT_INHERITED}


def started(pid: int) -> str:
    """When the process began, as `BOOT:TICKS` on Linux; empty if it does not run."""
    if ON_LINUX:
        fields = _stat(pid)
        return "" if fields is None or fields[0] in _ENDED else f"{boot()}:{fields[19]}"
    rows = _ps("-o", "stat=,lstart=", "-p", str(pid))
    return next((row.split(None, 1)[1] for row in rows if row[0] not in _ENDED), "")


def is_stopped(pid: int) -> bool:
    """Has the process been stopped, by a signal or by a debugger?"""
    if ON_LINUX:
        fields = _stat(pid)
        return fields is not None and fields[0] in "Tt"
    return any(row.startswith("T") for row in _ps("-o", "stat=", "-p", str(pid)))


def members(group: int) -> set[int]:
    """The processes of the group that run."""
    try:
        os.killpg(group, 0)
    except OSError:
        return (
            set()
        )  # There are none, or none that may be signalled. No need to look at all others.
    if ON_LINUX:
        found = {
            pid
            for pid in _pids()
            if (fields := _stat(pid)) and fields[0] not in _ENDED and int(fields[2]) == group
        }
    else:
        rows = (row.split() for row in _ps("-ax", "-o", "pid=,pgid=,stat="))
        found = {int(pid) for pid, of, stat in rows if int(of) == group and stat[0] not in _ENDED}
    return {pid for pid in found if _may_signal(pid)}


def marked(mark: Mark, spared: Mark | None = None) -> set[int]:
    """The processes that run and have the mark, this one and those with the mark `spared` left out;
    none where there is no `/proc`.

    A process can lose its mark only on purpose, by clearing its environment.
    """
    if not ON_LINUX:
        return set()
    environments = ((pid, _environment(pid)) for pid in _pids() if pid != os.getpid())
    return {
        pid
        for pid, environment in environments
        if mark.is_in(environment) and not (spared is not None and spared.is_in(environment))
    }


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208


def _stat(pid: int) -> list[str] | None:
    """The fields of `/proc/PID/stat` from the third, the status, on. (The second, the name, may
    contain anything.)"""
    try:
        return _read(f"/proc/{pid}/stat").rpartition(b")")[2].decode().split()
    except _UNSEEN:
        return None


def _environment(pid: int) -> bytes:
    """The environment as the process was started with it; empty if it has ended or is not ours."""
    try:
        return _read(f"/proc/{pid}/environ")
    except _UNSEEN:
        return b""


def _may_signal(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


@cache
def boot() -> str:
    """Identifies this boot of the machine: ticks count from its beginning. Empty if nothing tells
    it."""
    if ON_LINUX:
        return _read("/proc/sys/kernel/random/boot_id").decode().strip()
    try:
        return _printed("sysctl", "-n", "kern.bootsessionuuid").strip()
    except OSError:
        return ""


def _read(file: str) -> bytes:
    with open(file, "rb") as text:  # noqa: PTH123 - without pathlib
        return text.read()


def _ps(*arguments: str) -> list[str]:
    return [row for line in _printed("ps", *arguments).splitlines() if (row := line.strip())]


def _printed(*command: str) -> str:
    import subprocess  # Where there is a `/proc`, nothing is asked so.

    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
