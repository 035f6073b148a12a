"""`[hooks]`: called once an end, told the run, and unable to hurt run or daemon."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from helpers.deadline import wait_until
from helpers.inner_daemon import InsideDaemon
from helpers.processes import wait_gone
from helpers.project import Project, kinds
from helpers.project_factory import Make
from helpers.scenery import CONFIG
from stackshiftd.shell.tuning import Tuning

JOBS = """
@stackshift.job("works")
def works(ctx):
    return "r" * ctx.payload.get("size", 1)


@stackshift.job("fails", retry=Retry(max_attempts=2, backoff="10ms"))
def fails(ctx):
    raise ConnectionError("broken")


@stackshift.job("held")
def held(ctx):
    gate("held")
"""

TELLS = """
import json, os, sys
text = sys.stdin.read()
told = {"text": text, "cwd": os.getcwd(), "env": dict(os.environ), "argv": sys.argv[1:]}
told["umask"], told["nice"] = os.umask(0o77), os.getpriority(os.PRIO_PROCESS, 0)
name = f"told-{os.environ['STACKSHIFT_RUN']}-{os.getpid()}"
with open(name + ".tmp", "w") as file:
    json.dump(told, file)
os.rename(name + ".tmp", name + ".json")
"""


def hooked(make: Make, more: str = "", **programs: str) -> Project:
    """A project whose hooks are Python programs, of their name; `more` goes into the file."""
    lines = [f'{name} = ["{sys.executable}", "hooks/{name}.py"]' for name in programs]
    project = make(JOBS, CONFIG + more + "\n".join(["\n[hooks]", *lines, ""]))
    (project.root / "hooks").mkdir()
    for name, text in programs.items():
        (project.root / "hooks" / f"{name}.py").write_text(text)
    return project


def told(project: Project, run: str) -> list[dict[str, Any]]:
    """What hooks of this run have noted."""
    return [json.loads(path.read_text()) for path in project.root.glob(f"told-{run}-*.json")]


def said(project: Project, run: str, *words: str) -> list[str]:
    """Lines of the daemon's log on hooks of this run, with all these words."""
    return [
        line
        for line in project.log().splitlines()
        if f"{run}: hook" in line and all(word in line for word in words)
    ]


def until_said(project: Project, run: str, *words: str) -> str:
    wait_until(lambda: said(project, run, *words), f"{words} of {run} in {project.log()[-2000:]}")
    return said(project, run, *words)[0]


def begun(project: Project, name: str) -> int:
    """The process id that a hook has written to a file of this name, which it was made for."""
    path = project.root / name
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"), f"{name} to be written")
    return int(path.read_text())


def test_hook_of_a_completed_run_is_told_the_run(make_project: Make) -> None:
    """One line on standard input: the object that `run.get` answers with, its large result from
    the journal included; in the project, with an environment like that of workers."""
    project = hooked(make_project, 'umask = "027"\nnice = 3\n', on_completed=TELLS)
    project.start()
    run = project.finish(project.begin("works", {"size": 200_000}, labels={"a": "b"}))["id"]
    wait_until(lambda: told(project, run), "the hook")
    [given] = told(project, run)
    assert given["text"].endswith("\n")
    assert given["text"].count("\n") == 1
    assert json.loads(given["text"]) == project.call("run.get", run=run)
    assert json.loads(given["text"])["result"] == "r" * 200_000
    assert given["cwd"] == str(project.root)
    assert (given["umask"], given["nice"]) == (0o027, 3)
    env = given["env"]
    assert env["STACKSHIFT_RUN"] == run
    assert env["STACKSHIFT_PROJECT"] == str(project.root)
    assert set(env) <= {
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "PATH",
        "LANG",
        "PYTHONPATH",
        "STACKSHIFT_RUN",
        "STACKSHIFT_PROJECT",
        "STACKSHIFT_NO_START",
        "LC_CTYPE",
        "PWD",
    }
    assert until_said(project, run, "on_completed", "ended with status 0")


