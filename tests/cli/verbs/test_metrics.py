"""`daemon metrics`: what a real daemon prints, as Prometheus reads it."""

from __future__ import annotations

import json

from prometheus_client.parser import text_string_to_metric_families

from cli.conftest import Shell


def test_command_prints_what_prometheus_reads(real: Shell) -> None:
    """As text, as JSON, and nothing where no daemon runs."""
    none = real("daemon", "metrics")
    assert (none.stdout, none.code) == ("", 3)
    assert real("start", "hello", "-F", "name=World", "--wait").code == 0
    text = real("daemon", "metrics")
    assert text.code == 0
    families = {each.name: each for each in text_string_to_metric_families(text.stdout)}
    finished = families["stackshift_runs_finished"].samples
    assert [(each.labels, each.value) for each in finished] == [
        ({"job": "hello", "outcome": "completed"}, 1.0)
    ]
    assert families["stackshift_commit_seconds"].type == "histogram"
    told = real("daemon", "metrics", "--json")
    names = {metric["name"] for metric in json.loads(told.stdout)["metrics"]}
    assert {"stackshift_runs", "stackshift_queue_depth", "process_cpu_seconds_total"} <= names
