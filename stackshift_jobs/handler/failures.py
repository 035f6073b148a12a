"""What an exception means for a step, an attempt or a module, and how it is put on record.

`Failure.of` takes any exception whatever: one whose text cannot be made or is not UTF-8, one with
causes and notes, a group of groups. An exception that could not be recorded would leave its run
running for ever, so nothing here raises.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, NamedTuple, TypeGuard, TypeVar

from stackshift_jobs.errors import (
    CommandFailed,
    InsideHandler,
    NonRetryable,
    PayloadRefused,
    StackshiftError,
    StepFailed,
    Usage,
    is_cut_off,
)
from stackshift_jobs.retry import CancelRun, RetryAfter, full_name
from stackshift_jobs.values.masking import Secrets
from stackshift_jobs.values.secrets import SHARED
from stackshift_jobs.values.text import readable

MAX_TRACEBACK: Final = 8192
MAX_MESSAGE: Final = 4096
MAX_PARTS: Final = 100
"""Exceptions of a group that are looked at; those beyond it only count as parts."""
_MAX_PRINTED: Final = 2048
"""Characters of what a program has printed that stand in the traceback of its error."""
_NAMED_PARTS: Final = 5
_FINAL: Final = (NonRetryable, CancelRun, PayloadRefused, Usage, InsideHandler)
_OURS: Final = ("stackshift_jobs", "stackshiftd")
_CAUSE: Final = BaseException.__dict__["__cause__"].__get__
_TRACEBACK: Final = BaseException.__dict__["__traceback__"].__get__
_CONTEXT: Final = BaseException.__dict__["__context__"].__get__
_EXCEPTIONS: Final = BaseExceptionGroup.__dict__["exceptions"].__get__
_NAME: Final = type.__dict__["__name__"].__get__
_MRO: Final = type.__dict__["__mro__"].__get__

Some = TypeVar("Some", bound=BaseException)


class Escaped(Exception):
    """Carries what is not an `Exception` (`SystemExit`, `KeyboardInterrupt`, …) or what Python does
    not let pass through a future (`StopIteration`) from the function that raised it to its record.
    """

    def __init__(self, original: BaseException) -> None:
        super().__init__(class_name(original))
        self.original = original


class Failure(NamedTuple):
    """An exception as it is recorded. `retryable` is false if trying again would not help,
    `retry_after_ms` and `retry_at_us` are the delay and the time that it asks for, `counts` is
    false if all that it asks for is a snooze, and `cancels` is true if it is to end the run as
    cancelled. `kinds` are the classes of each part that leaves the next try to a policy, and
    `steps` are the steps that failed. Of a program that did, `exit_code` is the status, and
    `stdout` its output if that is part of the outcome."""

    type: str
    message: str
    traceback: str
    retryable: bool
    retry_after_ms: int | None
    retry_at_us: int | None
    counts: bool
    cancels: bool
    kinds: tuple[tuple[str, ...], ...]
    steps: tuple[str, ...]
    exit_code: int | None = None
    stdout: str = ""

    @classmethod
    def of(cls, error: BaseException, secrets: Secrets = SHARED) -> Failure:
        """What `error` means, with `secrets` masked in its text. The parts of a group count each:
        one that is final makes all of it final, the longest delay that one asks for counts, and
        each failed step is tried again; only if all of them are snoozes, or cancel the run, is it a
        snooze, or does it cancel. A group of one means what its part means."""
        error = original(error)
        try:
            return cls._looked_at(error, secrets)
        except BaseException:  # It cannot be looked at: its class answers for attributes itself.
            return cls._unseen(error, secrets)

    @classmethod
    def _looked_at(cls, error: BaseException, secrets: Secrets) -> Failure:
        parts = list(parts_of(error))
        shown = parts[0] if len(parts) == 1 else error
        asked = [_asked(part) for part in parts]
        delays = [each.delay_ms for each in asked if each and each.delay_ms is not None]
        times = [each.at_us for each in asked if each and each.at_us is not None]
        steps = [step for part in parts if (step := _step_of(part)) is not None]
        return cls(
            type=secrets.mask(_type_of(shown)),
            message=_message_of(shown, parts, secrets),
            traceback=_traceback_of(shown, error, secrets),
            retryable=all(map(_is_retryable, parts)),
            retry_after_ms=max(delays, default=None),
            retry_at_us=max(times, default=None),
            counts=any(each is None or each.counts for each in asked),
            cancels=all(map(_cancels, parts)),
            kinds=tuple(_kinds(part) for part in parts if _leaves_it(part)),
            steps=tuple(dict.fromkeys(steps)),
            exit_code=shown.exit_code if isinstance(shown, CommandFailed | StepFailed) else None,
            stdout=shown.stdout if isinstance(shown, CommandFailed) and shown.keeps_output else "",
        )

    @classmethod
    def _unseen(cls, error: BaseException, secrets: Secrets) -> Failure:
        """What is known of an error by its type and its frames alone."""
        return cls(
            type=secrets.mask(_type_of(error)),
            message=_text_of(error, secrets),
            traceback=_frames_of(error, secrets),
            retryable=not is_a(error, *_FINAL),
            retry_after_ms=None,
            retry_at_us=None,
            counts=True,
            cancels=is_a(error, CancelRun),
            kinds=(_kinds(error),),
            steps=(),
        )

    def as_json(self) -> dict[str, Any]:
        """`{type, message, traceback, retryable, cancels}`, and what there is of a program."""
        failure: dict[str, Any] = {
            "type": self.type,
            "message": self.message,
            "traceback": self.traceback,
            "retryable": self.retryable,
            "cancels": self.cancels,
        }
        if self.exit_code is not None:
            failure["exit_code"] = self.exit_code
        if self.stdout:
            failure["stdout"] = self.stdout
        return failure


def original(error: BaseException) -> BaseException:
    """The exception that was raised, if `error` carries it."""
    return error.original if is_a(error, Escaped) else error


def is_a(error: BaseException, *kinds: type[Some]) -> TypeGuard[Some]:
    """`isinstance(error, kinds)`, which for want of its type asks the error, and gets what its
    `__getattribute__` raises."""
    return issubclass(type(error), kinds)


def class_name(error: BaseException) -> str:
    """The name of the class of `error`, whatever its metaclass makes of attributes."""
    name: str = _NAME(type(error))
    return name


def cause_of(error: BaseException) -> BaseException | None:
    """The `__cause__` of `error`, whatever its class makes of attributes."""
    cause: BaseException | None = _CAUSE(error)
    return cause


def traceback_of(error: BaseException) -> TracebackType | None:
    """The `__traceback__` of `error`, whatever its class makes of attributes."""
    frames: TracebackType | None = _TRACEBACK(error)
    return frames


def exceptions_of(group: BaseExceptionGroup) -> tuple[BaseException, ...]:
    """The `exceptions` of `group`, whatever its class makes of attributes."""
    parts: tuple[BaseException, ...] = _EXCEPTIONS(group)
    return parts


def parts_of(error: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group, however deep; of another exception, itself."""
    left = [error]
    found = 0
    while left and found < MAX_PARTS:
        part = original(left.pop())
        if is_a(part, BaseExceptionGroup):
            left.extend(reversed(exceptions_of(part)))
        else:
            found += 1
            yield part


