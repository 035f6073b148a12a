"""Whose a project is: what other users could have written is not read, and nothing of it is run.

Whoever can change a project's settings or jobs, or can put others in their place, runs code as the
user who types a command there. So the files themselves, all directories above them and all links on
the way belong to that user or to root (who may do everything in any case), and nobody else can
write to them. `stackshift config trust DIR` makes an exception for one project.

Two places, two rules:

- In the project, and whatever is named in its settings, nobody else may write.
- Directories further up may be open to all where only the owner of an entry can rename it (`/tmp`,
  by its sticky bit), and open to a group where they are root's: that group was root's choice.

A group counts as nobody else if it is the owner's private one (its name is the owner's, and it has
no other members), which is what a umask of 002 is made for; or if its members are administrators.

The data directory is another matter: it must be ours alone, and no exception is made. Two users who
share it would share a daemon, which acts as one of them.

Every command checks its project, so this does without `pathlib`, and asks who is in a group only
where something is open to one. Invariant: it opens nothing but the user's own settings.
"""

from __future__ import annotations

# ruff: noqa: PTH110, PTH111, PTH115, PTH118, PTH120, PTH123 - see above
import os
import stat
import sys

from stackshift_jobs.errors import BadConfiguration
from stackshift_jobs.project.toml import parse_toml, read_config_text

TYPE_CHECKING = False  # See `errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Final

USER_FILE: Final = "config.toml"
"""The user's settings for all projects, in the platform's directory for those of StackShift."""
TRUSTED: Final = "trusted"
"""The key there: a list of the directories of projects that are trusted."""
_ROOT: Final = 0
_ADMINISTRATORS: Final = (0, 80) if sys.platform == "darwin" else (0,)
"""Groups whose members can become root: root's own, and `admin` of macOS."""
_MOST_LINKS: Final = 40
_IMPORTED: Final = (".py", ".pyc", ".so")
"""How the names of files end that an import can run."""


def check_project(root: str, settings: str) -> None:
    """Refuse the project in the directory `root` if somebody else could change its settings, the
    file with the name `settings`. Raises `BadConfiguration`."""
    found = _open_to_others(os.path.join(root, settings), root)
    if found is not None and root not in trusted_directories():
        raise _refusal(root, *found)


def check_code(root: str, modules: Iterable[str], others: Iterable[str]) -> None:
    """Refuse the project in the directory `root` if somebody else could change one of `modules`
    (files, and folders with all in them that can be imported) or one of the `others` that it runs
    or reads. What does not exist is skipped. Raises `BadConfiguration`."""
    found = None
    for path in modules:
        found = found or _open_to_others(path, root) or _open_below(path, root)
    for path in others:
        found = found or _open_to_others(path, root)
    if found is not None and root not in trusted_directories():
        raise _refusal(root, *found)


def check_data_dir(data_dir: str) -> None:
    """Refuse a data directory that exists and is not ours alone. Raises `BadConfiguration`."""
    try:
        status = os.lstat(data_dir)
    except OSError:
        return
    if not stat.S_ISDIR(status.st_mode):
        raise BadConfiguration(f"{data_dir} is not a directory", hint="move it away")
    fields = {"path": data_dir, "owner": status.st_uid, "mode": _mode(status)}
    if status.st_uid != os.geteuid():
        raise BadConfiguration(
            f"the data directory {data_dir} (mode {_mode(status)}) belongs to "
            f"{user(status.st_uid)}, and you are {user(os.geteuid())}",
            hint=_owner_hint(data_dir, status.st_uid),
            **fields,
        )
    if status.st_mode & 0o077:
        from shlex import quote

        raise BadConfiguration(
            f"the data directory {data_dir} is accessible to other users (mode {_mode(status)})",
            # All of it: a copy that was restored under another umask has files like that too.
            hint=f"chmod -R go= {quote(data_dir)}",
            **fields,
        )


