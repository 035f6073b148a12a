"""`exec -- COMMAND`: a program becomes a run, and behaves as if it had been started here."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.conftest import Shell
from cli.live_output import read_lines
from helpers.deadline import wait_until
from helpers.processes import alive


@pytest.fixture
def here(real: Shell) -> Shell:
    """The project made by `init`, whose workers import what is tested."""
    config = '[workers]\nprocesses = 1\ninherit_env = ["PYTHONPATH"]\n'
    (real.directory / "stackshift.toml").write_text(config)
    return real


@pytest.fixture
def empty(here: Shell, tmp_path: Path) -> Iterator[Shell]:
    """The same user, in a directory that belongs to no project."""
    outside = Shell(tmp_path / "empty", Path(here.env["HOME"]))
    outside.directory.mkdir()
    outside.env = dict(here.env)
    yield outside
    outside("daemon", "stop")
    outside.close()


def test_program_behaves_as_if_it_was_started_here(here: Shell) -> None:
    """Directory, umask, named variables, both streams and the status are what they would be."""
    here("daemon", "start")
    within = Shell(here.directory / "jobs", Path(here.env["HOME"]))
    within.env["PYTHONPATH"] = here.env["PYTHONPATH"]
    script = "pwd; umask; echo $A $B ${C-none}; echo problem >&2; exit 3"
    old = os.umask(0o027)
    try:
        told = within("exec", "--env", "A", "--env", "B=2", "--", "sh", "-c", script, A="1", C="3")
    finally:
        os.umask(old)
    assert told.stdout.splitlines() == [str(within.directory), "0027", "1 2 none"]
    assert told.stderr == "problem\n"
    assert told.code == 3


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("true", 0),
        ("sh -c 'kill -KILL $$'", 137),
        ("sh -c 'exit 255'", 255),
        ("no-such-program", 127),
        ("/", 126),
    ],
)
def test_status_is_the_one_a_shell_would_give(here: Shell, command: str, status: int) -> None:
    """Also of a program that a signal has ended, or that is none."""
    assert here.run(f"exec -- {command}").code == status


def test_file_that_is_no_program_cannot_be_started(here: Shell) -> None:
    """126, as for one that may not be executed; it was 1, as if it had failed."""
    file = here.directory / "plain"
    file.write_text("echo no interpreter is named\n")
    file.chmod(0o755)
    assert here("exec", "--", "./plain").code == 126


def test_program_that_takes_too_long_is_ended(here: Shell) -> None:
    """As by timeout(1): nothing of it is left, and the status is 124."""
    script = "sleep 600 & echo $!; wait"
    told = here("exec", "--timeout", "300ms", "--", "sh", "-c", script)
    assert told.code == 124
    assert "ran longer than 300ms" in told.stderr
    assert not alive(int(told.stdout))


def test_failed_program_is_tried_again_as_often_as_it_was_said(here: Shell) -> None:
    """`--retry 2` is three tries; each passes its output through."""
    count = "echo x >> tries; wc -l < tries; test $(wc -l < tries) -ge 3"
    told = here("exec", "--retry", "2", "--backoff", "10ms", "--", "sh", "-c", count)
    assert (told.stdout.split(), told.code) == (["1", "2", "3"], 0)
    assert told.stderr.count("\n") == 1  # that the daemon was started
    run = json.loads(here("runs", "show", "@last", "--json").stdout)
    assert (run["attempt"], run["max_attempts"]) == (3, 3)
    assert [each["error"] and each["error"]["exit_code"] for each in run["attempts"]] == [
        1,
        1,
        None,
    ]
    told = here("exec", "--follow", "--retry", "1", "--backoff", "10ms", "--", "false")
    assert told.code == 1
    assert "attempt 1: CommandFailed: false exited with 1; retrying" in told.stderr


def test_output_comes_as_it_is_printed(here: Shell) -> None:
    """Before the line has ended, and before the program has."""
    script = "printf 'one\\ntw'; while [ ! -e go ]; do sleep 0.01; done; echo o"
    running = here.popen("exec", "--", "sh", "-c", script)
    assert running.stdout is not None
    assert read_lines(running, 1) == ["one"]
    (here.directory / "go").touch()
    assert running.stdout.read() == b"two\n"
    assert running.wait() == 0


@pytest.mark.parametrize(
    ("script", "out", "err"),
    [
        ("printf abc", b"abc", b""),
        ("echo abc", b"abc\n", b""),
        ("printf 'a\\nb'; printf c >&2", b"a\nb", b"c"),
        ("printf a; while [ ! -e go ]; do sleep 0.01; done; printf b", b"ab", b""),
    ],
)
def test_no_newline_is_added_to_what_is_printed(
    here: Shell, script: str, out: bytes, err: bytes
) -> None:
    """As in a shell: it may be the input of a program that takes it as it is."""
    running = here.popen("exec", "--", "sh", "-c", script)
    assert running.stdout is not None
    assert running.stderr is not None
    first = running.stdout.read(1)
    (here.directory / "go").touch()
    assert first + running.stdout.read() == out
    assert running.stderr.read().endswith(err)
    assert running.wait() == 0


def test_ctrl_c_detaches_and_leaves_the_program_alone(here: Shell) -> None:
    """Exit 130; the run goes on to its end."""
    script = "echo begun; while [ ! -e go ]; do sleep 0.01; done; echo done > out"
    running = here.popen("exec", "--", "sh", "-c", script)
    assert read_lines(running, 1) == ["begun"]
    running.send_signal(signal.SIGINT)
    assert running.wait() == 130
    assert running.stderr is not None
    assert b"Detached; run_" in running.stderr.read()
    (here.directory / "go").touch()
    assert here("runs", "wait", "@last").code == 0
    assert (here.directory / "out").read_text() == "done\n"


def test_cancelled_program_ends_and_the_status_says_so(here: Shell) -> None:
    """Exit 7, as for every run that was cancelled."""
    running = here.popen("exec", "--", "sh", "-c", "echo begun; exec sleep 600")
    assert read_lines(running, 1) == ["begun"]
    assert here("runs", "cancel", "@last").code == 0
    assert running.wait() == 7


def test_key_runs_a_program_once_and_tells_its_end_again(here: Shell) -> None:
    """The second command prints what the first did; another program under the key is a conflict."""
    line = ("exec", "--idempotency-key", "k", "--", "sh", "-c", "echo x >> out; cat out; exit 4")
    first, second = here(*line), here(*line)
    assert (first.stdout, first.code) == (second.stdout, second.code) == ("x\n", 4)
    assert "reused run_" in second.stderr
    other = here("exec", "--idempotency-key", "k", "--", "true")
    assert other.code == 5
    assert "$.command" in other.stderr or "command" in other.stderr


def test_second_of_its_name_is_refused_skipped_or_waits(here: Shell) -> None:
    """What a lock file does for a crontab; the key is the run's name unless one is given."""
    here(
        "exec",
        "--detach",
        "--unique",
        "k",
        "--",
        "sh",
        "-c",
        "while [ ! -e go ]; do sleep 0.1; done",
    )
    owner = here("runs", "list").stdout.split("\t")[0]
    told = here("exec", "--unique", "k", "--", "true")
    assert (told.code, owner in told.stderr) == (5, True)
    told = here("exec", "--unique", "k", "--if-running", "fail", "--", "true")
    assert (told.code, "--if-running skip" in told.stderr) == (5, True)
    assert "--on-duplicate" not in told.stderr  # which exec does not have
    told = here("exec", "--unique", "k", "--if-running", "skip", "--", "true")
    assert told == ("", f"skipped: {owner} has not ended\n", 0)
    waiting = here.popen("exec", "--unique", "k", "--if-running", "queue", "--", "echo", "mine")
    assert here("exec", "--if-running", "skip", "--", "echo", "other").stdout == "other\n"
    (here.directory / "go").touch()
    out, _ = waiting.communicate()
    assert (out, waiting.returncode) == (b"mine\n", 0)


