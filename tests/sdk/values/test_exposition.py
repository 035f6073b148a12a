"""Metrics as text, read back by Prometheus's own parser."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from stackshift_jobs.values.exposition import exposition


def read(text: str) -> dict[str, tuple[str, str, list[tuple[str, dict[str, str], float]]]]:
    """Name → type, help and samples, as Prometheus reads them."""
    return {
        each.name: (
            each.type,
            each.documentation,
            [(sample.name, sample.labels, sample.value) for sample in each.samples],
        )
        for each in text_string_to_metric_families(text)
    }


def family(**changes: Any) -> dict[str, Any]:
    """A gauge with one sample."""
    sample = {"labels": {"queue": "default"}, "value": 3}
    return {"name": "depth", "type": "gauge", "help": "Runs.", "samples": [sample]} | changes


def test_gauges_and_counters_are_as_they_were() -> None:
    """With labels and without."""
    counter = family(name="runs_total", type="counter", samples=[{"labels": {}, "value": 12.5}])
    assert read(exposition([family(), counter])) == {
        "depth": ("gauge", "Runs.", [("depth", {"queue": "default"}, 3.0)]),
        "runs": ("counter", "Runs.", [("runs_total", {}, 12.5)]),
    }


def test_histogram_has_buckets_sum_and_count() -> None:
    """The last bucket is the count."""
    samples = [{"labels": {"le": le}, "value": n} for le, n in (("0.1", 2), ("+Inf", 5))]
    found = read(exposition([family(name="took", type="histogram", samples=samples, sum=1.25)]))
    assert found["took"][2] == [
        ("took_bucket", {"le": "0.1"}, 2.0),
        ("took_bucket", {"le": "+Inf"}, 5.0),
        ("took_sum", {}, 1.25),
        ("took_count", {}, 5.0),
    ]


def test_whole_numbers_have_no_point() -> None:
    """Bytes and times stay exact."""
    sample = {"labels": {}, "value": 1_795_000_000_123.0}
    assert exposition([family(samples=[sample])]).endswith("depth 1795000000123\n")


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=40))
def test_any_text_is_a_label(text: str) -> None:
    """Quotes, backslashes and newlines too."""
    found = read(exposition([family(samples=[{"labels": {"job": text}, "value": 1}])]))
    assert found["depth"][2] == [("depth", {"job": text}, 1.0)]