def _owner_hint(data_dir: str, owner: int) -> str:
    """What to do about a data directory that another user made."""
    try:
        is_in_ours = os.lstat(os.path.dirname(data_dir)).st_uid == os.geteuid()
    except OSError:
        is_in_ours = False
    if is_in_ours and owner == 0:
        # Somebody has started the daemon as root, most likely once and by mistake.
        return f"stop the daemon that root may have started there, then: sudo {_chown(data_dir)}"
    return "run the command as its owner, or set STACKSHIFT_DATA_DIR to a directory of yours"


def note_of_root(root: str, data_dir: str) -> str | None:
    """What root should know that makes the data directory of another user's project, in the
    directory `root`: that user can then not use it. None for anybody else."""
    if os.geteuid() != 0 or (owner := os.lstat(root).st_uid) == 0:
        return None
    return (
        f"{data_dir} is root's from now on, and {user(owner)} cannot use the project; to hand it "
        f"over: stackshift daemon stop, then {_chown(data_dir, owner)}"
    )


def permission_hint(path: str) -> str:
    """What to do where the system does not let us use the file or directory `path`, or make it;
    empty if that cannot be said."""
    from shlex import quote

    is_there = os.path.lexists(path)
    at = path if is_there else os.path.dirname(path)
    try:
        status = os.lstat(at)
    except OSError:
        return ""
    if status.st_uid != os.geteuid():
        # A directory where we wanted to make something may be `/var/lib`.
        return f"{at} belongs to {user(status.st_uid)}: sudo {_chown(at)}" if is_there else ""
    needed = 0o700 if stat.S_ISDIR(status.st_mode) else 0o600
    if status.st_mode & needed == needed:
        return ""
    return f"{at} has mode {_mode(status)}: chmod u+rwX {quote(at)}"


def _chown(path: str, uid: int | None = None) -> str:
    """The command that gives all of `path` to the user `uid`, or to us."""
    import pwd
    from shlex import quote

    uid = os.geteuid() if uid is None else uid
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    return f"chown -R {quote(name)} {quote(path)}"


def trusted_directories() -> list[str]:
    """The projects that the user trusts, whoever can change them. A file that somebody else can
    change trusts nothing. Raises `BadConfiguration` if it is not valid."""
    for file in user_files():
        if os.path.exists(file) and _open_to_others(file, file) is None:
            return listed(parse_toml(read_config_text(file), file).get(TRUSTED, []), file)
    return []


def listed(value: object, file: str) -> list[str]:
    """The value of `trusted` in `file`; raises `BadConfiguration` if it is no list of paths."""
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise BadConfiguration(f"{file}: {TRUSTED}: {value!r} is not a list of paths", file=file)
    return [str(each) for each in value]


def check_user_file(file: str) -> None:
    """Refuse the user's settings if somebody else could change them: they would trust nothing.
    Raises `BadConfiguration`."""
    found = _open_to_others(file, file)
    if found is not None:
        at, status = found
        raise BadConfiguration(
            f"{at} (mode {_mode(status)}) of {user(status.st_uid)} can be changed by other users, "
            f"so what {file} trusts does not count",
            hint=f"chmod go-w {_quoted(at)}",
            path=at,
        )


def user_files() -> Iterator[str]:
    """Where the user's settings can be, best first. (`platformdirs`, which says the same, takes
    38 ms to load.)"""
    home = os.path.expanduser("~")
    for place in (
        os.environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config"),
        os.path.join(home, "Library", "Application Support"),
    ):
        # `~` stands for no directory where there is neither HOME nor an account.
        if place.startswith("/"):
            yield os.path.join(place, "stackshift", USER_FILE)


def user(uid: int) -> str:
    """A user as messages name one: `alice (uid 1000)`."""
    import pwd

    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


# --- Who can change a path -----------------------------------------------------------------


def _open_to_others(path: str, root: str) -> tuple[str, os.stat_result] | None:
    """The first of `path`, the directories above it and the links on the way that another user can
    change or replace; None if there is none, also where the path ends before its last name."""
    inside = f"{root}/"
    for at, status, is_last in _way(path):
        is_strict = is_last or at == root or at.startswith(inside)
        if _is_open(status, is_strict):
            return at, status
    return None


