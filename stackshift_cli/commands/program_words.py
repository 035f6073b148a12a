"""`sh FILE ARGS...`: what follows the name of a script is for the script, options too.

A first line `#!/usr/bin/env -S stackshift sh` makes such command lines, in which nobody can write
`--`. So it is written here.
"""

from __future__ import annotations

from stackshift_cli.commands.catalogue import SH
from stackshift_cli.commands.small_parser import verb_and_first_word


def with_script_words(argv: list[str]) -> list[str]:
    """`argv`, with `--` before the first word of `sh`, if that is its command."""
    verb, first = verb_and_first_word(argv, SH)
    if first is None or argv[verb : verb + 1] != list(SH.path):
        return argv
    return [*argv[:first], "--", *argv[first:]]