def _is_retryable(error: BaseException) -> bool:
    if isinstance(error, StepFailed):
        return error.retryable
    refused = isinstance(error, StackshiftError) and error.fields.get("final")
    return not refused and not isinstance(error, _FINAL)


def _asked(error: BaseException) -> RetryAfter | None:
    """What sets the time of the next try: the error itself, or that of the step that failed."""
    asked = error if isinstance(error, RetryAfter) else error.__cause__
    return asked if isinstance(asked, RetryAfter) else None


def _cancels(error: BaseException) -> bool:
    return error.cancels if isinstance(error, StepFailed) else isinstance(error, CancelRun)


def _leaves_it(error: BaseException) -> bool:
    """Is it left to a policy whether the error is tried again? What asks for it needs no leave, and
    about the error of a step that was decided when that was recorded."""
    return not isinstance(error, StepFailed) and _asked(error) is None


def _kinds(error: BaseException) -> tuple[str, ...]:
    return tuple(full_name(cls) for cls in _MRO(type(error))[:-1])


def _step_of(error: BaseException) -> str | None:
    if isinstance(error, StepFailed):
        return error.step
    step = error.fields.get("step") if isinstance(error, StackshiftError) else None
    return step if isinstance(step, str) else None


def _type_of(error: BaseException) -> str:
    return readable(error.type if is_a(error, StepFailed) else class_name(error))


def _message_of(error: BaseException, parts: list[BaseException], secrets: Secrets) -> str:
    if isinstance(error, BaseExceptionGroup):
        named = [f"{_type_of(part)}: {_text_of(part, secrets)}" for part in parts[:_NAMED_PARTS]]
        more = ["…"] if len(parts) > _NAMED_PARTS else []
        count = f"over {MAX_PARTS - 1}" if len(parts) == MAX_PARTS else str(len(parts))
        return f"{count} errors: {'; '.join([*named, *more])}"[:MAX_MESSAGE]
    return _text_of(error, secrets)


