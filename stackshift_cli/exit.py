"""How a command ends, whatever happens in it: the exit status and the error message.

Invariants: no traceback without `-v`; a closed pipe ends the command quietly; output is flushed
before the status is returned, so a full disk behind a redirection is an error, not a success; what
was changed before that is told on stderr, and the status is never one that means something else.
"""

from __future__ import annotations

import errno
import sys

from stackshift_cli.errors import DETACHED, UNWRITABLE, OutputClosed, room_hint
from stackshift_jobs.errors import BadConfiguration, DiskFull, OutputFailed, StackshiftError

TYPE_CHECKING = False  # See `stackshift_jobs.errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO


def ended(command: Callable[[], int], as_json: Callable[[], bool], verbose: bool) -> int:
    """Run `command`, report its error if it raises one, and return the process's exit status."""
    for stream in (sys.stdout, sys.stderr):
        _escape_unknown_characters(stream)
    try:
        return _flushed(command)
    except OutputClosed as closed:
        _tell_effects("standard output is closed")
        return closed.status
    except KeyboardInterrupt:
        return DETACHED
    except StackshiftError as bad:
        return _report(bad, as_json, verbose)
    except OSError as bad:
        return _report(_refused(bad), as_json, verbose, bad)
    except Exception as bad:
        hint = "this is a bug in stackshift; -v shows the traceback"
        bug = StackshiftError(f"{type(bad).__name__}: {bad}", hint=hint)
        return _report(bug, as_json, verbose, bad)


def _flushed(command: Callable[[], int]) -> int:
    """Run `command` and flush what it has printed, also if it fails. An error of its own says more
    than that standard output is not complete."""
    try:
        status = command()
    except (OutputClosed, OutputFailed):
        raise
    except BaseException:
        try:
            sys.stdout.flush()
        except OutputClosed:
            pass
        except OutputFailed as bad:
            _tell_effects(bad.message)
        raise
    try:
        sys.stdout.flush()
    except OutputClosed as closed:
        closed.status = status
        raise
    return status


def _refused(bad: OSError) -> StackshiftError:
    """The error for something that the system refused and nobody has expected."""
    if bad.errno == errno.ENOENT and not bad.filename:
        from stackshift_jobs.project.locate import working_directory

        try:
            working_directory()
        except StackshiftError as gone:
            return gone
    file = f": {bad.filename}" if bad.filename else ""
    message = f"{bad.strerror or bad}{file}"
    if bad.errno in UNWRITABLE:
        return DiskFull(message, hint=room_hint(bad))
    if bad.errno == errno.EMFILE:
        return BadConfiguration(message, hint="ulimit -n shows how many may be open: 1024 is usual")
    return StackshiftError(message)


def _tell_effects(why: str) -> None:
    from stackshift_cli.output import effects, messages

    for line in effects.lines():
        messages.say(f"{why}; {line}")


def _escape_unknown_characters(stream: TextIO) -> None:
    """Print characters that the locale cannot show as escapes, so that they neither end the program
    nor reach a terminal as bytes that mean something else. Pipes get UTF-8 in any locale."""
    if not hasattr(stream, "reconfigure"):
        return
    if stream.isatty():
        from stackshift_cli.output.terminal import shows_unicode

        if not shows_unicode(stream):
            stream.reconfigure(encoding="ascii")
    stream.reconfigure(errors="backslashreplace")


def _report(
    error: StackshiftError,
    as_json: Callable[[], bool],
    verbose: bool,
    cause: Exception | None = None,
) -> int:
    """Print `error`, and with `-v` the traceback of its `cause`; return its
    exit status."""
    from stackshift_cli.output import messages

    if verbose and cause is not None:
        import traceback

        from stackshift_cli.output.safe_text import safe_lines

        messages.say(safe_lines("".join(traceback.format_exception(cause))).rstrip())
    status = messages.error(error, as_json())
    if isinstance(error, OutputFailed):
        _tell_effects("done before that")
    return status
