"""Transcripts of `state lock|unlock`, and commands that run while a lock is held."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import Shell, Transcript
from cli.fake_daemon import FakeDaemon, run_id
from cli.fake_state import AT, LATER, lock_object
from cli.live_output import read_lines
from stackshift_jobs.errors import Busy, LockHeld, NotFound

SECONDS = 30


def held_by(daemon: FakeDaemon, **fields: Any) -> None:
    """The lock `k` is another's."""
    held = {"key": "k", "token": 3, "holder": "sync (pid 7)", "asker": "another"}
    daemon.locks["k"] = held | {"expires_at": LATER} | fields


def ended(process: subprocess.Popen[bytes]) -> Transcript:
    """What was printed up to the end, and the exit status."""
    out, err = process.communicate(timeout=SECONDS)
    return Transcript(out.decode(), err.decode(), process.returncode)


# --- By token ------------------------------------------------------------------------------


def test_lock_prints_its_token(shell: Shell, daemon: FakeDaemon) -> None:
    """stdout is the token alone; `--json`: `{key, token, expires_at}`."""
    assert shell("state", "lock", "k", "--ttl", "30s") == ("7\n", f"k is held until {LATER}\n", 0)
    asked = daemon.params("lock.acquire")
    assert asked.pop("holder").startswith("stackshift state lock, for pid ")
    assert len(asked.pop("asker")) == 32
    assert asked == {"key": "k", "ttl_ms": 30_000, "wait_ms": 0}
    told = shell("state", "lock", "other", "--ttl", "30s", "--json")
    assert json.loads(told.stdout) == {"key": "other", "token": 8, "expires_at": LATER}
    assert told.stderr == ""


def test_unlock_by_force_takes_it_from_whoever_holds_it(shell: Shell, daemon: FakeDaemon) -> None:
    """After confirmation; with the token of that holder, so that no other loses it."""
    shell("state", "lock", "k", "--ttl", "30s")
    asked = shell("state", "unlock", "k", "--force")
    assert asked.code == 2
    assert "take lock k away from" in asked.stderr
    told = shell("state", "unlock", "k", "--force", "-y")
    assert (told.stdout, told.code) == ("", 0)
    assert told.stderr.startswith("k taken away from ")
    assert daemon.params("lock.release") == {"key": "k", "token": 7, "force": True}
    assert shell("state", "unlock", "k", "--force", "-y").code == 4


@pytest.mark.usefixtures("daemon")
def test_unlock_gives_it_back(shell: Shell) -> None:
    """By its token; one that nobody holds is exit 4, with another token exit 5."""
    shell("state", "lock", "k", "--ttl", "30s")
    told = shell("state", "unlock", "k", "--token", "6")
    assert told.code == 5
    assert "--wait" not in told.stderr
    assert shell("state", "unlock", "k", "--token", "7") == ("", "k released\n", 0)
    told = shell("state", "unlock", "k", "--token", "7")
    assert (told.stdout, told.code) == ("", 4)
    shell("state", "lock", "k", "--ttl", "30s")
    told = shell("state", "unlock", "k", "--token", "8", "--json")
    assert json.loads(told.stdout) == {"key": "k", "token": 8}


def test_lock_with_a_token_is_extended(shell: Shell, daemon: FakeDaemon) -> None:
    """And prints what taking it printed; lost: exit 4 or 5."""
    shell("state", "lock", "k", "--ttl", "30s")
    told = shell("state", "lock", "k", "--token", "7", "--ttl", "1h")
    assert (told.stdout, told.code) == ("7\n", 0)
    assert daemon.params("lock.extend") == {"key": "k", "token": 7, "ttl_ms": 3_600_000}
    told = shell("state", "lock", "k", "--token", "6", "--ttl", "1h")
    assert told.code == 5
    assert "--wait" not in told.stderr
    assert shell("state", "lock", "none", "--token", "7", "--ttl", "1h").code == 4


@pytest.mark.parametrize("wait", [[], ["--wait", "50ms"]])
@pytest.mark.parametrize("command", [[], ["--", "touch", "ran"]])
def test_lock_of_another_is_exit_5(
    shell: Shell, daemon: FakeDaemon, project: Path, wait: list[str], command: list[str]
) -> None:
    """It says whose it is and until when, also where waiting did not help; nothing is run."""
    held_by(daemon)
    told = shell("state", "lock", "k", "--ttl", "30s", *wait, *command)
    assert (told.stdout, told.code) == ("", 5)
    assert told.stderr.startswith(
        f"error[lock_held]: the lock 'k' is held by sync (pid 7) until {LATER}\n"
    )
    assert ("--wait" in told.stderr) is not bool(wait)
    assert not (project / "ran").exists()