def _text_of(error: BaseException, secrets: Secrets) -> str:
    try:
        text = error.message if is_a(error, StepFailed) else str(error)
        if is_a(error, StackshiftError) and error.hint:
            text = f"{text}; hint: {error.hint}"  # A record has no other place for it.
        return secrets.mask(readable(text))[:MAX_MESSAGE]
    except BaseException as bad:
        # It is the text that is missing; what happened is known by the type.
        return f"({class_name(bad)} in {class_name(error)}.__str__)"


def _traceback_of(shown: BaseException, error: BaseException, secrets: Secrets) -> str:
    """The frames of the user's code; with a cause, notes or parts, all of these as Python prints
    them. An error that we have raised, in a step of our own such as a program, comes from the place
    of the handler that has called it, if that is known."""
    if isinstance(shown, StepFailed) and shown.traceback:
        return secrets.mask(readable(shown.traceback))[-MAX_TRACEBACK:]
    try:
        whole = traceback.TracebackException.from_exception(error)
        for each, raised in _chain(whole, error):
            if printed := _printed_by_program(raised):
                each.__notes__ = [*(getattr(each, "__notes__", None) or ()), printed]
        # The cause of a `StepFailed` is the error that it tells of, which is not told twice.
        is_plain = isinstance(shown, StepFailed) or not (
            isinstance(error, BaseExceptionGroup)
            or whole.__cause__
            or (whole.__context__ and not whole.__suppress_context__)
            or getattr(whole, "__notes__", None)
        )
        is_users = _keep_users_frames(whole)
        if is_plain and not is_users and (isinstance(error, StackshiftError) or is_cut_off(error)):
            return ""
        lines = traceback.format_list(whole.stack) if is_plain else list(whole.format())
        return secrets.mask(readable("".join(lines)))[-MAX_TRACEBACK:]
    except BaseException:  # It, or a cause of it, has no notes to give, nor parts.
        return _frames_of(error, secrets)


def _chain(
    whole: traceback.TracebackException, error: BaseException
) -> Iterator[tuple[traceback.TracebackException, BaseException]]:
    """What is printed of `error`, of its causes and of its parts, each with the exception itself.
    Python prints an exception once, so no circle is gone round twice."""
    left = [(whole, error)]
    while left:
        each, raised = left.pop()
        yield each, raised
        if each.__cause__ is not None and (cause := cause_of(raised)) is not None:
            left.append((each.__cause__, cause))
        if each.__context__ is not None and (context := _CONTEXT(raised)) is not None:
            left.append((each.__context__, context))
        if is_a(raised, BaseExceptionGroup):
            left += zip(
                getattr(each, "exceptions", None) or (), exceptions_of(raised), strict=False
            )


def _printed_by_program(error: BaseException) -> str:
    """The end of what a program of `subprocess` has captured on its standard error, or else on its
    standard output, which alone says why it failed; empty for other errors. A log of the run has
    nothing of it. It may be a traceback itself: each line is marked."""
    if not hasattr(error, "cmd"):
        return ""
    for name, stream in (("stderr", "standard error"), ("output", "standard output")):
        printed = getattr(error, name, None)
        if isinstance(printed, bytes):
            printed = printed.decode("utf-8", "backslashreplace")
        if isinstance(printed, str) and printed.strip():
            lines = printed.rstrip()[-_MAX_PRINTED:].splitlines()
            return "\n".join([f"{stream} of the program:", *(f"> {line}" for line in lines)])
    return ""


def _frames_of(error: BaseException, secrets: Secrets) -> str:
    """The frames of the user's code, and nothing that the error itself has to say."""
    try:
        stack = traceback.extract_tb(traceback_of(error))
        kept = [frame for frame in stack if not _is_ours(frame)]
        return secrets.mask(readable("".join(traceback.format_list(kept))))[-MAX_TRACEBACK:]
    except Exception:
        return ""


def _keep_users_frames(error: traceback.TracebackException) -> bool:
    """Leave frames of our own out, of causes and parts too, unless there are no others. Returns
    whether the error itself has others."""
    is_users = any(not _is_ours(frame) for frame in error.stack)
    left = [error]
    seen: set[int] = set()
    while left:
        each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        users = [frame for frame in each.stack if not _is_ours(frame)]
        each.stack = traceback.StackSummary.from_list(users or list(each.stack))
        left += [e for e in (each.__cause__, each.__context__) if e is not None]
        left += getattr(each, "exceptions", None) or []
    return is_users


def _is_ours(frame: traceback.FrameSummary) -> bool:
    return any(name in frame.filename for name in _OURS)
