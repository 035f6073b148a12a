"""Where a project's daemon is: `daemon.json`, the path of its socket, and whether it runs at all.

    {"pid": 4711, "socket": "/…/daemon.sock", "version": "0.1.0", "protocol": 1,
     "started_at": "…Z", "directory": 1835017}

The file is in the data directory, so that a shell, cron and an application find the same daemon
whatever their environment. It is a hint, not a lock: a daemon that was killed leaves it behind. It
is replaced atomically, so a reader sees a whole file or none; a file with anything else in it
counts as none. So does one with the inode of another `directory`: it was copied with its project,
and is about the daemon of the original.

For the same reason a client never goes where the file says. A daemon listens at an address that
follows from its data directory. It must be short: if that of the data directory is too long, the
socket is in a directory under `/tmp` that nobody else can enter. That directory is checked before
each use and never repaired, since a wrong one was made by somebody else.

Where the data directory cannot be written (a disk that is full, or read-only), socket and
`daemon.json` are both in such a directory, under `/tmp` or in memory. It follows from the path of
the data directory, to which something else may have been moved or mounted meanwhile: so that file
names the device too, and counts only while the journal at that path is locked.

What a process holds is locked (`is_held`). That is true in any directory of processes, where a
process id means nothing (containers).

The functions that every command calls (`read_daemon`, `socket_address`, `check_private`) do without
`pathlib`, which takes 5 ms to load.
"""

from __future__ import annotations

# ruff: noqa: PTH112, PTH116, PTH118, PTH123 - see above
import os
import stat
import sys

from stackshift_jobs.errors import BadConfiguration
from stackshift_jobs.values.json_text import loads

TYPE_CHECKING = False  # See `errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any, Final

DAEMON_FILE: Final = "daemon.json"
SOCKET_FILE: Final = "daemon.sock"
LOG_FILE: Final = "daemon.log"
"""Where a daemon that a command starts writes its standard error."""
LOCK_FILE: Final = "lock"
"""Holds the process id of whoever works on the journal."""
JOURNAL_FOLDER: Final = "journal"
"""The directory of the journal's segments. Whoever works on the journal has it locked."""
MAX_SOCKET_BYTES: Final = 103 if sys.platform == "darwin" else 107
"""`sun_path` without its final NUL: unix(7), and unix(4) on macOS."""
_SHORT_PARENT: Final = "/tmp"
"""Not `$TMPDIR`: it differs between a login, cron and a service, and is long on macOS."""
_MEMORY: Final = "/dev/shm"
"""Another such place, where the system has one: `/tmp` may be on the disk that is full."""
_MAX_FILE_BYTES: Final = 65_536


class DaemonInfo:
    """What `daemon.json` says. `socket` is an absolute path, `started_at` RFC 3339 text."""

    __slots__ = ("pid", "protocol", "socket", "started_at", "version")

    def __init__(self, pid: int, socket: str, version: str, protocol: int, started_at: str) -> None:
        self.pid = pid
        self.socket = socket
        self.version = version
        self.protocol = protocol
        self.started_at = started_at

    def __repr__(self) -> str:
        return f"DaemonInfo({self.as_json()!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DaemonInfo) and self.as_json() == other.as_json()

    def __hash__(self) -> int:
        return hash((self.pid, self.socket, self.started_at))

    def as_json(self) -> dict[str, Any]:
        """What the file says of the daemon."""
        return {
            "pid": self.pid,
            "socket": self.socket,
            "version": self.version,
            "protocol": self.protocol,
            "started_at": self.started_at,
        }


