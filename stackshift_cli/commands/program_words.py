"""What follows the name of a program or a script is for it, options too: `exec ls -v`.

So it is where other programs run programs (`env`, `nice`, `sudo`). Our own options would otherwise
be taken away from the program without a word. A first line `#!/usr/bin/env -S stackshift sh` makes
command lines in which nobody can write `--`. So it is written here.
"""

from __future__ import annotations

from typing import Final

from stackshift_cli.commands.catalogue import ALIASES, COMMANDS, SH
from stackshift_cli.commands.small_parser import place_of_word
from stackshift_cli.commands.spec import Argument, Command


def with_program_words(argv: list[str]) -> list[str]:
    """`argv`, with `--` before the program that its command runs, if it runs one."""
    for command, place in _PROGRAMS:
        at = place_of_word(argv, command, place, ALIASES)
        if at is not None:
            return [*argv[:at], "--", *argv[at:]]
    return argv


def _programs() -> list[tuple[Command, int]]:
    """The commands that run programs, each with how many words stand before the program."""
    found = [(SH, 0)]
    for command in COMMANDS:
        words = [p for p in command.parameters if isinstance(p, Argument)]
        # What `doctor` tries as cron would is a line for a shell, in quotes.
        if words and words[-1].name == "command" and command.path != ("doctor",):
            found.append((command, len(words) - 1))
    return found


_PROGRAMS: Final = _programs()
