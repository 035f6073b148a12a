"""Running a command as cron would, and the crontab line for it.

cron has its own idea of an environment: `/bin/sh`, a PATH of two folders, no terminal, the home
directory. What works in a shell and fails there is the oldest trap of cron; here it is met now, and
not at three in the morning.

One word is a line for the shell, as it stands in a crontab: what is in it, `$(date +%F)` too, is
expanded each time that cron runs it. Of several words the caller's shell has already expanded what
there was, so they are quoted.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

from stackshift_cli.daemon.session import Session
from stackshift_cli.daemon.units import for_crontab
from stackshift_cli.errors import CommandNotFound
from stackshift_cli.flows.shell_line import Program, programs, replaced
from stackshift_cli.output import messages
from stackshift_cli.output.safe_text import safe
from stackshift_jobs.errors import Usage
from stackshift_jobs.project.environment import account

CRON_PATH: Final = "/usr/bin:/bin"
_WHEN: Final = "0 3 * * *"
_SHELLS: Final = ("sh", "bash", "dash", "ksh", "zsh")
_KEY: Final = "--idempotency-key"
_DATES: Final = ("%F", "%Y%m%d", "%d.%m.%Y", "%m/%d/%Y", "%G-W%V", "%Y-%m", "%Y%m")
"""How keys hold the date, the most exact first."""
_LITERAL: Final = re.compile(r"""'[^']*'|("(?:\\.|[^"\\])*")|\\.""")
"""What a shell takes as it is: in single quotes or behind a backslash. What is in double quotes is
the group, and is not."""
_NO_PROGRAM: Final = 127


def try_as_cron(session: Session, command: list[str]) -> int:
    """Run `command` under cron's environment and, if it succeeds, print the crontab line for it on
    stdout; its exit status. Without a command, `stackshift doctor` is what runs, and there is no
    line."""
    written = _line(command or ["stackshift", "doctor"])
    line = _as_cron_finds_it(session, written)
    if "\n" in line:
        raise Usage(
            "a command in a crontab is one line", hint="put the command into a script, and try that"
        )
    session.say(f"as cron: {safe(line)}")
    status = _run(line, sys.stderr if command else None)
    if not command:
        session.say("hint: stackshift doctor --cron -- COMMAND tries a command and prints its line")
        return status
    works = status == 0
    entry = f"{_WHEN} {for_crontab(line)}" if works else None
    session.say(f"exit status {status}: " + ("cron would run it so" if works else _failed(status)))
    if session.json:
        messages.data(messages.compact({"line": entry, "exit": status}))
    elif entry is not None:
        messages.data(safe(entry))
    if works and not _says_frozen_key(session, line, written):
        session.say("hint: change the time, and add the line with crontab -e")
    return status


def _failed(status: int) -> str:
    why = " (a program that cron does not find)" if status == _NO_PROGRAM else ""
    return f"it fails under cron{why}; no crontab line is printed"


def _run(line: str, stdout: Any) -> int:
    user = account()
    sys.stdout.flush()
    sys.stderr.flush()
    done = subprocess.run(
        ["/bin/sh", "-c", line],
        stdin=subprocess.DEVNULL,
        # What is printed goes where a person reads it; the line alone is data.
        stdout=stdout,
        cwd=user.home if os.path.isdir(user.home) else "/",  # noqa: PTH112
        env={
            "SHELL": "/bin/sh",
            "PATH": CRON_PATH,
            "HOME": user.home,
            "LOGNAME": user.name,
        },
        start_new_session=True,
        check=False,
    )
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


# --- The line ------------------------------------------------------------------------------


def _line(command: list[str]) -> str:
    """The line for `/bin/sh`. `\\%` in it comes from a crontab, where it is a `%`."""
    if len(command) == 1:
        return command[0].strip().replace("\\%", "%")
    return shlex.join(command)


def _as_cron_finds_it(session: Session, line: str) -> str:
    """`line` with the paths of programs that cron would not find, and for `stackshift` the project,
    since cron starts it in the home directory. Each change but that is said."""
    own = [program.word for program in programs(line)]
    changes_directory = "cd" in own

    def by_path(program: Program) -> str:
        if program.word == "stackshift":
            named = changes_directory or _names_project(program.arguments)
            return shlex.join([*_ourselves(), *([] if named else ["-C", session.project.address])])
        return _path_of(session, program.word, is_only=len(own) == 1)

    line = replaced(line, by_path)
    words = _words(line)
    if len(words) > 2 and os.path.basename(words[0]) in _SHELLS and words[1] == "-c":  # noqa: PTH119
        # Its script is a line like this one.
        script = _as_cron_finds_it(session, words[2])
        if script != words[2]:
            return shlex.join([*words[:2], script, *words[3:]])
    return line


