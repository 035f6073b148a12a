"""Params: what is refused, and in which words."""

from __future__ import annotations

import msgspec
import pytest

from stackshift_jobs.errors import Usage
from stackshiftd.shell.catalog import StartParams
from stackshiftd.shell.params import misfit, within


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ('{"job": "a", "priority": "high"}', "priority: expected a whole number or null, not text"),
        ('{"job": "a", "labels": {"a": 1}}', "labels[...]: expected text, not a whole number"),
        ('{"job": "a", "labels": []}', "labels: expected an object, not a list"),
        ('"a"', "expected an object, not text"),
        (
            '{"job": "a", "ttl_ms": 1.5}',
            "ttl_ms: expected a whole number or null, not a number",
        ),
        ('{"payload": 1}', "Object missing required field `job`"),
    ],
)
def test_misfit_is_said_without_types_of_python(params: str, words: str) -> None:
    """The path of the field, and kinds of values as people call them."""
    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.json.decode(params, type=StartParams)
    assert misfit(refused.value) == words


def test_number_out_of_range_is_named_with_its_bounds() -> None:
    """As the command line says it of its own options."""
    with pytest.raises(Usage, match="limit 0 is out of range") as refused:
        within(0, 1, 5, "limit")
    assert refused.value.hint == "use 1 to 5"
