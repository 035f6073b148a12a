"""`config get|set|unset|path|show`: the settings of the project, and the user's own.

A value is read and printed as written in the file (`"30d"`, not milliseconds). The file, which a
person wrote, is edited in place: its comments and its order are kept.
"""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from stackshift_cli import user_config
from stackshift_cli.arguments import Given
from stackshift_cli.daemon.session import Session
from stackshift_cli.errors import unwritten
from stackshift_cli.output import messages
from stackshift_cli.output.safe_text import safe
from stackshift_cli.output.terminal import draws
from stackshift_cli.render import tsv
from stackshift_cli.settings_file import edit, remove
from stackshift_jobs.errors import BadConfiguration, StackshiftError, Usage
from stackshift_jobs.project.config import (
    KEYS,
    NAMED,
    REREAD,
    Key,
    find_key,
    load_config,
)
from stackshift_jobs.project.database_url import masked
from stackshift_jobs.project.locate import CONFIG_FILE
from stackshift_jobs.project.notify import DESTINATION, SECRET_TEXT, WEB_ADDRESS
from stackshift_jobs.project.notify import masked as masked_url
from stackshift_jobs.project.toml import parse_toml, read_config_text
from stackshift_jobs.project.trust import TRUSTED

_HIDDEN: Final = "(not shown)"
_ANSWER_SECONDS: Final = 1.0


class _Setting(NamedTuple):
    """A setting in force, and where its value comes from."""

    path: str
    value: Any
    origin: str


def get(session: Session, given: Given) -> int:
    """`config get KEY`: print the value; an empty line (`null` in JSON) if it is not set."""
    name = given.word("key")
    if name in user_config.KEYS or name == TRUSTED:
        value: Any = getattr(user_config.load(), name)
    else:
        key = find_key(name)
        settings = {setting.path: setting.value for setting in _project_settings(session)}
        value = settings.get(name, key.default)
        _note_if_not_in_force(session)
    messages.data(messages.compact(value) if session.json else _shown(value))
    return 0


def _note_if_not_in_force(session: Session) -> None:
    """Say on stderr that the running daemon still has the settings from before the file changed. It
    is asked only if it runs, and its silence is no reason to keep back what is in the file."""
    from stackshift_cli.daemon.connection import Connection

    try:
        with Connection.open(
            session.project.data_dir_text, connect_timeout=_ANSWER_SECONDS
        ) as connection:
            notes = connection.call("job.list", {}, _ANSWER_SECONDS).get("notes", ())
    except (OSError, StackshiftError, TimeoutError):
        return
    for note in notes:
        if note.startswith(CONFIG_FILE):  # The others are about job modules.
            session.say(f"note: {safe(note)}")


def set_(session: Session, given: Given) -> int:
    """`config set KEY VALUE`: write it to the project's file, or to the user's; raises
    `BadConfiguration` for an unknown setting or a value that is not valid."""
    name, text = given.word("key"), given.word("value")
    place = _place(session, name)
    if place.key is None:
        value: Any = user_config.check(name, text, str(place.file))
    else:
        value = _value(place.key, name, text)
    with _changing(place.file):
        place.file.parent.mkdir(parents=True, exist_ok=True)
        edit(place.file, place.section, place.name, value)
    shown = value if place.key is None else _without_secret(place.key, value)
    session.say(f"{safe(name)} = {_shown(shown)} in {safe(str(place.file))}")
    _say_how_to_apply(session, place)
    return 0


def unset(session: Session, given: Given) -> int:
    """`config unset KEY`: remove it from the file, so that its default holds, or a whole table that
    somebody has named (`schedules.nightly`); 0 also if it was not there. Raises `BadConfiguration`
    for an unknown setting."""
    name = given.word("key")
    place = _named_table(session, name) or _place(session, name)
    with _changing(place.file):
        was_set = remove(place.file, place.section, place.name)
    file = safe(str(place.file))
    session.say(f"{safe(name)} is {'no longer' if was_set else 'not'} set in {file}")
    if was_set:
        _say_how_to_apply(session, place)
    return 0


class _Place(NamedTuple):
    """Where a setting is written: file, table, name; `key` is None for one of the user's."""

    file: Path
    section: tuple[str, ...]
    name: str
    key: Key | None


def _named_table(session: Session, name: str) -> _Place | None:
    """The place of a table such as `schedules.nightly`; None if `name` is that of another thing."""
    outer, _, own = name.partition(".")
    if outer not in NAMED or not own or "." in own:
        return None
    any_of_it = next(key for key in KEYS if key.section == NAMED[outer])
    return _Place(session.project.config_file, (outer,), own, any_of_it)


def _place(session: Session, name: str) -> _Place:
    if name == TRUSTED:
        raise Usage(f"{TRUSTED} is not set as a whole", hint="stackshift config trust DIR")
    if name in user_config.KEYS:
        return _Place(user_config.path(), (), name, None)
    key = find_key(name)
    table, _, last = name.rpartition(".")
    outer, _, own = table.partition(".")
    section = (outer, own) if key.section in NAMED.values() else (table,)
    return _Place(session.project.config_file, section, last, key)


