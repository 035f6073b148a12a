"""The warden outlives its daemon, and is waited for by the next one."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

from helpers.deadline import SECONDS, wait_until
from stackshiftd.shell.workers.warden import LOCK_FILE, Warden, await_warden


def is_held(lock: Path) -> bool:
    """Does somebody hold the lock on this file?"""
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_next_daemon_waits_for_the_warden_at_work(tmp_path: Path) -> None:
    """Both would ask the same programs to end."""
    fd = os.open(tmp_path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    waiting = threading.Thread(target=await_warden, args=(tmp_path, SECONDS))
    waiting.start()
    try:
        assert waiting.is_alive()
    finally:
        os.close(fd)
    waiting.join(SECONDS)
    assert not waiting.is_alive()


def test_daemon_without_a_predecessor_waits_for_nobody(tmp_path: Path) -> None:
    """The lock is free again afterwards, for its own warden."""
    await_warden(tmp_path, SECONDS)
    assert not is_held(tmp_path / LOCK_FILE)


def test_warden_holds_the_lock_until_it_is_dismissed(tmp_path: Path) -> None:
    """It ends by itself, since there is nothing to end; to dismiss it again changes nothing."""
    warden = Warden(tmp_path, SECONDS)
    wait_until(lambda: is_held(tmp_path / LOCK_FILE), "the warden to begin")
    warden.dismiss()
    warden.dismiss()
    assert not is_held(tmp_path / LOCK_FILE)
    assert (tmp_path / LOCK_FILE).stat().st_mode & 0o777 == 0o600