def test_run_that_is_replaced_is_cancelled_first(here: Shell) -> None:
    """The newest one counts."""
    first = here.popen("exec", "--name", "sync", "--if-running", "replace", "--", "sleep", "600")
    wait_until(lambda: "running" in here("runs", "list").stdout, "the first to run")
    told = here("exec", "--name", "sync", "--if-running", "replace", "--", "echo", "new")
    assert (told.stdout, told.code) == ("new\n", 0)
    assert first.wait() == 7


def test_detached_program_has_an_id_and_a_name(here: Shell) -> None:
    """The id is all that is on standard output; lists show the name, JSON the job and the label."""
    run = here("exec", "--detach", "--name", "nightly", "--", "true").stdout.strip()
    assert here("runs", "wait", run) == (f"{run}\tcompleted\n", "", 0)
    assert here("runs", "list").stdout.split("\t")[:3] == [run, "completed", "nightly"]
    shown = json.loads(here("runs", "list", "--job", "exec", "--json").stdout)
    assert [(each["job"], each["labels"]) for each in shown] == [("exec", {"name": "nightly"})]
    assert [each["name"] for each in json.loads(here("jobs", "list", "--json").stdout)] == ["hello"]


@pytest.mark.parametrize("data", [r"a\377b\n", r"\200", r"\303"], ids=["byte", "end", "half"])
def test_output_that_is_no_text_is_not_taken_for_what_was_printed(here: Shell, data: str) -> None:
    """An archive on standard output, piped into a file, would be destroyed with status 0."""
    told = here("exec", "--", "printf", data)
    assert (told.code, "\\x" in told.stdout) == (74, True)
    assert told.stderr.splitlines()[-2].startswith("error[output_cut]: the program succeeded")
    told = here("exec", "--", "printf", r"Gr\303\274\303\237e \\xff\r\n")
    assert told == ("Grüße \\xff\r\n", "", 0)
    assert here("exec", "--", "sh", "-c", f"printf '{data}' >&2").code == 0