def test_lock_of_a_run_names_the_run(shell: Shell, daemon: FakeDaemon) -> None:
    """Which can be looked at; it has no end but the run's."""

    def held(_: dict[str, Any]) -> Any:
        raise LockHeld("it is held", owner=run_id(1), holder="job sync", expires_at=None)

    daemon.answers["lock.acquire"] = held
    assert shell("state", "lock", "k", "--ttl", "1s").stderr == (
        f"error[lock_held]: the lock 'k' is held by {run_id(1)}\n"
        f"hint: stackshift runs show {run_id(1)}\n"
    )


@pytest.mark.parametrize(
    "argv",
    [
        ["lock", "k"],
        ["lock", "k", "--token", "7"],
        ["lock", "k", "--token", "7", "--ttl", "1s", "--", "true"],
        ["lock", "k", "--token", "7", "--ttl", "1s", "--wait", "1s"],
        ["lock", "k", "--ttl", "soon"],
        ["lock", "k", "--ttl", "0"],
        ["lock", "k", "--ttl", "0", "--", "true"],
        ["lock", "k", "--"],
        ["lock", "k", "--ttl", "10m", "--"],
        ["lock", "--ttl", "1s"],
        ["unlock", "k"],
        ["unlock", "k", "--token", "x"],
    ],
)
def test_mistakes_are_usage(shell: Shell, daemon: FakeDaemon, argv: list[str]) -> None:
    """Exit 2, and nothing is asked."""
    told = shell("state", *argv)
    assert (told.stdout, told.code) == ("", 2)
    assert daemon.requests == []


@pytest.mark.parametrize("option", ["--ttl", "--wait"])
@pytest.mark.parametrize("text", ["soon", "-1s", "20000d"])
@pytest.mark.usefixtures("daemon")
def test_duration_that_is_none_is_told_by_its_option(shell: Shell, option: str, text: str) -> None:
    """There may be several of them on a line."""
    told = shell("state", "lock", "k", f"{option}={text}", "--", "true")
    assert told.stderr.startswith(f"error[usage]: {option}: ")


def test_waiting_goes_on_over_a_restart_as_the_same_asker(shell: Shell, daemon: FakeDaemon) -> None:
    """So that a lock that was given just before is not another's."""
    held_by(daemon)
    waiting = threading.Event()

    def wait(_: dict[str, Any]) -> Any:
        waiting.wait(SECONDS)
        return None

    daemon.answers["lock.acquire"] = wait
    process = shell.popen("state", "lock", "k", "--ttl", "30s", "--wait", "1h")
    daemon.wait_for("lock.acquire")
    daemon.stop()
    del daemon.answers["lock.acquire"], daemon.locks["k"]
    daemon.start()
    waiting.set()
    assert ended(process).stdout == "7\n"
    first, second = (params for method, params in daemon.requests if method == "lock.acquire")
    assert first["asker"] == second["asker"]
    assert second["wait_ms"] <= first["wait_ms"] == 3_600_000


def test_release_goes_on_over_a_restart(shell: Shell, daemon: FakeDaemon) -> None:
    """If the request whose reply was lost released it, nobody holds it, and all is done."""
    held_by(daemon, token=7)
    waiting = threading.Event()

    def lose(_: dict[str, Any]) -> Any:
        waiting.wait(SECONDS)
        return None

    daemon.answers["lock.release"] = lose
    process = shell.popen("state", "unlock", "k", "--token", "7", "--json")
    daemon.wait_for("lock.release")
    daemon.stop()
    del daemon.answers["lock.release"], daemon.locks["k"]
    daemon.start()
    waiting.set()
    assert ended(process).stdout == '{"key":"k","token":7}\n'
    assert [m for m, _ in daemon.requests].count("lock.release") == 2


# --- While a command runs ------------------------------------------------------------------


def script(text: str) -> list[str]:
    """A command that runs `text` in a shell."""
    return ["--", "sh", "-c", text]


def test_command_runs_under_the_lock(shell: Shell, daemon: FakeDaemon) -> None:
    """Its output and streams are its own, the lock is in its environment, and then given back."""
    command = script('cat; echo "$STACKSHIFT_LOCK_KEY $STACKSHIFT_LOCK_TOKEN"')
    told = shell("state", "lock", "k", *command, stdin="in\n")
    assert told == ("in\nk 7\n", "", 0)
    asked = daemon.params("lock.acquire")
    assert asked["ttl_ms"] == 30_000
    assert asked["holder"].startswith("sh (pid ")
    assert daemon.params("lock.release") == {"key": "k", "token": 7}
    assert daemon.locks == {}