def test_hook_of_a_failed_run_is_called_when_it_has_failed_for_good(make_project: Make) -> None:
    """It runs once after the last attempt, and again if a retried run fails again."""
    project = hooked(make_project, on_failed=TELLS)
    project.start()
    run = project.finish(project.begin("fails"))["id"]
    wait_until(lambda: told(project, run), "the hook")
    [given] = told(project, run)
    object_ = json.loads(given["text"])
    assert object_ == project.call("run.get", run=run)
    assert (object_["status"], object_["attempt"], object_["dead"]) == ("failed", 2, True)
    project.call("dead.retry", runs=[run])
    project.finish(run)
    wait_until(lambda: len(told(project, run)) == 2, "the hook, again")
    assert sorted(json.loads(each["text"])["attempt"] for each in told(project, run)) == [2, 4]


def test_hook_is_not_called_for_a_cancelled_run_nor_for_the_other_end(make_project: Make) -> None:
    """`on_failed` is for those that failed alone."""
    project = hooked(make_project, on_failed=TELLS)
    project.start()
    works = project.finish(project.begin("works"))["id"]
    cancelled = project.begin("works", delay_ms=60_000)
    project.call("run.cancel", run=cancelled)
    failed = project.finish(project.begin("fails"))["id"]
    until_said(project, failed, "ended")
    assert project.stop() == 0
    assert len(told(project, failed)) == 1
    assert not said(project, works) + said(project, cancelled)


def test_hook_is_not_called_again_by_a_replay(make_project: Make) -> None:
    """A daemon that reads of the end did not see it."""
    project = hooked(make_project, on_completed=TELLS)
    project.start()
    run = project.finish(project.begin("works"))["id"]
    until_said(project, run, "ended")
    project.kill()
    project.start()
    again = project.finish(project.begin("works"))["id"]
    until_said(project, again, "ended")
    assert len(told(project, run)) == 1


def test_hook_is_told_how_the_run_ended_whatever_became_of_it_since(make_project: Make) -> None:
    """It waits its turn behind others; the run was discarded meanwhile."""
    project = hooked(
        make_project,
        on_failed='import os, time\nopen(f"at-{os.getpid()}", "w").close()\n'
        'while not os.path.exists("gates/hook"):\n    time.sleep(0.005)\n' + TELLS,
    )
    project.start()
    runs = [project.finish(project.begin("fails"))["id"] for _ in range(5)]
    wait_until(lambda: len(list(project.root.glob("at-*"))) == 4, "four hooks at a time")
    project.call("dead.discard", runs=runs)
    project.open("hook")
    wait_until(lambda: told(project, runs[4]), "the fifth")
    object_ = json.loads(told(project, runs[4])[0]["text"])
    assert (object_["status"], object_["error"]["message"]) == ("failed", "broken")
    assert object_ == project.call("run.get", run=runs[4])


def test_what_a_hook_prints_is_in_the_log_as_escapes(make_project: Make) -> None:
    """A line for each stream, with the run's id, and one with the exit status."""
    project = hooked(
        make_project,
        on_completed='import sys\nprint("sent\\n\\x1b[2Jto Zoë")\n'
        'print("hm\\u202e", file=sys.stderr)\nsys.exit(3)\n',
    )
    project.start()
    run = project.finish(project.begin("works"))["id"]
    assert "WARNING" in until_said(project, run, "ended with status 3")
    assert until_said(project, run, "stdout").endswith(r"stdout: sent\n\x1b[2Jto Zoë")
    assert until_said(project, run, "stderr").endswith(r"stderr: hm\u202e")
    assert project.finish(project.begin("works"))["status"] == "completed"


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ('["no-such-program-here"]', "No such file"),
        ('["./hooks/plain.txt"]', "Permission denied"),
        ('["./hooks"]', "Permission denied"),
        ('["./hooks/broken"]', "cannot be run"),
    ],
)
def test_command_that_cannot_be_run_is_said(make_project: Make, command: str, wanted: str) -> None:
    """Not there, not executable, not a program: a line in the log, and the run is as it was."""
    project = make_project(JOBS, f"{CONFIG}\n[hooks]\non_completed = {command}\n")
    (project.root / "hooks").mkdir()
    (project.root / "hooks" / "plain.txt").write_text("no program\n")
    (project.root / "hooks" / "broken").write_text("#!/no/such/interpreter\n")
    (project.root / "hooks" / "broken").chmod(0o755)
    project.start()
    run = project.finish(project.begin("works"))["id"]
    until_said(project, run, "on_completed cannot be run", wanted)
    assert project.finish(run)["status"] == "completed"
    assert project.stop() == 0


