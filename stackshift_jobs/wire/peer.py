"""Whose process is at the other end of a Unix socket, as the kernel knows it.

Client and daemon ask the same question, and refuse each other's strangers by the same answer.
"""

from __future__ import annotations

import os
import socket
import struct
import sys

TYPE_CHECKING = False  # See `errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    from typing import Any

# struct ucred of sys/socket.h: pid, uid, gid. A uid is unsigned: there are users above 2^31, and
# -1, which is 2^32 - 1, is nobody's.
_UCRED = struct.Struct("iII")
# struct xucred of macOS's sys/ucred.h: version, uid, and groups that are not needed here.
_XUCRED = struct.Struct("II")
_XUCRED_SIZE = 76
_LOCAL_PEERCRED = 1


def peer_uid(sock: Any) -> int:
    """The user of the process at the other end of `sock` (a socket, or what has its `getsockopt`);
    0 to 2^32 - 1."""
    if sys.platform == "darwin":
        _, uid = _XUCRED.unpack_from(sock.getsockopt(0, _LOCAL_PEERCRED, _XUCRED_SIZE))
    else:
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        _, uid, _ = _UCRED.unpack(credentials)
    return int(uid)


def is_own_user(uid: int) -> bool:
    """Is it the user that this process acts as?"""
    return uid == os.geteuid()