def read_daemon(data_dir: str | os.PathLike[str], place: Path | None = None) -> DaemonInfo | None:
    """What `daemon.json` says of the daemon of `data_dir`; None if it is missing, is not what we
    write, or is about another directory. It is in `data_dir`, or in `place`, one of
    `places_elsewhere` that has been checked. Raises `BadConfiguration` if it may not be read."""
    path = os.path.join(place or data_dir, DAEMON_FILE)
    try:
        with open(path, "rb") as file:
            body = loads(file.read(_MAX_FILE_BYTES).decode())
        origin = _origin(data_dir, place)
    except PermissionError as bad:
        raise BadConfiguration(
            f"{path}: {bad.strerror}", hint="run the command as its owner", path=path
        ) from bad
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(body, dict) or not origin.items() <= body.items():
        return None
    pid, protocol = body.get("pid"), body.get("protocol")
    socket, version, started_at = (body.get(k) for k in ("socket", "version", "started_at"))
    if (
        type(pid) is not int
        or pid <= 0
        or type(protocol) is not int
        or not isinstance(socket, str)
        or not socket.startswith("/")
        or "\0" in socket
        or not isinstance(version, str)
        or not isinstance(started_at, str)
    ):
        return None
    return DaemonInfo(pid, socket, version, protocol, started_at)


def _origin(data_dir: str | os.PathLike[str], place: Path | None) -> dict[str, int]:
    """What the file says of the directory whose daemon it is about. In the directory itself it does
    without the device, whose number is not the same in every container."""
    found = os.stat(data_dir)
    origin = {"directory": found.st_ino}
    return origin if place is None else origin | {"device": found.st_dev}


def write_daemon(
    data_dir: str | os.PathLike[str], info: DaemonInfo, place: Path | None = None
) -> None:
    """Write `daemon.json` (mode 0600, atomically) in `data_dir`, or in `place`, one of
    `places_elsewhere`. Only for the daemon that holds the project's lock. Raises `OSError`."""
    import json
    from pathlib import Path

    folder = place or Path(data_dir)
    temporary = folder / f"{DAEMON_FILE}.{os.getpid()}.tmp"
    temporary.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    body = info.as_json() | _origin(data_dir, place)
    fd = os.open(temporary, flags, 0o600)
    try:
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(json.dumps(body) + "\n")
        temporary.replace(folder / DAEMON_FILE)
    except OSError:  # There is no room for it.
        temporary.unlink(missing_ok=True)
        raise


def remove_daemon(data_dir: str | os.PathLike[str]) -> None:
    """Remove `daemon.json`, if it exists. Call it before the project's lock is released."""
    from pathlib import Path

    Path(data_dir, DAEMON_FILE).unlink(missing_ok=True)


def holder(data_dir: str | os.PathLike[str]) -> int | None:
    """The id of the process that has the journal in `data_dir` locked, in terms of its own system
    of processes; None if it is not known. For people: ask `is_held` whether there is one."""
    try:
        if os.statvfs(data_dir).f_flag & os.ST_RDONLY:
            return None  # It could not be written: the one there is of a process from before.
        with open(os.path.join(data_dir, LOCK_FILE), "rb") as file:
            text = file.read(32)
    except OSError:
        return None
    return int(text) if text.strip().isdigit() else None


