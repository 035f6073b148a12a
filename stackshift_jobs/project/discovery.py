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

What a process holds is locked (`is_held`). That is true in any directory of processes, where a
process id means nothing (containers).

The functions that every command calls (`read_daemon`, `socket_address`, `check_private`) do without
`pathlib`, which takes 5 ms to load.
"""

from __future__ import annotations

# ruff: noqa: PTH116, PTH118, PTH123 - see above
import json
import os
import stat
import sys

from stackshift_jobs.errors import BadConfiguration

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


def read_daemon(data_dir: str | os.PathLike[str]) -> DaemonInfo | None:
    """What `daemon.json` says of the daemon; None if it is missing, is not what we write, or was
    written in another directory. Raises `BadConfiguration` if it may not be read."""
    path = os.path.join(data_dir, DAEMON_FILE)
    try:
        with open(path, "rb") as file:
            body = json.loads(file.read(_MAX_FILE_BYTES))
        directory = os.stat(data_dir).st_ino
    except PermissionError as bad:
        raise BadConfiguration(
            f"{path}: {bad.strerror}", hint="run the command as its owner", path=path
        ) from bad
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(body, dict) or body.get("directory") != directory:
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


def write_daemon(data_dir: str | os.PathLike[str], info: DaemonInfo) -> None:
    """Write `daemon.json` (mode 0600, atomically). Only for the daemon that holds the project's
    lock."""
    from pathlib import Path

    temporary = Path(data_dir, f"{DAEMON_FILE}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    body = info.as_json() | {"directory": os.stat(data_dir).st_ino}
    with os.fdopen(os.open(temporary, flags, 0o600), "w", encoding="ascii") as file:
        file.write(json.dumps(body) + "\n")
    temporary.replace(Path(data_dir, DAEMON_FILE))


def remove_daemon(data_dir: str | os.PathLike[str]) -> None:
    """Remove `daemon.json`, if it exists. Call it before the project's lock is released."""
    from pathlib import Path

    Path(data_dir, DAEMON_FILE).unlink(missing_ok=True)


def holder(data_dir: str | os.PathLike[str]) -> int | None:
    """The id of the process that has the journal in `data_dir` locked, in terms of its own system
    of processes; None if it is not known. For people: ask `is_held` whether there is one."""
    try:
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
    from contextlib import suppress
    from pathlib import Path

    path = Path(socket_address(data_dir))
    if path.parent != Path(data_dir):
        with suppress(FileExistsError):
            path.parent.mkdir(0o700)
        check_private(path.parent)
    return path


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