@pytest.mark.parametrize(
    ("text", "code"), [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -9 $$", 137)]
)
def test_status_of_the_command_is_passed_on(
    shell: Shell, daemon: FakeDaemon, text: str, code: int
) -> None:
    """128+n where a signal ended it."""
    assert shell("state", "lock", "k", *script(text)) == ("", "", code)
    assert daemon.locks == {}


def test_command_that_cannot_be_run_is_127_or_126(
    shell: Shell, daemon: FakeDaemon, project: Path
) -> None:
    """As a shell says it; the lock is given back."""
    told = shell("state", "lock", "k", "--", "no-such-program", "--json", "-v")
    assert (told.stdout, told.code) == ("", 127)
    assert told.stderr.startswith("error[command_not_found]: cannot run 'no-such-program'")
    assert "{" not in told.stderr
    (project / "plain").write_text("")
    assert shell("state", "lock", "k", "--", "./plain").code == 126
    assert daemon.locks == {}


@pytest.mark.usefixtures("daemon")
def test_options_behind_the_dashes_are_the_commands(shell: Shell) -> None:
    """None of them is taken for ours."""
    told = shell("state", "lock", "k", "--", "echo", "--ttl", "1s", "--json", "--", "-h")
    assert told == ("--ttl 1s --json -- -h\n", "", 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_reach_the_command(
    shell: Shell, daemon: FakeDaemon, number: signal.Signals
) -> None:
    """It decides what becomes of them."""
    program = (
        "import os, signal, sys\n"
        f"signal.signal({int(number)}, lambda *_: (os.write(1, b'caught\\n'), sys.exit(9)))\n"
        "os.write(1, b'ready\\n')\n"
        "while True: signal.pause()"
    )
    process = shell.popen("state", "lock", "k", "--", sys.executable, "-c", program)
    read_lines(process, 1)
    process.send_signal(number)
    assert ended(process) == ("caught\n", "", 9)
    assert daemon.locks == {}


def test_signal_that_ends_the_command_ends_what_it_started(
    shell: Shell, daemon: FakeDaemon
) -> None:
    """Off a terminal they are a group; 128+15, and the lock is given back."""
    process = shell.popen("state", "lock", "k", *script("sleep 600 & echo ready; wait"))
    read_lines(process, 1)
    process.terminate()
    # Read to its end, which comes when nobody has the pipe any more: not `sleep` either.
    assert ended(process) == ("", "", 143)
    assert daemon.locks == {}


def test_lock_is_renewed_while_the_command_runs(shell: Shell, daemon: FakeDaemon) -> None:
    """At a third of its ttl, until the command has ended."""
    process = shell.popen_with_input("state", "lock", "k", "--ttl", "300ms", "--", "cat")
    daemon.wait_for("lock.extend", 3)
    assert daemon.params("lock.extend") == {"key": "k", "token": 7, "ttl_ms": 300}
    assert ended(process) == ("", "", 0)
    assert daemon.locks == {}


@pytest.mark.parametrize("error", [NotFound("nobody holds it"), LockHeld("it is another's")])
def test_lost_lock_ends_the_command_with_exit_5(
    shell: Shell, daemon: FakeDaemon, error: Exception
) -> None:
    """TERM, which it may catch to clean up; what it ends with does not matter any more."""

    def lost(_: dict[str, Any]) -> Any:
        raise error

    daemon.answers["lock.extend"] = lost
    command = script('trap "echo cleaned up; exit 0" TERM; sleep 600 & wait')
    told = shell("state", "lock", "k", "--ttl", "300ms", *command)
    assert (told.stdout, told.code) == ("cleaned up\n", 5)
    assert told.stderr.splitlines() == [
        f"error[lock_lost]: the lock 'k' was lost: {error}",
        "hint: the command's last actions may not have been protected by it",
        "sh is being ended",
    ]
    assert daemon.asked("lock.release") == 0


def test_command_that_does_not_end_is_killed_after_a_grace(
    shell: Shell, daemon: FakeDaemon
) -> None:
    """It must not go on beside the next holder."""

    def lost(_: dict[str, Any]) -> Any:
        raise NotFound("nobody holds it")

    daemon.answers["lock.extend"] = lost
    text = 'trap "" TERM; while :; do sleep 0.01; done'
    code = (
        "import sys\n"
        "from stackshift_cli import main\n"
        "from stackshift_cli.flows.locks import hold\n"
        "hold.GRACE_SECONDS = 0.05\n"
        f"sys.argv[1:] = ['state', 'lock', 'k', '--ttl', '300ms', '--', 'sh', '-c', {text!r}]\n"
        "sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=shell.directory,
        env=shell.env,
        timeout=SECONDS,
        capture_output=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == (b"", 5)


def test_lock_lost_at_the_very_end_is_told_too(shell: Shell, daemon: FakeDaemon) -> None:
    """The command ended well, but not under the lock all the time."""

    def gone(_: dict[str, Any]) -> Any:
        raise NotFound("nobody holds it")

    daemon.answers["lock.release"] = gone
    told = shell("state", "lock", "k", *script("echo done"))
    assert (told.stdout, told.code) == ("done\n", 5)
    assert told.stderr.startswith("error[lock_lost]: the lock 'k' was lost: nobody holds it\n")


def test_restart_of_the_daemon_does_not_lose_the_lock(shell: Shell, daemon: FakeDaemon) -> None:
    """It is renewed as soon as somebody answers, within its ttl."""
    process = shell.popen_with_input("state", "lock", "k", "--ttl", "4s", "--", "cat")
    daemon.wait_for("lock.extend")
    daemon.stop()
    daemon.start()
    daemon.wait_for("lock.extend", 2)
    assert process.stdin is not None
    process.stdin.close()
    process.stdin = None
    told = ended(process)
    assert (told.stdout, told.code) == ("", 0)
    assert daemon.locks == {}


def test_daemon_that_stays_away_for_the_ttl_loses_the_lock(
    shell: Shell, daemon: FakeDaemon
) -> None:
    """Another may hold it from then on, for all that is known."""
    process = shell.popen_with_input("state", "lock", "k", "--ttl", "600ms", "--", "cat")
    daemon.wait_for("lock.extend")
    daemon.stop()
    assert process.wait(SECONDS) == 5
    told = ended(process)
    assert "the lock is still held until its ttl has passed" in told.stderr
    assert "error[lock_lost]: the lock 'k' was lost: it could not be renewed in time" in told.stderr


def test_daemon_that_cannot_record_for_a_moment_is_asked_again(
    shell: Shell, daemon: FakeDaemon
) -> None:
    """A full disk is no loss before the ttl has passed."""
    refused: list[int] = []

    def busy(params: dict[str, Any]) -> Any:
        if len(refused) < 2:
            refused.append(1)
            raise Busy("there is no room to record it")
        return daemon.on_lock_extend(params)

    daemon.answers["lock.extend"] = busy
    process = shell.popen_with_input("state", "lock", "k", "--ttl", "4s", "--", "cat")
    daemon.wait_for("lock.extend", 3)
    assert process.stdin is not None
    process.stdin.close()
    process.stdin = None
    told = ended(process)
    assert told.code == 0
    assert told.stderr == "the lock could not be renewed yet: there is no room to record it\n" * 2


@pytest.mark.usefixtures("daemon")
def test_ignored_signals_stay_ignored(shell: Shell) -> None:
    """`nohup stackshift state lock … -- COMMAND` goes on after the terminal is closed."""
    inner = "echo ready; exec sleep 600"
    own = shlex.join(shell.command("state", "lock", "k", "--", "sh", "-c", inner))
    process = subprocess.Popen(
        ["sh", "-c", f"trap '' HUP; exec {own}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=shell.directory,
        env=shell.env,
    )
    try:
        read_lines(process, 1)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert ended(process) == ("", "", 143)
    finally:
        process.kill()


def test_locks_are_a_line_each(shell: Shell, daemon: FakeDaemon) -> None:
    """`key holder since expires_at waiting token holders`, by key; with `--json` the objects."""
    run = run_id(7)
    daemon.locks["b"] = lock_object("b", run=run, holder=None, expires_at=None, waiting=2)
    daemon.locks["a\x1b"] = lock_object("a\x1b")
    told = shell("state", "locks")
    first, second = (line.split("\t") for line in told.stdout.splitlines())
    assert first == ["a\\x1b", "backup.sh (pid 4711)", AT, LATER, "0", "17", "1"]
    assert second == ["b", run, AT, "", "2", "17", "1"]
    assert (told.stderr, told.code) == ("", 0)
    assert json.loads(shell("state", "locks", "b", "--json").stdout) == [daemon.locks["b"]]
    assert daemon.params("lock.list")["prefix"] == "b"
    assert shell("state", "locks", "--limit", "1").stdout.count("\n") == 1
