"""The socket of short commands: that of `_socket`, without what the module `socket` adds to it.

`socket.socket` is derived from this class and leaves `connect`, `send`, `recv` and the options as
they are. What it adds (files, enums, selectors) a request needs none of, and takes 3 ms to load, a
fifth of a `stackshift start`. CPython and PyPy have `_socket` on every system; `full` makes a
`socket.socket` of one for those who need more.
"""

from __future__ import annotations

import sys
from _socket import AF_UNIX, SO_SNDTIMEO, SOCK_STREAM, SOL_SOCKET, socket

if sys.platform != "darwin":
    from _socket import SO_PEERCRED

TYPE_CHECKING = False  # See `errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    from socket import socket as FullSocket

__all__ = ["AF_UNIX", "SOCK_STREAM", "SOL_SOCKET", "SO_PEERCRED", "SO_SNDTIMEO", "full", "socket"]
"""`SO_PEERCRED` is missing on macOS."""


def full(bare: socket) -> FullSocket:
    """The same connection as a `socket.socket`, to which `bare` leaves its descriptor."""
    from socket import socket as FullSocket

    if isinstance(bare, FullSocket):
        return bare
    return FullSocket(bare.family, bare.type, bare.proto, bare.detach())
