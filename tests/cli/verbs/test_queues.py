"""Transcripts of `queues list|show|pause|resume|limit|drain|purge`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cli.conftest import Shell
from cli.fake_daemon import FakeDaemon
from stackshift_jobs.errors import NotFound

MEDIA: dict[str, Any] = {
    "name": "media",
    "depth": 3,
    "running": 2,
    "oldest_ms": 1500,
    "paused": False,
    "paused_since": None,
    "concurrency": 2,
    "key_concurrency": None,
    "rate": "100/m",
    "rate_burst": 5,
    "next_start_at": None,
    "processes": None,
}
MAIL = MEDIA | {"name": "mail\x1b", "paused": True, "rate": None, "concurrency": None}


def changed(changed: bool = True, **values: Any) -> Any:
    """A reply with the queue `media` and these values, and whether it was changed."""
    return lambda _: MEDIA | values | {"changed": changed}


def test_list_is_a_line_a_queue(shell: Shell, daemon: FakeDaemon) -> None:
    """`name status depth running oldest_ms concurrency key_concurrency rate`; JSON: an array."""
    daemon.answers["queue.list"] = lambda _: {"queues": [MEDIA, MAIL], "cursor": None}
    told = shell("queues", "list")
    assert (
        told.stdout == "media\topen\t3\t2\t1500\t2\t\t100/m\nmail\\x1b\tpaused\t3\t2\t1500\t\t\t\n"
    )
    assert json.loads(shell("queue", "list", "--json").stdout) == [MEDIA, MAIL]


def test_show_says_where_each_limit_is_from(shell: Shell, daemon: FakeDaemon) -> None:
    """A line per field; a limit with its source, a busy key with its runs."""
    sources = dict.fromkeys(("key_concurrency", "rate_burst", "paused"), "default")
    sources |= {"concurrency": "queues limit", "rate": "stackshift.toml"}
    queue = MEDIA | {"sources": sources, "busy_keys": [{"key": "customer:1", "running": 2}]}
    daemon.answers["queue.show"] = lambda _: queue
    printed = shell("queues", "show", "media").stdout.splitlines()
    assert "concurrency\t2\t(queues limit)" in printed
    assert "rate\t100/m\t(stackshift.toml)" in printed
    assert "key_concurrency\tnone\t(default)" in printed
    assert printed[-1] == "key\tcustomer:1\t2 running"
    assert json.loads(shell("queues", "show", "media", "--json").stdout) == queue


def test_pause_and_resume_say_what_they_did(shell: Shell, daemon: FakeDaemon) -> None:
    """They say so on stderr, also if there was nothing to do."""
    daemon.answers["queue.pause"] = changed(paused=True)
    assert shell("queues", "pause", "media") == ("", "media paused\n", 0)
    daemon.answers["queue.pause"] = changed(False, paused=True)
    assert shell("queues", "pause", "media").stderr == "media is already paused\n"
    daemon.answers["queue.resume"] = changed()
    assert shell("queues", "resume", "media").stderr == "media resumed\n"
    daemon.answers["queue.resume"] = changed(False)
    told = shell("queues", "resume", "media", "--json")
    assert json.loads(told.stdout)["changed"] is False


def test_unknown_queue_is_exit_4_with_near_names(shell: Shell, daemon: FakeDaemon) -> None:
    """A misspelled name pauses nothing."""

    def missing(_: dict[str, Any]) -> Any:
        raise NotFound("there is no queue 'mdia'", hint="did you mean media?", near=["media"])

    for verb in ("show", "pause", "resume", "drain", "purge"):
        daemon.answers[f"queue.{verb}"] = missing
        told = shell("queues", verb, "mdia")
        assert (told.stdout, told.code) == ("", 4)
        assert "did you mean media?" in told.stderr


def test_limit_sends_what_was_given(shell: Shell, daemon: FakeDaemon) -> None:
    """It sends numbers, a rate, or `none`, and prints the limits in force afterwards."""
    seen: list[dict[str, Any]] = []

    def limited(params: dict[str, Any]) -> Any:
        seen.append(params)
        return MEDIA | {"changed": True}

    daemon.answers["queue.limit"] = limited
    told = shell("queues", "limit", "media", "--concurrency", "2", "--rate", "100/m")
    assert told == ("", "media: concurrency 2, rate 100/m, rate_burst 5\n", 0)
    shell("queues", "limit", "media", "--concurrency", "none", "--rate-burst", "3")
    shell("queues", "limit", "media", "--reset", "--key-concurrency", "1", "--rate", "none")
    assert seen == [
        {"queue": "media", "concurrency": 2, "rate": "100/m"},
        {"queue": "media", "concurrency": 0, "rate_burst": 3},
        {"queue": "media", "key_concurrency": 1, "rate": "none", "reset": True},
    ]


@pytest.mark.parametrize(
    "given", [(), ("--concurrency", "0"), ("--concurrency", "many"), ("--rate-burst", "-1")]
)
def test_limit_without_a_limit_is_exit_2(
    shell: Shell, daemon: FakeDaemon, given: tuple[str, ...]
) -> None:
    """No request is sent to the daemon."""
    told = shell("queues", "limit", "media", *given)
    assert (told.stdout, told.code) == ("", 2)
    assert daemon.asked("queue.limit") == 0


def test_drain_waits_and_says_what_is_left(shell: Shell, daemon: FakeDaemon) -> None:
    """It returns when the daemon says that no run is running."""
    daemon.answers["queue.show"] = lambda _: MEDIA | {"running": 2}
    daemon.answers["queue.drain"] = lambda _: MEDIA | {"paused": True, "running": 0}
    told = shell("queues", "drain", "media")
    waits = "waiting for 2 runs in media\n"
    assert told == ("", f"{waits}media drained and paused, 3 queued\n", 0)
    daemon.answers["queue.show"] = lambda _: MEDIA | {"running": 0}
    told = shell("queues", "drain", "media")
    assert told == ("", "media drained and paused, 3 queued\n", 0)


def test_drain_gives_up_after_its_timeout(shell: Shell, daemon: FakeDaemon) -> None:
    """Exit 124."""
    daemon.answers["queue.show"] = lambda _: MEDIA | {"running": 0}
    daemon.answers["queue.drain"] = lambda _: daemon.stopped.wait(60)
    told = shell("queues", "drain", "media", "--timeout", "50ms")
    assert (told.stdout, told.code) == ("", 124)
    assert told.stderr.startswith("media stays paused\n")
    assert "work in queue media" in told.stderr


def test_purge_needs_a_yes_off_a_terminal(shell: Shell, daemon: FakeDaemon) -> None:
    """Exit 2 and nothing cancelled, even if there is nothing to cancel; with `-y` the number of
    runs."""
    asked: list[bool] = []

    def purged(params: dict[str, Any]) -> Any:
        asked.append(params.get("dry_run", False))
        return {"queue": "media", "cancelled": 12, "dry_run": asked[-1]}

    daemon.answers["queue.purge"] = purged
    told = shell("queues", "purge", "media")
    assert (told.stdout, told.code) == ("", 2)
    assert "cancel 12 queued, scheduled or retrying runs in media" in told.stderr
    assert daemon.asked("queue.purge") == 1
    assert asked == [True]
    assert shell("queues", "purge", "media", "-y") == ("12\n", "media: 12 cancelled\n", 0)
    told = shell("queues", "purge", "media", "--yes", "--json")
    assert json.loads(told.stdout) == {"queue": "media", "cancelled": 12}
    daemon.answers["queue.purge"] = lambda _: {"queue": "media", "cancelled": 0}
    assert shell("queues", "purge", "media").code == 2
    assert shell("queues", "purge", "media", "-y").stdout == "0\n"
