"""Transcripts of `cluster status|handover|forget`."""

from __future__ import annotations

import json
from typing import Any

from cli.conftest import Shell
from cli.fake_daemon import FakeDaemon

LEADER: dict[str, Any] = {
    "host": "app-1",
    "role": "leads",
    "seq": 120,
    "address": "10.0.0.5:7433",
    "version": "0.1.0",
    "clock_ahead_ms": 3,
    "seen_ms": 200,
}
FOLLOWER = LEADER | {"host": "app-2", "role": "follows", "seq": 118, "address": "10.0.0.6:7433"}
STATUS: dict[str, Any] = {
    "journal": "jrn_1",
    "seq": 120,
    "leader": "app-1",
    "url": "postgresql://db-1/shop",
    "lease_ms": 3000,
    "answers": True,
    "server": "15.18",
    "synchronous": None,
    "members": [LEADER, FOLLOWER],
}


def test_status_is_a_line_a_daemon(shell: Shell, daemon: FakeDaemon) -> None:
    """`host role seq behind version address seen_ms clock_ahead_ms`; JSON: as it is told."""
    daemon.answers["cluster.status"] = lambda _: STATUS
    told = shell("cluster", "status")
    assert told.stdout == (
        "app-1\tleads\t120\t0\t0.1.0\t10.0.0.5:7433\t200\t3\n"
        "app-2\tfollows\t118\t2\t0.1.0\t10.0.0.6:7433\t200\t3\n"
    )
    assert told.stderr == ""
    assert json.loads(shell("cluster", "status", "--json").stdout) == STATUS


def test_status_says_what_somebody_should_look_at(shell: Shell, daemon: FakeDaemon) -> None:
    """A wrong clock, another version, a daemon that nobody can reach; of one that has stopped
    nothing."""
    odd = FOLLOWER | {"clock_ahead_ms": -61_000, "version": "0.2.0", "address": None}
    gone = odd | {"host": "app-3", "role": "stopped"}
    daemon.answers["cluster.status"] = lambda _: STATUS | {"members": [LEADER, odd, gone]}
    assert shell("cluster", "status").stderr.splitlines() == [
        "note: app-2: its clock is 61.0 s behind the database's",
        "note: app-2: it does not listen: it lacks stackshift-jobs[cluster]",
        "note: app-2: it is 0.2.0, and app-1 0.1.0",
    ]


def test_handover_prints_who_leads_next(shell: Shell, daemon: FakeDaemon) -> None:
    """A host or none is passed on."""
    daemon.answers["cluster.handover"] = lambda params: {
        "from": "app-1",
        "to": params["host"] or "app-9",
    }
    told = shell("cluster", "handover")
    assert told.stdout == "app-9\n"
    assert told.stderr == "the daemon on app-1 hands over, and then follows\n"
    assert shell("-q", "cluster", "handover", "app-2").stdout == "app-2\n"
    assert json.loads(shell("cluster", "handover", "--json").stdout) == {
        "from": "app-1",
        "to": "app-9",
    }


def test_forget_prints_the_host(shell: Shell, daemon: FakeDaemon) -> None:
    """Which must be given."""
    daemon.answers["cluster.forget"] = lambda params: {"host": params["host"]}
    assert shell("cluster", "forget", "app-3").stdout == "app-3\n"
    assert shell("cluster", "forget").code == 2