def is_held(data_dir: str | os.PathLike[str]) -> bool:
    """Does a process work on the journal in `data_dir`, a daemon most likely? It may be one that is
    starting or stopping. To find out takes the lock for a moment; who wants to have it waits."""
    import fcntl

    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        folder = os.open(os.path.join(data_dir, JOURNAL_FOLDER), flags)
    except OSError:
        return False
    try:
        fcntl.flock(folder, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(folder)
    return False


def socket_address(data_dir: str | os.PathLike[str]) -> str:
    """The path at which the daemon of `data_dir` listens: in `data_dir` or, if that is too long for
    a socket, in a short directory. Nothing is created or checked."""
    path = os.path.join(data_dir, SOCKET_FILE)
    if len(os.fsencode(path)) <= MAX_SOCKET_BYTES:
        return path
    return os.path.join(_short_directory(data_dir), SOCKET_FILE)


def socket_path(data_dir: str | os.PathLike[str]) -> Path:
    """`socket_address`, for the daemon: the short directory is created if it does not exist.

    Raises `BadConfiguration` if that directory is not ours alone.
    """
    from pathlib import Path

    path = Path(socket_address(data_dir))
    return path if path.parent == Path(data_dir) else socket_in(path.parent)


def socket_in(directory: Path) -> Path:
    """The path of a socket in the private `directory`, which is created if it does not exist.
    Raises `OSError`, and `BadConfiguration` if the directory is not ours alone."""
    from contextlib import suppress

    with suppress(FileExistsError):
        directory.mkdir(0o700)
    check_private(directory)
    return directory / SOCKET_FILE


def places_elsewhere(data_dir: str | os.PathLike[str]) -> list[Path]:
    """The directories, in order, that may hold socket and `daemon.json` if `data_dir` cannot be
    written. They need not exist."""
    from pathlib import Path

    name = _short_directory(data_dir).name
    return [Path(parent, name) for parent in (_SHORT_PARENT, _MEMORY) if os.path.isdir(parent)]


def read_daemon_elsewhere(data_dir: str | os.PathLike[str]) -> tuple[DaemonInfo, str] | None:
    """What is said of a daemon of `data_dir` that cannot write there, and the path at which it
    listens; None if nothing is, or if nobody holds the journal. Places that others can enter are
    passed over."""
    if not is_held(data_dir):
        return None
    for place in places_elsewhere(data_dir):
        if not os.path.lexists(place):
            continue
        try:
            check_private(place)
        except BadConfiguration:
            continue
        if (info := read_daemon(data_dir, place)) is not None:
            return info, str(place / SOCKET_FILE)
    return None


def announcements(data_dir: str | os.PathLike[str]) -> set[DaemonInfo]:
    """All that is said of daemons of `data_dir`, there and elsewhere. One that was killed may have
    left its file where nobody can remove it."""
    elsewhere = read_daemon_elsewhere(data_dir)
    found = (read_daemon(data_dir), elsewhere and elsewhere[0])
    return {info for info in found if info is not None}


def forget_elsewhere(data_dir: str | os.PathLike[str]) -> None:
    """Remove what a daemon that was killed has left elsewhere. Only for the daemon that holds the
    project's lock and listens at `socket_address`."""
    own = socket_address(data_dir)
    for place in places_elsewhere(data_dir):
        try:
            check_private(place)
            remove_daemon(place)
            if own != str(place / SOCKET_FILE):
                (place / SOCKET_FILE).unlink(missing_ok=True)
                place.rmdir()
        except (OSError, BadConfiguration):
            continue


def check_private(directory: str | os.PathLike[str]) -> None:
    """Raise `BadConfiguration` unless `directory` is a real directory, ours, with mode 0700."""
    try:
        status = os.lstat(directory)
    except OSError as bad:
        raise BadConfiguration(f"{directory}: {bad.strerror}", directory=str(directory)) from bad
    if stat.S_ISLNK(status.st_mode):
        wrong = "it is a symbolic link"
    elif not stat.S_ISDIR(status.st_mode):
        wrong = "it is not a directory"
    elif status.st_uid != os.geteuid():
        wrong = f"it belongs to user {status.st_uid}"
    elif stat.S_IMODE(status.st_mode) != 0o700:
        wrong = f"its mode is {stat.S_IMODE(status.st_mode):04o}, not 0700"
    else:
        return
    raise BadConfiguration(
        f"{directory} cannot hold the daemon's socket: {wrong}",
        hint="remove it, or choose a shorter STACKSHIFT_DATA_DIR",
        directory=str(directory),
    )


def _short_directory(data_dir: str | os.PathLike[str]) -> Path:
    """The directory for the socket of `data_dir`: the same for every spelling of that path, and
    different for each user and each directory."""
    import hashlib
    from pathlib import Path

    digest = hashlib.blake2b(os.fsencode(Path(data_dir).resolve()), digest_size=10).hexdigest()
    return Path(_SHORT_PARENT, f"stackshift-{os.geteuid()}-{digest}")
