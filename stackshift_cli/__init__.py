"""The command line: parse, ask the daemon, show its answer.

`stackshift` runs `main`. Plain spellings of the commands that shell loops call (`start`,
`state get`, `event send`, …) take the fast path, plain spellings of the others the short path;
neither imports Typer, and what is not drawn does without Rich. Everything else goes to Typer. This
package never imports the daemon: it starts it as a program and talks to its socket.
"""

from __future__ import annotations

import gc
import sys

_FAST = {"start", "state", "event"}
"""First words of the commands that have a fast path."""
_RUNS_PROGRAMS = {"sh", "exec", "step", "lock", "add"}
"""Last words of the commands that run a program, whose options are not ours."""


def main() -> int:
    """Run the command line in `sys.argv` and return the exit status."""
    # Until a verb runs, all that is made are modules, which stay: looking for garbage among them
    # takes a fifth of the time of a command. `execute` enables it for verbs.
    gc.disable()
    from stackshift_cli.output.streams import open_streams

    open_streams()
    from stackshift_cli.exit import ended

    status = ended(_run, _errors_as_json, bool({"-v", "--verbose"} & set(_own())))
    gc.freeze()  # Nor does the interpreter have to look for garbage when it ends.
    return status


def _own() -> list[str]:
    """The words that can be our own options: those after `--` belong to a command that we run."""
    return sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]


def _errors_as_json() -> bool:
    """Do `--json` or the user's settings ask for JSON? Called only once there is an error, and that
    may be that those settings are wrong."""
    if "--json" in _own():
        return True
    from stackshift_cli import user_config
    from stackshift_jobs.errors import StackshiftError

    try:
        return user_config.may_want_json() and user_config.load().output == "json"
    except StackshiftError:
        return False


def _run() -> int:
    argv = sys.argv[1:]
    if not _RUNS_PROGRAMS.isdisjoint(argv):
        from stackshift_cli.commands.program_words import with_program_words

        argv = with_program_words(argv)
    if not _FAST.isdisjoint(argv[:4]):
        from stackshift_cli import fast_path

        status = fast_path.run(argv)
        if status is not None:
            return status
    if argv[:1] == ["__complete"]:
        from stackshift_cli.commands import completion

        return completion.complete(argv[1:])
    from stackshift_cli import short_path

    status = short_path.run(argv)
    if status is not None:
        return status
    from stackshift_cli.commands import typer_app

    return typer_app.run(argv)
