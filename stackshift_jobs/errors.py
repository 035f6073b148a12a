"""Every error that StackShift raises, under one root.

Four branches, since four different people act on them: the caller's mistake, the job's failure,
damage in the world (disk, daemon), and our own bug. Each class has a stable `code`, the word that
stands in `error[code]` on the command line and in `data.code` on the wire, and the exit status
that the command line ends with.
"""

from __future__ import annotations

# Not imported: loading `typing` takes a tenth of a short command. Checkers take it as true.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar


class StackshiftError(Exception):
    """Root of all our errors.

    `code` is stable, `exit_status` is the command line's, `hint` says what to do, and `fields`
    holds what else travels on the wire (JSON values only).
    """

    code: ClassVar[str] = "internal"
    exit_status: ClassVar[int] = 70

    def __init__(self, message: str, *, hint: str = "", **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.fields = fields

    def __str__(self) -> str:
        return self.message

    def as_json(self) -> dict[str, Any]:
        """The error as it stands on the wire: `{code, message, hint, ...fields}`."""
        return {"code": self.code, "message": self.message, "hint": self.hint, **self.fields}


# --- The caller's mistake ------------------------------------------------------------------


class Usage(StackshiftError):
    """The request itself is malformed: an unknown method, a missing field, a bad value."""

    code = "usage"
    exit_status = 2


class NotFound(StackshiftError):
    """The run, job, step or key that was named does not exist."""

    code = "not_found"
    exit_status = 4


class Conflict(StackshiftError):
    """Somebody else owns it: an idempotency key with another payload, a version, a lock."""

    code = "conflict"
    exit_status = 5

    @property
    def owner(self) -> str | None:
        """Id of the run that owns what was asked for, where there is one."""
        return self.fields.get("owner")

    @property
    def difference(self) -> list[str]:
        """Lines that tell what is different, by JSON path."""
        return list(self.fields.get("difference", ()))

    @property
    def version(self) -> int | None:
        """The version of a state entry that is there; None where there is none."""
        return self.fields.get("version")


class LockHeld(Conflict):
    """The lock is held by another owner."""

    code = "lock_held"


class PayloadRefused(StackshiftError):
    """A value that JSON cannot hold, that is over a limit, or that does not fit the job's type."""

    code = "payload_refused"
    exit_status = 6

    @property
    def path(self) -> str:
        """Where in the value, as a JSON path: `$.sizes[2]`."""
        return str(self.fields.get("path", "$"))


class BadConfiguration(StackshiftError):
    """`stackshift.toml`, the environment or a job module is wrong."""

    code = "configuration"
    exit_status = 78


class InsideHandler(StackshiftError):
    """The client was called in a handler; the message names the `ctx` call to use."""

    code = "inside_handler"
    exit_status = 2


# --- The job's failure ---------------------------------------------------------------------


class RunFailed(StackshiftError):
    """The run that was waited for has failed. `.error` is `{type, message, traceback}`."""

    code = "run_failed"
    exit_status = 1

    def __init__(self, run_id: str, error: dict[str, Any]) -> None:
        super().__init__(
            f"{run_id} failed: {error.get('type')}: {error.get('message')}",
            hint=f"stackshift runs show {run_id}",
            run=run_id,
            error=error,
        )
        self.run_id = run_id
        self.error = error


class RunCancelled(StackshiftError):
    """The run that was waited for has been cancelled."""

    code = "run_cancelled"
    exit_status = 7

    def __init__(self, run_id: str) -> None:
        super().__init__(f"{run_id} was cancelled", run=run_id)
        self.run_id = run_id


class NonRetryable(StackshiftError):
    """Raise it in a handler or step to fail without another try."""

    code = "non_retryable"
    exit_status = 1


class StepFailed(StackshiftError):
    """A step has failed for good; the same on every pass.

    `.step` its name, `.type`, `.message` and `.traceback` of what its function raised. On the pass
    on which it happened `__cause__` is the original exception.
    """

    code = "step_failed"
    exit_status = 1

    def __init__(self, step: str, type: str, message: str, traceback: str = "") -> None:
        super().__init__(f"step {step!r} failed: {type}: {message}", step=step)
        self.step = step
        self.type = type
        self.message = message
        self.traceback = traceback
        self.retryable = True

    def __str__(self) -> str:
        return f"step {self.step!r} failed: {self.type}: {self.message}"


class ChildFailed(NonRetryable):
    """A run that a handler called has failed or was cancelled. `.run_id`, `.status`, `.error`."""

    code = "child_failed"

    def __init__(self, run_id: str, status: str, error: dict[str, Any] | None) -> None:
        told = f": {error.get('type')}: {error.get('message')}" if error else ""
        super().__init__(f"child {run_id} {status}{told}", run=run_id)
        self.run_id = run_id
        self.status = status
        self.error = error


class CommandFailed(StackshiftError):
    """A program run by `step.command` ended with a status other than 0."""

    code = "command_failed"
    exit_status = 1

    def __init__(self, argv: list[str], exit_code: int, stdout: str, stderr: str) -> None:
        super().__init__(f"{argv[0]} exited with {exit_code}: {stderr.strip()[-500:]}")
        self.argv = argv
        self.exit_code = exit_code
        self.stdout = stdout
        self.stderr = stderr


class LockLost(StackshiftError):
    """A lock with a ttl ran out before who held it was done with it."""

    code = "lock_lost"
    exit_status = 1

    @property
    def key(self) -> str:
        """Which lock it is."""
        return str(self.fields.get("key", ""))


class ReplayError(NonRetryable):
    """The handler's code and its record do not fit together; trying again would not help."""

    code = "replay"


# --- The world -----------------------------------------------------------------------------


class DaemonUnavailable(StackshiftError):
    """No daemon answers for this project, or it speaks another version of the protocol."""

    code = "daemon_unavailable"
    exit_status = 3


class Busy(StackshiftError):
    """Refused for now: a limit was reached. Trying again later is right."""

    code = "busy"
    exit_status = 75


class DiskFull(Busy):
    """There is no room to record what was asked; reads go on."""

    code = "disk_full"


class JournalDamaged(StackshiftError):
    """The journal cannot be trusted. Fields: `file`, `offset` (bytes), `seq`."""

    code = "journal_damaged"
    exit_status = 78


class NewerFormat(StackshiftError):
    """The journal was written by a newer StackShift."""

    code = "newer_format"
    exit_status = 78


BY_CODE: dict[str, type[StackshiftError]] = {
    cls.code: cls
    for cls in (
        Usage,
        NotFound,
        Conflict,
        LockHeld,
        LockLost,
        PayloadRefused,
        BadConfiguration,
        DaemonUnavailable,
        Busy,
        DiskFull,
        JournalDamaged,
        NewerFormat,
        StackshiftError,
    )
}
"""Those that cross the wire, by their code."""


def from_json(body: dict[str, Any]) -> StackshiftError:
    """The error that the daemon sent, as the class of its code (the root for a code not known)."""
    fields = {k: v for k, v in body.items() if k not in ("code", "message", "hint")}
    cls = BY_CODE.get(str(body.get("code")), StackshiftError)
    return cls(str(body.get("message", "")), hint=str(body.get("hint") or ""), **fields)
