"""The way to the daemon: a socket that is connected, and that is known to be the right one.

Owns `connect`, which both the blocking connections and the awaited one begin with. It never starts
a daemon, and it hands out no socket before the kernel has said that our own user listens at the
other end and `daemon.json` has said that our protocol is spoken there.
"""

from __future__ import annotations

import os
import socket
import struct

from stackshift_jobs.project import discovery
from stackshift_jobs.version import PROTOCOL
from stackshift_jobs.wire.peer import is_own_user, peer_uid
from stackshift_jobs.wire.unavailable import (
    BROKEN,
    DOCTOR,
    NO_ANSWER,
    NOT_RUNNING,
    OTHER_PROTOCOL,
    OTHER_USER,
    RESTART,
    STALE,
    unavailable,
)


def connect(data_dir: str | os.PathLike[str], timeout: float = 5.0) -> socket.socket:
    """A blocking socket to the daemon of `data_dir`, after it has been made sure that the daemon is
    our user's and speaks our protocol.

    Sends on it fail after `timeout` seconds in which the daemon takes nothing. Raises
    `DaemonUnavailable`, or `BadConfiguration` for a socket in a directory that others can enter.
    """
    info = discovery.read_daemon(data_dir)
    if info is None:
        raise unavailable(f"no daemon runs for {data_dir}", NOT_RUNNING)
    directory = os.path.dirname(info.socket)  # noqa: PTH120 - pathlib takes 5 ms to load
    # Compared as written: where two spellings of one directory differ, it is merely checked too.
    if directory != os.fspath(data_dir).rstrip("/") and os.path.exists(directory):  # noqa: PTH110
        discovery.check_private(directory)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Not settimeout: a non-blocking connect to a full queue fails at once instead of waiting.
        limit = struct.pack("@ll", *divmod(max(1, int(timeout * 1e6)), 1_000_000))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        _reach(sock, info, timeout)
        if not is_own_user(uid := peer_uid(sock)):
            raise unavailable(
                f"{info.socket} is served by user {uid}, not by you",
                OTHER_USER,
                DOCTOR,
            )
        if info.protocol != PROTOCOL:
            raise unavailable(
                f"the daemon (version {info.version}) speaks protocol {info.protocol}, "
                f"this program {PROTOCOL}",
                OTHER_PROTOCOL,
                RESTART,
            )
    except BaseException:
        sock.close()
        raise
    return sock


def _reach(sock: socket.socket, info: discovery.DaemonInfo, timeout: float) -> None:
    """Connect `sock`; every way in which that fails is `DaemonUnavailable`."""
    try:
        sock.connect(info.socket)
    except (ConnectionRefusedError, FileNotFoundError) as bad:
        raise unavailable(
            f"the daemon (pid {info.pid}) is gone: nothing listens at {info.socket}", STALE
        ) from bad
    except BlockingIOError as bad:
        raise unavailable(
            f"the daemon (pid {info.pid}) took no connection for {timeout:g} s",
            NO_ANSWER,
            "stackshift daemon status, then stackshift daemon restart",
        ) from bad
    except OSError as bad:
        raise unavailable(f"{info.socket}: {bad.strerror or bad}", BROKEN, DOCTOR) from bad
