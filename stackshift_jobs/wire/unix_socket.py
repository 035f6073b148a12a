"""Connecting to the daemon's socket, and checking that it is the right one.

Owns `connect`, with which both the blocking and the async clients begin, and `reach`, which does
the same for commands. It never starts a daemon, and it returns no socket before the kernel has
confirmed that our own user listens at the other end, and `daemon.json` that the daemon speaks our
protocol.
"""

from __future__ import annotations

import os
import sys

from stackshift_jobs.errors import DaemonUnavailable
from stackshift_jobs.project import discovery
from stackshift_jobs.version import PROTOCOL
from stackshift_jobs.wire import bare_socket
from stackshift_jobs.wire.peer import is_own_user, peer_pid, peer_uid
from stackshift_jobs.wire.unavailable import (
    BROKEN,
    LOGS,
    NO_ANSWER,
    NOT_LISTENING,
    NOT_RUNNING,
    OTHER_PROTOCOL,
    OTHER_USER,
    RESTART,
    STALE,
    STATUS,
    unavailable,
)

TYPE_CHECKING = False  # See `errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    from socket import socket


def connect(data_dir: str | os.PathLike[str], timeout: float = 5.0) -> socket:
    """Connect to the daemon of `data_dir` as `reach` does, with a socket of the module `socket`."""
    return bare_socket.full(reach(data_dir, timeout))


def reach(data_dir: str | os.PathLike[str], timeout: float = 5.0) -> bare_socket.socket:
    """Connect to the daemon of `data_dir`, and check that it belongs to our user and speaks our
    protocol. Returns a blocking socket.

    Sends on it fail after `timeout` seconds in which the daemon reads nothing. Raises
    `DaemonUnavailable`, or `BadConfiguration` for a socket in a directory that others can enter.
    That of a project on another machine is reached through ssh, see `wire.ssh`.
    """
    if os.fspath(data_dir).startswith("ssh://"):
        from stackshift_jobs.wire import ssh

        return ssh.connect(os.fspath(data_dir))
    info = discovery.read_daemon(data_dir)
    try:
        if info is None:
            if discovery.is_held(data_dir):
                raise _silent(data_dir)
            raise unavailable(f"no daemon is running for {data_dir}", NOT_RUNNING)
        return _connect(info, discovery.socket_address(data_dir), data_dir, timeout)
    except DaemonUnavailable as bad:
        # A daemon holds the project. If it cannot write there, it listens elsewhere.
        if bad.fields["reason"] != NOT_LISTENING:
            raise
        elsewhere = discovery.read_daemon_elsewhere(data_dir)
        if elsewhere is None:
            raise
    return _connect(*elsewhere, data_dir, timeout)


def _connect(
    info: discovery.DaemonInfo, address: str, data_dir: str | os.PathLike[str], timeout: float
) -> bare_socket.socket:
    directory = os.path.dirname(address)  # noqa: PTH120 - pathlib takes 5 ms to load
    # Compared as text: if two spellings of one directory differ, it is merely checked as well.
    is_inside = directory == os.fspath(data_dir).rstrip("/")
    if not is_inside and os.path.exists(directory):  # noqa: PTH110
        discovery.check_private(directory)
    sock = bare_socket.socket(bare_socket.AF_UNIX, bare_socket.SOCK_STREAM)
    try:
        # Not settimeout: a non-blocking connect to a full queue fails at once instead of waiting.
        sock.setsockopt(bare_socket.SOL_SOCKET, bare_socket.SO_SNDTIMEO, _timeval(timeout))
        _reach(sock, address, data_dir, info, timeout)
        if not is_own_user(uid := peer_uid(sock)):
            raise unavailable(
                f"{address} is served by user {uid}, not by you",
                OTHER_USER,
                "run the command as that user, or choose another data directory",
            )
        if is_inside and info.socket != address and _is_moved(sock, info.socket, address):
            raise unavailable(
                f"{data_dir} was moved while its daemon (pid {info.pid}) was running: that daemon "
                "is about to stop",
                NOT_LISTENING,
                f"try again soon; if it hangs, kill {info.pid} ends it",
            )
        if info.protocol != PROTOCOL:
            raise unavailable(
                f"the daemon (version {info.version}) speaks protocol {info.protocol}, "
                f"this program speaks {PROTOCOL}",
                OTHER_PROTOCOL,
                RESTART,
                pid=peer_pid(sock),
            )
    except BaseException:
        sock.close()
        raise
    return sock


def _is_moved(sock: bare_socket.socket, announced: str, address: str) -> bool:
    """Is the socket that the daemon has announced not the one at `address`, where it was reached?
    Then its directory was moved under it. Within a second it sees that, and stops; a request that
    it has not answered by then would be lost with the connection.

    The path is looked up as the daemon sees it: one in a container has other paths than ours.
    """
    pid = peer_pid(sock)
    if not pid:
        return False
    root = f"/proc/{pid}/root" if sys.platform == "linux" else ""
    try:
        here = os.stat(address)  # noqa: PTH116
        there = os.stat(root + announced)  # noqa: PTH116
    except FileNotFoundError as missing:
        return bool(missing.filename != address)
    except OSError:
        return False
    return (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino)


def _timeval(seconds: float) -> bytes:
    """A `struct timeval`, which is two C longs, without `struct`."""
    size = 8 if sys.maxsize > 1 << 32 else 4
    parts = divmod(max(1, int(seconds * 1e6)), 1_000_000)
    return b"".join(part.to_bytes(size, sys.byteorder) for part in parts)


def _silent(data_dir: str | os.PathLike[str]) -> DaemonUnavailable:
    pid = discovery.holder(data_dir)
    return unavailable(
        f"{'a process' if pid is None else f'process {pid}'} holds {data_dir} and does not listen "
        "on its socket: it is starting or stopping",
        NOT_LISTENING,
        "try again soon; if it hangs, stackshift daemon logs shows why, and "
        + (f"kill {pid} ends it" if pid is not None else "its process can be killed"),
    )


def _reach(
    sock: bare_socket.socket,
    address: str,
    data_dir: str | os.PathLike[str],
    info: discovery.DaemonInfo,
    timeout: float,
) -> None:
    """Connect `sock`; raises `DaemonUnavailable` for every way in which that can fail."""
    try:
        sock.connect(address)
    except (ConnectionRefusedError, FileNotFoundError) as bad:
        if discovery.is_held(data_dir):
            raise _silent(data_dir) from bad
        raise unavailable(
            f"the daemon (pid {info.pid}) is gone: nothing listens on {address}", STALE
        ) from bad
    except BlockingIOError as bad:
        raise unavailable(
            f"the daemon (pid {info.pid}) accepted no connection within {timeout:g} s",
            NO_ANSWER,
            STATUS,
        ) from bad
    except OSError as bad:
        raise unavailable(f"{address}: {bad.strerror or bad}", BROKEN, LOGS) from bad
