"""Transcripts of `runs count`, and of `runs cancel|retry|rm --all`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cli.conftest import Shell
from cli.fake_daemon import T0, FakeDaemon, run_id, run_object
from stackshift_jobs.errors import Conflict


def serve(daemon: FakeDaemon, method: str, count: int) -> list[dict[str, Any]]:
    """Answer `method` for so many runs, two on a page, the last of which is refused; returns the
    params of the requests."""
    seen: list[dict[str, Any]] = []

    def answer(params: dict[str, Any]) -> Any:
        seen.append(params)
        if params.get("dry_run"):
            return {"count": count, "at": T0}
        first = int(params.get("cursor") or 1)
        numbers = range(first, min(first + 2, count + 1))
        error = Conflict("unique key 'k' is taken", hint="wait for it").as_json()
        results = [
            {"run": run_id(n), "error": error} if n == count else {"id": run_id(n)} for n in numbers
        ]
        return {"results": results, "cursor": str(first + 2) if first + 2 <= count else None}

    daemon.answers[method] = answer
    return seen


@pytest.mark.parametrize(
    ("verb", "method", "done"),
    [
        ("cancel", "run.cancel_all", "cancelled"),
        ("retry", "run.retry_all", "retried"),
        ("rm", "run.remove_all", "removed"),
    ],
)
def test_all_that_match_are_changed_page_by_page(
    shell: Shell, daemon: FakeDaemon, verb: str, method: str, done: str
) -> None:
    """The ids of those that were, as they are; the first that was refused decides the status. Only
    what was counted is changed."""
    seen = serve(daemon, method, 3)
    line = ["runs", verb, "--all", "--job", "hello", "--label", "a=b", "--yes"]
    told = shell(*line)
    assert told.stdout == f"{run_id(1)}\n{run_id(2)}\n"
    assert told.stderr == (
        f"error[conflict]: unique key 'k' is taken\nhint: wait for it\n2 runs {done}\n"
    )
    assert told.code == 5
    filters = {"job": "hello", "labels": {"a": "b"}}
    assert seen[0] == {**filters, "dry_run": True}
    assert seen[1] == {**filters, "until": T0, "limit": 500}
    assert seen[2] == {**seen[1], "cursor": "3"}
    assert json.loads(shell(*line, "--json").stdout) == [{"id": run_id(1)}, {"id": run_id(2)}]


@pytest.mark.parametrize(
    ("until", "sent"),
    [("2026-05-06T08:00:00Z", "2026-05-06T08:00:00.000000Z"), ("2026-05-06T10:00:00Z", T0)],
)
def test_until_leaves_out_what_was_created_since_the_count_too(
    shell: Shell, daemon: FakeDaemon, until: str, sent: str
) -> None:
    """The earlier of the time that is given and that of the count holds."""
    seen = serve(daemon, "run.cancel_all", 3)
    shell("runs", "cancel", "--all", "--status", "queued,waiting", "--until", until, "-y")
    assert [each["status"] for each in seen] == [["queued", "waiting"]] * 3
    assert [each["until"] for each in seen[1:]] == [sent, sent]


@pytest.mark.parametrize(
    "line",
    [
        "runs list",
        "runs count",
        "dead list",
        "runs cancel --all -y",
        "schedules backfill hello",
    ],
)
def test_range_in_which_nothing_can_be_is_refused(
    shell: Shell, daemon: FakeDaemon, line: str
) -> None:
    """Durations count back, which is easily turned round; "nothing" would be believed."""
    told = shell(*line.split(), "--since", "1h", "--until", "2h")
    assert told == (
        "",
        "error[usage]: --since 1h is after --until 2h\n"
        "hint: a duration counts back from now: --since 2h --until 1h\n",
        2,
    )
    assert daemon.requests == []


def test_all_asks_and_off_a_terminal_needs_yes(shell: Shell, daemon: FakeDaemon) -> None:
    """Nothing is changed."""
    seen = serve(daemon, "run.cancel_all", 3)
    told = shell("runs", "cancel", "--all")
    assert (told.stdout, told.code) == ("", 2)
    assert "cancel 3 runs: confirmation is required" in told.stderr
    assert len(seen) == 1


def test_all_of_nothing_is_no_error(shell: Shell, daemon: FakeDaemon) -> None:
    """It says so."""
    serve(daemon, "run.cancel_all", 0)
    assert shell("runs", "cancel", "--all", "-y") == ("", "no matching runs\n", 0)
    assert shell("runs", "cancel", "--all", "-y", "--json").stdout == "[]\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("runs cancel", "give either runs or --all"),
        ("runs rm --all x", "give either runs or --all"),
        ("runs retry x --job hello", "--job can only be used with --all"),
        ("runs rm x --forked-from @last", "--forked-from can only be used with --all"),
        ("runs retry --all --from a", "--from cannot be used with --all"),
    ],
)
def test_selection_is_one_of_two(shell: Shell, line: str, message: str) -> None:
    """Named runs, or all that match."""
    told = shell.run(line)
    assert told.code == 2
    assert told.stderr.startswith(f"error[usage]: {message}\n")


def test_several_runs_are_retried_and_removed(shell: Shell, daemon: FakeDaemon) -> None:
    """Each by itself: one that does not exist does not keep the others."""
    for number in (1, 2):
        daemon.add(run_object(number, status="failed"))
    told = shell("runs", "retry", run_id(1), "nope", run_id(2))
    assert (told.stdout, told.code) == (f"{run_id(1)}\n{run_id(2)}\n", 4)
    told = shell("runs", "rm", run_id(1), run_id(2), "-y")
    assert (told.stdout, told.code) == (f"{run_id(1)}\n{run_id(2)}\n", 0)
    assert daemon.runs == {}


def test_count_prints_a_number_or_a_table(shell: Shell, daemon: FakeDaemon) -> None:
    """Tab-separated, the most first; `--json`: an object, or an array of objects."""

    def counted(params: dict[str, Any]) -> Any:
        by_status = {"completed": 7, "failed": 2}
        return {"count": 9, "counts": by_status if params.get("by") else None}

    daemon.answers["run.count"] = counted
    assert shell("runs", "count", "--queue", "media") == ("9\n", "", 0)
    assert daemon.params("run.count") == {"queue": "media"}
    assert shell("runs", "count", "--json").stdout == '{"count":9}\n'
    assert shell("runs", "count", "--by", "status").stdout == "completed\t7\nfailed\t2\n"
    assert json.loads(shell("runs", "count", "--by", "status", "--json").stdout) == [
        {"status": "completed", "count": 7},
        {"status": "failed", "count": 2},
    ]
