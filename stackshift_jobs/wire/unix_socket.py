"""Connecting to the daemon's socket, and checking that it is the right one.

Owns `connect`, with which both the blocking and the async connections begin. It never starts a
daemon, and it returns no socket before the kernel has confirmed that our own user listens at the
other end, and `daemon.json` that the daemon speaks our protocol.
"""

from __future__ import annotations

import os
import socket
import struct

from stackshift_jobs.errors import DaemonUnavailable
from stackshift_jobs.project import discovery
from stackshift_jobs.version import PROTOCOL
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


def connect(data_dir: str | os.PathLike[str], timeout: float = 5.0) -> socket.socket:
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
) -> socket.socket:
    directory = os.path.dirname(address)  # noqa: PTH120 - pathlib takes 5 ms to load
    # Compared as text: if two spellings of one directory differ, it is merely checked as well.
    if directory != os.fspath(data_dir).rstrip("/") and os.path.exists(directory):  # noqa: PTH110
        discovery.check_private(directory)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Not settimeout: a non-blocking connect to a full queue fails at once instead of waiting.
        limit = struct.pack("@ll", *divmod(max(1, int(timeout * 1e6)), 1_000_000))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        _reach(sock, address, data_dir, info, timeout)
        if not is_own_user(uid := peer_uid(sock)):
            raise unavailable(
                f"{address} is served by user {uid}, not by you",
                OTHER_USER,
                "run the command as that user, or choose another data directory",
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
    sock: socket.socket,
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
