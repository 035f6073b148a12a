"""Streams that cannot be written: the status is that of what happened, and what was changed is
told where it can be."""

from __future__ import annotations

import errno
import os
import shlex
import subprocess

import pytest

from cli.conftest import SECONDS, Shell
from cli.fake_daemon import FakeDaemon, record, run_id, run_object
from stackshift_cli.exit import ended
from stackshift_cli.output.streams import Data, Talk
from stackshift_jobs.errors import NotFound, OutputFailed

REFUSED = "standard output cannot be written: File too large"
LINES = 3000


def full(shell: Shell, redirections: str, *argv: str) -> tuple[str, str, int]:
    """`stackshift ARGV REDIRECTIONS`, where the file FULL cannot be written. That is one that may
    not grow: every system has that, and few have /dev/full."""
    path = shlex.quote(str(shell.directory / "full"))
    line = f"{shlex.join(shell.command(*argv))} {redirections.replace('FULL', path)}"
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 0; exec {line}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=shell.directory,
        env=shell.env,
        timeout=SECONDS,
        check=False,
    )
    return done.stdout, done.stderr, done.returncode


def closed(shell: Shell, *argv: str) -> tuple[str, int]:
    """`stackshift ARGV` with a standard output that its reader has closed; its standard error, and
    its status."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            shell.command(*argv),
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            cwd=shell.directory,
            env=shell.env,
            timeout=SECONDS,
            check=False,
        )
    finally:
        os.close(writer)
    return done.stderr, done.returncode


def batch(shell: Shell) -> str:
    """A file with `LINES` starts."""
    file = shell.directory / "batch.jsonl"
    file.write_text('{"job": "hello"}\n' * LINES)
    return str(file)


# --- Standard error ------------------------------------------------------------------------


@pytest.mark.usefixtures("daemon")
def test_full_standard_error_changes_nothing(shell: Shell) -> None:
    """Talk that cannot be written is no failure, and does not keep the data from being printed."""
    assert full(shell, "2>FULL", "start", "hello") == (f"{run_id(1)}\n", "", 0)
    assert full(shell, "2>FULL", "state", "set", "k", "1") == ("1\n", "", 0)


def test_failed_run_on_full_standard_error_is_1_and_a_completed_one_0(
    shell: Shell, daemon: FakeDaemon
) -> None:
    """With its result, as `cron` reads it from a log on a disk that is nearly full."""
    daemon.add(run_object(1, status="completed", result=5))
    daemon.add(run_object(2, status="failed"))
    assert full(shell, "2>FULL", "runs", "wait", run_id(1))[2] == 0
    assert full(shell, "2>FULL", "runs", "wait", run_id(2))[2] == 1


def test_error_on_full_standard_error_keeps_its_status(shell: Shell, daemon: FakeDaemon) -> None:
    """An unknown job is exit 4, an unknown option exit 2, wherever the message was to go."""

    def refuse(_: object) -> None:
        raise NotFound("no job 'helo'")

    daemon.answers["run.start"] = refuse
    assert full(shell, "2>FULL", "start", "helo") == ("", "", 4)
    assert full(shell, ">FULL 2>&1", "start", "helo") == ("", "", 4)
    assert full(shell, "2>FULL", "start", "helo", "--nonsense") == ("", "", 2)


# --- Standard output -----------------------------------------------------------------------


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize("argv", [["start", "hello"], ["start", "hello", "--json"]], ids=" ".join)
def test_full_standard_output_is_74_and_says_what_was_done(shell: Shell, argv: list[str]) -> None:
    """The run is started, and its id is on standard error instead."""
    out, err, code = full(shell, ">FULL", *argv)
    assert (out, code) == ("", 74)
    assert err.startswith(f"error[output]: {REFUSED}\n")
    assert err.endswith(f"\ndone before that; stackshift start: {run_id(1)}\n")


@pytest.mark.usefixtures("daemon")
def test_what_was_done_bears_the_name_that_was_typed(shell: Shell) -> None:
    """That of the command, on the fast path and off it; the protocol's methods are not known to a
    person."""
    for argv in (["state", "set", "k", "1"], ["state", "set", "k", "1", "--ttl=1h"]):
        _, err, code = full(shell, ">FULL", *argv)
        done = err.splitlines()[-1]
        assert (done.startswith("done before that; stackshift state set: "), code) == (True, 74)
    _, err, _ = full(shell, ">FULL", "event", "send", "paid")
    assert err.splitlines()[-1].startswith("done before that; stackshift event send: ")


def test_full_standard_output_of_a_question(shell: Shell, daemon: FakeDaemon) -> None:
    """What only reads has done nothing; its answer is missing all the same."""
    daemon.add(run_object(1))
    for argv in (["runs", "list"], ["help", "exit"]):
        out, err, code = full(shell, ">FULL", *argv)
        assert (out, code) == ("", 74)
        assert err.startswith(f"error[output]: {REFUSED}\n")
        assert "done before that" not in err


def test_failure_with_full_standard_output_keeps_its_status(
    shell: Shell, daemon: FakeDaemon
) -> None:
    """As there is a status for it, it is the one that a script looks for."""
    daemon.answers["run.start"] = lambda _: {"id": run_id(2), "reused": False, "status": "failed"}
    daemon.add(run_object(2, status="failed", error={"type": "E", "message": "no"}))
    daemon.append(record(1, "run.failed", run_id(2)))
    out, err, code = full(shell, ">FULL", "start", "hello", "--wait", "--json")
    assert (out, code) == ("", 1)
    assert f"{REFUSED}; stackshift start: {run_id(2)}\n" in err
    assert "error[run_failed]: " in err


@pytest.mark.usefixtures("daemon")
def test_start_into_a_closed_pipe_is_told_with_0(shell: Shell) -> None:
    """The run was started, which is what was asked for; whoever read the pipe has its id."""
    assert closed(shell, "start", "hello") == (
        f"standard output is closed; stackshift start: {run_id(1)}\n",
        0,
    )


def test_reader_that_leaves_a_run_is_130(shell: Shell, daemon: FakeDaemon) -> None:
    """`runs tail RUN | head -1` does not know how the run will end."""
    daemon.add(run_object(1, status="running"))
    daemon.append(record(1, "run.created", run_id(1)))
    assert closed(shell, "runs", "tail", run_id(1)) == (f"Detached; {run_id(1)} continues\n", 130)


@pytest.mark.parametrize(("status", "code"), [("completed", 0), ("failed", 1), ("cancelled", 7)])
def test_reader_that_leaves_a_run_that_has_ended_is_its_status(
    shell: Shell, daemon: FakeDaemon, status: str, code: int
) -> None:
    """It does not continue, and nothing more is to be said, also not by the interpreter."""
    daemon.add(run_object(1, status=status))
    daemon.append(record(1, "run.created", run_id(1)), record(2, f"run.{status}", run_id(1)))
    assert closed(shell, "runs", "tail", run_id(1)) == ("", code)


def test_batch_into_a_closed_pipe_ends_and_says_what_was_started(
    shell: Shell, daemon: FakeDaemon
) -> None:
    """`start --batch FILE | head -1`: 74, the count, and the first line that was not sent."""
    err, code = closed(shell, "start", "--batch", batch(shell))
    started = len(daemon.runs)
    assert 0 < started < LINES
    assert err.startswith(
        f"error[output]: standard output was closed by its reader; {started:,} started; "
        f"nothing from line {started + 1} on was sent\n"
    )
    assert code == 74


def test_batch_that_was_started_whole_is_0_for_a_closed_pipe_and_74_for_a_full_disk(
    shell: Shell, daemon: FakeDaemon
) -> None:
    """The one reader wanted no more ids, the other has lost them."""
    file = shell.directory / "batch.jsonl"
    file.write_text('{"job": "hello"}\n' * 9)
    err, code = closed(shell, "start", "--batch", str(file))
    assert (err, code) == ("standard output was closed by its reader; 9 started\n", 0)
    _, err, code = full(shell, ">FULL", "start", "--batch", str(file))
    assert err.startswith(f"error[output]: {REFUSED}; 9 started\n")
    assert code == 74
    assert len(daemon.runs) == 18


def test_streams_fail_once() -> None:
    """Python flushes again at its end, which must change neither the message nor the status."""
    fd = os.open(os.devnull, os.O_RDONLY)  # Cannot be written.
    data, talk = Data(fd, None), Talk(fd, None)
    assert data.write("abc") == 3
    with pytest.raises(OutputFailed, match="standard output cannot be written: Bad file"):
        data.flush()
    data.flush()
    assert (data.write("abc\n"), talk.write("abc\n"), talk.write("d")) == (4, 4, 1)
    os.dup2(null := os.open(os.devnull, os.O_WRONLY), fd)
    data.close()
    talk.close()
    os.close(null)
    os.close(fd)


# --- The working directory, and HOME -------------------------------------------------------


@pytest.mark.usefixtures("daemon")
def test_removed_working_directory_is_no_failure_of_an_absolute_path(shell: Shell) -> None:
    """Only what depends on it is refused, with 78 and the reason."""
    here = shell.directory / "here"
    here.mkdir()

    def there(*argv: str) -> tuple[str, str, int]:
        line = shlex.join(shell.command(*argv))
        done = subprocess.run(
            ["sh", "-c", f'mkdir -p "$0" && cd "$0" && rmdir "$0" && exec {line}', str(here)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=shell.env,
            timeout=SECONDS,
            check=False,
        )
        return done.stdout, done.stderr, done.returncode

    project = str(shell.directory)
    assert there("-C", project, "start", "hello") == (f"{run_id(1)}\n", "", 0)
    assert there("-C", project, "config", "get", "workers.slots") == ("16\n", "", 0)
    message = "error[configuration]: the working directory cannot be used: No such file"
    relative = (
        ["runs", "list"],
        ["-C", "shop", "runs", "list"],
        ["init", "shop"],
        ["-C", project, "journal", "backup", "b.tar"],
    )
    for argv in relative:
        out, err, code = there(*argv)
        assert (out, code) == ("", 78)
        assert err.startswith(message), argv


def test_home_that_cannot_be_looked_at_has_no_settings(shell: Shell) -> None:
    """As with `sudo -u`, which may keep HOME; and a setting cannot be written there: exit 78."""
    shell.env["HOME"] = f"/{'h' * 300}"
    assert "workers.slots\t16\n" in shell("config", "show").stdout
    told = shell("config", "set", "color", "never")
    assert (told.stdout, told.code) == ("", 78)
    assert "cannot be changed: File name too long" in told.stderr


def test_limit_of_open_files_is_no_bug(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is named, with the file that was one too many, and the status is that of settings."""

    def opened() -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/srv/shop/stackshift.toml")

    assert ended(opened, lambda: False, verbose=False) == 78
    assert capsys.readouterr().err == (
        "error[configuration]: Too many open files: /srv/shop/stackshift.toml\n"
        "hint: ulimit -n shows how many may be open: 1024 is usual\n"
    )
