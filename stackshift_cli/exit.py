"""How a command ends, whatever happens in it: the exit status and the error message.

Invariants: no traceback without `-v`; a closed pipe ends the command quietly; output is flushed
before the status is returned, so a full disk behind a redirection is an error, not a success.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Final, TextIO

from stackshift_jobs.errors import StackshiftError

INTERRUPTED: Final = 130


def ended(command: Callable[[], int], as_json: Callable[[], bool], verbose: bool) -> int:
    """Run `command`, report its error if it raises one, and return the process's exit status."""
    for stream in (sys.stdout, sys.stderr):
        _escape_unknown_characters(stream)
    try:
        status = command()
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        _drop_output()
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except StackshiftError as bad:
        return _report(bad, as_json, verbose)
    except OSError as bad:
        file = f": {bad.filename}" if bad.filename else ""
        return _report(StackshiftError(f"{bad.strerror or bad}{file}"), as_json, verbose, bad)
    except Exception as bad:
        hint = "this is a bug in stackshift; -v shows the traceback"
        bug = StackshiftError(f"{type(bad).__name__}: {bad}", hint=hint)
        return _report(bug, as_json, verbose, bad)


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
    """Print `error` after the output so far, and with `-v` the traceback of its `cause`; return its
    exit status."""
    from stackshift_cli.output import messages

    try:
        sys.stdout.flush()
    except OSError:
        _drop_output()
    try:
        if verbose and cause is not None:
            import traceback

            from stackshift_cli.output.safe_text import safe_lines

            messages.say(safe_lines("".join(traceback.format_exception(cause))).rstrip())
        return messages.error(error, as_json())
    except BrokenPipeError:
        return error.exit_status


def _drop_output() -> None:
    """Point stdout, which nobody reads any more, at /dev/null, so that the interpreter's last flush
    does not fail."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
