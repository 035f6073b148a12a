"""Running a command as cron would, and the crontab line for it.

cron has its own idea of an environment: `/bin/sh`, a PATH of two folders, no terminal, the home
directory. What works in a shell and fails there is the oldest trap of cron; here it is met now, and
not at three in the morning.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import subprocess
import sys
from typing import Final

from stackshift_cli.daemon.session import Session
from stackshift_cli.daemon.units import for_crontab
from stackshift_cli.errors import CommandNotFound
from stackshift_cli.output import messages
from stackshift_cli.output.safe_text import safe

CRON_PATH: Final = "/usr/bin:/bin"
_WHEN: Final = "0 3 * * *"


def try_as_cron(session: Session, command: list[str]) -> int:
    """Run `command` under cron's environment and print the crontab line for it on stdout; its exit
    status. Without a command, `stackshift doctor` is what runs, and there is no line."""
    words = _as_cron_finds_it(session, command or ["stackshift", "doctor"])
    line = shlex.join(words)
    session.say(f"as cron: {safe(line)}")
    user = pwd.getpwuid(os.geteuid())
    sys.stdout.flush()
    sys.stderr.flush()
    done = subprocess.run(
        ["/bin/sh", "-c", line],
        stdin=subprocess.DEVNULL,
        # What is printed goes where a person reads it; the line alone is data.
        stdout=sys.stderr if command else None,
        cwd=user.pw_dir if os.path.isdir(user.pw_dir) else "/",  # noqa: PTH112
        env={
            "SHELL": "/bin/sh",
            "PATH": CRON_PATH,
            "HOME": user.pw_dir,
            "LOGNAME": user.pw_name,
        },
        start_new_session=True,
        check=False,
    )
    status = done.returncode if done.returncode >= 0 else 128 - done.returncode
    if not command:
        session.say("hint: stackshift doctor --cron -- COMMAND tries a command and prints its line")
        return status
    session.say(f"exit status {status}" + (": cron would run it so" if status == 0 else ""))
    entry = f"{_WHEN} {for_crontab(line)}"
    if session.json:
        messages.data(messages.compact({"line": entry, "exit": status}))
    else:
        messages.data(safe(entry))
        session.say("hint: change the time, and add the line with crontab -e")
    return status


def _as_cron_finds_it(session: Session, command: list[str]) -> list[str]:
    """`command` with a program that cron finds, and for `stackshift` the project, since cron starts
    it in the home directory. Each change is said."""
    program, *rest = command
    if program == "stackshift":
        own = os.path.join(os.path.dirname(sys.executable), "stackshift")  # noqa: PTH118, PTH120
        python = [sys.executable, "-P", "-m", "stackshift_cli"]
        found = [own] if os.access(own, os.X_OK) else python
        words = [*found, *([] if _names_project(rest) else ["-C", session.project.root_text])]
        return [*words, *rest]
    if shutil.which(program, path=CRON_PATH) or "/" in program:
        return command
    found_here = shutil.which(program)
    if found_here is None:
        raise CommandNotFound(
            f"there is no program {program!r} on cron's PATH, {CRON_PATH}, or on yours",
            hint="check the spelling, or write its full path",
        )
    session.say(f"cron does not find {safe(program)}: it is in {safe(os.path.dirname(found_here))}")  # noqa: PTH120
    return [found_here, *rest]


def _names_project(words: list[str]) -> bool:
    return any(word in ("-C", "--project") or word.startswith("--project=") for word in words)
