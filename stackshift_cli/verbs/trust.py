"""`config trust`: the projects that may be used although other users can change them.

The list is in the user's own settings. `stackshift_jobs.project.trust` reads it, and says what is
refused without it.
"""

from __future__ import annotations

import os

from stackshift_cli import user_config
from stackshift_cli.arguments import Given
from stackshift_cli.daemon.session import Session
from stackshift_cli.output import messages
from stackshift_cli.output.safe_text import safe
from stackshift_cli.settings_file import edit
from stackshift_jobs.errors import NotFound, Usage
from stackshift_jobs.project.locate import CONFIG_FILE
from stackshift_jobs.project.trust import TRUSTED, check_user_file


def trust(session: Session, given: Given) -> int:
    """`config trust [--remove] DIR`, `config trust --list`: change or print the list of trusted
    projects. The files of the project are not looked at."""
    directory = given.text("directory")
    if given.flag("list"):
        if directory is not None or given.flag("remove"):
            raise Usage("--list takes nothing else", hint="stackshift config trust --list")
        _print(session, list(user_config.load().trusted))
        return 0
    if directory is None:
        raise Usage("which project?", hint="stackshift config trust DIR, or --list")
    # As for every command, -C replaces the working directory.
    root = os.path.realpath(os.path.join(session.options.project or ".", directory))  # noqa: PTH118
    _change(session, root, remove=given.flag("remove"))
    return 0


def _change(session: Session, root: str, *, remove: bool) -> None:
    file = user_config.path()
    check_user_file(str(file))
    trusted = list(user_config.load().trusted)
    if remove and root not in trusted:
        raise NotFound(f"{root} is not trusted", hint="stackshift config trust --list")
    others = [each for each in trusted if each != root]
    file.parent.mkdir(parents=True, exist_ok=True)
    edit(file, (), TRUSTED, others if remove else [*others, root])
    check_user_file(str(file))  # Nothing is gained if what we made is open to others.
    session.say(f"{'no longer trusted' if remove else 'trusted'}: {safe(root)}")
    if not remove and not os.path.exists(os.path.join(root, CONFIG_FILE)):  # noqa: PTH110, PTH118
        session.say("note: there is no project in that directory yet")


def _print(session: Session, trusted: list[str]) -> None:
    if session.json:
        messages.data(messages.compact(trusted))
        return
    for directory in trusted:
        messages.data(safe(directory))
