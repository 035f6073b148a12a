"""How a command ends, whatever happens in it: the exit status, and what is said.

Invariants: no traceback unless `-v` was given; a closed pipe ends quietly; what was printed is out
before the status is returned, so a full disk behind a redirection is an error and not a success.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Final, TextIO

from stackshift_jobs.errors import StackshiftError

INTERRUPTED: Final = 130


def ended(command: Callable[[], int], as_json: Callable[[], bool], verbose: bool) -> int:
    """Run `command` to its end; the exit status of the process."""
    for stream in (sys.stdout, sys.stderr):
        _show_what_it_can(stream)
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
        return _told(bad, as_json, verbose)
    except OSError as bad:
        named = f": {bad.filename}" if bad.filename else ""
        return _told(StackshiftError(f"{bad.strerror or bad}{named}"), as_json, verbose, bad)
    except Exception as bad:
        hint = "this is a bug in stackshift; -v shows the traceback"
        told = StackshiftError(f"{type(bad).__name__}: {bad}", hint=hint)
        return _told(told, as_json, verbose, bad)


def _show_what_it_can(stream: TextIO) -> None:
    """What the locale cannot show is shown as escapes, instead of ending the program or reaching a
    terminal as bytes that mean something else to it. Pipes get UTF-8 whatever the locale."""
    if not hasattr(stream, "reconfigure"):
        return
    if stream.isatty():
        from stackshift_cli.output.terminal import shows_unicode

        if not shows_unicode(stream):
            stream.reconfigure(encoding="ascii")
    stream.reconfigure(errors="backslashreplace")


def _told(
    error: StackshiftError, as_json: Callable[[], bool], verbose: bool, bug: Exception | None = None
) -> int:
    """Say `error` after what was printed already; with `-v` the traceback of a bug too."""
    from stackshift_cli.output import messages

    try:
        sys.stdout.flush()
    except OSError:
        _drop_output()
    try:
        if verbose and bug is not None:
            import traceback

            from stackshift_cli.output.safe_text import safe_lines

            messages.say(safe_lines("".join(traceback.format_exception(bug))).rstrip())
        return messages.error(error, as_json())
    except BrokenPipeError:
        return error.exit_status


def _drop_output() -> None:
    """Nobody reads stdout: let the interpreter flush what is left of it into nothing."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.close(nothing)
