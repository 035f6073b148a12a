"""Concurrency key templates, and the queues that a module declares."""

from __future__ import annotations

from typing import Any

import pytest

from stackshift_jobs.client.default import queue
from stackshift_jobs.errors import BadConfiguration, PayloadRefused, Usage
from stackshift_jobs.project.settings import Rate
from stackshift_jobs.registry import declare_queue, job, queues, registry
from stackshift_jobs.values.templates import fields_of, fill


@pytest.mark.parametrize(
    ("template", "payload", "made"),
    [
        ("customer:{customerId}", {"customerId": "c_1"}, "customer:c_1"),
        ("{a.b}/{c}", {"a": {"b": "x"}, "c": 7}, "x/7"),
        ("{flag}", {"flag": True}, "true"),
        ("{rate}", {"rate": 1.5}, "1.5"),
        ("all", None, "all"),
        ("{{{id}}}", {"id": "é"}, "{é}"),
        ("{id}", {"id": "{other}"}, "{other}"),
    ],
)
def test_fields_become_text(template: str, payload: Any, made: str) -> None:
    """Strings stay as they are, numbers and booleans are as in JSON, doubled braces are braces."""
    assert fill(template, payload) == made


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({}, "$.a.b"),
        ({"a": 1}, "$.a.b"),
        ({"a": {"b": None}}, "$.a.b"),
        ([], "$.a.b"),
        ({"a": {"b": {"c": 1}}}, "$.a.b"),
    ],
)
def test_missing_field_is_named(payload: Any, path: str) -> None:
    """The error has the path of the field, as for any refused payload."""
    with pytest.raises(PayloadRefused) as refused:
        fill("x:{a.b}", payload)
    assert refused.value.fields["path"] == path


@pytest.mark.parametrize("bad", ["{", "}", "{}", "a{b", "{a..b}", "{a{b}}", "{.a}"])
def test_invalid_template_is_recognized(bad: str) -> None:
    """Braces must come in pairs, around a path."""
    assert fields_of(bad) is None
    with pytest.raises(Usage):
        job("templated", concurrency_key=bad)(lambda _ctx: None)
    assert "templated" not in registry


def test_fields_are_listed_in_order() -> None:
    """Every path in the template is listed."""
    assert fields_of("a{b}{{c}}{d.e}") == ["b", "d.e"]


def test_queue_declared_twice_with_other_limits_is_an_error() -> None:
    """With the same limits it is fine; otherwise the order of imports would decide."""
    try:
        declare_queue("declared", concurrency=2, rate="100/m")
        declare_queue("declared", concurrency=2, rate="100/m")
        assert queues["declared"].rate == Rate(100, 60_000)
        with pytest.raises(BadConfiguration, match="declared twice"):
            declare_queue("declared", concurrency=3)
    finally:
        queues.pop("declared", None)


def test_limit_that_belongs_in_the_file_is_refused_by_its_name() -> None:
    """`processes` belongs to `stackshift.toml`: the hint says so."""
    with pytest.raises(Usage, match="processes of queue 'declared'") as refused:
        queue("declared", processes=2)  # type: ignore[call-arg]
    assert "stackshift.toml" in refused.value.hint
    assert "declared" not in queues


@pytest.mark.parametrize(
    "limits", [{"concurrency": 0}, {"key_concurrency": -1}, {"rate_burst": 1.5}, {"rate": "fast"}]
)
def test_bad_limit_of_a_declaration_is_refused(limits: dict[str, Any]) -> None:
    """The error names the limit, and nothing is declared."""
    with pytest.raises(Usage, match=next(iter(limits))):
        declare_queue("declared", **limits)
    assert "declared" not in queues