def test_cut_output_is_not_taken_for_all_of_it(here: Shell) -> None:
    """A line longer than is kept: the program succeeded, the command says that it did not."""
    told = here("exec", "--", "sh", "-c", "head -c 20000 /dev/zero | tr '\\0' x; echo; echo end")
    assert told.stdout.endswith("bytes more)\nend\n")
    assert told.stderr.splitlines()[-2].startswith("error[output_cut]: the program succeeded")
    assert told.code == 74


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("exec", "COMMAND is missing"),
        ("exec --", "COMMAND is missing"),
        ("exec --wait --detach -- true", "--wait and --detach cannot be used together"),
        ("exec --backoff 5s -- true", "--backoff requires --retry"),
        ("exec --timeout 0 -- true", "--timeout cannot be 0"),
        ("exec --env NOT_SET_HERE -- true", "--env NOT_SET_HERE: there is no such variable here"),
        ("exec --if-running maybe -- true", "--if-running takes skip, queue, replace, fail, not"),
        ("exec --env =x -- true", "--env takes NAME or NAME=TEXT, not '=x'"),
        ("exec --retry -1 -- true", "--retry -1 is out of range"),
    ],
)
def test_mistakes_are_told_and_start_nothing(shell: Shell, line: str, error: str) -> None:
    """Exit 2, and no daemon was needed to find them."""
    told = shell.run(line)
    assert told.code == 2
    assert f"error[usage]: {error}" in told.stderr
    assert not (shell.directory / ".stackshift").exists()


def test_words_that_are_not_utf8_are_refused(shell: Shell) -> None:
    """They could not be recorded as they are."""
    told = shell("exec", "--", "cat", os.fsdecode(b"caf\xe9"))
    assert told.code == 2
    assert "argument 1 of the command is not UTF-8 text" in told.stderr


def test_empty_directory_needs_no_init(empty: Shell) -> None:
    """The default project is made once, said once, and found by every command from then on."""
    # Its workers would not import what is tested, so there is a setting before it is used.
    root = Path(empty.env["HOME"], ".local/share/stackshift/project")
    told = empty("exec", "--no-start", "--", "true")
    assert told.code == 3
    assert told.stderr.startswith(f"made {root}, the project of commands outside of any other\n")
    assert empty("config", "set", "workers.inherit_env", '["PYTHONPATH"]').code == 0
    told = empty("exec", "--", "pwd")
    assert (told.stdout, told.code) == (f"{empty.directory}\n", 0)
    assert told.stderr.startswith("started stackshiftd")
    assert empty("runs", "list").stdout.split("\t")[2] == "pwd"
    assert empty("config", "get", "default_project").stdout.strip() == str(root)


def test_default_project_that_cannot_be_made_is_one_clear_error(empty: Shell) -> None:
    """And not a half-made one."""
    home = Path(empty.env["HOME"])
    (home / ".local").write_text("a file is in the way")
    told = empty("exec", "--", "true")
    assert told.code == 78
    assert "cannot make a project in" in told.stderr
    assert not (home / ".config").exists()
    (home / ".local").unlink()


def test_killed_daemon_leaves_neither_a_copy_nor_a_lost_program(here: Shell) -> None:
    """kill -9 in the middle: the follower goes on, the program is ended and started again once."""
    script = "echo $$ >> pids; echo begun; while [ ! -e go ]; do sleep 0.01; done; echo end"
    running = here.popen("exec", "--", "sh", "-c", script)
    assert read_lines(running, 1) == ["begun"]
    status = json.loads(here("daemon", "status", "--json").stdout)
    os.kill(status["pid"], signal.SIGKILL)
    pids = here.directory / "pids"
    first = int(pids.read_text())
    wait_until(lambda: here("daemon", "start").code == 0, "the daemon to be back")
    wait_until(lambda: len(pids.read_text().split()) == 2, "the program to be started again")
    assert not alive(first)
    (here.directory / "go").touch()
    out, _ = running.communicate()
    assert out.decode().splitlines() == ["begun", "end"]
    assert running.returncode == 0
