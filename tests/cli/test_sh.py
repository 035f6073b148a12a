"""`sh FILE`: a script in no project, with steps and waits; as a command and as a first line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.conftest import Shell
from helpers.deadline import wait_until


@pytest.fixture
def here(real: Shell) -> Shell:
    """The project made by `init`, whose workers import what is tested."""
    config = '[workers]\nprocesses = 1\ninherit_env = ["PYTHONPATH"]\n'
    (real.directory / "stackshift.toml").write_text(config)
    return real


def script(shell: Shell, text: str, name: str = "release.sh") -> Path:
    """A script beside the project's files, which nobody can execute."""
    path = shell.directory / name
    path.write_text(text)
    return path


def test_script_has_steps_arguments_and_its_own_status(here: Shell) -> None:
    """It need not be executable; what follows its name is for it, options too."""
    script(
        here,
        """set -eu
        echo "$# $1 $2 in $(pwd), $A"
        n=$(stackshift step count -- sh -c 'echo x >> out; wc -l < out')
        stackshift sleep long 3s
        echo "again $n"
        cat "$STACKSHIFT_PAYLOAD"
        exit 3
        """,
    )
    told = here("sh", "--env", "A=1", "release.sh", "--wait", "-x")
    assert told.stdout.splitlines() == [
        f"2 --wait -x in {here.directory}, 1",
        "1",
        "again 1",
        '{"args": ["--wait", "-x"]}',
    ]
    assert told.code == 3
    assert (here.directory / "out").read_text() == "x\n"


def test_first_line_makes_it_a_command(here: Shell, tmp_path: Path) -> None:
    """`#!/usr/bin/env -S stackshift sh`: the shell runs it, and not `stackshift` again."""
    programs = tmp_path / "bin"
    programs.mkdir()
    stackshift = programs / "stackshift"
    stackshift.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m stackshift_cli "$@"\n')
    stackshift.chmod(0o755)
    path = script(
        here,
        "#!/usr/bin/env -S stackshift sh\n# stackshift: job release\nset -eu\n"
        'stackshift step say -- echo "hello $1"\n',
    )
    path.chmod(0o755)
    env = {**here.env, "PATH": f"{programs}{os.pathsep}{here.env['PATH']}"}
    done = subprocess.run(
        [path, "-n", "there"],
        capture_output=True,
        text=True,
        cwd=here.directory,
        env=env,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("hello -n\n", 0)
    assert here("runs", "list").stdout.split("\t")[2] == "release"


def test_header_gives_what_options_do_not(here: Shell) -> None:
    """Name, retries, backoff, queue, key and timeout; an option wins."""
    script(
        here,
        "#!/bin/bash\n# stackshift: job nightly retry 2 backoff 10ms queue disk timeout 1h\n"
        "# stackshift: unique nightly schedule @daily\n"
        "[[ a == a ]] && echo try >> tries; exit 9\n",
    )
    assert here("sh", "release.sh").code == 9
    assert (here.directory / "tries").read_text() == "try\n" * 3
    run = json.loads(here("runs", "show", "@last", "--json").stdout)
    assert (run["queue"], run["max_attempts"], run["labels"]) == ("disk", 3, {"name": "nightly"})
    assert here("sh", "--retry", "0", "--name", "other", "release.sh").code == 9
    run = json.loads(here("runs", "show", "@last", "--json").stdout)
    assert (run["max_attempts"], run["labels"]) == (1, {"name": "other"})


def test_attempt_that_takes_too_long_is_ended(here: Shell) -> None:
    """Exit 124, as for a program."""
    script(here, "stackshift step one -- true; sleep 600")
    assert here("sh", "--timeout", "1s", "release.sh").code == 124


def test_detached_script_goes_on_after_the_daemon_was_stopped(here: Shell) -> None:
    """It is a run like any other: what is recorded is not run again."""
    script(
        here,
        "set -eu\nstackshift step one -- sh -c 'echo one >> out'\n"
        "stackshift wait-event go\nstackshift step two -- sh -c 'echo two >> out'\n",
    )
    run = here("sh", "--detach", "release.sh").stdout.strip()
    wait_until(lambda: "waiting for event go" in here("runs", "why", run).stdout, "it to wait")
    here("daemon", "restart")
    assert here("event", "send", "go").code == 0
    assert here("runs", "wait", run).code == 0
    assert (here.directory / "out").read_text() == "one\ntwo\n"


@pytest.mark.parametrize(
    ("line", "code", "error"),
    [
        ("sh", 2, "FILE is missing"),
        ("sh nowhere.sh", 127, "cannot read"),
        ("sh --nope release.sh", 2, "there is no option --nope"),
        ("sh bad.sh", 78, "bad.sh:2: unknown option 'retyr'; did you mean retry?"),
        ("step one -- true", 2, "step is for the scripts of shell jobs, and this is none"),
        ("sleep one 1s", 2, "sleep is for the scripts of shell jobs, and this is none"),
        ("wait-event one", 2, "wait-event is for the scripts of shell jobs, and this is none"),
    ],
)
def test_mistakes_are_told_and_start_nothing(
    shell: Shell, line: str, code: int, error: str
) -> None:
    """One clear error, and no daemon was needed to find it."""
    script(shell, "#!/bin/sh\n# stackshift: job a retyr 3\n", "bad.sh")
    told = shell.run(line)
    assert (told.code, told.stdout) == (code, "")
    assert error in told.stderr
    assert not (shell.directory / ".stackshift").exists()
