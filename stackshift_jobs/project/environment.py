"""What the processes that run a project's jobs find around them: their variables and interpreter.

It is made of the account, the system and the project's settings, so that it is the same whoever
started the daemon: a shell, cron or a service manager. Only the names in `[workers] inherit_env`
come from that process. `programs.inheritance` does the same for limits, signals and the like.
"""

from __future__ import annotations

import os
import pwd
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from stackshift_jobs.errors import BadConfiguration
from stackshift_jobs.programs.processes import NOT_INHERITED
from stackshift_jobs.project.config import Config
from stackshift_jobs.project.locate import DATA_DIR_VARIABLE

SHELL: Final = "/bin/sh"
"""As for cron: what a person types into may be no shell for programs, or none at all."""
FALLBACK_LANG: Final = "en_US.UTF-8" if sys.platform == "darwin" else "C.UTF-8"
LOCALE_FILES: Final = ("/etc/locale.conf", "/etc/default/locale")
ACCOUNT: Final = "account"
SYSTEM: Final = "system"
SETTING: Final = "workers.path"
INHERITED: Final = "workers.inherit_env"
_VARIABLE: Final = re.compile(r"[^\s=\0]+")
WRITTEN: Final = "project.env_file"
"""The values of `Variable.origin`."""


class Variable(NamedTuple):
    """A variable: its value, and the account, system or setting that it is from."""

    value: str
    origin: str


def added(config: Config, started_with: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that the settings add to those of the account, on whichever host. Raises
    `BadConfiguration` if `env_file` cannot be read."""
    return dict(_kept(config, started_with)) | _written(config)


def environment(config: Config) -> dict[str, str]:
    """The variables of a worker. Raises `BadConfiguration`."""
    return {name: variable.value for name, variable in variables(config).items()}


def variables(config: Config, started_with: Mapping[str, str] = os.environ) -> dict[str, Variable]:
    """The variables of a worker, with their origins: later ones take precedence. `started_with` is
    the environment of the daemon. Raises `BadConfiguration` if `env_file` cannot be read."""
    return {
        **_documented(config),
        **{name: Variable(text, INHERITED) for name, text in _kept(config, started_with)},
        **{name: Variable(text, WRITTEN) for name, text in _written(config).items()},
    }


def _documented(config: Config) -> dict[str, Variable]:
    place = {}
    if config.origins.get("project.data_dir") == DATA_DIR_VARIABLE:
        # It says which daemon this is, so a command in a job must not look for another.
        place = {DATA_DIR_VARIABLE: Variable(str(config.data_dir), DATA_DIR_VARIABLE)}
    return place | of_account(config.root, interpreter(config), config.workers.path)


def of_account(root: Path, python: str, path: Iterable[str]) -> dict[str, Variable]:
    """The variables that this account and system give a worker of the code in `root`, with the
    interpreter `python` and the setting `[workers] path`."""
    owner = account()
    return {
        "HOME": Variable(owner.home, ACCOUNT),
        "USER": Variable(owner.name, ACCOUNT),
        "LOGNAME": Variable(owner.name, ACCOUNT),
        "SHELL": Variable(SHELL, SYSTEM),
        "LANG": Variable(_system_lang(), SYSTEM),
        "PATH": Variable(_path(root, python, path), SETTING),
    }


class Account(NamedTuple):
    """A user of the system."""

    name: str
    home: str


def account() -> Account:
    """The user that this process runs as. A container may run under an id that has no account: its
    name is the number, and its home the root directory."""
    uid = os.geteuid()
    try:
        found = pwd.getpwuid(uid)
    except KeyError:
        return Account(str(uid), "/")
    return Account(found.pw_name, found.pw_dir)


def _path(root: Path, python: str, path: Iterable[str]) -> str:
    """`[workers] path`, after the directory of the workers' interpreter: `python` and what is
    installed beside it are found first."""
    directories = [_inside(root, text) for text in path]
    beside = str(Path(python).parent)
    return os.pathsep.join(directories if beside in directories else [beside, *directories])


def _inside(root: Path, written: str) -> str:
    """The path `written` in the settings: `~` is the account's home, not `$HOME`, and a relative
    path begins at the project."""
    return str(root / (account().home + written[1:] if written.startswith("~/") else written))


def _system_lang() -> str:
    for file in LOCALE_FILES:
        try:
            text = Path(file).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError):
            continue
        if lang := {name: value for _, name, value in _assignments(text)}.get("LANG"):
            return lang
    return FALLBACK_LANG


def _kept(config: Config, started_with: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    names = config.workers.inherit_env
    for name in started_with if "*" in names else names:
        if name in started_with and name not in NOT_INHERITED:
            yield name, started_with[name]


def _written(config: Config) -> dict[str, str]:
    if config.project.env_file is None:
        return {}
    path = config.root / config.project.env_file
    try:
        return read_env_file(path)
    except (OSError, UnicodeDecodeError) as bad:
        why = bad.strerror if isinstance(bad, OSError) else bad
        raise BadConfiguration(
            f"[project] env_file {path} cannot be read: {why}", hint="see stackshift.toml"
        ) from bad


def check_env_file(config: Config) -> None:
    """Raise `BadConfiguration` if `[project] env_file` cannot be read, or has a line that means
    nothing."""
    _written(config)


def read_env_file(path: Path) -> dict[str, str]:
    """The variables in a file of `NAME=value` lines. `#` comments, `export` before the name, quotes
    around the value and a byte order mark are allowed. Raises `OSError`, `UnicodeDecodeError`, and
    `BadConfiguration` for a line that is none of these: jobs would miss what somebody wrote there
    without a word."""
    found: dict[str, str] = {}
    for number, name, value in _assignments(path.read_text(encoding="utf-8-sig")):
        if name is None or "\0" in value:
            # The line itself may be a secret.
            raise BadConfiguration(
                f"{path}:{number}: this line is not NAME=value",
                hint="a comment begins with #; a value is in one line, with or without quotes",
            )
        found[name] = value
    return found


def _assignments(text: str) -> Iterator[tuple[int, str | None, str]]:
    """Each assignment of `text`: its line, counted from 1, the name and the value. The name is None
    if the line is not one."""
    # Not `splitlines`, which ends lines at characters that are part of a value.
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip().removeprefix("export ").lstrip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        is_name = bool(equals) and bool(_VARIABLE.fullmatch(name.rstrip()))
        yield number, name.rstrip() if is_name else None, value


def interpreter(config: Config) -> str:
    """`[workers] python`; else that of the project's virtual environment, if StackShift is
    installed in it; else the one that runs this process."""
    chosen = config.workers.python
    return _inside(config.root, chosen) if chosen is not None else own_interpreter(config.root)


def check_interpreter(config: Config) -> None:
    """Raise `BadConfiguration` if `[workers] python` names nothing that can be run."""
    import shutil

    python = interpreter(config)
    if config.workers.python is not None and shutil.which(python) is None:
        problem = "cannot be executed" if os.path.exists(python) else "does not exist"  # noqa: PTH110
        raise BadConfiguration(
            f"workers.python: {python} {problem}",
            hint="python -m venv makes an environment; without a value: the project's .venv",
            key="workers.python",
        )


def own_interpreter(root: Path) -> str:
    """The interpreter of the virtual environment in `root`, if StackShift is installed in it; else
    the one that runs this process."""
    own = root / ".venv" / "bin" / "python"
    has_us = any(root.glob(".venv/lib/python3*/site-packages/stackshift_jobs*"))
    return str(own) if has_us and own.exists() else sys.executable
