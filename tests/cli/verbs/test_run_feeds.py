"""Transcripts of `runs tail|wait`, and what happens to followers when the daemon restarts."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from cli.conftest import Shell
from cli.fake_daemon import FakeDaemon, record, run_id, run_object
from cli.live_output import read_lines


def seqs(output: bytes | str) -> list[str]:
    """The sequence numbers of the lines of `output`."""
    text = output.decode() if isinstance(output, bytes) else output
    return [line.split("\t")[0] for line in text.splitlines()]


def test_tail_of_a_run_ends_with_it_and_its_status(shell: Shell, daemon: FakeDaemon) -> None:
    """From the run's first record to its end; the last line has its status and the exit status."""
    run = daemon.add(run_object(1, status="running"))
    daemon.append(record(1, "run.created", run["id"]), record(2, "run.created", run_id(9)))
    daemon.finish(run, 3, status="failed", error={"type": "E", "message": "x"})
    told = shell("runs", "tail", "@last")
    assert seqs(told.stdout) == ["1", "3", ""]
    assert told.stdout.splitlines()[-1].split("\t")[2:] == [
        "end",
        run["id"],
        "1",
        "",
        "failed exit=1",
    ]
    assert (told.stderr, told.code) == ("", 1)


def test_tail_json_is_an_object_a_line_and_the_run_last(shell: Shell, daemon: FakeDaemon) -> None:
    """`--json`: the records, then the run object and the exit status."""
    run = daemon.add(run_object(1, status="running"))
    daemon.append(record(1, "run.created", run["id"], payload={"a": 1}))
    daemon.finish(run, 2, status="cancelled")
    told = shell("--json", "runs", "tail", "@last")
    *records, last = map(json.loads, told.stdout.splitlines())
    assert records == daemon.records
    assert (last["run"]["id"], last["exit"], told.code) == (run["id"], 7, 7)


def test_tail_follows_records_as_they_come(shell: Shell, daemon: FakeDaemon) -> None:
    """Without RUN it starts now and shows everything; Ctrl-C detaches with 130."""
    daemon.append(record(1, "run.created", run_id(1)))
    tail = shell.popen("runs", "tail")
    daemon.wait_for_feeds()
    daemon.append(record(2, "run.created", run_id(2)), record(3, "run.completed", run_id(1)))
    assert seqs("\n".join(read_lines(tail, 2))) == ["2", "3"]
    tail.send_signal(signal.SIGINT)
    _, err = tail.communicate(timeout=60)
    assert (err, tail.returncode) == (b"Detached; all runs continue\n", 130)


@pytest.mark.parametrize(
    ("argv", "wanted"),
    [
        (["--no-follow"], ["3", "4", "5", "6", "7", "8", "9", "10", "11", "12"]),
        (["--no-follow", "-n", "2"], ["11", "12"]),
        (["--no-follow", "--since", "2026-05-06T09:00:10Z"], ["10", "11", "12"]),
        (["--no-follow", "@last"], ["1", "5", "12"]),
        (["--no-follow", "@last", "-n", "1"], ["12"]),
        (["--no-follow", "@last", "--since", "2026-05-06T09:00:02Z"], ["5", "12"]),
    ],
)
def test_tail_without_following_prints_what_is_there(
    shell: Shell, daemon: FakeDaemon, argv: list[str], wanted: list[str]
) -> None:
    """`--no-follow`: the last records, those since a time, or those of a run."""
    run = daemon.add(run_object(1))
    mine = (1, 5, 12)
    daemon.append(
        *(record(n, "step.completed", run["id"] if n in mine else run_id(7)) for n in range(1, 13))
    )
    told = shell("runs", "tail", *argv)
    assert (seqs(told.stdout), told.stderr, told.code) == (wanted, "", 0)


@pytest.mark.parametrize("argv", [[], [run_id(1)], ["-n", "1"]])
def test_restart_of_the_daemon_leaves_no_gap_and_no_duplicate(
    shell: Shell, daemon: FakeDaemon, argv: list[str]
) -> None:
    """A follower opens its feed again after the last record it printed."""
    run = daemon.add(run_object(1, status="running"))
    if argv:
        daemon.append(record(1, "run.created", run["id"]))
    tail = shell.popen("runs", "tail", *argv)
    daemon.wait_for_feeds()
    daemon.append(*([] if argv else [record(1, "run.created", run["id"])]))
    assert seqs("\n".join(read_lines(tail, 1))) == ["1"]
    daemon.stop()
    daemon.records += [record(2, "attempt.started", run["id"])]
    assert tail.stderr is not None
    assert tail.stderr.readline() == b"the daemon is gone; waiting for it to come back\n"
    daemon.start()
    daemon.wait_for_feeds(2)
    assert daemon.params("feed.open")["since_seq"] == 1
    daemon.append(record(3, "attempt.lost", run["id"]))
    assert seqs("\n".join(read_lines(tail, 2))) == ["2", "3"]
    tail.send_signal(signal.SIGINT)
    tail.communicate(timeout=60)
    assert tail.returncode == 130


def test_follower_that_begins_now_misses_nothing_of_an_interruption(
    shell: Shell, daemon: FakeDaemon
) -> None:
    """Even if it had not seen a record yet, it continues from where it began."""
    daemon.append(record(1, "run.created", run_id(1)))
    tail = shell.popen("runs", "tail")
    daemon.wait_for_feeds()
    daemon.stop()
    daemon.records += [record(2, "run.created", run_id(2))]
    daemon.start()
    assert seqs("\n".join(read_lines(tail, 1))) == ["2"]
    tail.send_signal(signal.SIGINT)
    tail.communicate(timeout=60)


