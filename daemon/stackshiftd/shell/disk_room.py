"""What happens to commands while the disk has no room.

While space is short, clients' writes are refused: the reserve is for work under way. Once a write
has failed for lack of space (`read_only`), workers' commands wait here, in order, because their
results cannot be requested again. Everything else is dropped, because the shell submits it again
anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, Final, NamedTuple

from stackshift_jobs.errors import DiskFull
from stackshiftd.core import commands as c

_KEPT: Final = (
    c.CompleteStep,
    c.FailStep,
    c.OpenStep,
    c.RecordValue,
    c.BeginSleep,
    c.StartChild,
    c.AwaitRun,
    c.Suspend,
    c.CompleteRun,
    c.FailAttempt,
    c.ConfirmStop,
    c.LoseExecution,
    c.DefineJobs,
    c.DefineSchedules,
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
    """Whether there is room, and what waits for it."""

    def __init__(self) -> None:
        self.read_only = False
        """Has a write failed for lack of space? Nothing is appended until there is room."""
        self.is_roomy = True
        """Is there more free space than the reserve?"""
        self._waiting: list[Waiting] = []

    @property
    def is_short(self) -> bool:
        """Do some commands have to be refused, kept or dropped?"""
        return self.read_only or not self.is_roomy

    def admission(self, command: c.Command) -> Admission:
        """What happens to `command` while room `is_short`."""
        if isinstance(command, c.FromClient) or (isinstance(command, c.Asking) and not command.run):
            return Admission.REFUSED
        if not self.read_only:
            return Admission.ADMITTED
        if _is_kept(command):
            return Admission.KEPT
        # The watermark is written to find out whether there is room again.
        return Admission.ADMITTED if isinstance(command, c.NoteWatermark) else Admission.DROPPED

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


def no_room() -> DiskFull:
    """The error for a write that is refused."""
    return DiskFull(
        "there is no room on the disk to record this; reads still work",
        hint="free some space: the daemon resumes by itself",
    )


def _is_kept(command: c.Command) -> bool:
    if isinstance(command, c.Asking):
        return bool(command.run)
    return isinstance(command, _KEPT)
