"""The command of a start: what the job says, what the start says, and the payload."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Raw

from stackshift_jobs.errors import PayloadRefused
from stackshift_jobs.project.config import load_config
from stackshift_jobs.values.strict_json import canonical, loads
from stackshiftd.core.records import RetryTerms
from stackshiftd.shell.catalog import Catalog, StartParams, is_simple, shown
from stackshiftd.worker.frames import FailedModule, JobFacts

TERMS = JobFacts(
    "report",
    "jobs.report",
    "slow",
    "code1",
    retry=RetryTerms(7),
    timeout_ms=5000,
    priority=3,
    ttl_ms=60_000,
    deadline_ms=90_000,
    on_failure="alarm",
    max_runtime_ms=4000,
    schema={"type": "object"},
)
KEYED = JobFacts("keyed", "jobs.keyed", "default", "code1", concurrency_key="{user}")


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """The catalog of a project with these two jobs."""
    (tmp_path / "stackshift.toml").write_text("")
    made = Catalog(load_config(tmp_path, {}))
    made.learn([TERMS, KEYED], [])
    return made


def start(catalog: Catalog, job: str, payload: bytes, run: str) -> dict[str, object]:
    """The fields of the command of a start that says nothing else."""
    return msgspec.structs.asdict(catalog.start_command(StartParams(job, Raw(payload)), run, 1))


def test_later_starts_are_as_the_first_but_for_run_and_payload(catalog: Catalog) -> None:
    """What is kept of the first one has no trace of its run or payload, and is no less."""
    first = start(catalog, "report", b'{"a":1}', "run_1")
    second = start(catalog, "report", b'{"b":2}', "run_2")
    assert second == first | {"run": "run_2", "payload": b'{"b":2}'}
    assert first["retry"] == RetryTerms(7)
    assert (first["timeout_ms"], first["ttl_ms"], first["max_runtime_ms"]) == (5000, 60_000, 4000)


def test_every_start_has_its_payload_checked(catalog: Catalog) -> None:
    """By the job's type, and by what JSON may be: also after one that was good."""
    start(catalog, "report", b"{}", "run_1")
    for bad in (b"[]", b'{"a":1,"a":2}'):
        with pytest.raises(PayloadRefused):
            start(catalog, "report", bad, "run_2")


def test_keys_are_those_of_each_payload(catalog: Catalog) -> None:
    """The key that a job makes of its payload is never that of an earlier start."""
    keys = [
        start(catalog, "keyed", b'{"user":"%b"}' % user, "run_1")["concurrency_key"]
        for user in (b"ada", b"bob")
    ]
    assert keys == ["ada", "bob"]


def test_options_of_a_start_are_its_own(catalog: Catalog) -> None:
    """A start that says more neither uses what is kept of plain ones nor changes it."""
    plain = start(catalog, "report", b"{}", "run_1")
    params = StartParams("report", Raw(b"{}"), queue="fast", priority=9, labels={"a": "b"})
    full = msgspec.structs.asdict(catalog.start_command(params, "run_1", 1))
    assert full == plain | {"queue": "fast", "priority": 9, "labels": {"a": "b"}}
    assert start(catalog, "report", b"{}", "run_1") == plain


def test_new_code_has_its_own_terms(catalog: Catalog) -> None:
    """After a reload, starts are as the job says now."""
    start(catalog, "report", b"{}", "run_1")
    catalog.learn([msgspec.structs.replace(TERMS, queue="quick", timeout_ms=None)], [])
    now = start(catalog, "report", b"{}", "run_2")
    assert (now["queue"], now["timeout_ms"]) == ("quick", 0)


@pytest.mark.parametrize(
    ("line", "message", "text"),
    [
        (3, "no", "/p/jobs/a.py:3: ValueError: no"),
        (0, "does not exist", "/p/jobs/a.py: ValueError: does not exist"),
        (3, "", "/p/jobs/a.py:3: ValueError"),
    ],
)
def test_module_that_failed_is_named_with_what_is_known_of_it(
    line: int, message: str, text: str
) -> None:
    """A folder that does not exist has no line, and some errors have no words."""
    assert shown(FailedModule("jobs.a", "/p/jobs/a.py", line, "ValueError", message)) == text


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "true",
        "-0",
        "1.0",
        "-1.50",
        "0.30000000000000004",
        "123456789012345678901234567890",
        "1" * 299,
        '"a\\nb\\/c\\t\\""',
        '"größe"',
        '"gr\\u00f6\\u00dfe"',
        "1e3",
        '{ "n" : 1 }',
        '{"n":18446744073709551616}',
        "[1,2.0,null]",
        '[{"a":"b:c"}]',
        "[[[]]]",
        '{"b":1,"a":[1.0]}',
    ],
)
def test_digest_of_a_payload_is_that_of_its_value(catalog: Catalog, text: str) -> None:
    """However simple the text is, and whatever has read it: by the digest a start with the same key
    is told from another."""
    catalog.learn([JobFacts("plain", "jobs.plain", "default", "code1")], [])
    params = StartParams("plain", Raw(text.encode()), idempotency_key="k")
    command = catalog.start_command(params, "run_1", 0)
    assert command.digest == sha256(canonical(loads(text))).hexdigest()
    assert loads(command.payload) == loads(text)


_MARKS = [*'{}[],: "']
_TEXTS = ['"a"', '"b"', '":"', '"a.b"', '"\\u00e9"', '"é"', '"a":', '"b":1', '"c":[1,2]']
_PLAIN = ["1", "-1", "0", "-0", "01", "1.50", "1e3", "9" * 400, "true", "null"]
_PIECES = st.sampled_from(_MARKS + _TEXTS + _PLAIN)


@given(st.lists(_PIECES, max_size=12).map("".join))
@example('{"a":1,"b":2,"a":3}')
@example('{"a":":","a":1}')
@example('[":",":"]')
@example('{"a":[1,"x"], "b":null}')
def test_text_that_is_simple_is_strict(text: str) -> None:
    """What is not looked at more closely is what the strict parser takes, and means the same."""
    body = text.encode()
    if is_simple(body):
        assert msgspec.json.decode(body) == loads(body)


def test_usual_payloads_are_simple() -> None:
    """They cost one look, however many members they have."""
    for usual in (b"7", b'"a b"', b'{"id":12,"image":"a.png","tags":["x","y"],"ratio":0.5}'):
        assert is_simple(usual)
    for other in (b"{}{}", b'{"a":{"b":{}}}', b'{"a":1,"a":2}', b"1e999", b'"\\ud800"', b"1 "):
        assert not is_simple(other)
