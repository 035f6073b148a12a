"""Transcripts of `start --batch`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import Shell
from cli.fake_daemon import FakeDaemon, run_id
from stackshift_jobs.errors import DiskFull, NotFound


def lines(*objects: Any) -> str:
    """The `entries` as lines of JSON."""
    return "".join(json.dumps(o) + "\n" for o in objects)


def start_answer(number: int, reused: bool = False, status: str = "queued") -> dict[str, Any]:
    """The answer to the start of the test's run `number`."""
    return {"id": run_id(number), "reused": reused, "status": status}


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
    """A line has the same fields as the options; durations are text or seconds."""
    file = tmp_path / "starts.jsonl"
    same: dict[str, Any] = {"job": "hello", "payload": None, "queue": "q", "idempotency_key": "k"}
    same |= {"priority": 1, "max_attempts": 2, "labels": {"a": "b"}}
    line = same | {"delay": "1m", "idempotency_ttl": 5, "scheduled_at": None}
    file.write_text(lines(line, {"job": "x", "scheduled_at": "2026-05-06T09:00:00+02:00"}) + "\n")
    assert shell("start", "--batch", str(file)).code == 0
    assert daemon.params("run.start_many")["runs"] == [
        same | {"delay_ms": 60_000, "idempotency_ttl_ms": 5000},
        {"job": "x", "scheduled_at": "2026-05-06T07:00:00.000000Z"},
    ]


def test_bad_lines_are_named_by_number_and_the_others_start(
    shell: Shell, daemon: FakeDaemon
) -> None:
    """Lines that are not valid, and starts that the daemon refuses, do not stop the others."""

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
    *bad, summary = told.stderr.splitlines()
    assert summary.startswith("2 started, 6 bad in ")
    said = {line.partition(": ")[0]: line.partition(": ")[2] for line in bad}
    assert said.keys() == {"line 2", "line 4", "line 5", "line 6", "line 7", "line 8"}
    assert said["line 4"] == "error[not_found]: no job 'nope'"
    assert said["line 5"] == "error[usage]: unknown field 'jobs'"
    assert said["line 2"].startswith("error[payload_refused]: not valid JSON")


@pytest.mark.usefixtures("daemon")
def test_json_gives_an_object_a_line(shell: Shell) -> None:
    """With `--json` each line of output has the number of its line of input."""
    told = shell("--json", "start", "--batch", "-", stdin=lines({"job": "a"}, {"x": 1}))
    assert json.loads(told.stdout) == {"line": 1} | start_answer(1)
    assert json.loads(told.stderr.splitlines()[-1])["line"] == 2


def test_lines_without_a_key_are_named_and_not_sent_again_after_a_lost_connection(
    shell: Shell, daemon: FakeDaemon
) -> None:
    """Lines that were not answered may have been started: their numbers are reported, exit 3."""

    def answer(params: dict[str, Any]) -> Any:
        if params["runs"][0]["job"] == "j500":
            daemon.stop()
        return {"results": [start_answer(1)] * 500}

    daemon.answers["run.start_many"] = answer
    text = lines(*({"job": f"j{i}"} for i in range(1000)))
    told = shell("start", "--batch", "-", stdin=text)
    assert told.code == 3
    assert len(told.stdout.splitlines()) in (0, 500)
    first = len(told.stdout.splitlines()) + 1
    assert told.stderr.startswith(f"lines {first}-1000: error[daemon_unavailable]: ")
    assert "may or may not have been started" in told.stderr
    assert daemon.asked("run.start_many") == 2


