"""Transcripts of `start --batch`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cli.conftest import Shell
from cli.fake_daemon import FakeDaemon, run_id
from stackshift_jobs.errors import NotFound


def lines(*objects: Any) -> str:
    """JSON lines."""
    return "".join(json.dumps(o) + "\n" for o in objects)


def test_an_id_a_line_in_order(shell: Shell, daemon: FakeDaemon) -> None:
    """1,234 lines give 1,234 ids, in three requests, in the order of the lines."""
    count = 1234
    told = shell("start", "--batch", "-", stdin=lines(*({"job": f"j{i}"} for i in range(count))))
    assert (told.stderr, told.code) == ("", 0)
    assert told.stdout.splitlines() == [run_id(i + 1) for i in range(count)]
    assert [run["job"] for run in daemon.runs.values()] == [f"j{i}" for i in range(count)]
    sizes = [len(params["runs"]) for _, params in daemon.requests]
    assert sizes == [500, 500, 234]


def test_fields_mean_what_the_options_mean(
    shell: Shell, daemon: FakeDaemon, tmp_path: Path
) -> None:
    """A line has the fields of SPEC; durations are text or seconds."""
    file = tmp_path / "starts.jsonl"
    line = {
        "job": "hello", "payload": None, "queue": "q", "idempotency_key": "k", "delay": "1m",
        "idempotency_ttl": 5, "scheduled_at": None, "priority": 1, "max_attempts": 2,
        "labels": {"a": "b"},
    }  # fmt: skip
    file.write_text(lines(line, {"job": "x", "scheduled_at": "2026-05-06T09:00:00+02:00"}) + "\n")
    assert shell("start", "--batch", str(file)).code == 0
    assert daemon.params("run.start_many")["runs"] == [
        {
            "job": "hello", "payload": None, "queue": "q", "idempotency_key": "k",
            "delay_ms": 60_000, "idempotency_ttl_ms": 5000, "priority": 1, "max_attempts": 2,
            "labels": {"a": "b"},
        },
        {"job": "x", "scheduled_at": "2026-05-06T07:00:00.000000Z"},
    ]  # fmt: skip


def test_bad_lines_are_named_by_number_and_the_others_start(
    shell: Shell, daemon: FakeDaemon
) -> None:
    """Lines that are no start, and starts that the daemon refuses, do not stop the others."""

    def start(params: dict[str, Any]) -> Any:
        if params["job"] == "nope":
            raise NotFound("no job 'nope'")
        return daemon.on_run_start(params)

    daemon.answers["run.start"] = start
    text = (
        lines({"job": "a"})
        + "{\n\n"
        + lines(
            {"job": "nope"},
            {"jobs": "a"},
            [1],
            {"payload": 1},
            {"job": "a", "delay": "x"},
            {"job": "b"},
        )
    )
    told = shell("start", "--batch", "-", stdin=text)
    assert told.stdout.splitlines() == [run_id(1), run_id(2)]
    assert told.code == 6
    said = {line.partition(": ")[0]: line.partition(": ")[2] for line in told.stderr.splitlines()}
    assert said.keys() == {"line 2", "line 4", "line 5", "line 6", "line 7", "line 8"}
    assert said["line 4"] == "error[not_found]: no job 'nope'"
    assert said["line 5"] == "error[usage]: unknown field 'jobs'"
    assert said["line 2"].startswith("error[payload_refused]: not valid JSON")


def test_json_gives_an_object_a_line(shell: Shell, daemon: FakeDaemon) -> None:
    """With `--json` each line of output names the line of input."""
    told = shell("--json", "start", "--batch", "-", stdin=lines({"job": "a"}, {"x": 1}))
    assert json.loads(told.stdout) == {
        "line": 1, "id": run_id(1), "reused": False, "status": "queued",
    }  # fmt: skip
    assert json.loads(told.stderr.splitlines()[-1])["line"] == 2


def test_lost_connection_says_from_where_it_is_unknown(shell: Shell, daemon: FakeDaemon) -> None:
    """Nothing is sent twice: what was not answered is said to be unknown."""

    def answer(params: dict[str, Any]) -> Any:
        if params["runs"][0]["job"] == "j500":
            daemon.stop()
        return {"results": [{"id": run_id(1), "reused": False, "status": "queued"}] * 500}

    daemon.answers["run.start_many"] = answer
    text = lines(*({"job": f"j{i}"} for i in range(1000)))
    told = shell("start", "--batch", "-", stdin=text)
    assert told.code == 3
    assert len(told.stdout.splitlines()) in (0, 500)
    first = len(told.stdout.splitlines()) + 1
    assert f"lines from {first} on may or may not have been started" in told.stderr


def test_missing_file_is_usage(shell: Shell, daemon: FakeDaemon) -> None:
    """A file that cannot be read: exit 2, nothing sent."""
    told = shell("start", "--batch", "/no/such/file")
    assert (told.stdout, told.code) == ("", 2)
    assert daemon.requests == []


def test_empty_input_starts_nothing(shell: Shell, daemon: FakeDaemon) -> None:
    """No lines: nothing printed, exit 0."""
    assert shell("start", "--batch", "-", stdin="") == ("", "", 0)