@contextlib.contextmanager
def _changing(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as bad:
        raise unwritten(f"{file} cannot be changed", bad) from bad


def _say_how_to_apply(session: Session, place: _Place) -> None:
    try:
        if place.key is not None:
            load_config(session.project.root)
    except BadConfiguration as bad:
        # Some settings only make sense together, and this is not the last of them.
        session.say(f"note: not valid yet: {safe(bad.message)}")
        if bad.hint:
            session.say(f"hint: {safe(bad.hint)}")
        return
    if place.key is not None and (session.project.data_dir / "daemon.json").exists():
        is_reread = place.key.section in REREAD
        command = "stackshift daemon reload" if is_reread else "stackshift daemon restart"
        session.say(f"hint: to apply it, run {command}")


def path(session: Session, given: Given) -> int:
    """`config path [--user]`: print the path of the project's file, or of the user's."""
    file = user_config.path() if given.flag("user") else session.project.config_file
    messages.data(messages.compact({"path": str(file)}) if session.json else safe(str(file)))
    return 0


def show(session: Session, given: Given) -> int:
    """`config show [--origin]`: print all settings in force and the variables of jobs, and where
    each value comes from."""
    settings = [*_project_settings(session), *_user_settings(), *_variables(session)]
    with_origin = given.flag("origin")
    if session.json:
        values = {s.path: s.value for s in settings}
        origins = {s.path: {"value": s.value, "origin": s.origin} for s in settings}
        messages.data(messages.compact(origins if with_origin else values))
        return 0
    if draws(session.options):
        from stackshift_cli.render.settings import print_settings

        print_settings(
            session.options,
            [
                {
                    "setting": s.path,
                    "value": None if s.value is None else _shown(s.value),
                    "origin": s.origin,
                    "unset": _unset(s.path),
                }
                for s in settings
            ],
            with_origin,
        )
        _note_if_not_in_force(session)
        return 0
    for setting in settings:
        shown = (setting.path, _shown(setting.value))
        messages.data(tsv.tabbed((*shown, setting.origin) if with_origin else shown))
    return 0


def _unset(path: str) -> str:
    """What it means that the setting `path` has no value; empty if there is nothing to say."""
    with contextlib.suppress(BadConfiguration):
        return find_key(path).unset
    return ""  # One of the user's, or a variable.


def _project_settings(session: Session) -> Iterator[_Setting]:
    """All settings of the project, as written or at their defaults; of queues and hosts, those that
    the file names."""
    project = session.project
    config = load_config(project.root)
    written = parse_toml(read_config_text(project.config_file), project.config_file)
    for key in KEYS:
        outer = key.section.partition(".")[0]
        if outer in NAMED:
            for own, table in written.get(outer, {}).items():
                name = f"{outer}.{own}.{key.name}"
                value = _without_secret(key, table.get(key.name, key.default))
                yield _in_force(name, value, config.origins)
            continue
        value = written.get(key.section, {}).get(key.name, key.default)
        if key.path == "project.data_dir":
            value = str(project.data_dir)
        elif key.path == "journal.url" and config.journal.url:
            value = masked(config.journal.url)
        elif key.path == "project.name":
            value = config.project.name
        yield _in_force(key.path, _without_secret(key, value), config.origins)


def _without_secret(key: Key, value: Any) -> Any:
    """A value as it may be shown: no token, and of an address to which all may write who know it,
    only the host. A reference to a secret is not one."""
    if not isinstance(value, str):
        return value
    if key.kind is SECRET_TEXT:
        return _HIDDEN
    return masked_url(value) if key.kind in (DESTINATION, WEB_ADDRESS) else value


def _in_force(name: str, value: Any, origins: Any) -> _Setting:
    return _Setting(name, value, origins.get(name, "default"))


def _user_settings() -> Iterator[_Setting]:
    settings = user_config.load()
    for name in (*user_config.KEYS, TRUSTED):
        value = getattr(settings, name)
        yield _Setting(name, value, str(user_config.path()) if value else "default")


def _variables(session: Session) -> Iterator[_Setting]:
    """The environment of jobs, as `environment.NAME`. Values that the project or its user has put
    there may be secrets, and are not shown."""
    from stackshift_jobs.project.environment import INHERITED, WRITTEN, variables

    for name, (value, origin) in variables(load_config(session.project.root)).items():
        is_secret = origin in (INHERITED, WRITTEN)
        yield _Setting(f"environment.{name}", _HIDDEN if is_secret else value, origin)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return safe(value) if isinstance(value, str) else messages.compact(value)


def _value(key: Key, path: str, text: str) -> Any:
    """What `text` means for `key`: its value as TOML if that is valid for the key, else the text
    itself. Raises `BadConfiguration` if neither is valid."""
    candidates: list[Any] = [text]
    with contextlib.suppress(tomllib.TOMLDecodeError):
        candidates.insert(0, tomllib.loads(f"value = {text}")["value"])
    why = ""
    for candidate in candidates:
        try:
            key.kind.read(candidate)
        except ValueError as bad:
            why = why or str(bad)
        else:
            return candidate
    raise BadConfiguration(f"{path}: {text!r} is not {why}", hint=key.advice, key=path)
