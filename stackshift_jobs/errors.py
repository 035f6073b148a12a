"""Every error that StackShift raises, under one root.

Four branches, because a different person acts on each: the caller's mistake, the job's failure,
damage in the world (disk, daemon), and our own bug. Each class has a stable `code`, which appears
as `error[code]` on the command line and as `data.code` on the wire, and the exit status of the
command line.
"""

from __future__ import annotations

# `typing` is not imported here: loading it takes a tenth of a short command's time. Type checkers
# treat this constant as true.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar


class StackshiftError(Exception):
    """Root of all StackShift errors.

    `code` is stable, `exit_status` is the command line's, `hint` says what to do, and `fields`
    holds everything else that goes over the wire (JSON values only). The `__init__` of a job's own
    class (`class Declined(NonRetryable)`) need not call this one: as for any exception of Python,
    the message is then that of its arguments.
    """

    code: ClassVar[str] = "internal"
    exit_status: ClassVar[int] = 70

    def __init__(self, message: str, *, hint: str = "", **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.fields = fields

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name == "message":
                return super().__str__()
            if name == "hint":
                return ""
            if name == "fields":
                return {}
            raise AttributeError(name, name=name, obj=self)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # Not by `__init__`, which takes other arguments than the message that Python keeps. A pool
        # of processes breaks, or waits for ever, if an error of its function cannot be read.
        return _without_init, (type(self), self.args), self.__dict__

    def as_json(self) -> dict[str, Any]:
        """The error as it is sent over the wire: `{code, message, hint, ...fields}`."""
        return {"code": self.code, "message": self.message, "hint": self.hint, **self.fields}


def _without_init(cls: type[StackshiftError], args: tuple[Any, ...]) -> StackshiftError:
    return cls.__new__(cls, *args)


# --- The caller's mistake ------------------------------------------------------------------


_SENTENCES = frozenset(
    ("Usage", "BadConfiguration", "TwoJobsOneName", "InsideHandler", "HeaderError")
)
"""The errors of ours that a job module meets while it is imported."""


def error_text(type: object, message: object) -> str:
    """An error in one line: `ValueError: no such page`, and `ValueError` for one without words."""
    return f"{type}: {message}" if message else f"{type}"


def import_error(type: str, message: str) -> str:
    """What made the import of a job module fail. Our own messages are sentences about the module;
    of other errors the class belongs to the message."""
    return message if type in _SENTENCES else error_text(type, message)


class Usage(StackshiftError):
    """The request itself is malformed: an unknown method, a missing field, a bad value."""

    code = "usage"
    exit_status = 2


class NotFound(StackshiftError):
    """The run, job, step or key does not exist."""

    code = "not_found"
    exit_status = 4


class Conflict(StackshiftError):
    """The request conflicts with what exists: an idempotency key that has another payload, an entry
    of another version, a lock that somebody holds."""

    code = "conflict"
    exit_status = 5

    @property
    def owner(self) -> str | None:
        """Id of the run that owns the key or the lock, if a run does."""
        return self.fields.get("owner")

    @property
    def difference(self) -> list[str]:
        """What differs, one line for each JSON path."""
        return list(self.fields.get("difference", ()))

    @property
    def version(self) -> int | None:
        """The current version of the state entry; None if there is no entry."""
        return self.fields.get("version")


class LockHeld(Conflict):
    """The lock is held by another owner."""

    code = "lock_held"


class PayloadRefused(StackshiftError):
    """The value cannot be JSON, exceeds a limit, or does not fit the type of the job's payload."""

    code = "payload_refused"
    exit_status = 6

    @property
    def path(self) -> str:
        """Where in the value the problem is, as a JSON path: `$.sizes[2]`."""
        return str(self.fields.get("path", "$"))


class BadConfiguration(StackshiftError):
    """`stackshift.toml`, the environment or a job module is wrong."""

    code = "configuration"
    exit_status = 78


class InsideHandler(StackshiftError):
    """A handler used what only steps may use: the client, whose calls have a twin on `ctx`, or in
    an `async def` handler something of asyncio's that acts on the world. The message says which,
    and what to use instead."""

    code = "inside_handler"
    exit_status = 2


# --- The job's failure ---------------------------------------------------------------------


class RunFailed(StackshiftError):
    """The run that the caller waited for failed. `.error` is `{type, message, traceback}`."""

    code = "run_failed"
    exit_status = 1

    def __init__(self, run_id: str, error: dict[str, Any]) -> None:
        super().__init__(
            f"{run_id} failed: {error_text(error.get('type'), error.get('message'))}",
            hint=f"stackshift runs show {run_id}",
            run=run_id,
            error=error,
        )
        self.run_id = run_id
        self.error = error


class RunCancelled(StackshiftError):
    """The run that the caller waited for was cancelled. `.reason` is why its handler has done so;
    empty if someone else has."""

    code = "run_cancelled"
    exit_status = 7

    def __init__(self, run_id: str, why: str = "") -> None:
        super().__init__(f"{run_id} was {why or 'cancelled'}", run=run_id)
        self.run_id = run_id
        self.reason = why.removeprefix("cancelled").removeprefix(": ")


class BeingCancelled(StackshiftError):
    """What the script of a shell job is told once, instead of the answer to its call: its run is
    being cancelled, gently. (A handler in Python gets `Cancelling`.)"""

    code = "cancelling"
    exit_status = 7


class NonRetryable(StackshiftError):
    """Raise this in a handler or a step to fail without a retry."""

    code = "non_retryable"
    exit_status = 1


class SecretUnavailable(NonRetryable):
    """A secret that the payload names cannot be read. The message names the variable or the file,
    and never what is in it."""

    code = "secret_unavailable"


class StepFailed(StackshiftError):
    """A step failed for good; raised again on every later pass.

    `.step` is its name; `.type`, `.message` and `.traceback` describe what its function raised, and
    `.exit_code` is the status of a program that failed. On the pass in which the step failed,
    `__cause__` is the original exception.
    """

    code = "step_failed"
    exit_status = 1

    def __init__(
        self,
        step: str,
        type: str,
        message: str,
        traceback: str = "",
        exit_code: int | None = None,
    ) -> None:
        super().__init__(f"step {step!r} failed: {error_text(type, message)}", step=step)
        self.step = step
        self.type = type
        self.message = message
        self.traceback = traceback
        self.exit_code = exit_code
        self.stdout = ""
        self.retryable = True
        self.cancels = False

    def __str__(self) -> str:
        return f"step {self.step!r} failed: {error_text(self.type, self.message)}"


class HeartbeatTimeout(TimeoutError):
    """A step's function has not beaten for as long as its `heartbeat`, and its try has failed. It
    is raised in the function too, at its next beat."""


_CUT_OFF = "_stackshift_cut_off"


def cut_off(error: TimeoutError) -> TimeoutError:
    """The same error, marked as one that has ended the function of a step from outside."""
    error.__dict__[_CUT_OFF] = True
    return error


def is_cut_off(error: BaseException) -> bool:
    """Has it ended a function from outside, so that nobody knows how far that came?"""
    return _CUT_OFF in error.__dict__ or isinstance(error, HeartbeatTimeout)


class ChildFailed(NonRetryable):
    """A run whose result a handler waited for failed or was cancelled.

    `.run_id` is its id, `.status` is `failed` or `cancelled`, `.error` is as in `RunFailed`.
    """

    code = "child_failed"

    def __init__(self, run_id: str, status: str, error: dict[str, Any] | None) -> None:
        reason = f": {error.get('type')}: {error.get('message')}" if error else ""
        super().__init__(f"child {run_id} {status}{reason}", run=run_id)
        self.run_id = run_id
        self.status = status
        self.error = error


class CommandFailed(StackshiftError):
    """A program run by `step.command` exited with a status other than 0."""

    code = "command_failed"
    exit_status = 1

    def __init__(self, argv: list[str], exit_code: int, stdout: str, stderr: str) -> None:
        said = stderr.strip()[-500:]
        super().__init__(f"{argv[0]} exited with {exit_code}" + (f": {said}" if said else ""))
        self.argv = argv
        self.exit_code = exit_code
        self.stdout = stdout
        self.stderr = stderr
        self.keeps_output = False
        """Is `stdout` a part of the outcome, to be recorded with it?"""


class LockLost(StackshiftError):
    """A lock expired, or was lost in another way, before its holder was done with it."""

    code = "lock_lost"
    exit_status = 1

    @property
    def key(self) -> str:
        """The key of the lock."""
        return str(self.fields.get("key", ""))


class ReplayError(NonRetryable):
    """The handler's code does not match the record of its run; a retry would not help."""

    code = "replay"


# --- The world -----------------------------------------------------------------------------


class DaemonUnavailable(StackshiftError):
    """No daemon answers for this project, or it speaks another version of the protocol."""

    code = "daemon_unavailable"
    exit_status = 3


class Busy(StackshiftError):
    """Refused for now because a limit was reached; the same request may succeed later."""

    code = "busy"
    exit_status = 75


class DiskFull(Busy):
    """There is no disk space to record the request; reads still work."""

    code = "disk_full"


class DatabaseUnavailable(Busy):
    """The database that has the journal does not answer; nothing that was acknowledged is lost."""

    code = "database_unavailable"


class JournalDamaged(StackshiftError):
    """The journal cannot be trusted. Fields: `file`, `offset` (bytes), `seq`."""

    code = "journal_damaged"
    exit_status = 78


class Fenced(StackshiftError):
    """Another daemon writes to the journal, or the journal is closed."""

    code = "fenced"
    exit_status = 3


class HostUnreachable(StackshiftError):
    """The machine whose daemon leads cannot be reached from this one."""

    code = "host_unreachable"
    exit_status = 75


class JournalDiverged(StackshiftError):
    """The database of the journal lacks, or contradicts, what was acknowledged."""

    code = "journal_diverged"
    exit_status = 78


class NewerFormat(StackshiftError):
    """The journal was written by a newer StackShift."""

    code = "newer_format"
    exit_status = 78


class OutputFailed(StackshiftError):
    """Standard output cannot be written, as on a full disk: what the command has done stays done.
    The status is that of sysexits' EX_IOERR."""

    code = "output"
    exit_status = 74


BY_CODE: dict[str, type[StackshiftError]] = {
    cls.code: cls
    for cls in (
        Usage,
        NotFound,
        Conflict,
        LockHeld,
        LockLost,
        BeingCancelled,
        PayloadRefused,
        BadConfiguration,
        DaemonUnavailable,
        Busy,
        DiskFull,
        DatabaseUnavailable,
        JournalDamaged,
        Fenced,
        HostUnreachable,
        JournalDiverged,
        NewerFormat,
        StackshiftError,
    )
}
"""The errors that cross the wire, by code."""


def from_json(body: dict[str, Any]) -> StackshiftError:
    """The error that the daemon sent, in the class for its code (the root class if unknown)."""
    fields = {k: v for k, v in body.items() if k not in ("code", "message", "hint")}
    cls = BY_CODE.get(str(body.get("code")), StackshiftError)
    return cls(str(body.get("message", "")), hint=str(body.get("hint") or ""), **fields)
