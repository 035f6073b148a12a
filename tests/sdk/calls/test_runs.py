"""Starts on the wire: their params, how they are put into batches, and which may be sent twice."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from stackshift_jobs.calls.runs import item_params, start_params
from stackshift_jobs.client.batches import Batch, batches
from stackshift_jobs.errors import PayloadRefused, StackshiftError, Usage
from stackshift_jobs.project.locate import Project
from stackshift_jobs.wire.jsonrpc import encode_params
from stackshift_jobs.wire.request import LINE_SLACK, encode


def test_options_become_params() -> None:
    """Durations are in ms and times in UTC; options that were not given are not sent."""
    zone = timezone(timedelta(hours=2))
    same: dict[str, Any] = {"queue": "media", "idempotency_key": "k", "priority": 0}
    same |= {"max_attempts": 5, "labels": {"team": "a"}}
    nine = datetime(2026, 5, 6, 9, 0, tzinfo=zone)
    params = start_params("j", {"a": 1}, same | {"idempotency_ttl": "1h30m", "scheduled_at": nine})
    times = {"idempotency_ttl_ms": 5_400_000, "scheduled_at": "2026-05-06T07:00:00.000000Z"}
    assert params == {"job": "j", "payload": {"a": 1}, **same, **times}
    assert start_params("j", None, {"queue": None}) == {"job": "j"}


@pytest.mark.parametrize(
    ("delay", "delay_ms"), [("10m", 600_000), (1.5, 1500), (timedelta(seconds=2), 2000)]
)
def test_delay_may_be_any_duration(delay: Any, delay_ms: int) -> None:
    """It can be text, a number of seconds, or a `timedelta`."""
    assert start_params("j", None, {"delay": delay})["delay_ms"] == delay_ms


def test_time_without_an_offset_is_local() -> None:
    """Both as text and as a `datetime`."""
    naive = datetime(2026, 5, 6, 9, 0)  # noqa: DTZ001
    as_utc = naive.astimezone().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    assert start_params("j", None, {"scheduled_at": naive})["scheduled_at"] == as_utc
    text = naive.isoformat()
    assert start_params("j", None, {"scheduled_at": text})["scheduled_at"] == as_utc


@pytest.mark.parametrize(
    "options",
    [
        {"delay": "1s", "scheduled_at": "2026-05-06T09:00:00Z"},
        {"delay": -1},
        {"delay": "soon"},
        {"scheduled_at": "tomorrow"},
        {"idempotency_key": ""},
        {"idempotency_key": "a\nb"},
        {"queue": ""},
        {"que": "media"},
        {"idempotency_ttl": "11000d"},
    ],
)
def test_invalid_option_is_refused_before_it_is_sent(options: dict[str, Any]) -> None:
    """A misspelt option is never ignored silently."""
    with pytest.raises(Usage):
        start_params("j", None, options)


@pytest.mark.parametrize("item", [{}, {"payload": 1}, ("j",), "j", ("j", 1, 2), {"job": ""}, None])
def test_item_that_is_not_a_start_is_refused(item: Any) -> None:
    """An item must be a dict with a job, or a tuple of job and payload."""
    with pytest.raises(Usage):
        item_params(item)


def plan(project: Project, items: list[Any]) -> tuple[list[Batch], dict[int, Any]]:
    """The batches of `items`, and the errors of those that were refused, by place."""
    refused: dict[int, StackshiftError] = {}
    return list(batches(project, items, refused)), refused


def test_batches_hold_every_item_once_in_order(project: Project) -> None:
    """A batch has at most 500 items, keeps their places, and is the params of `run.start_many`."""
    made, refused = plan(project, [("j", n) for n in range(1203)])
    assert [len(batch.places) for batch in made] == [500, 500, 203]
    assert [place for batch in made for place in batch.places] == list(range(1203))
    payloads = [run["payload"] for batch in made for run in json.loads(batch.body)["runs"]]
    assert payloads == list(range(1203))
    assert refused == {}


def test_batches_stay_under_the_smallest_line(project: Project) -> None:
    """An item that is larger by itself has a batch of its own."""
    sizes = [20_000, 20_000, 20_000, 100_000, 10, 50_000]
    made, _ = plan(project, [("j", "x" * size) for size in sizes])
    assert [batch.places for batch in made] == [[0, 1, 2], [3], [4, 5]]
    assert all(len(batch.body) <= LINE_SLACK for batch in made if batch.places != [3])


def test_items_with_and_without_a_key_are_kept_apart(project: Project) -> None:
    """A batch may be sent again only if each of its items may be."""
    keyed = {"job": "j", "idempotency_key": "k"}
    made, _ = plan(project, [("j", 1), ("j", 2), keyed, keyed, ("j", 3)])
    batches = [(batch.places, batch.repeatable) for batch in made]
    assert batches == [([0, 1], False), ([2, 3], True), ([4], False)]


def test_item_that_cannot_be_sent_does_not_hold_up_the_others(project: Project) -> None:
    """It is refused under its place."""
    made, refused = plan(project, [("j", 1), ("j", float("nan")), ("", 1), ("j", 2)])
    assert [batch.places for batch in made] == [[0, 3]]
    assert {place: type(error) for place, error in refused.items()} == {1: PayloadRefused, 2: Usage}


def test_line_that_the_daemon_would_not_take_is_not_sent(project: Project) -> None:
    """It would end the connection for all who share it; `[limits] payload` decides."""
    params = {"job": "j", "payload": "x" * 200_000}
    encode(project, params)
    project.config_file.write_text('[limits]\npayload = "64KiB"\n')
    with pytest.raises(PayloadRefused, match="the limit is 64 KiB"):
        encode(project, params)


def test_payload_may_be_a_dataclass() -> None:
    """A start accepts whatever the encoder can encode."""

    @dataclass
    class Resize:
        image: str
        at: datetime

    params = start_params("j", Resize("a", datetime(2026, 1, 2, tzinfo=UTC)), {})
    assert json.loads(encode_params(params))["payload"] == {
        "image": "a",
        "at": "2026-01-02T00:00:00+00:00",
    }