def test_lines_with_a_key_are_sent_again_once_the_daemon_is_back(
    shell: Shell, daemon: FakeDaemon
) -> None:
    """Of the lines in flight, those with a key are sent again; only the others are uncertain. The
    rest continues, and the ids keep the order of the lines."""
    lost: list[dict[str, Any]] = []

    def answer(params: dict[str, Any]) -> Any:
        if not lost:
            lost.append(params)
            daemon.break_connections()
        return daemon.on_run_start_many(params)

    daemon.answers["run.start_many"] = answer
    daemon.answers["run.start"] = lambda params: start_answer(params["payload"])
    keys = ({"idempotency_key": f"k{i}"} if i % 100 else {} for i in range(600))
    text = lines(*({"job": "j", "payload": i, **key} for i, key in enumerate(keys)))
    told = shell("start", "--batch", "-", stdin=text)
    sure = [i for i in range(600) if i % 100]
    assert told.code == 3
    got = told.stdout.splitlines()
    assert [each for each in got if each != run_id(500)] == [run_id(i) for i in sure]
    said = told.stderr.splitlines()[0]
    assert said.startswith("lines 1, 101, 201, 301, 401") and "line 502" not in said
    unkeyed = [r["payload"] for _, p in daemon.requests for r in p["runs"] if r["payload"] == 100]
    assert unkeyed == [100]


@pytest.mark.usefixtures("daemon")
def test_pipe_that_pauses_keeps_no_line_waiting(shell: Shell) -> None:
    """Lines are sent and their ids printed while the writer of the pipe pauses."""
    process = shell.popen_with_input("start", "--batch", "-")
    assert process.stdin is not None and process.stdout is not None
    for number in (1, 2):
        process.stdin.write(lines({"job": "a"}).encode() + b'{"jo')
        process.stdin.flush()
        assert process.stdout.readline().decode() == run_id(number) + "\n"
        process.stdin.write(b'b": "a", "x": 1}\n')
        process.stdin.flush()
    rest, said = process.communicate()
    assert rest == b""
    assert b"line 2: error[usage]: unknown field 'x'" in said
    assert b"line 4: error[usage]: unknown field 'x'" in said
    assert process.returncode == 6


def test_what_the_daemon_has_no_room_for_ends_the_batch(shell: Shell, daemon: FakeDaemon) -> None:
    """A full disk is not the line's fault: exit 75 with the first line that was not started, and no
    further line is sent."""

    def answer(params: dict[str, Any]) -> Any:
        if params["runs"][0]["payload"] >= 500:
            raise DiskFull("there is no room")
        return daemon.on_run_start_many(params)

    daemon.answers["run.start_many"] = answer
    text = lines(*({"job": "j", "payload": i} for i in range(20_000)))
    told = shell("--json", "start", "--batch", "-", stdin=text)
    assert told.code == 75
    assert [json.loads(line)["line"] for line in told.stdout.splitlines()] == [*range(1, 501)]
    error, hint, body = told.stderr.splitlines()
    assert error.startswith("error[disk_full]: there is no room; lines 501-")
    assert "not started" in error and "nothing from line" in error
    assert "idempotency key" in hint
    assert json.loads(body)["error"]["line"] == 501
    assert daemon.asked("run.start_many") < 10


def test_text_files_of_all_sorts_are_read(shell: Shell, daemon: FakeDaemon) -> None:
    """A byte order mark, CRLF, blank lines and a missing last line end are accepted, and lines keep
    their numbers."""
    text = b'\xef\xbb\xbf{"job": "a"}\r\n\r\n   \n{"job": "\xc3\xa4"}\n\n[]\n{"job": "c"}'
    told = shell("start", "--batch", "-", stdin=text)
    assert told.stdout.splitlines() == [run_id(n) for n in (1, 2, 3)]
    assert told.stderr.splitlines()[0] == "line 6: error[usage]: not an object"
    assert [run["job"] for run in daemon.runs.values()] == ["a", "ä", "c"]


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"job": "\xff"}', "error[payload_refused]: not valid UTF-8 at byte 9"),
        (b'{"job": "a", "job": "b"}', "error[payload_refused]: the key 'job' occurs twice"),
        (b'{"job": "a", "payload": NaN}', "error[payload_refused]: NaN is not a JSON number"),
        (b"# not JSON", "error[payload_refused]: not valid JSON"),
        (b'{"job": 5}', "error[usage]: job is missing"),
        (b'{"job": "a", "delay": "10x"}', "error[usage]: delay: '10x' is not a duration"),
        (b'{"job": "a", "delay": true}', "error[usage]: delay: True is not a duration"),
        (b'{"job": "a", "scheduled_at": "soon"}', "error[usage]: 'soon' is not a time"),
        (
            b'{"job": "a", "delay": 1, "scheduled_at": "2026-05-06T09:00:00Z"}',
            "cannot be used together",
        ),
        (b'{"job": "a", "idempotency_ttl": "1d"}', "idempotency_ttl requires idempotency_key"),
    ],
)
def test_each_mistake_of_a_line_is_told_with_its_number(
    shell: Shell, line: bytes, said: str
) -> None:
    """A bad line is reported; the lines around it are started."""
    told = shell("start", "--batch", "-", stdin=b'{"job": "a"}\n' + line + b'\n{"job": "z"}\n')
    assert told.stdout.splitlines() == [run_id(1), run_id(2)]
    assert told.stderr.startswith("line 2: ") and said in told.stderr
    assert told.code == 6