def test_hook_that_reads_nothing_hurts_nobody(make_project: Make) -> None:
    """What it was told is over 1 MiB, more than any pipe holds."""
    more = '\n[limits]\npayload = "4MiB"\n'
    project = hooked(make_project, more, on_completed="import os\nos.close(0)\n")
    project.start()
    run = project.finish(project.begin("works", {"size": 2_000_000}))["id"]
    until_said(project, run, "ended with status 0")
    assert project.finish(project.begin("works"))["status"] == "completed"


def test_hook_that_prints_without_measure_is_cut_short_in_the_log(make_project: Make) -> None:
    """Its end is kept, the rest counted; the daemon answers meanwhile."""
    project = hooked(
        make_project,
        on_completed='import sys\nfor _ in range(1600):\n    sys.stdout.write("x" * 65536)\n'
        'print("the end")\n',
    )
    project.start()
    run = project.finish(project.begin("works"))["id"]
    while not said(project, run, "ended"):
        assert project.call("run.get", run=run)["status"] == "completed"
    assert until_said(project, run, "ended with status 0")
    line = until_said(project, run, "stdout")
    assert line.endswith("the end")
    assert len(line) < 5000
    left_out = re.search(r"\((\d+) bytes\) … x", line)
    assert left_out is not None
    assert int(left_out[1]) + 4096 == 1600 * 65536 + len("the end\n")


def test_hook_that_leaves_something_behind_is_not_waited_for(make_project: Make) -> None:
    """A child of it holds its pipes open; its own end is what counts."""
    project = hooked(
        make_project,
        on_completed="import subprocess, sys\n"
        'child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])\n'
        'open("left.tmp", "w").write(f"{child.pid}\\n")\nimport os\nos.rename("left.tmp", "left")\n'
        'print("gone on")\n',
    )
    project.start()
    run = project.finish(project.begin("works"))["id"]
    until_said(project, run, "ended with status 0")
    assert until_said(project, run, "stdout").endswith("gone on")
    left = begun(project, "left")
    assert psutil.pid_exists(left)
    assert project.stop() == 0


HANGS = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
own = f"hangs.{os.getpid()}"  # Several hooks hang at once.
with open(own, "w") as file:
    file.write(f"{child.pid}\\n")
