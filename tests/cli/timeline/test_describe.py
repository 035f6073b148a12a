"""How lists describe the records of waits, locks, events and state."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from stackshift_cli.render.tsv import detail
from stackshift_cli.timeline.describe import call

# A record as it is in the journal, then what is said of it.
DETAILS = """
wait.started {"wait": "event", "events": [["paid", "o:1"], ["gone", null]], "on_timeout": "fail", \
"until": "T"}
  event paid [o:1], event gone on_timeout=fail until=T
wait.started {"wait": "lock", "lock": "index", "until": null}
  lock index
wait.started {"wait": "sleep", "until": "T"}
  wait=sleep until=T
wait.ended {"status": "", "event": "evt_1", "name": "paid", "correlation_key": "o:1", \
"received_at": "T", "result": {"a": 1}}
  event paid [o:1] event=evt_1 received_at=T result={"a":1}
wait.ended {"status": "timed_out", "name": "", "correlation_key": null}
  status=timed_out
lock.acquired {"key": "index", "asker": "ab", "holder": "sync", "expires_at": "T"}
  lock index holder=sync expires_at=T
lock.released {"key": "index", "reason": "expired"}
  lock index reason=expired
state.set {"key": "n", "value": 0, "version": 3, "op": "increment"}
  state n = 0 version=3 op=increment
state.set {"key": "n", "value": "5", "version": 1}
  state n = "5" version=1
state.deleted {"key": "n", "version": 4}
  state n version=4
event.received {"event": "evt_1", "name": "paid", "correlation_key": null, "payload": null, \
"resumed": ["run_1"]}
  event paid event=evt_1 resumed=["run_1"]
event.returned {"event": "evt_1", "name": "paid", "correlation_key": "", "place": 7, \
"step": "index/pay", "received_at": "T", "kept_until": "U"}
  event paid event=evt_1 received_at=T kept_until=U
call.withdrawn {"attempt": 1, "step": "index/[timer 5.0s]"}

lock.released {"key": "index", "reason": "withdrawn", "step": "a/[lock index]"}
  lock index reason=withdrawn
call.refused {"error": {"code": "conflict", "message": "n has version 3", "hint": ""}}
  conflict: n has version 3
step.failed {"error": {"type": "ValueError", "message": "no", "traceback": ""}}
  ValueError: no
"""


def details() -> Iterator[tuple[str, dict[str, Any], str]]:
    """The rows of `DETAILS`: kind, fields, and what is said."""
    lines = DETAILS.strip().splitlines()
    for record, told in zip(lines[::2], lines[1::2], strict=True):
        kind, _, fields = record.partition(" ")
        yield kind, json.loads(fields), told.strip()


@pytest.mark.parametrize(("kind", "fields", "told"), list(details()))
def test_detail_says_what_it_is_about_first(kind: str, fields: dict[str, Any], told: str) -> None:
    """The subject comes first, then the other fields; nothing is shown twice."""
    assert detail({"seq": 1, "at": "T", "kind": kind, "run": "run_1", **fields}) == told


def test_calls_that_are_no_steps_lose_their_brackets() -> None:
    """The number of the occurrence stays; names of steps are not changed."""
    assert call("[lock a]b]#2") == "lock a]b#2"
    assert call("[state.increment n].left#2") == "state.increment n (left)#2"
    assert call("[event.send paid [user:1]]") == "event.send paid [user:1]"
    assert call("[now]") == "now"
    assert call("resize[0]") == "resize[0]"
    assert call("page#2") == "page#2"
    assert call("index#2/[lock a/b].left") == "index#2/lock a/b (left)"
    assert call("index/page#2") == "index/page#2"
