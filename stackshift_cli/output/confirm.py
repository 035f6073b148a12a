"""Asking before something is destroyed."""

from __future__ import annotations

import sys

from stackshift_cli.output import messages
from stackshift_cli.output.safe_text import safe
from stackshift_cli.output.terminal import is_terminal
from stackshift_jobs.errors import Usage


def can_ask() -> bool:
    """Is somebody there to ask?"""
    return is_terminal(sys.stdin) and is_terminal(sys.stderr)


def confirmed(question: str, yes: bool) -> bool:
    """Does the person want it? `yes` is `-y`. Off a terminal nobody can say: raises `Usage`."""
    if yes:
        return True
    if not can_ask():
        raise Usage(f"{safe(question)} needs a yes, and nobody is there to ask", hint="add -y")
    sys.stderr.write(f"{safe(question)}? [y/N] ")
    sys.stderr.flush()
    answer = sys.stdin.readline().strip().lower()
    if answer in ("y", "yes"):
        return True
    messages.say("nothing was done")
    return False