os.rename(own, "hangs")
print("waiting", flush=True)
time.sleep(600)
"""


def test_hook_that_hangs_is_killed_with_its_group(make_project: Make) -> None:
    """After its time; what it printed is in the log, and so is why it ended."""
    project = hooked(make_project, on_completed=HANGS)
    log = project.root / "daemon.log"
    inside = InsideDaemon(project, Tuning(hook_seconds=0.5))
    with logging_to(log):
        run = project.finish(project.begin("works"))["id"]
        until_said(project, run, "was killed: it ran longer than 0.5 s")
        wait_gone([begun(project, "hangs")], "the hook's child")
        assert until_said(project, run, "stdout").endswith("waiting")
        assert inside.close() is None


def test_hooks_over_the_bound_are_dropped_and_named(make_project: Make) -> None:
    """One runs, one waits, and the third is not run."""
    project = hooked(
        make_project,
        on_completed="import os, time\n"
        'while not os.path.exists("gates/hook"):\n    time.sleep(0.005)\n' + TELLS,
    )
    log = project.root / "daemon.log"
    inside = InsideDaemon(project, Tuning(hooks_at_once=1, hooks_waiting=1))
    with logging_to(log):
        runs = [project.finish(project.begin("works"))["id"] for _ in range(3)]
        until_said(project, runs[2], "on_completed is not run: 1 hooks are already waiting")
        project.open("hook")
        for run in runs[:2]:
            until_said(project, run, "ended with status 0")
        assert inside.close() is None
    assert [len(told(project, run)) for run in runs] == [1, 1, 0]


def test_daemon_that_stops_waits_for_its_hooks(make_project: Make) -> None:
    """Those that end within the grace do so, also those whose turn had not come."""
    project = hooked(
        make_project,
        on_completed="import os, time\nopen(f'at-{os.getpid()}', 'w').close()\n"
        'while not os.path.exists("gates/hook"):\n    time.sleep(0.005)\n' + TELLS,
    )
    config = (project.root / "stackshift.toml").read_text()
    (project.root / "stackshift.toml").write_text(config.replace('"1s"', '"20s"'))
    project.start()
    runs = [project.finish(project.begin("works"))["id"] for _ in range(6)]
    wait_until(lambda: len(list(project.root.glob("at-*"))) == 4, "four hooks")
    assert project.daemon is not None
    project.daemon.terminate()
    wait_until(lambda: "journal.closed" in kinds_of(project), "the journal to be closed")
    project.open("hook")
    assert project.ended() == 0
    assert [len(told(project, run)) for run in runs] == [1] * 6


def test_daemon_that_stops_kills_hooks_past_the_grace(make_project: Make) -> None:
    """And all they started; those that waited are named."""
    project = hooked(make_project, on_completed=HANGS)
    project.start()
    runs = [project.finish(project.begin("works"))["id"] for _ in range(5)]
    child = begun(project, "hangs")
    assert project.stop() == 0
    wait_gone([child], "the hook's child")
    assert said(project, runs[0], "was killed: the daemon is stopping")
    assert said(project, runs[4], "is not run: the daemon is stopping")


def test_run_that_completes_while_the_daemon_stops_has_its_hook(make_project: Make) -> None:
    """Hooks run for what ended durably before the daemon did."""
    project = hooked(make_project, on_completed=TELLS)
    project.start()
    run = project.begin("held")
    project.at("held")
    project.call("daemon.stop", drain=True)
    project.open("held")
    assert project.ended() == 0
    assert len(told(project, run)) == 1
    assert kinds_of(project)[-1] == "journal.closed"


def test_hook_may_call_the_command_line(make_project: Make) -> None:
    """It finds the project; a failed run that starts another is the usual thing."""
    project = hooked(
        make_project,
        on_failed="import subprocess, sys\n"
        'subprocess.run([sys.executable, "-P", "-m", "stackshift_cli", "start", "works"])\n',
    )
    project.start()
    run = project.finish(project.begin("fails"))["id"]
    line = until_said(project, run, "stdout")
    started = line.rpartition(" ")[2]
    assert project.finish(started)["job"] == "works"
    assert kinds(project.get(started))[0] == "run.created"


def kinds_of(project: Project) -> list[str]:
    return [record["kind"] for record in project.journal()]


class logging_to:
    """What a daemon inside of the test logs goes to a file, as if it were its own process."""

    def __init__(self, path: Path) -> None:
        import logging

        self._handler = logging.FileHandler(path)
        self._logger = logging.getLogger("stackshiftd")

    def __enter__(self) -> None:
        import logging

        self._before = self._logger.level
        self._logger.setLevel(logging.INFO)
        self._logger.addHandler(self._handler)

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self._handler)
        self._logger.setLevel(self._before)
        self._handler.close()