def _ourselves() -> list[str]:
    own = os.path.join(os.path.dirname(sys.executable), "stackshift")  # noqa: PTH118, PTH120
    return [own] if os.access(own, os.X_OK) else [sys.executable, "-P", "-m", "stackshift_cli"]


def _path_of(session: Session, word: str, is_only: bool) -> str:
    """What is written for the program `word`. What neither cron nor this shell finds is a builtin,
    a function or a variable, unless it is all there is."""
    if "/" in word or shutil.which(word, path=CRON_PATH):
        return word
    here = shutil.which(word)
    if here is None:
        is_name = word.replace("-", "").replace("_", "").replace(".", "").isalnum()
        if is_only and is_name and not _is_builtin(word):
            raise CommandNotFound(
                f"there is no program {word!r} on cron's PATH, {CRON_PATH}, or on yours",
                hint="check the spelling, or write its full path",
            )
        return word
    session.say(f"cron does not find {safe(word)}: it is in {safe(os.path.dirname(here))}")  # noqa: PTH120
    return shlex.quote(here)


def _is_builtin(word: str) -> bool:
    asked = ["/bin/sh", "-c", 'command -v -- "$1"', "sh", word]
    return subprocess.run(asked, capture_output=True, check=False).returncode == 0


def _names_project(words: list[str]) -> bool:
    own = words[: words.index("--")] if "--" in words else words
    return any(word in ("-C", "--project") or word.startswith("--project=") for word in own)


# --- Keys that stay the same ---------------------------------------------------------------


def _says_frozen_key(session: Session, line: str, written: str) -> bool:
    """Say so if an idempotency key of `line` is the same each time, because cron would then start
    one run and from then on none; `written` is the line as it was given."""
    for key in _keys(line):
        text = next(iter(_words(key)), "")
        held = _date_in(text)
        if not _is_fixed(key) or not (held or "--idempotency-ttl" not in line):
            continue  # A key that lives for a time of its own may be meant to stay the same.
        what = f"holds today's date as text ({safe(held[0])})" if held else "is always the same"
        session.say(
            f"warning: the idempotency key {safe(text)} {what}: this line starts one run, and from"
            " then on only finds that one again"
        )
        changing = _changing(text, held)
        hint = f'in single quotes, cron\'s shell makes the date: "{changing}"'
        for given in (f"{_KEY} {key}", f"{_KEY}={key}"):
            if given in written:
                again = written.replace(given, f'{given[: len(_KEY) + 1]}"{changing}"', 1)
                hint += f"; try stackshift doctor --cron -- {shlex.quote(again)}"
        session.say(f"hint: {safe(hint)}")
        return True
    return False


def _keys(line: str) -> Iterator[str]:
    """The idempotency keys of `line` as they are written, also in the script of `sh -c`."""
    for program in programs(line):
        words = program.arguments
        if os.path.basename(program.word) in _SHELLS and words[:1] == ["-c"]:  # noqa: PTH119
            yield from (key for script in _words(" ".join(words[1:2])) for key in _keys(script))
        yield from (after for word, after in itertools.pairwise(words) if word == _KEY)
        yield from (w.removeprefix(f"{_KEY}=") for w in words if w.startswith(f"{_KEY}="))


def _is_fixed(word: str) -> bool:
    """Does a shell expand nothing in `word`, as it is written?"""
    return not any(sign in _LITERAL.sub(r"\1", word) for sign in "$`")


def _changing(key: str, held: tuple[str, str] | None) -> str:
    if held:
        return key.replace(held[0], f"$(date {held[1]})")
    return key if "$(" in key else f"{key}:$(date +%F)"


def _date_in(key: str) -> tuple[str, str] | None:
    """Today's date as it stands in `key`, here or in UTC, and what makes `date` print it."""
    now = time.time()
    for form in _DATES:
        for moment, zone in ((time.localtime(now), ""), (time.gmtime(now), "-u ")):
            shown = time.strftime(form.replace("%F", "%Y-%m-%d"), moment)
            if shown in key:
                return shown, f"{zone}+{form}"
    return None


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        return line.split()
