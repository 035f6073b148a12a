"""Which process, and whose, is at the other end of a Unix socket, according to the kernel.

Client and daemon both use this to refuse processes of other users.
"""

from __future__ import annotations

import os
import sys

from stackshift_jobs.wire.bare_socket import SOL_SOCKET

if sys.platform != "darwin":
    from stackshift_jobs.wire.bare_socket import SO_PEERCRED

TYPE_CHECKING = False  # See `errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    from typing import Any

# struct ucred of sys/socket.h: pid, uid, gid, of 4 bytes each. A uid is unsigned: there are users
# above 2^31, and -1, which is 2^32 - 1, belongs to no user.
_UCRED_SIZE = 12
# struct xucred of macOS's sys/ucred.h: version, uid, and groups, which are not needed here.
_XUCRED_SIZE = 76
_LOCAL_PEERCRED = 1
_LOCAL_PEERPID = 2


def peer_uid(sock: Any) -> int:
    """The user id, 0 to 2^32 - 1, of the process at the other end of `sock` (a socket, or anything
    with the `getsockopt` of one)."""
    if sys.platform == "darwin":
        return _number(sock.getsockopt(0, _LOCAL_PEERCRED, _XUCRED_SIZE)[4:8])
    return _number(sock.getsockopt(SOL_SOCKET, SO_PEERCRED, _UCRED_SIZE)[4:8])


def peer_pid(sock: Any) -> int:
    """The process id at the other end of `sock`, in terms of our own system of processes: 0 if it
    runs in a container that we do not see into."""
    if sys.platform == "darwin":
        return int(sock.getsockopt(0, _LOCAL_PEERPID))
    return _number(sock.getsockopt(SOL_SOCKET, SO_PEERCRED, _UCRED_SIZE)[:4])


def _number(data: bytes) -> int:
    """Without `struct`, which every command would have to load for this."""
    return int.from_bytes(data, sys.byteorder)


def is_own_user(uid: int) -> bool:
    """Is `uid` the effective user of this process?"""
    return uid == os.geteuid()