def test_run_that_ended_while_the_daemon_was_away_ends_the_tail(
    shell: Shell, daemon: FakeDaemon
) -> None:
    """The follower learns the end from the run if the message was lost with the connection."""
    run = daemon.add(run_object(1, status="running"))
    daemon.append(record(1, "run.created", run["id"]))
    tail = shell.popen("runs", "tail", run["id"])
    read_lines(tail, 1)
    daemon.stop()
    daemon.records += [record(2, "run.completed", run["id"])]
    run["status"] = "completed"
    daemon.start()
    out, _ = tail.communicate(timeout=60)
    assert seqs(out) == ["2", ""]
    assert tail.returncode == 0


def test_wait_prints_each_run_as_it_ends(shell: Shell, daemon: FakeDaemon) -> None:
    """`id TAB status`, in the order in which they end; failed outranks cancelled."""
    first, second, third = (daemon.add(run_object(n, status="running")) for n in (1, 2, 3))
    waiting = shell.popen("runs", "wait", first["id"], second["id"], third["id"], first["id"])
    daemon.wait_for("run.wait", 3)
    daemon.finish(second, 1, status="cancelled")
    assert read_lines(waiting, 1) == [f"{second['id']}\tcancelled"]
    daemon.finish(third, 2, status="failed")
    assert read_lines(waiting, 1) == [f"{third['id']}\tfailed"]
    daemon.finish(first, 3)
    out, err = waiting.communicate(timeout=60)
    assert (out.decode(), err, waiting.returncode) == (f"{first['id']}\tcompleted\n", b"", 1)


@pytest.mark.parametrize(("status", "code"), [("completed", 0), ("failed", 1), ("cancelled", 7)])
def test_wait_ends_with_the_runs_status(
    shell: Shell, daemon: FakeDaemon, status: str, code: int
) -> None:
    """The exit status is the run's."""
    daemon.add(run_object(1, status=status))
    told = shell("runs", "wait", "@last")
    assert told == (f"{run_id(1)}\t{status}\n", "", code)
    assert json.loads(shell("runs", "wait", "@last", "--json").stdout)["status"] == status


def test_wait_says_as_which_run_it_continues(shell: Shell, daemon: FakeDaemon) -> None:
    """It does not follow the chain, on which a person may have counted."""
    daemon.add(run_object(1, continued_as=run_id(2)))
    continues = f"{run_id(1)} continues as {run_id(2)}\n"
    assert shell("runs", "wait", "@last") == (f"{run_id(1)}\tcompleted\n", continues, 0)
    assert shell("--quiet", "runs", "wait", "@last").stderr == ""


def test_wait_any_ends_with_the_first(shell: Shell, daemon: FakeDaemon) -> None:
    """`--any` does not wait for the others."""
    daemon.add(run_object(1, status="running"))
    daemon.add(run_object(2, status="cancelled"))
    assert shell("runs", "wait", run_id(1), run_id(2), "--any") == (
        f"{run_id(2)}\tcancelled\n",
        "",
        7,
    )


def test_wait_times_out(shell: Shell, daemon: FakeDaemon) -> None:
    """`--timeout`: exit 124; the run continues."""
    daemon.add(run_object(1, status="running"))
    told = shell("runs", "wait", "@last", "--timeout", "50ms")
    assert (told.stdout, told.code) == ("", 124)
    assert told.stderr.startswith("error[timeout]: ")


def test_wait_for_a_run_that_does_not_exist(shell: Shell, daemon: FakeDaemon) -> None:
    """Nothing is waited for if one of the runs is not found."""
    daemon.add(run_object(1, status="running"))
    told = shell("runs", "wait", "@last", "nope")
    assert (told.stdout, told.code) == ("", 4)
    assert daemon.asked("run.wait") == 0


def test_wait_survives_a_restart(shell: Shell, daemon: FakeDaemon) -> None:
    """A run that ends after the daemon came back is still reported."""
    run = daemon.add(run_object(1, status="running"))
    waiting = shell.popen("runs", "wait", run["id"])
    daemon.wait_for("run.wait")
    daemon.stop()
    daemon.stopped.clear()
    daemon.start()
    daemon.wait_for("run.wait", 2)
    daemon.finish(run, 1)
    out, err = waiting.communicate(timeout=60)
    assert out.decode() == f"{run['id']}\tcompleted\n"
    assert err == b"the daemon is gone; waiting for it to come back\n"
    assert waiting.returncode == 0


def test_wait_detaches_on_ctrl_c(shell: Shell, daemon: FakeDaemon) -> None:
    """Ctrl-C: the runs continue, exit 130."""
    run: dict[str, Any] = daemon.add(run_object(1, status="running"))
    waiting = shell.popen("runs", "wait", run["id"])
    daemon.wait_for("run.wait")
    waiting.send_signal(signal.SIGINT)
    _, err = waiting.communicate(timeout=60)
    assert err.decode().splitlines() == [
        f"Detached; {run['id']} continues",
        f"hint: stackshift runs wait {run['id']}",
    ]
    assert waiting.returncode == 130
