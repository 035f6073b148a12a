"""Transcripts of `dead list|retry|discard`."""

from __future__ import annotations

import json
import os
import signal
import threading
from typing import Any

import pexpect
import pytest

from cli.conftest import SECONDS, Shell
from cli.fake_daemon import T0, FakeDaemon, run_id, run_object
from stackshift_jobs.errors import DiskFull


def fill(daemon: FakeDaemon, count: int, **changed: Any) -> list[str]:
    """Add runs to the dead letter; their ids, newest first."""
    first = len(daemon.runs) + 1
    for number in range(first, first + count):
        daemon.add(run_object(number, status="failed", dead=True, **changed))
    return [run_id(number) for number in reversed(range(first, first + count))]


def test_list_is_runs_list_of_the_dead_letter(shell: Shell, daemon: FakeDaemon) -> None:
    """It prints the same columns and the same JSON."""
    [run] = fill(daemon, 1, queue="media")
    daemon.add(run_object(2))
    line = f"{run}\tfailed\thello\tmedia\t1\t{T0}\t12\n"
    assert shell("dead", "list") == (line, "", 0)
    assert shell("runs", "list", "--dead") == (line, "", 0)
    assert [each["id"] for each in json.loads(shell("dead", "list", "--json").stdout)] == [run]


def test_list_hands_its_filters_on(shell: Shell, daemon: FakeDaemon) -> None:
    """It takes the filters of `runs list`, except for the status, which is the same for all."""
    fill(daemon, 1, queue="media")
    told = shell.run(
        f"""dead list --queue media --job hello --label a=b --since 2026-05-06T09:00:00Z
        --limit 7 --cursor {run_id(1)}"""
    )
    assert told == ("", "", 0)
    assert daemon.params("run.list") == {
        "dead": True,
        "queue": "media",
        "job": "hello",
        "labels": {"a": "b"},
        "since": T0,
        "limit": 7,
        "cursor": run_id(1),
    }
    assert shell("dead", "list", "--status", "failed").code == 2


def test_retry_of_named_runs_asks_nobody(shell: Shell, daemon: FakeDaemon) -> None:
    """It destroys nothing; a run that is named twice is retried once."""
    second, first = fill(daemon, 2)
    assert shell("dead", "retry", first, second, first) == (f"{first}\n{second}\n", "", 0)
    assert daemon.params("dead.retry") == {"runs": [first, second]}
    assert daemon.asked("dead.count") == 0


def test_what_is_not_there_is_an_error_and_the_others_are_done(
    shell: Shell, daemon: FakeDaemon
) -> None:
    """The first run that failed decides the exit status."""
    [run] = fill(daemon, 1)
    daemon.add(run_object(2))
    told = shell("dead", "retry", run_id(2), "nope", run)
    assert told.stdout == f"{run}\n"
    assert told.stderr == (
        f"error[conflict]: {run_id(2)} is completed; it is not in the dead letter\n"
        "hint: stackshift dead list\n"
        "error[not_found]: no run ends in nope\nhint: stackshift runs list\n"
    )
    assert told.code == 5
    assert shell("dead", "discard", "-y", "nope", run_id(2)).code == 4


def test_discard_needs_a_yes_off_a_terminal(shell: Shell, daemon: FakeDaemon) -> None:
    """Without a terminal to ask on: exit 2, and how many runs it would have been."""
    second, first = fill(daemon, 2)
    for args, many in (((first,), "1 run"), ((first, second), "2 runs"), (("--all",), "2 runs")):
        told = shell("dead", "discard", *args)
        assert told == (
            "",
            f"error[usage]: discard {many}: confirmation is required, "
            "and there is no terminal to ask on\nhint: add --yes\n",
            2,
        )
    assert daemon.asked("dead.discard") == 0
    assert shell("dead", "discard", "-y", first) == (f"{first}\n", "", 0)
    assert shell("dead", "discard", "--yes", second, "--json").stdout == f'[{{"id":"{second}"}}]\n'


def test_all_needs_a_yes_and_takes_what_was_there(shell: Shell, daemon: FakeDaemon) -> None:
    """Retrying all asks too; filters apply, and runs that fail after the count are not touched."""
    media = fill(daemon, 2, queue="media")
    fill(daemon, 1, queue="office")
    told = shell("dead", "retry", "--all", "--queue", "media")
    assert (told.stdout, told.code) == ("", 2)
    assert told.stderr.startswith("error[usage]: retry 2 runs: confirmation is required")
    told = shell("dead", "retry", "--all", "--queue", "media", "--job", "hello", "-y")
    assert told == ("".join(f"{run}\n" for run in media), "2 runs retried\n", 0)
    which = {"queue": "media", "job": "hello"}
    assert daemon.params("dead.retry") == {"all": True, **which, "until": T0, "limit": 500}
    assert daemon.params("dead.count") == which


