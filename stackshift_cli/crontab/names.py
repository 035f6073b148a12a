"""What the schedule of a crontab's entry is called: like the program that it runs."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from itertools import count
from typing import Final

_PART: Final = re.compile(r"[;&|(){}\n]+")
_SUBSTITUTION: Final = re.compile(r"\$\([^()]*\)|`[^`]*`")
_ASSIGNMENT: Final = re.compile(r"\w+=\S*")
_PREFIXES: Final = frozenset(
    (
        *("[", "test", "cd", ".", "source", "exec", "command", "nice", "ionice", "nohup", "time"),
        *("timeout", "flock", "setsid", "sudo", "env", "chronic", "sleep", "set", "export"),
        *("umask", "if", "then", "do", "while", "for", "true", ":"),
    )
)
"""What stands before the program that a line is about."""
_ALONE: Final = frozenset(("cd", "[", "test", "set", "export", "umask", "sleep", "true", ":"))
"""Of these, those that are a command of their own, so that what they are given is no program."""
_INTERPRETERS: Final = re.compile(
    r"(?:ba|da|k|z)?sh|python[\d.]*|perl|php[\d.]*|ruby|node|java|run-parts"
)
_UNFIT: Final = re.compile(r"[^A-Za-z0-9._-]+")
_MAX: Final = 40


def name_for(command: str, taken: Container[str]) -> str:
    """A name that is not `taken`: `backup.sh`, `backup.sh-2`."""
    command = _SUBSTITUTION.sub("", command)
    first = command.strip().partition(" ")[0].rpartition("/")[2]
    base = _UNFIT.sub("-", next(_programs(command), first)).strip("-.")[:_MAX] or "job"
    if base not in taken:
        return base
    return next(name for n in count(2) if (name := f"{base}-{n}") not in taken)


def _programs(command: str) -> Iterator[str]:
    """The programs that a line of shell is about, the first one first, as far as one can tell
    without a shell."""
    for part in _PART.split(command):
        words = iter(part.split())
        for word in words:
            plain = word.strip("\"'")
            if _ASSIGNMENT.fullmatch(plain) or not plain or plain.startswith("-"):
                continue
            name = plain.rstrip("/").rpartition("/")[2]
            if name in _PREFIXES:
                if name in _ALONE:
                    break
                continue
            if plain.isdigit() or re.fullmatch(r"[\d.]+[smhd]?", plain) or "%" in plain:
                continue
            if name.endswith((".lock", ".pid")):
                continue
            if _INTERPRETERS.fullmatch(name):
                script = next((each for each in words if not each.startswith("-")), "")
                name = script.strip("\"'").rstrip("/").rpartition("/")[2] or name
            yield name
            break
