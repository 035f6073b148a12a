"""Transcripts of `event send|list|tail`."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import Shell
from cli.fake_daemon import FakeDaemon, record, run_id
from cli.fake_state import AT, LATER, event_id, event_object
from cli.live_output import read_lines
from stackshift_jobs.errors import Conflict

ANSWER: dict[str, Any] = {"id": event_id(1), "name": "paid", "correlation_key": None}
ANSWER |= {"resumed": [], "kept_until": None, "reused": False}


def answer(daemon: FakeDaemon, **changed: Any) -> None:
    """The reply to `event.send`."""
    daemon.answers["event.send"] = lambda _: ANSWER | changed


def test_send_prints_the_id_and_says_what_it_did(shell: Shell, daemon: FakeDaemon) -> None:
    """stdout is the id alone; stderr says kept, resumed, not kept, or reused."""
    told = shell("event", "send", "paid")
    assert told == (
        f"{event_id(1)}\n",
        f"kept until {LATER} for the first run that waits for it\n",
        0,
    )
    assert daemon.params("event.send") == {"name": "paid"}
    answer(daemon, resumed=[run_id(1), run_id(2)])
    assert shell("events", "send", "paid").stderr == f"resumed {run_id(1)}, {run_id(2)}\n"
    answer(daemon, resumed=[run_id(n) for n in range(100)])
    assert shell("event", "send", "paid").stderr == "resumed 100 runs\n"
    answer(daemon)
    told = shell("event", "send", "paid", "--ttl", "0")
    assert told.stderr == "no run was waiting for it, and it was not kept\n"
    answer(daemon, reused=True, resumed=[run_id(1)])
    assert shell("event", "send", "paid").stderr == (
        f"reused {event_id(1)}, which has this idempotency key; when it was first sent: "
        f"resumed {run_id(1)}\n"
    )
    assert shell("-q", "event", "send", "paid") == (f"{event_id(1)}\n", "", 0)


def test_send_json_is_the_whole_answer(shell: Shell, daemon: FakeDaemon) -> None:
    """`{id, name, correlation_key, resumed, kept_until, reused}`."""
    answer(daemon, correlation_key="o:1", resumed=[run_id(1)])
    told = shell("event", "send", "paid", "--json")
    assert json.loads(told.stdout) == ANSWER | {"correlation_key": "o:1", "resumed": [run_id(1)]}
    assert told.stderr == ""


def test_send_sends_what_was_given(shell: Shell, daemon: FakeDaemon, project: Path) -> None:
    """The payload in all its forms, keys and durations."""
    shell.run(
        """event send paid -p '{"a": 1}' -F b=x --correlation-key o:1
        --idempotency-key k --idempotency-ttl 1d --ttl 2h"""
    )
    assert daemon.params("event.send") == {
        "name": "paid",
        "payload": {"a": 1, "b": "x"},
        "correlation_key": "o:1",
        "idempotency_key": "k",
        "idempotency_ttl_ms": 86_400_000,
        "ttl_ms": 7_200_000,
    }
    shell("event", "send", "paid", "-p", "-", stdin="[1]")
    assert daemon.params("event.send")["payload"] == [1]
    (project / "p.json").write_text("null")
    shell("event", "send", "paid", "-p", "@p.json")
    assert daemon.params("event.send") == {"name": "paid", "payload": None}


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        ([], 2),
        (["paid", "extra"], 2),
        (["paid", "--idempotency-ttl", "1d"], 2),
        (["paid", "--ttl", "-1s"], 2),
        (["paid", "-p", "{half"], 6),
        (["paid", "-p", "[]", "-F", "a=b"], 2),
    ],
)
def test_mistakes_send_nothing(
    shell: Shell, daemon: FakeDaemon, argv: list[str], code: int
) -> None:
    """Exit 2, or 6 for a payload that is not JSON."""
    told = shell("event", "send", *argv)
    assert (told.stdout, told.code) == ("", code)
    assert daemon.requests == []


def test_conflict_shows_the_owner_and_the_difference(shell: Shell, daemon: FakeDaemon) -> None:
    """The same key with another payload: exit 5, a line per difference."""

    def refuse(_: dict[str, Any]) -> Any:
        raise Conflict(
            f"idempotency key 'k' belongs to {event_id(1)}, sent with another payload",
            hint="use another key",
            owner=event_id(1),
            difference=["$.total: 10 → 12", '$.by: absent → "\\u001b"'],
        )

    daemon.answers["event.send"] = refuse
    told = shell("event", "send", "paid", "-p", "{}", "--idempotency-key", "k")
    assert (told.stdout, told.code) == ("", 5)
    assert told.stderr.splitlines() == [
        f"error[conflict]: idempotency key 'k' belongs to {event_id(1)}, sent with another payload",
        "  $.total: 10 → 12",
        '  $.by: absent → "\\u001b"',
        "hint: use another key",
    ]


def test_list_is_a_line_an_event(shell: Shell, daemon: FakeDaemon) -> None:
    """`id name correlation_key received_at kept_until`, newest first; JSON with the payload."""
    daemon.events = [
        event_object(1, correlation_key="o:1\t", payload={"a": 1}),
        event_object(2, "sent"),
    ]
    told = shell("event", "list")
    assert told.stdout == (
        f"{event_id(2)}\tsent\t\t{AT}\t{LATER}\n{event_id(1)}\tpaid\to:1\\t\t{AT}\t{LATER}\n"
    )
    assert json.loads(shell("event", "list", "--json").stdout) == daemon.events[::-1]
    assert shell("event", "list", "--name", "sent").stdout.count("\n") == 1
    assert shell("event", "list", "--correlation-key", "o:1\t").stdout.count("\n") == 1
    assert shell("event", "list", "--name", "none") == ("", "", 0)


def test_list_goes_on_over_pages_up_to_its_limit(shell: Shell, daemon: FakeDaemon) -> None:
    """The default is 50, and a message says that there are more."""
    daemon.events = [event_object(n) for n in range(1, 1501)]
    ids = [event_id(n) for n in range(1500, 0, -1)]

    def listed(*argv: str) -> list[str]:
        return [line.split("\t")[0] for line in shell("event", "list", *argv).stdout.splitlines()]

    assert listed() == ids[:50]
    assert listed("--limit", "1200") == ids[:1200]
    assert listed("--limit", "9999") == ids
    assert shell("event", "list").stderr == "showing the newest 50; use --limit N to see more\n"
    assert shell("event", "list", "--limit", "9999").stderr == ""


def paid_event(seq: int, event: int, key: str | None, **more: Any) -> dict[str, Any]:
    """The record of an event `paid`."""
    fields = {"event": event_id(event), "name": "paid", "correlation_key": key}
    return record(seq, "event.received", **fields, **more)


def end_of_wait(seq: int, run: int, event: int, key: str, at: str) -> dict[str, Any]:
    """The record that ends the wait of a run with an event `paid`, received at `at`."""
    fields = {"event": event_id(event), "name": "paid", "correlation_key": key, "received_at": at}
    return record(seq, "wait.ended", run_id(run), step="[wait]", **fields)


EVENTS = [
    paid_event(1, 1, "o:1", payload={"a": 1}, resumed=[run_id(1)]),
    record(2, "run.queued", run_id(1)),
    record(3, "event.expired", event=event_id(2), name="old\x1b", correlation_key=None),
]


def test_tail_prints_what_is_there(shell: Shell, daemon: FakeDaemon) -> None:
    """Only records of events, in the columns of all records."""
    daemon.append(*EVENTS)
    told = shell("event", "tail", "--no-follow")
    assert told.stdout.splitlines() == [
        f"1\t2026-05-06T09:00:01.000000Z\tevent.received\t\t\t\tevent paid [o:1] "
        f'event={event_id(1)} payload={{"a":1}} resumed=["{run_id(1)}"]',
        f"3\t2026-05-06T09:00:03.000000Z\tevent.expired\t\t\t\tevent old\\x1b event={event_id(2)}",
    ]
    assert daemon.params("feed.open") == {"kinds": ["event.", "wait.ended"], "since_seq": 0}
    told = shell("event", "tail", "--no-follow", "--json", "-n", "1")
    assert [json.loads(line) for line in told.stdout.splitlines()] == [EVENTS[2]]


def test_tail_follows_over_a_restart_without_gap_or_duplicate(
    shell: Shell, daemon: FakeDaemon
) -> None:
    """It continues after the last record that it has seen."""
    process = shell.popen("event", "tail", "-n", "5")
    daemon.wait_for_feeds()
    daemon.append(*EVENTS[:1])
    assert read_lines(process, 1)[0].startswith("1\t")
    daemon.stop()
    daemon.append(*EVENTS[1:])
    daemon.start()
    assert read_lines(process, 1)[0].startswith("3\t")
    assert daemon.params("feed.open") == {"kinds": ["event.", "wait.ended"], "since_seq": 1}
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (out, process.returncode) == (b"", 130)
    assert err.decode().splitlines()[-1] == "Detached"


def test_tail_tells_who_consumed_a_kept_event(shell: Shell, daemon: FakeDaemon) -> None:
    """The end of the wait says it, and nothing else does; the ends of other waits are not shown.
    `-n` counts events, however many waits have ended since."""
    received = paid_event(1, 1, None)
    at_once = paid_event(3, 2, "o:1", resumed=[run_id(2)])
    consumed = end_of_wait(5, 1, 1, "", received["at"])
    daemon.append(
        received,
        record(2, "wait.ended", run_id(3), step="[sleep]"),
        at_once,
        end_of_wait(4, 2, 2, "o:1", at_once["at"]) | {"at": at_once["at"]},
        consumed,
        *(record(n, "wait.ended", run_id(4), step="[sleep]") for n in range(6, 40)),
    )
    told = shell("event", "tail", "--no-follow", "--json", "-n", "2")
    assert [json.loads(line) for line in told.stdout.splitlines()] == [received, at_once, consumed]
    told = shell("event", "tail", "--no-follow", "-n", "1")
    first, second = told.stdout.splitlines()
    assert first.startswith(f"3\t{at_once['at']}\tevent.received\t")
    assert second.startswith(f"5\t{consumed['at']}\twait.ended\t{run_id(1)}\t")
    assert event_id(1) in second
    assert shell("event", "tail", "--no-follow", "--since", received["at"]).stdout.count("\n") == 3


def test_tail_tells_where_a_returned_event_went(shell: Shell, daemon: FakeDaemon) -> None:
    """The record of its return names the runs that got it, so the ends of their waits say nothing
    new; one that is kept again and consumed later is shown as any other."""
    received = paid_event(1, 1, None)
    fields = {"event": event_id(1), "name": "paid", "correlation_key": ""}
    back = {"step": "index/paid", **fields, "place": 1, "received_at": received["at"]}
    passed_on = record(3, "event.returned", run_id(1), **back, resumed=[run_id(2)])
    kept_again = record(5, "event.returned", run_id(2), **back, kept_until=LATER, resumed=[])
    consumed = end_of_wait(6, 3, 1, "", received["at"])
    daemon.append(
        received,
        record(2, "call.withdrawn", run_id(1), step="index/paid"),
        passed_on,
        end_of_wait(4, 2, 1, "", received["at"]),
        kept_again,
        consumed,
    )
    told = shell("event", "tail", "--no-follow", "--json")
    assert [json.loads(line) for line in told.stdout.splitlines()] == [
        received,
        passed_on,
        kept_again,
        consumed,
    ]
    line = shell("event", "tail", "--no-follow", "-n", "1").stdout.splitlines()[0]
    assert line.split("\t")[2:] == [
        "event.returned",
        run_id(2),
        "",
        "index/paid",
        f"event paid event={event_id(1)} received_at={received['at']} kept_until={LATER}",
    ]


@pytest.mark.parametrize("verb", ["event", "runs"])
def test_tail_begins_at_one_place(shell: Shell, daemon: FakeDaemon, verb: str) -> None:
    """`--since` and `-n` cannot be used together."""
    told = shell(verb, "tail", "--since", "1h", "-n", "1")
    assert told == ("", "error[usage]: --since and -n cannot be used together\n", 2)
    assert daemon.requests == []
