"""Confirmation before something is destroyed."""

from __future__ import annotations

import sys

from stackshift_cli.output import messages
from stackshift_cli.output.safe_text import safe
from stackshift_cli.output.terminal import is_terminal
from stackshift_jobs.errors import Usage


def can_ask() -> bool:
    """Are standard input and standard error a terminal, with a person to ask?"""
    return is_terminal(sys.stdin) and is_terminal(sys.stderr)


def confirmed(question: str, yes: bool) -> bool:
    """Does the person confirm `question` (`discard 3 runs`)? `yes`: `-y` was given, do not ask.
    Raises `Usage` off a terminal, where nobody can answer."""
    if yes:
        return True
    if not can_ask():
        raise Usage(
            f"{safe(question)}: confirmation is required, and there is no terminal to ask on",
            hint="add --yes",
        )
    sys.stderr.write(f"{safe(question)}? [y/N] ")
    sys.stderr.flush()
    answer = sys.stdin.readline().strip().lower()
    if answer in ("y", "yes"):
        return True
    messages.say("nothing was changed")
    return False
