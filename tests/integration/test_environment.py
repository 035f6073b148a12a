"""What jobs find around them, whoever woke the daemon."""

from __future__ import annotations

import json
import os
import resource
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers import via
from helpers.deadline import SECONDS
from helpers.project import Project
from helpers.project_factory import Make

LOOK = """
import json, os, resource, signal, subprocess, sys

def look():
    limits = {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource)
              if name.startswith("RLIMIT_") and name != "RLIMIT_CORE"}
    umask = os.umask(0)
    os.umask(umask)
    return {
        "variables": {n: v for n, v in os.environ.items() if not n.startswith("STACKSHIFT_")},
        "limits": limits,
        "umask": umask,
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "ignored": sorted(n for n in signal.valid_signals()
                          if signal.getsignal(n) is signal.SIG_IGN),
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "oom": open("/proc/self/oom_score_adj").read() if sys.platform == "linux" else "",
    }

if __name__ == "__main__":
    print(json.dumps(look() | {"files": sorted(os.listdir("/dev/fd"))}))
"""
JOBS = """
import json, subprocess, sys
from jobs import _look

SEEN = _look.look()


@stackshift.job("look")
def look(ctx):
    program = ctx.step.command("program", [sys.executable, "-P", _look.__file__])
    return {"import": SEEN, "handler": _look.look(), "program": json.loads(program["stdout"])}
"""
PROGRAM = Path(sys.executable).parent / "stackshift"
OTHER_VARIABLES = "HOME=/tmp USER=x LOGNAME=x SHELL=/bin/false LANG=C LC_ALL=C TZ=Asia/Tokyo"
CALLERS = {
    "env -i": "exec env -i ROOT",
    "variables": f"exec env {OTHER_VARIABLES} PATH=/usr/bin:/bin PYTHONPATH=/none A=1 ROOT",
    "umask": "umask 077; exec ROOT",
    "soft limits": "ulimit -S -n 64; ulimit -S -s 1024; exec ROOT",
    "nice": "exec nice -n 15 ROOT",
    "nohup": "exec nohup ROOT",
    "signals": "trap '' HUP INT QUIT TERM PIPE USR1 CHLD; exec ROOT",
}
"""Shells that wake the daemon; `ROOT` stands for the command."""


@pytest.fixture
def project(make_project: Make) -> Project:
    """A project whose job tells what it finds around it."""
    made = make_project(JOBS, "[workers]\nprocesses = 1\n")
    made.write_module("_look", LOOK)
    return made


def told(project: Project, script: str) -> tuple[dict[str, Any], str]:
    """What the job found when a shell woke the daemon, and what the command said."""
    command = [str(PROGRAM), "-C", str(project.root), "start", "look", "--wait"]
    done = subprocess.run(
        ["/bin/sh", "-c", script.replace("ROOT", shlex.join([*via.kept(), *command]))],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    stop = subprocess.run([command[0], "-C", str(project.root), "daemon", "stop"], check=False)
    assert (done.returncode, stop.returncode) == (0, 0), done.stderr.decode()
    return json.loads(done.stdout), done.stderr.decode()


def may_lower_niceness() -> bool:
    """Is this user one that may?"""
    script = "import os; os.nice(15); os.setpriority(os.PRIO_PROCESS, 0, 0)"
    quiet = subprocess.run([sys.executable, "-c", script], stderr=subprocess.DEVNULL, check=False)
    return quiet.returncode == 0


def test_jobs_find_the_same_whoever_woke_the_daemon(project: Project) -> None:
    """Variables, umask, limits, niceness and signals, at import, in handlers and in programs
    (guarantee: environment)."""
    seen = {name: told(project, script)[0] for name, script in CALLERS.items()}
    if not may_lower_niceness():
        for found in seen.pop("nice").values():
            assert found["nice"] == 15
    first = seen["env -i"]
    for name, found in seen.items():
        assert found == first, name
    for found in first.values():
        assert found["variables"]["HOME"] != "/tmp"
        assert found["umask"] == 0o022
        assert found["nice"] == 0
        assert found["blocked"] == []
        soft, hard = found["limits"]["RLIMIT_NOFILE"]
        assert soft >= min(hard, 10_240) > 64 or hard == resource.RLIM_INFINITY
    ignored_by_python = first["program"]["ignored"]
    assert first["handler"]["ignored"] == ignored_by_python
    assert set(first["program"]["files"]) <= {"0", "1", "2", "3"}


def test_settings_say_what_jobs_find(project: Project) -> None:
    """`[workers] path, umask, nice`; data stays private."""
    (project.root / "stackshift.toml").write_text(
        '[workers]\nprocesses = 1\npath = ["tools", "/bin"]\numask = "027"\nnice = 7\n'
    )
    seen, _ = told(project, "umask 0; exec ROOT")
    for found in seen.values():
        assert found["variables"]["PATH"].endswith(f":{project.root}/tools:/bin")
        assert (found["umask"], found["nice"]) == (0o027, 7)
    for path in (project.data_dir, *project.data_dir.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_limit_that_cannot_be_raised_is_said(project: Project) -> None:
    """A hard limit stays, and the command that woke the daemon says so once."""
    seen, said = told(project, "ulimit -n 64; exec ROOT")
    soft, _ = seen["handler"]["limits"]["RLIMIT_NOFILE"]
    note = "note: the daemon and its jobs are limited to 64 open files: "
    assert said.count(note) == (soft == 64)
    assert soft in (64, 65_536)


def test_check_imports_modules_in_the_environment_of_jobs(project: Project) -> None:
    """`jobs check` finds at import what a worker finds there."""
    seen, _ = told(project, "exec ROOT")
    (project.root / "jobs/checked.py").write_text(
        "import json, pathlib\nfrom jobs import _look\n"
        "pathlib.Path('seen.json').write_text(json.dumps(_look.look()))\n"
    )
    script = f"umask 077; ulimit -S -n 64; exec nohup {PROGRAM} -C {project.root} jobs check"
    done = subprocess.run(
        ["/bin/sh", "-c", script],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=os.environ | {"A": "1", "HOME": "/tmp"},
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    checked = json.loads((project.root / "seen.json").read_text())
    for what in ("variables", "limits", "umask", "nice", "ignored", "blocked", "oom"):
        assert checked[what] == seen["import"][what], what


def test_config_show_tells_the_variables_and_hides_secrets(project: Project) -> None:
    """Each with where it is from; what a file or a caller adds may be a password."""
    (project.root / ".env").write_text("PASSWORD=hidden\n")
    (project.root / "stackshift.toml").write_text(
        '[project]\nenv_file = ".env"\n[workers]\npath = ["/bin"]\ninherit_env = ["TOKEN"]\n'
    )
    command = [str(PROGRAM), "-C", str(project.root), "config", "show", "--origin", "--json"]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=os.environ | {"TOKEN": "hidden", "HOME": "/tmp"},
        timeout=SECONDS,
        check=True,
    )
    shown = json.loads(done.stdout)
    assert shown["environment.PATH"] == {
        "value": f"{PROGRAM.parent}:/bin",
        "origin": "workers.path",
    }
    assert shown["environment.HOME"]["origin"] == "account"
    assert shown["environment.HOME"]["value"] != "/tmp"
    hidden = {"value": "(not shown)"}
    assert shown["environment.PASSWORD"] == hidden | {"origin": "project.env_file"}
    assert shown["environment.TOKEN"] == hidden | {"origin": "workers.inherit_env"}
    assert b"hidden" not in done.stdout
