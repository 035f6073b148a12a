"""Which file systems can hold a journal.

Owns the answer to "is this directory on a network?". A network file system may grant one lock to
two machines, and may acknowledge a sync that another client's cache undoes; there the journal
cannot keep its promises.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from pathlib import Path
from typing import Final

_NATIVE: Final = (
    "9p acfs afpfs afs beegfs ceph cifs coda davfs glusterfs gpfs lustre ncpfs nfs nfs4 orangefs "
    "smb smb2 smb3 smbfs webdav"
)
_FUSE: Final = (
    "ceph cephfs davfs davfs2 gcsfuse glusterfs goofys juicefs rclone s3fs seaweedfs smbnetfs sshfs"
)
NETWORK: Final = frozenset(_NATIVE.split()) | {f"fuse.{name}" for name in _FUSE.split()}

_OCTAL: Final = re.compile(r"\\([0-7]{3})")
_MOUNTINFO: Final = Path("/proc/self/mountinfo")


def is_network(kind: str) -> bool:
    """True if file systems of this type are stored on another machine."""
    return kind in NETWORK


def mount_type(path: Path) -> str:
    """Type of the file system that holds the existing `path`; empty if it cannot be determined."""
    if sys.platform == "darwin":
        return _darwin_type(path)
    try:
        table = _MOUNTINFO.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
    return type_in_mountinfo(table, os.path.realpath(path))


def type_in_mountinfo(table: str, real: str) -> str:
    """Type of the mount that holds the path `real`, from the text of `/proc/self/mountinfo`.

    A line: `36 35 98:0 / /home rw,noatime shared:1 - ext4 /dev/sda2 rw` (proc(5)). The longest
    mount point wins, and of several mounts on one point the last, since it covers the others.
    """
    best, kind = -1, ""
    for line in table.splitlines():
        fields, _, after = line.partition(" - ")
        columns = fields.split(" ")
        if len(columns) < 5 or not after:
            continue
        point = _OCTAL.sub(lambda found: chr(int(found[1], 8)), columns[4])
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:
            best, kind = len(point), after.split(" ", 1)[0]
    return kind


def _darwin_type(path: Path) -> str:
    """`f_fstypename` of statfs(2). Before it the struct has two 32-bit words, five 64-bit counts,
    the 64-bit fsid and four 32-bit words: 72 bytes. The name has 16."""
    libc = ctypes.CDLL(None, use_errno=True)
    statfs = getattr(libc, "statfs$INODE64", None) or libc.statfs
    room = ctypes.create_string_buffer(4096)
    if statfs(os.fsencode(path), room) != 0:
        return ""
    return room.raw[72:88].split(b"\0", 1)[0].decode("ascii", "replace")