@pytest.mark.usefixtures("daemon")
def test_line_that_is_too_long_is_one_bad_line(shell: Shell) -> None:
    """A line of any length is skipped, and the next line has the next number."""
    huge = b'{"job": "a", "payload": "' + b"x" * (17 << 20) + b'"}\n'
    told = shell("start", "--batch", "-", stdin=huge + b'{"job": "b"}\n{"jobs": 1}\n')
    assert told.stdout.splitlines() == [run_id(1)]
    first, second, _ = told.stderr.splitlines()
    assert first.startswith("line 1: error[payload_refused]: the line is longer than ")
    assert second.startswith("line 3: error[usage]")


def test_long_lines_go_in_requests_that_fit(shell: Shell, daemon: FakeDaemon) -> None:
    """A request stays below the smallest limit that a project can set."""
    text = lines(*({"job": "j", "payload": "ä" * 5000} for _ in range(10)))
    assert shell("start", "--batch", "-", stdin=text).code == 0
    sizes = [len(json.dumps(params, ensure_ascii=False).encode()) for _, params in daemon.requests]
    assert sum(len(params["runs"]) for _, params in daemon.requests) == 10
    assert max(sizes) < 64 << 10


@pytest.mark.usefixtures("daemon")
def test_local_times_are_said_once(shell: Shell) -> None:
    """A local time is noted as with `--at`, but only for the first line."""
    line = {"job": "a", "scheduled_at": "2026-05-06T09:00:00"}
    told = shell("start", "--batch", "-", stdin=lines(line, line), TZ="Europe/Berlin")
    assert told.stderr == (
        "line 1: 2026-05-06T09:00:00 has no UTC offset; "
        "taken as local time: 2026-05-06T07:00:00.000000Z\n"
    )


def test_reused_runs_are_counted(shell: Shell, daemon: FakeDaemon) -> None:
    """The ids are the same as before; the summary says that nothing new was started."""
    daemon.answers["run.start"] = lambda _: start_answer(1, reused=True, status="completed")
    text = lines(*[{"job": "a", "idempotency_key": "k"}] * 3)
    told = shell("start", "--batch", "-", stdin=text)
    assert told.stdout.splitlines() == [run_id(1)] * 3
    assert told.stderr.startswith("0 started, 3 reused in ")
    assert shell("-q", "start", "--batch", "-", stdin=text).stderr == ""


def test_missing_file_is_usage(shell: Shell, daemon: FakeDaemon) -> None:
    """A file that cannot be read: exit 2, nothing sent."""
    told = shell("start", "--batch", "/no/such/file")
    assert (told.stdout, told.code) == ("", 2)
    assert daemon.requests == []


@pytest.mark.usefixtures("daemon")
def test_empty_input_starts_nothing(shell: Shell) -> None:
    """No lines: nothing printed, exit 0."""
    assert shell("start", "--batch", "-", stdin="") == ("", "", 0)
