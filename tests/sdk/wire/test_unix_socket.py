"""Connecting to the daemon: every reason why there is none, and whose daemon is not used."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from helpers.journal_lock import locked
from sdk.fake_daemon import FakeDaemon
from stackshift_cli.daemon.connection import Connection
from stackshift_jobs.errors import BadConfiguration, DaemonUnavailable
from stackshift_jobs.project import discovery
from stackshift_jobs.project.locate import Project
from stackshift_jobs.version import PROTOCOL
from stackshift_jobs.wire import unavailable


def reason(raised: pytest.ExceptionInfo[DaemonUnavailable]) -> Any:
    """The word that says why there is no daemon."""
    return raised.value.fields["reason"]


def test_no_daemon_says_how_to_start_one(project: Project) -> None:
    """Without `daemon.json` the exit status is 3, and the hint is `stackshift daemon start`."""
    with pytest.raises(DaemonUnavailable) as raised:
        Connection.open(project.data_dir)
    assert reason(raised) == unavailable.NOT_RUNNING
    assert raised.value.hint == "stackshift daemon start"
    assert raised.value.exit_status == 3


def test_stale_daemon_file_is_recognized_by_its_dead_socket(daemon: FakeDaemon) -> None:
    """A daemon that was killed leaves both behind, and counts as not running."""
    path = discovery.socket_path(daemon.data_dir)
    daemon.stop(clean=False)
    for _ in ("no socket", "a socket that nobody listens at"):
        with pytest.raises(DaemonUnavailable, match="is gone") as raised:
            Connection.open(daemon.data_dir)
        assert reason(raised) == unavailable.STALE
        assert raised.value.hint == "stackshift daemon start"
        with socket.socket(socket.AF_UNIX) as left:
            path.unlink(missing_ok=True)
            left.bind(str(path))


def test_daemon_of_another_protocol_is_not_spoken_to(daemon: FakeDaemon) -> None:
    """The hint is `stackshift daemon restart`, and nothing is sent to that daemon."""
    daemon.stop()
    daemon.protocol += 1
    daemon.start()
    with pytest.raises(DaemonUnavailable, match="speaks protocol") as raised:
        Connection.open(daemon.data_dir)
    assert reason(raised) == unavailable.OTHER_PROTOCOL
    assert raised.value.hint == "stackshift daemon restart"
    assert daemon.seen == []


def test_dead_daemon_of_another_protocol_is_just_dead(daemon: FakeDaemon) -> None:
    """Advising to restart a daemon that does not run would be wrong."""
    daemon.stop()
    daemon.protocol += 1
    daemon.start()
    daemon.stop(clean=False)
    with pytest.raises(DaemonUnavailable) as raised:
        Connection.open(daemon.data_dir)
    assert reason(raised) == unavailable.STALE


def test_daemon_of_another_user_is_not_spoken_to(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel says who listens."""
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    with pytest.raises(DaemonUnavailable, match=f"served by user {uid}") as raised:
        Connection.open(daemon.data_dir)
    assert reason(raised) == unavailable.OTHER_USER
    assert daemon.seen == []


def test_daemon_that_accepts_nobody_is_given_up(project: Project) -> None:
    """The client waits for room in the queue of connections, for `connect_timeout`."""
    project.data_dir.mkdir(mode=0o700)
    path = discovery.socket_path(project.data_dir)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        info = discovery.DaemonInfo(1, str(path), "1", 1, "now")
        discovery.write_daemon(project.data_dir, info)
        held = [Connection.open(project.data_dir)]
        with pytest.raises(DaemonUnavailable) as raised:
            for _ in range(8):
                held.append(Connection.open(project.data_dir, connect_timeout=0.05))
        for one in held:
            one.close()
    assert reason(raised) in (
        unavailable.NO_ANSWER,
        unavailable.STALE,
    )  # Linux waits; macOS refuses at once


def test_long_data_directory_is_reached_by_its_short_one(tmp_path: Path) -> None:
    """Only if that directory is private: the client checks it, too."""
    data_dir = tmp_path.resolve() / ("long" * 30) / ".stackshift"
    data_dir.parent.mkdir()
    fake = FakeDaemon(data_dir).start()
    private = discovery.socket_path(data_dir).parent
    try:
        assert private != data_dir
        with Connection.open(data_dir) as opened:
            assert opened.call("echo", {"a": 1}) == {"a": 1}
        private.chmod(0o777)
        with pytest.raises(BadConfiguration, match="mode is 0777"):
            Connection.open(data_dir)
    finally:
        fake.stop()


def test_daemon_whose_directory_was_moved_is_about_to_stop(daemon: FakeDaemon) -> None:
    """It still answers at the new place, for less than a second: nothing is sent to it. Another
    spelling of the same path is no move."""
    link = daemon.data_dir.parent / "link"
    link.symlink_to(daemon.data_dir)
    with Connection.open(link) as opened:
        assert opened.call("echo", {"a": 1}) == {"a": 1}
    link.unlink()
    moved = daemon.data_dir.rename(daemon.data_dir.with_name("moved"))
    seen = len(daemon.seen)
    for _ in ("nothing at the old place", "the directory of another project"):
        with pytest.raises(DaemonUnavailable, match="was moved while its daemon") as raised:
            Connection.open(moved)
        assert reason(raised) == unavailable.NOT_LISTENING
        daemon.data_dir.mkdir(mode=0o700, exist_ok=True)
        (daemon.data_dir / discovery.SOCKET_FILE).touch()
    assert len(daemon.seen) == seen
    (daemon.data_dir / discovery.SOCKET_FILE).unlink()


@pytest.mark.parametrize("left", [False, True], ids=["nothing", "files of a killed daemon"])
def test_daemon_that_cannot_write_is_reached_elsewhere(project: Project, left: bool) -> None:
    """While it holds the journal, in a directory that only we can enter, and whatever is in the
    data directory. (guarantee: one daemon)"""
    data_dir = project.data_dir
    data_dir.mkdir(mode=0o700)
    if left:
        FakeDaemon(data_dir).start().stop(clean=False)
    place = discovery.places_elsewhere(data_dir)[0]
    path = discovery.socket_in(place)
    absent = unavailable.STALE if left else unavailable.NOT_RUNNING
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen(4)
            # It is not asked where it listens: a client goes where that directory's socket is.
            info = discovery.DaemonInfo(1, "/elsewhere/daemon.sock", "1", PROTOCOL, "now")
            discovery.write_daemon(data_dir, info, place)
            with pytest.raises(DaemonUnavailable) as raised:
                Connection.open(data_dir)
            assert reason(raised) == absent
            with locked(data_dir):
                Connection.open(data_dir).close()
                with listener.accept()[0] as accepted:
                    assert accepted.recv(1) == b""
                place.chmod(0o755)
                with pytest.raises(DaemonUnavailable) as raised:
                    Connection.open(data_dir)
                assert reason(raised) == unavailable.NOT_LISTENING
    finally:
        shutil.rmtree(place)