def test_many_go_page_by_page(shell: Shell, daemon: FakeDaemon) -> None:
    """No request names more than a page, and none is for a single run."""
    runs = fill(daemon, 1201)
    told = shell("dead", "discard", "--all", "-y", "-q")
    assert (told.stdout.split(), told.stderr, told.code) == (runs, "", 0)
    cursors = [params.get("cursor") for name, params in daemon.requests if name == "dead.discard"]
    assert cursors == [None, "500", "1000"]
    again = fill(daemon, 501)
    assert shell("dead", "retry", *again).stdout.split() == again
    sizes = [len(params["runs"]) for name, params in daemon.requests if name == "dead.retry"]
    assert sizes == [500, 1]


@pytest.mark.usefixtures("daemon")
def test_empty_dead_letter_is_said(shell: Shell) -> None:
    """It is not an error; but a script without `-y` fails before there is something to lose."""
    assert shell("dead", "list") == ("", "", 0)
    assert shell("dead", "discard", "--all", "-y") == ("", "the dead letter is empty\n", 0)
    told = shell("dead", "retry", "--all", "-y", "--queue", "q", "--json")
    assert told == ("[]\n", "no matching runs in the dead letter\n", 0)
    assert shell("dead", "discard", "--all").code == 2


@pytest.mark.parametrize("verb", ["retry", "discard"])
@pytest.mark.parametrize(
    "args", [(), ("@last", "--all"), ("@last", "--queue", "q"), ("@last", "--job", "j")]
)
def test_runs_or_all(shell: Shell, daemon: FakeDaemon, verb: str, args: tuple[str, ...]) -> None:
    """Either runs or `--all`; filters only with `--all`."""
    told = shell("dead", verb, "-y", *args)
    assert (told.stdout, told.code) == ("", 2)
    assert not daemon.requests


def test_full_disk_ends_it_once(shell: Shell, daemon: FakeDaemon) -> None:
    """A refusal for lack of room is not repeated page after page."""
    runs = fill(daemon, 600)
    full = DiskFull("there is no room on the disk").as_json()
    results = [{"id": runs[0]}, {"run": runs[1], "error": full}]
    daemon.answers["dead.discard"] = lambda _: {"results": results, "cursor": "2"}
    told = shell("dead", "discard", "--all", "-y")
    assert (told.stdout, told.code) == (f"{runs[0]}\n", 75)
    assert daemon.asked("dead.discard") == 1


@pytest.mark.parametrize("as_json", [False, True])
def test_interrupted_it_has_told_what_is_done(
    shell: Shell, daemon: FakeDaemon, as_json: bool
) -> None:
    """After Ctrl-C between two pages, the ids of the first page are printed."""
    held = threading.Event()
    first, second = run_id(1), run_id(2)

    def answer(params: dict[str, Any]) -> Any:
        if "cursor" in params:
            held.wait(SECONDS)
        return {"results": [{"id": second if "cursor" in params else first}], "cursor": "1"}

    fill(daemon, 2)
    daemon.answers["dead.discard"] = answer
    process = shell.popen("dead", "discard", "--all", "-y", *(["--json"] if as_json else []))
    daemon.wait_for("dead.discard", 2)
    os.kill(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=SECONDS)
    held.set()
    assert out.decode() == (f'[{{"id":"{first}"}}]\n' if as_json else f"{first}\n")
    assert process.returncode == 130


@pytest.mark.parametrize(("answer", "asked"), [("y", 1), ("n", 0), ("", 0)])
def test_on_a_terminal_it_asks(shell: Shell, daemon: FakeDaemon, answer: str, asked: int) -> None:
    """The question has the number of runs; without a yes nothing is changed."""
    fill(daemon, 3)
    command, *args = shell.command("dead", "discard", "--all")
    terminal = pexpect.spawn(
        command, args, cwd=str(shell.directory), env=shell.env, timeout=SECONDS
    )
    terminal.expect_exact("discard 3 runs? [y/N] ")
    terminal.sendline(answer)
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0
    assert daemon.asked("dead.discard") == asked
    assert (b"nothing was changed" in (terminal.before or b"")) == (not asked)
