"""The user's own settings, for all projects: `default_project`, `color`, `output`, and `trusted`,
the projects that may be used although other users can change them (see `verbs.trust`).

They are in a TOML file in the platform's directory for configuration. Options, the environment and
the project's settings take precedence. Only commands that need the file read it: finding the
directory takes longer than a whole `start`.
"""

from __future__ import annotations

import os

from stackshift_cli.arguments import Globals
from stackshift_jobs.errors import BadConfiguration
from stackshift_jobs.project.toml import parse_toml, read_config_text
from stackshift_jobs.project.trust import TRUSTED, USER_FILE, listed, user_files

TYPE_CHECKING = False  # See `stackshift_jobs.errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any, Final

KEYS: Final = {
    "default_project": "The project to use if no other is given: an absolute path.",
    "color": "When to use colour: auto, always or never.",
    "output": "The form of output: text or json.",
}
_CHOICES: Final = {"color": ("auto", "always", "never"), "output": ("text", "json")}


class UserConfig:
    """The settings; None where the file does not set one."""

    __slots__ = ("color", "default_project", "output", "trusted")

    def __init__(
        self,
        default_project: str | None = None,
        color: str | None = None,
        output: str | None = None,
        trusted: tuple[str, ...] = (),
    ) -> None:
        self.default_project = default_project
        self.color = color
        self.output = output
        self.trusted = trusted


def path() -> Path:
    """The path of the file, whether or not it exists. Raises `BadConfiguration`."""
    import platformdirs

    return _own(platformdirs.user_config_dir) / USER_FILE


def data_folder() -> Path:
    """Where the platform wants a user's data of this program to be. Raises `BadConfiguration`."""
    import platformdirs

    return _own(platformdirs.user_data_dir)


def _own(directory_of: Callable[[str], str]) -> Path:
    """Our directory of this kind; raises `BadConfiguration` where nobody's home directory stands
    for the `~` in it, of which some versions of platformdirs make an error and others a name."""
    from pathlib import Path

    try:
        place = Path(directory_of("stackshift"))
    except RuntimeError:
        place = Path("~")
    if not place.is_absolute():
        raise BadConfiguration(
            f"uid {os.geteuid()} has no account, and HOME is not set: its settings have no place",
            hint="set HOME to a directory where it can write",
        )
    return place


def load() -> UserConfig:
    """Read the user's settings; raises `BadConfiguration` if the file is not valid. One that we may
    not look at is as good as none: it is another user's (`sudo -u` keeps HOME)."""
    if not written():
        return UserConfig()
    file = path()
    if not os.access(file, os.R_OK):
        return UserConfig()
    tables = parse_toml(read_config_text(file), file)
    trusted = tuple(listed(tables.pop(TRUSTED, []), str(file)))
    settings = {name: check(name, value, str(file)) for name, value in tables.items()}
    return UserConfig(**settings, trusted=trusted)


def check(name: str, value: Any, file: str) -> str:
    """`value` if it is valid for the setting `name` in `file`; else raises `BadConfiguration`."""
    if name not in KEYS:
        raise BadConfiguration(
            f"{file}: there is no setting {name!r}", hint=f"one of: {', '.join(KEYS)}"
        )
    choices = _CHOICES.get(name)
    if not isinstance(value, str) or not value or (choices and value not in choices):
        wanted = " or ".join(choices) if choices else "a path"
        raise BadConfiguration(f"{file}: {name}: {value!r} is not {wanted}", hint=KEYS[name])
    return value


def preferred(options: Globals) -> Globals:
    """`options`, completed with the user's settings where the command line does not decide."""
    if not written():
        return options
    settings = load()
    return options.but(
        json=options.json or settings.output == "json", color=options.color or settings.color
    )


def may_want_json() -> bool:
    """Could the user's settings ask for JSON?"""
    return b"output" in written()


def written() -> bytes:
    """The bytes of the user's file; empty if there is none. Importing platformdirs to find it would
    take 38 ms."""
    for place in user_files():
        try:
            with open(place, "rb") as file:  # noqa: PTH123
                return file.read()
        except OSError:
            continue
    return b""
