"""What the daemon shows of payloads, and of the records that hold them."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from msgspec import Raw

from stackshift_jobs.values.redaction import with_follow_ups
from stackshiftd.core import records as r
from stackshiftd.core.records import Entry, entry_json
from stackshiftd.shell.views.redaction import HIDDEN, Redaction

PAYLOAD = b'{"card": {"number": "4111"}, "n": 123456789012345678901234567890}'
SHOWN = {"card": {"number": "[redacted]"}, "n": 123456789012345678901234567890}
CARD = Redaction(("card.number",))
CREATED = r.RunCreated("run_1", "pay", "default", Raw(PAYLOAD))
DEFINED = r.ScheduleDefined(
    "pay", "@daily", "UTC", "2026-01-01T00:00:00Z", "once", "skip", Raw(PAYLOAD)
)


def line(record: Any) -> Raw:
    """The record as one of an earlier time."""
    return Raw(entry_json(Entry(1, 0, record)))


def test_payload_is_shown_without_the_values_at_the_paths() -> None:
    """Numbers keep all of their digits."""
    assert json.loads(bytes(CARD.payload(Raw(PAYLOAD)))) == SHOWN


def test_payload_in_a_follow_up_is_shown_without_them_too() -> None:
    """There it is a part of the payload; paths of every form lead to it."""
    inner = json.loads(PAYLOAD)
    given = Raw(json.dumps({"id": "run_1", "payload": inner}).encode())
    shown = json.loads(bytes(Redaction(with_follow_ups(["card.number"])).payload(given)))
    assert shown == {"id": "run_1", "payload": SHOWN}
    assert with_follow_ups(["$.a.b", "[].pin", "*.x"])[3:] == (
        "payload.a.b",
        "payload[].pin",
        "payload.*.x",
    )
    assert with_follow_ups(["$"]) == ("$",)


def test_nothing_is_changed_where_nothing_is_redacted() -> None:
    """Without paths the same bytes, unread."""
    raw = Raw(PAYLOAD)
    assert Redaction().payload(raw) is raw
    assert Redaction().entry(Entry(7, 0, CREATED)) == entry_json(Entry(7, 0, CREATED))


@pytest.mark.parametrize(
    "record",
    [
        CREATED,
        r.RunCreated("run_2", "pay", "default", Raw(PAYLOAD), restored=[line(CREATED)]),
        r.RunRetried("run_1", [], {}, [line(CREATED)]),
        r.RunAttached("run_1", "pay", "key", 1000, Raw(PAYLOAD), "digest"),
        DEFINED,
    ],
    ids=["created", "forked", "retried", "attached", "schedule"],
)
def test_every_record_with_a_payload_is_shown_without_it(record: Any) -> None:
    """Also the copies of earlier records within one; the rest is as it was."""
    whole = json.loads(entry_json(Entry(7, 1_000_000, record)))
    shown = json.loads(CARD.entry(Entry(7, 1_000_000, record)))
    assert "4111" in json.dumps(whole)
    assert "4111" not in json.dumps(shown)
    assert shown.keys() == whole.keys()
    for name in whole.keys() - {"payload", "restored"}:
        assert shown[name] == whole[name]


def test_every_kind_of_record_with_a_payload_is_known() -> None:
    """A new one must be redacted too; the payloads of events are no payloads of runs."""
    holders = {
        kind.__name__
        for kind in get_args(r.AnyRecord)
        if {"payload", "restored"} & set(kind.__struct_fields__)
    }
    assert holders == {
        "RunAttached",
        "RunCreated",
        "RunRetried",
        "ScheduleDefined",
        "EventReceived",
        "EventReturned",
    }


@pytest.mark.parametrize(
    ("new", "lines"),
    [
        (b'{"card": {"number": "4111"}, "n": 1}', []),
        (b'{"card": {"number": "5222"}, "n": 1}', [HIDDEN]),
        (b'{"card": {"number": "4111"}, "n": 2}', ["$.n: 1 → 2"]),
        (b'{"n": 1}', ['$.card: {"number":"[redacted]"} → absent']),
    ],
    ids=["none", "hidden", "shown", "absent"],
)
def test_difference_of_payloads_says_no_value_that_is_not_shown(
    new: bytes, lines: list[str]
) -> None:
    """A conflict tells that they differ, and not in what."""
    assert CARD.difference(b'{"card": {"number": "4111"}, "n": 1}', new) == lines