def _open_below(folder: str, root: str) -> tuple[str, os.stat_result] | None:
    """The first of the folders below `folder`, and of the files there that an import can run or
    that are programs, as shell jobs are, that another user can change; None if there is none."""
    from stackshift_jobs.project.folders import walk  # Commands in loops walk no folder.

    for entry in walk(folder):
        status = os.lstat(entry.path)
        runs = entry.name.endswith(_IMPORTED) or entry.is_symlink() or status.st_mode & 0o111
        if not (stat.S_ISDIR(status.st_mode) or runs):
            continue
        if stat.S_ISLNK(status.st_mode):
            found = _open_to_others(entry.path, root)
        else:
            found = (entry.path, status) if _is_open(status, is_strict=True) else None
        if found is not None:
            return found
    return None


def _way(path: str) -> Iterator[tuple[str, os.stat_result, bool]]:
    """What the system looks at to find the absolute `path`: each directory and link from the top
    on, then the file; with it, whether that is the last."""
    try:
        names = path.split("/")[::-1]
        here, links = "/", 0
        yield here, os.lstat(here), False
        while names:
            name = names.pop()
            if name in ("", "."):
                continue
            if name == "..":
                here = os.path.dirname(here)
                continue
            at = os.path.join(here, name)
            status = os.lstat(at)
            yield at, status, not names
            if not stat.S_ISLNK(status.st_mode):
                here = at
            elif (links := links + 1) > _MOST_LINKS:
                return
            else:
                target = os.readlink(at)
                here = "/" if target.startswith("/") else here
                names += target.split("/")[::-1]
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return  # Whoever opens it will say so.


def _is_open(status: os.stat_result, is_strict: bool) -> bool:
    """Can another user change what has this status? Where it is not strict, see above."""
    me, owner, mode = os.geteuid(), status.st_uid, status.st_mode
    if owner not in (me, _ROOT) and (is_strict or not _is_unmapped(owner)):
        return True
    if stat.S_ISLNK(mode) or not mode & 0o022:
        return False
    if not is_strict and mode & stat.S_ISVTX:
        return False
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        return False  # A device, such as /dev/null: what is written to it is not read from it.
    if mode & 0o002:
        return True
    if not is_strict and owner == _ROOT:
        return False
    return not any(_is_private(status.st_gid, uid) for uid in {owner, me})


def _is_private(group: int, owner: int) -> bool:
    """Has the group no members but `owner` and administrators?"""
    if group in _ADMINISTRATORS:
        return True
    import grp
    import pwd

    try:
        members, name = grp.getgrgid(group), pwd.getpwuid(owner).pw_name
    except KeyError:
        # As in a container that knows no names. Private groups have the number of their user.
        return group == owner
    return members.gr_name == name and set(members.gr_mem) <= {name}


def _is_unmapped(uid: int) -> bool:
    """Does this id stand for users that our user namespace does not know? In a sandbox, root is one
    of them, and owns the directories at the top."""
    try:
        with open("/proc/sys/kernel/overflowuid", encoding="ascii") as file:
            overflow = int(file.read())
        with open("/proc/self/uid_map", encoding="ascii") as file:
            mapped = sum(int(line.split()[2]) for line in file)
    except (OSError, ValueError):
        return False
    return uid == overflow and mapped < 2**32 - 1


def _refusal(root: str, path: str, status: os.stat_result) -> BadConfiguration:
    me = os.geteuid()
    trust = f"stackshift config trust {_quoted(root)}"
    if status.st_uid not in (me, _ROOT):
        what = f"belongs to {user(status.st_uid)}, and you are {user(me)}"
        hint = f"run the command as that user; or, if you trust them: {trust}"
    else:
        what = f"of {user(status.st_uid)} can be changed by other users"
        hint = f"chmod go-w {_quoted(path)}; or, if you trust everybody who can: {trust}"
    return BadConfiguration(
        f"{path} (mode {_mode(status)}) {what}: whoever changes it can run code as you",
        hint=hint,
        path=path,
        owner=status.st_uid,
        mode=_mode(status),
    )


def _mode(status: os.stat_result) -> str:
    return f"{stat.S_IMODE(status.st_mode):04o}"


def _quoted(path: str) -> str:
    from shlex import quote

    return quote(path)
