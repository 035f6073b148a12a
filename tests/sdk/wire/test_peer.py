"""Whose process is at the other end of a socket."""

from __future__ import annotations

import os
import socket
import struct
import sys

import pytest

from stackshift_jobs.wire.peer import is_own_user, peer_uid


class Peer:
    """A socket whose other end is a process of the user `uid`, as the kernel tells it."""

    def __init__(self, uid: int) -> None:
        self._uid = uid

    def getsockopt(self, _level: int, _option: int, size: int) -> bytes:
        """Linux: struct ucred; macOS: struct xucred."""
        told = (
            struct.pack("II", 0, self._uid)
            if sys.platform == "darwin"
            else struct.pack("iII", 4711, self._uid, 100)
        )
        return told.ljust(size, b"\0")


@pytest.mark.parametrize("uid", [0, 1000, 2**31 - 1, 2**31, 4_000_000_000, 2**32 - 2])
def test_user_of_any_number_is_known_as_itself(uid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon read it as a signed number, and refused its own user above 2^31: a uid that a
    directory service may well give."""
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert peer_uid(Peer(uid)) == uid
    assert is_own_user(peer_uid(Peer(uid)))
    assert not is_own_user(peer_uid(Peer(uid + 1 if uid else 1)))


def test_both_ends_of_a_socket_pair_are_ours() -> None:
    """With the kernel's own answer."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_uid(ours) == peer_uid(theirs) == os.geteuid()
