"""Standard streams that the caller has closed (`>&-`): the exit statuses are right, and no file or
socket of ours takes their place."""

from __future__ import annotations

import shlex
import subprocess

import pytest

from cli.conftest import SECONDS, Shell
from cli.fake_daemon import FakeDaemon, run_id, run_object
from stackshift_jobs.errors import NotFound


def closed(shell: Shell, redirections: str, *argv: str) -> tuple[str, str, int]:
    """`stackshift ARGV REDIRECTIONS`, as a shell runs it."""
    line = f"{shlex.join(shell.command(*argv))} {redirections}"
    done = subprocess.run(
        ["sh", "-c", line],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=shell.directory,
        env=shell.env,
        timeout=SECONDS,
        check=False,
    )
    return done.stdout, done.stderr, done.returncode


@pytest.mark.parametrize("redirections", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("argv", [["start", "hello"], ["runs", "list"]], ids=" ".join)
def test_closed_stream_is_no_failure(
    shell: Shell, daemon: FakeDaemon, redirections: str, argv: list[str]
) -> None:
    """The command succeeds, and prints on the streams that are open."""
    daemon.add(run_object(1))
    out, err, code = closed(shell, redirections, *argv)
    assert (err, code) == ("", 0)
    assert bool(out) is (">&-" not in redirections.replace("2>&-", ""))


def test_error_that_nobody_can_read_keeps_its_status(shell: Shell, daemon: FakeDaemon) -> None:
    """An unknown job is exit 4, even without stderr."""

    def refuse(_: object) -> None:
        raise NotFound("no job 'helo'")

    daemon.answers["run.start"] = refuse
    assert closed(shell, "2>&-", "start", "helo") == ("", "", 4)


def test_daemon_starts_from_closed_streams(shell: Shell) -> None:
    """The pipe for the daemon's ready line does not take the number of a standard stream."""
    try:
        assert closed(shell, "<&- >&- 2>&-", "start", "hello") == ("", "", 0)
        assert shell("runs", "list").stderr == ""
    finally:
        shell("daemon", "stop")


@pytest.mark.parametrize("argv", [["start", "hello", "-p", "-"], ["start", "--batch", "-"]])
def test_closed_standard_input_cannot_be_read(
    shell: Shell, daemon: FakeDaemon, argv: list[str]
) -> None:
    """It is not an empty payload or an empty batch: exit 2, nothing sent."""
    out, err, code = closed(shell, "<&-", *argv)
    assert (out, code) == ("", 2)
    assert err.startswith("error[usage]: ")
    assert daemon.asked("run.start") + daemon.asked("run.start_many") == 0


def test_question_with_closed_standard_input_is_not_answered(
    shell: Shell, daemon: FakeDaemon
) -> None:
    """There is no terminal to ask on: exit 2."""
    daemon.add(run_object(1))
    out, err, code = closed(shell, "<&-", "runs", "rm", run_id(1))
    assert (out, code) == ("", 2)
    assert "hint: add --yes" in err


@pytest.mark.parametrize(
    "locale",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "latin-1"},
    ],
    ids=str,
)
def test_data_in_a_pipe_is_utf8_in_every_locale(
    shell: Shell, daemon: FakeDaemon, locale: dict[str, str]
) -> None:
    """A script gets the text that was stored, not one with escapes in it."""
    daemon.answers["state.get"] = lambda _: {
        "key": "k",
        "value": "Grüße 世界",
        "version": 1,
        "expires_at": None,
        "updated_at": None,
        "updated_by": None,
    }
    shell.env.update(locale)
    done = subprocess.run(
        shell.command("state", "get", "k", "--raw"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=shell.directory,
        env=shell.env,
        timeout=SECONDS,
        check=False,
    )
    assert (done.stdout.decode(), done.stderr, done.returncode) == ("Grüße 世界\n", b"", 0)
