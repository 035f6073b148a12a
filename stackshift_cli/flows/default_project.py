"""The user's default project, which `exec` makes where there is no other.

It is a project like any other, in platformdirs' directory for a user's data, and the user's setting
`default_project` names it: so every command finds it, wherever it is typed. That setting is written
last. Two commands that make it at once make the same.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

from stackshift_cli import user_config
from stackshift_cli.daemon.session import Session
from stackshift_cli.errors import unwritten
from stackshift_cli.output.safe_text import safe
from stackshift_cli.settings_file import edit
from stackshift_jobs.errors import BadConfiguration
from stackshift_jobs.project.locate import CONFIG_FILE, NoProject

_SETTINGS: Final = """\
# The project of commands that are typed where there is no other, made by `stackshift exec`.
# stackshift config set KEY VALUE writes here; stackshift config show lists all settings.
"""


def project_or_default(session: Session) -> None:
    """Let the session have a project: the one that is found, else the user's default project, which
    is made if there is none. Raises `BadConfiguration` if it cannot be made."""
    try:
        session.project  # noqa: B018 - found on first use
    except NoProject:
        root = _make()
        session.say(f"made {safe(str(root))}, the project of commands outside of any other")
    session.project  # noqa: B018


def _make() -> Path:
    """Make the default project and have the user's settings name it; its directory."""
    root = user_config.data_folder() / "project"
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        (root / "jobs").mkdir(exist_ok=True)
        with suppress(FileExistsError), (root / CONFIG_FILE).open("x", encoding="utf-8") as new:
            new.write(_SETTINGS)
        file = user_config.path()
        file.parent.mkdir(parents=True, exist_ok=True)
        edit(file, (), "default_project", str(root))
    except OSError as bad:
        failed = unwritten(f"cannot make a project in {root}", bad)
        hint = "stackshift init DIR makes one elsewhere, and -C DIR names it"
        raise BadConfiguration(failed.message, hint=hint) from bad
    return root
