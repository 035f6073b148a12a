"""What happens to commands while the disk has no room.

While space is short, clients' writes are refused: the reserve is for work under way. Once a write
has failed for lack of space (`read_only`), workers' commands wait here, in order, because their
results cannot be requested again. Everything else is dropped, because the shell submits it again
anyway. When writes stop and when they go on, the daemon's log says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, Final, NamedTuple

from stackshift_jobs.errors import DiskFull
from stackshift_jobs.values.sizes import size_text
from stackshiftd.core import commands as c
from stackshiftd.journal.interface import Disk

log = logging.getLogger("stackshiftd")

_KEPT: Final = (
    c.CompleteStep,
    c.FailStep,
    c.OpenStep,
    c.RecordValue,
    c.BeginSleep,
    c.StartChild,
    c.ContinueRun,
    c.AwaitRun,
    c.Suspend,
    c.CompleteRun,
    c.FailAttempt,
    c.ConfirmStop,
    c.LoseExecution,
    c.DefineJobs,
    c.DefineSchedules,
    c.NoteBoot,
    c.Claimed,
    c.WithdrawLock,
    c.RefuseCall,
)
"""Commands that must not be lost while there is no room: nobody would submit them again."""


class Admission(Enum):
    """What happens to a command."""

    ADMITTED = "admitted"
    REFUSED = "refused"
    KEPT = "kept"
    DROPPED = "dropped"


class Waiting(NamedTuple):
    """A command that waits for room, and where its reply goes."""

    command: c.Command
    reply: Callable[[Any], None] | None
    source: Any


class DiskRoom:
    """Whether there is room, and what waits for it. `disk` looks at the disk."""

    def __init__(self, disk: Callable[[], Disk]) -> None:
        self.read_only = False
        """Has a write failed for lack of space? Nothing is appended until there is room."""
        self.is_roomy = True
        """Is there more free space than the reserve?"""
        self.is_closed = False
        """Was the journal opened on a disk that cannot be written? Then nothing is appended until
        the daemon starts again."""
        self._disk = disk
        self._waiting: list[Waiting] = []
        self._is_said = False
        """Does the log say that writes have stopped?"""
        self._unproven = False
        """Has no write succeeded since the one that failed? The system may refuse one although
        there is free space, as for a quota."""

    @property
    def is_short(self) -> bool:
        """Do some commands have to be refused, kept or dropped?"""
        return self.read_only or not self.is_roomy

    def admission(self, command: c.Command) -> Admission:
        """What happens to `command` while room `is_short`."""
        if is_from_client(command):
            return Admission.REFUSED
        if not self.read_only:
            return Admission.ADMITTED
        if self.is_closed:
            return Admission.DROPPED
        if _is_kept(command):
            return Admission.KEPT
        # The watermark is written to find out whether there is room again.
        return Admission.ADMITTED if isinstance(command, c.NoteWatermark) else Admission.DROPPED

    def look(self) -> None:
        """See how much room there is."""
        self.is_roomy = self._disk().spare_bytes > 0
        self._say()

    def refused(self) -> None:
        """Note that a write has failed for lack of space."""
        self.read_only = self._unproven = True
        self._say()

    def close(self) -> None:
        """Note that the daemon has started on a disk that cannot be written."""
        self.is_closed = True
        self.refused()

    def succeeded(self) -> None:
        """Note that a write has succeeded."""
        if self._unproven and not self.read_only:
            self._unproven = False
            self._say()

    def _say(self) -> None:
        if self.is_short and not self._is_said:
            self._is_said = True
            log.warning("writes are refused, reads are served: %s", self.reason())
        elif self._is_said and not self.is_short and not self._unproven:
            self._is_said = False
            disk = self._disk()
            log.warning("writes go on: %s has %s free", disk.directory, size_text(disk.free_bytes))

    def reason(self) -> str:
        """Why writes are refused, as it is now: the directory, what is free there, and the
        reserve. Empty while room is not short."""
        if not self.is_short:
            return ""
        disk = self._disk()
        if disk.is_read_only:
            return f"{disk.directory} is on a file system that is read-only"
        if self.read_only and disk.spare_bytes:
            return (
                f"the last write to {disk.directory} found no room, and is tried again "
                f"each second; {size_text(disk.free_bytes)} are free now"
            )
        return (
            f"{disk.directory} has {size_text(disk.free_bytes)} free; "
            f"the last {size_text(disk.reserve_bytes)} are kept for work under way"
        )

    def refusal(self, what: str = "this cannot be recorded") -> DiskFull:
        """The error for a write that is refused; `what` begins its message."""
        disk = self._disk()
        cure = "remount it" if disk.is_read_only else "make room there"
        return DiskFull(
            f"{what}: {self.reason()}",
            hint=f"reads still work; {cure}, and the daemon resumes by itself",
            directory=disk.directory,
            free_bytes=disk.free_bytes,
            reserve_bytes=disk.reserve_bytes,
        )

    def keep(self, command: c.Command, reply: Any, source: Any) -> None:
        """Let the command wait, behind all that are waiting already."""
        self._waiting.append(Waiting(command, reply, source))

    def rolled_back(self, lost: Iterable[tuple[c.Command | None, Any, Any]]) -> list[Any]:
        """Keep the workers' commands among `lost` (commands, replies, sources, in order), none of
        which reached the journal, ahead of all that arrived since. Returns the replies to call with
        a refusal."""
        first: list[Waiting] = []
        refused = []
        for command, reply, source in lost:
            if command is not None and _is_kept(command):
                first.append(Waiting(command, reply, source))
            elif reply is not None:
                refused.append(reply)
        self._waiting[:0] = first
        return refused

    def reopened(self) -> list[Waiting]:
        """Note that there is room again; returns the commands that waited for it, in order."""
        self.read_only = False
        waiting, self._waiting = self._waiting, []
        return waiting


def is_from_client(command: c.Command | None) -> bool:
    """Has a client asked for it, who can ask again?"""
    return isinstance(command, c.FromClient) or (isinstance(command, c.Asking) and not command.run)


def _is_kept(command: c.Command) -> bool:
    if isinstance(command, c.Asking):
        return bool(command.run)
    return isinstance(command, _KEPT)
