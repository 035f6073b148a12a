"""A shell job of 20 steps, with state, events and children, while daemon, worker and script are
killed, again and again: each recorded step ran once, counters are exact, no program has a copy
beside it, and the output is complete and in order (guarantee: programs).

The short form kills 6 times, the long one (`STACKSHIFT_LONG=1`) 200 times.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from random import Random
from typing import Final

import pytest

from helpers.deadline import wait_until
from helpers.ledger import Ledger
from helpers.processes import wait_gone
from helpers.project import Project, steps
from helpers.project_factory import Make

IS_LONG: Final = os.environ.get("STACKSHIFT_LONG") == "1"
ROUNDS: Final = 10 if IS_LONG else 1
STEPS: Final = 20
KILLED_IN: Final = range(0, STEPS, 1 if IS_LONG else 3)
"""The steps in which something is killed: one that was killed is on record before the next is, for
a run whose workers die again and again in the same place is given up."""
VICTIMS: Final = ("daemon", "worker", "script")

SCRIPT: Final = f"""#!/bin/sh
# stackshift: job survivor
# stackshift: retry 1000  backoff 10ms
set -eu
echo $$ > script.pid
i=0
while [ $i -lt {STEPS} ]; do
    said=$(stackshift step "step-$i" -- {sys.executable} act.py "$i")
    test "$said" = "did $i"
    stackshift state increment counter
    if [ $((i % 5)) = 0 ]; then
        stackshift event send happened -F i=$i
        id=$(stackshift start child -F i=$i)
    fi
    echo "after $i"
    i=$((i + 1))
done
"""

ACT: Final = '''
"""A step of the script: only one copy at a time, and not before the kill that is meant for it."""

import fcntl
import os
import sys
import time

from jobs._scenery import is_open, note

i = sys.argv[1]
run = os.environ["STACKSHIFT_RUN"]
lock = os.open(f"lock-{run}-{i}", os.O_RDWR | os.O_CREAT, 0o600)
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    note("two", i)
note(run, f"step-{i}")
while not is_open(f"{run}-{i}"):
    time.sleep(0.005)
print("did", i)
'''

CHILD: Final = """
@stackshift.job("child")
def child(ctx):
    return ctx.payload["i"]
"""


@pytest.fixture
def project(make_project: Make) -> Project:
    """A project with the shell job `survivor` and the Python job `child`."""
    made = make_project(CHILD)
    script = made.root / "jobs" / "survivor.sh"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    (made.root / "act.py").write_text(ACT)
    return made


def kill(project: Project, victim: str) -> None:
    """Kill it, and see to it that there is a daemon afterwards."""
    if victim == "daemon":
        project.kill()
        project.start()
    elif victim == "worker":
        [worker] = project.workers()
        os.kill(worker, signal.SIGKILL)
        wait_gone([worker], "the worker")
    else:
        pid = int(Path(project.root, "script.pid").read_text())
        os.kill(pid, signal.SIGKILL)


def survive(project: Project, random: Random, ledger: Ledger) -> str:
    """A run, in which something is killed in each of `KILLED_IN`; its id."""
    run = project.begin("survivor")
    for i in range(STEPS):
        if i in KILLED_IN:
            wait_until(lambda: f"{run} step-{i}" in project.witness(), f"step {i} to run")  # noqa: B023
            ledger.read()
            kill(project, random.choice(VICTIMS))
        project.open(f"{run}-{i}")
    return run


def test_killed_script_goes_on_where_it_was(project: Project) -> None:
    """Whatever was killed, and whenever."""
    random = Random(7)
    ledger = Ledger(project)
    project.start()
    for round in range(1, ROUNDS + 1):
        run = survive(project, random, ledger)
        told = project.finish(run)
        ledger.check()
        assert told["status"] == "completed", told["error"]
        assert not [line for line in project.witness() if line.startswith("two")]
        names = [f"step-{i}" for i in range(STEPS)]
        assert [name for name in steps(told) if name.startswith("step-")] == names
        assert {(run, name) for name in names} <= ledger.completed
        assert project.call("state.get", key="counter")["value"] == STEPS * round
        children = project.call("run.list", job="child", limit=1000)["runs"]
        assert sorted(child["payload"]["i"] for child in children if child["parent"] == run) == [
            "0",
            "10",
            "15",
            "5",
        ]
        events = project.call("event.list", name="happened", limit=1000)["events"]
        assert len(events) == 4 * round
        log = project.call("run.logs", run=run, attempt=told["attempt"], limit=1000)["lines"]
        said = [line["message"] for line in log if line["message"].startswith("after")]
        assert said == [f"after {i}" for i in range(STEPS)]
    project.stop()
    project.verify()
