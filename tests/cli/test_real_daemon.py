"""The command line with the real daemon, from an empty directory."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import tarfile

import psutil
import pytest

from cli.conftest import Shell
from cli.live_output import read_lines
from helpers.deadline import wait_until
from stackshift_jobs.programs.processes import PROGRAM_VARIABLE, WORKER_VARIABLE


def test_project_made_by_init_runs_as_it_stands(real: Shell) -> None:
    """`init`, `jobs check`, `start --wait`, `runs list|show`: the first five minutes of a user."""
    assert real("jobs", "check") == ("ok\tjobs.hello\thello\n", "", 0)
    told = real("start", "hello", "-F", "name=World", "--wait")
    assert (told.stdout, told.code) == ('{"greeting":"Hello, World!"}\n', 0)
    assert told.stderr.startswith("started stackshiftd (pid ")
    (listed,) = real("runs", "list").stdout.splitlines()
    assert listed.split("\t")[1:5] == ["completed", "hello", "default", "1"]
    kinds = [line.split("\t")[2] for line in real("runs", "show", "@last").stdout.splitlines()]
    assert kinds[0] == "run.created"
    assert kinds[-1] == "run.completed"
    assert real("journal", "verify").code == 0


def loaded(real: Shell) -> list[str]:
    """The workers that have loaded the modules."""
    workers = json.loads(real("daemon", "status", "--json").stdout)["workers"]
    return [worker["id"] for worker in workers if worker["status"] == "serving"]


@pytest.mark.not_via("follower", why="one that follows and lends nothing loads no modules")
def test_edit_of_a_job_is_told_loaded_and_refused_where_it_is_broken(real: Shell) -> None:
    """The loop of whoever writes a job: edit, be told, reload; break it, be told where; restart."""
    job = real.directory / "jobs" / "hello.py"
    good = job.read_text()
    # The only one: a worker that starts later would import what is there by then.
    (real.directory / "stackshift.toml").write_text("[workers]\nprocesses = 1\n")
    assert real("daemon", "start").code == 0
    job.write_text(good.replace("Hello,", "Hallo,"))
    edited = "note: jobs/hello.py changed since it was loaded: stackshift daemon reload\n"
    told = real("start", "hello", "-F", "name=World", "--wait")
    assert (told.stdout, told.code) == ('{"greeting":"Hello, World!"}\n', 0)
    assert edited in told.stderr
    assert json.loads(real("start", "hello", "--json").stdout).keys().isdisjoint({"notes"})
    assert real("jobs", "list").stderr == edited
    assert real("daemon", "reload") == ("", "reloaded jobs/hello.py: changed hello\n", 0)
    same = "nothing had changed: the job modules were loaded again\n"
    assert real("daemon", "reload") == ("", same, 0)
    with (real.directory / "stackshift.toml").open("a") as settings:
        settings.write('[notify.ops]\ncommand = "true"\n')
    assert real("daemon", "reload") == ("", "reloaded stackshift.toml\n", 0)
    (job.parent / "more.py").write_text(good.replace('"hello"', '"more"'))
    assert real("daemon", "reload") == ("", "reloaded jobs/more.py: added more\n", 0)
    (job.parent / "more.py").unlink()
    assert real("daemon", "reload") == ("", "removed jobs/more.py: removed more\n", 0)
    log = real("daemon", "logs").stdout
    assert "was dismissed: its code has changed" in log
    assert "status -9" not in log
    told = real("start", "hello", "-F", "name=World", "--wait")
    assert (told.stdout, edited in told.stderr) == ('{"greeting":"Hallo, World!"}\n', False)
    job.write_text(good + "def broken(:\n")
    line = good.count("\n") + 1
    failed = f"failed to import: {job}:{line}: SyntaxError: invalid syntax\n"
    kept = "not reloaded: the code from before goes on\n"
    assert real("daemon", "reload") == ("", failed + kept, 78)
    set_ = real("config", "set", "schedules.tidy.command", "true")
    assert "not valid yet: " in set_.stderr
    refused = real("daemon", "reload")
    assert ("schedules.tidy: no time is given" in refused.stderr, refused.code) == (True, 78)
    set_ = real("config", "set", "schedules.tidy.cron", "@daily")
    assert set_.stderr.endswith("hint: to apply it, run stackshift daemon reload\n")
    tidy = "stackshift.toml: added schedule tidy\n"
    assert real("daemon", "reload") == ("", failed + kept + tidy, 78)
    assert real("start", "hello", "--wait").code == 0
    told = real("daemon", "restart")
    assert (failed in told.stderr, told.code) == (True, 78)
    # Also the worker of the messages, or it would import what is there by then.
    wait_until(lambda: len(loaded(real)) == 2, "both workers to have loaded it")
    told = real("start", "hello")
    assert (told.code, f"{job}:{line}: SyntaxError" in told.stderr) == (78, True)
    job.write_text(good)
    # The daemon looks at the files only so often, and has just done so.
    changed = edited.removeprefix("note: ")
    wait_until(lambda: changed in real("start", "hello").stderr, "the change to be told")
    assert json.loads(real("daemon", "reload", "--json").stdout)["jobs"]["added"] == ["hello"]
    assert real("start", "hello", "--wait").code == 0


def test_backup_to_standard_output_is_the_whole_archive(real: Shell) -> None:
    """`-` is no file of that name; what is said of the backup is on stderr."""
    assert real("start", "hello", "--wait").code == 0
    for line in ("journal backup -", "-q journal backup -"):
        with real.popen(*line.split()) as backup:
            archive, said = backup.communicate()
        assert backup.returncode == 0
        assert (b"last_seq\t" in said) is not line.startswith("-q")
        with tarfile.open(fileobj=io.BytesIO(archive)) as members:
            assert "manifest.json" in members.getnames()
    assert not (real.directory / "-").exists()


def test_reload_of_no_daemon_is_exit_3(real: Shell) -> None:
    """There is nothing to reload, and none is started for it."""
    assert real("daemon", "reload").code == 3
    assert not (real.directory / ".stackshift" / "daemon.json").exists()


def test_killed_daemon_is_started_again_and_its_follower_misses_nothing(real: Shell) -> None:
    """After `kill -9` the next command starts it again; `runs tail` shows each record once."""
    assert real("start", "hello", "--wait").code == 0
    tail = real.popen("runs", "tail", "--since", "1h")
    seen = _up_to_the_end_of_a_run(tail)
    pid = json.loads(real("daemon", "status", "--json").stdout)["pid"]
    os.kill(pid, signal.SIGKILL)
    assert real("start", "hello", "--wait").code == 0
    seen += _up_to_the_end_of_a_run(tail)
    tail.send_signal(signal.SIGINT)
    tail.communicate(timeout=60)
    kinds = [line.split("\t")[2] for line in seen]
    assert (kinds.count("run.created"), kinds.count("run.completed")) == (2, 2)
    seqs = [int(line.split("\t")[0]) for line in seen]
    assert seqs == sorted(set(seqs))


def _up_to_the_end_of_a_run(tail: subprocess.Popen[bytes]) -> list[str]:
    lines = read_lines(tail, 1)
    while "run.completed" not in lines[-1]:
        lines += read_lines(tail, 1)
    return lines


def test_daemon_started_by_a_job_is_not_one_of_its_programs(real: Shell) -> None:
    """It would be ended with the job: whatever has the marks is."""
    real.env |= {WORKER_VARIABLE: "p/d/w", PROGRAM_VARIABLE: "run_1/7/step/x", "OTHER": "stays"}
    assert real("daemon", "start").code == 0
    pid = json.loads(real("daemon", "status", "--json").stdout)["pid"]
    variables = psutil.Process(pid).environ()
    assert variables["OTHER"] == "stays"
    assert not {WORKER_VARIABLE, PROGRAM_VARIABLE} & variables.keys()


def test_key_and_payload_decide_what_a_start_is(real: Shell) -> None:
    """The same start again is the same run; another payload is a conflict, with the difference."""
    first = real("start", "hello", "--idempotency-key", "k")
    again = real("start", "hello", "--idempotency-key", "k")
    assert again.stdout == first.stdout
    told = real("start", "hello", "--idempotency-key", "k", "-F", "name=x")
    assert (told.stdout, told.code) == ("", 5)
    assert '  $.name: absent → "x"' in told.stderr


def test_job_that_does_not_exist_is_exit_4_with_a_near_name(real: Shell) -> None:
    """The hint names a similar job."""
    told = real("start", "helo")
    assert (told.stdout, told.code) == ("", 4)
    assert "did you mean hello?" in told.stderr


def test_state_events_and_locks_from_the_shell(real: Shell) -> None:
    """Each verb does what it says, and its conflicts are exit 5."""
    assert real("state", "set", "k", '{"a": 1}', "--if-absent").stdout == "1\n"
    assert real("state", "set", "k", "2", "--if-absent").code == 5
    assert real("state", "set", "k", "2", "--if-version", "1").stdout == "2\n"
    assert real("state", "increment", "k", "--by", "0.5").stdout == "2.5\n"
    assert real("state", "get", "k").stdout == "2.5\n"
    assert [line.split("\t")[:3] for line in real("state", "list").stdout.splitlines()] == [
        ["k", "3", "2.5"]
    ]
    assert real("state", "delete", "k").code == 0
    assert real("state", "get", "k").code == 4
    changes = real("state", "history", "k", "--limit", "3").stdout.splitlines()
    assert [line.split("\t")[2] for line in changes] == ["deleted", "incremented", "set"]
    token = real("state", "lock", "import", "--ttl", "1h").stdout.strip()
    told = real("state", "lock", "import", "--wait", "50ms", "--", "echo", "ran")
    assert (told.stdout, told.code) == ("", 5)
    assert "is held by stackshift state lock, for pid" in told.stderr
    assert real("state", "lock", "import", "--ttl", "2h", "--token", token).stdout == f"{token}\n"
    assert real("state", "unlock", "import", "--token", token).code == 0
    sent = real("event", "send", "paid", "-F", "a=b", "--idempotency-key", "k")
    again = real("event", "send", "paid", "-F", "a=b", "--idempotency-key", "k")
    assert sent.stdout == again.stdout
    told = real("event", "send", "paid", "-F", "a=c", "--idempotency-key", "k")
    assert (told.code, '  $.a: "b" → "c"' in told.stderr) == (5, True)
    (listed,) = real("event", "list").stdout.splitlines()
    assert listed.split("\t")[:3] == [sent.stdout.strip(), "paid", ""]
    (tailed,) = real("event", "tail", "--no-follow", "-n", "1").stdout.splitlines()
    assert tailed.split("\t")[2] == "event.received"


def test_lock_is_held_over_a_killed_daemon_and_given_back(real: Shell) -> None:
    """The lock is in the journal, so the command under it does not notice."""
    command = ("--", "sh", "-c", "echo ready; cat")
    process = real.popen_with_input("state", "lock", "k", "--ttl", "9s", *command)
    read_lines(process, 1)
    pid = json.loads(real("daemon", "status", "--json").stdout)["pid"]
    os.kill(pid, signal.SIGKILL)
    assert real("state", "lock", "k", "--ttl", "1s").code == 5
    out, _ = process.communicate(b"typed\n", timeout=60)
    assert (out, process.returncode) == (b"typed\n", 0)
    assert real("state", "lock", "k", "--ttl", "1s", "--", "true").code == 0


def test_holder_starts_a_killed_daemon_and_none_that_was_stopped(real: Shell) -> None:
    """To renew the lock or to release it, while no other command needs the daemon."""
    assert real("daemon", "start").code == 0
    command = ("--ttl", "30s", "--", "sh", "-c", "echo ready; cat")
    process = real.popen_with_input("state", "lock", "k", *command)
    read_lines(process, 1)
    first = json.loads(real("daemon", "status", "--json").stdout)["pid"]
    os.kill(first, signal.SIGKILL)
    assert process.stderr is not None
    while "started stackshiftd (pid" not in (said := process.stderr.readline().decode()):
        assert said
    second = json.loads(real("--no-start", "daemon", "status", "--json").stdout)["pid"]
    assert real("--no-start", "state", "lock", "k", "--ttl", "1s").code == 5
    os.kill(second, signal.SIGKILL)
    process.communicate(b"", timeout=60)
    assert process.returncode == 0
    assert real("--no-start", "state", "lock", "k", "--ttl", "1s", "--", "true").code == 0
    process = real.popen_with_input("state", "lock", "k", *command)
    read_lines(process, 1)
    assert real("daemon", "stop").code == 0
    _, err = process.communicate(b"", timeout=60)
    assert process.returncode == 0
    assert "the lock was not released and expires with its ttl" in err.decode()
    assert real("--no-start", "state", "list").code == 3
