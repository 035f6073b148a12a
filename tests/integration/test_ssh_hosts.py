"""Workers behind a real ssh: what holds for commands of any kind, and what only ssh can do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from helpers.deadline import wait_until
from helpers.processes import wait_gone
from helpers.project import Project, environment, kinds
from helpers.project_factory import Make
from helpers.sshd import IS_THERE, MISSING, Sshd

pytestmark = pytest.mark.skipif(not IS_THERE, reason=MISSING)

JOBS = """
@stackshift.job("far", queue="gpu")
async def far(ctx):
    print("begins")
    place = await ctx.step.run("look", lambda: os.getcwd())
    told = await ctx.step.command("program", ["sh", "-c", "echo from a program; echo $SHOP"])
    return {"place": place, "told": told["stdout"], "ssh": os.environ.get("SSH_CONNECTION", "")}


@stackshift.job("held", queue="gpu", retry=Retry(max_attempts=5, backoff="10ms"))
async def held(ctx):
    await ctx.step.run("held", agate, "g")
    await ctx.step.run("next", note, "next", ctx.run_id)


@stackshift.job("program", queue="gpu")
async def program(ctx):
    await ctx.step.command("long", ["sh", "-c", f"echo $$ > {ROOT}/program; exec sleep 600"])
"""


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    """A server that runs."""
    server = Sshd(tmp_path / "sshd")
    server.start()
    yield server
    server.stop()


def over_ssh(make: Make, sshd: Sshd, *, beside: bool = False) -> Project:
    """A project whose queue `gpu` is reached by ssh; `beside`: it uses the code where it is."""
    code = f'code = "{sshd.root.parent}/p0"\n' if beside else ""
    return make(
        JOBS,
        '[project]\nenv_file = "env"\n'
        '[workers]\nprocesses = 1\nslots = 4\ngrace = "1s"\ninherit_env = ["PYTHONPATH"]\n'
        '[queues.gpu]\nhosts = ["gpu-1"]\n'
        f'[hosts.gpu-1]\ncommand = ["ssh", "-F", "{sshd.config}", "gpu-1"]\n'
        f'python = "{sshd.python}"\n{code}',
    )


def started(project: Project) -> Project:
    """The project, whose daemon runs."""
    (project.root / "env").write_text("SHOP=open\n")
    project.start()
    return project


def problem(project: Project) -> str:
    """What the daemon says of the host."""
    [host] = project.call("daemon.status")["hosts"]
    return str(host["problem"] or "")


def client(project: Project) -> psutil.Process:
    """The ssh that the daemon has started."""
    for child in psutil.Process(project.executing).children():
        if child.name() == "ssh":
            return child
    raise AssertionError("there is no ssh")


def keepers(sshd: Sshd) -> list[int]:
    """The keepers that this server has started, and what they have."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if str(sshd.root) in " ".join(process.environ().values()):
                found.append(process.pid)
    return found


def test_run_executes_behind_ssh(make_project: Make, sshd: Sshd) -> None:
    """With the code and the variables of the project; its log is here."""
    project = started(over_ssh(make_project, sshd))
    run = project.finish(project.begin("far"))
    assert run["status"] == "completed", run["error"]
    result = run["result"]
    assert Path(result["place"]).parent == sshd.root / "cache" / "stackshift" / "code"
    assert result["told"] == "from a program\nopen\n"
    for keeper in keepers(sshd):
        with suppress(psutil.Error):  # it may end while it is looked at
            assert "open" not in " ".join(psutil.Process(keeper).cmdline())
    lines = [line["message"] for line in project.call("run.logs", run=run["id"])["lines"]]
    assert lines == ["begins", "from a program", "open"]
    assert project.stop() == 0
    wait_gone(keepers(sshd), "all on the host")


def test_cut_connection_hands_the_run_over(make_project: Make, sshd: Sshd) -> None:
    """The client is killed: the worker there ends, another one takes the run."""
    project = started(over_ssh(make_project, sshd, beside=True))
    run = project.begin("held")
    project.at("g")
    there = keepers(sshd)
    client(project).kill()
    wait_gone(there, "the worker and its keeper")
    project.at("g", times=2)
    project.open("g")
    seen = project.finish(run)
    assert (seen["status"], kinds(seen, "attempt.lost")) == ("completed", ["attempt.lost"])
    assert project.witness().count(f"next {run}") == 1


def test_killed_daemon_leaves_nothing_on_the_host(make_project: Make, sshd: Sshd) -> None:
    """Neither worker nor program."""
    project = started(over_ssh(make_project, sshd, beside=True))
    project.begin("program")
    file = project.root / "program"
    wait_until(lambda: file.exists() and file.read_text().strip(), "the program to begin")
    there = [*keepers(sshd), int(file.read_text())]
    project.kill()
    wait_gone(there, "all on the host")


def test_forced_command_is_all_that_the_key_can_do(make_project: Make, sshd: Sshd) -> None:
    """As the page on security shows it: whatever the daemon asks for, a keeper is started."""
    forced = f"{sshd.python} -P -m stackshiftd.worker --stdio"
    sshd.authorize(f'restrict,command="{forced}"')
    project = started(over_ssh(make_project, sshd))
    config = project.root / "stackshift.toml"
    assert sshd.python in config.read_text()
    assert project.finish(project.begin("far"))["status"] == "completed"
    other = ["ssh", "-F", str(sshd.config), "gpu-1", "echo", "a shell"]
    done = subprocess.run(other, input="", capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("key", "Permission denied"),
        ("host", "Host key verification failed"),
        ("port", "Connection refused"),
        ("python", "No such file"),
    ],
)
def test_why_a_host_is_not_reached_is_told_in_the_words_of_ssh(
    make_project: Make, sshd: Sshd, wrong: str, words: str
) -> None:
    """In the status, and by `hosts check`, which exits with 78."""
    project = over_ssh(make_project, sshd)
    if wrong == "key":
        sshd.keys.write_text("")
    elif wrong == "host":
        sshd.trust((sshd.root / "user.pub").read_text())
    elif wrong == "port":
        sshd.stop()
    else:
        Path(sshd.python).unlink()
    started(project)
    wait_until(lambda: words in problem(project), f"{words} to be told: {problem(project)}")
    found = checked(project, 78)
    assert words in found[0]["problem"]


def test_check_tells_what_a_host_has(make_project: Make, sshd: Sshd) -> None:
    """Without a daemon, and with nothing left behind."""
    project = over_ssh(make_project, sshd)
    (project.root / "env").write_text("SHOP=open\n")
    [host] = checked(project, 0)
    assert (host["name"], host["ok"], host["jobs"]) == ("gpu-1", True, 3)
    assert 0 < host["round_trip_ms"] < 1000
    assert len(host["digest"]) == 64
    wait_gone(keepers(sshd), "all on the host")
    project.write_module("broken", "import no_such_module\n")
    [host] = checked(project, 78)
    assert "jobs.broken does not import there" in host["problem"]


def checked(project: Project, status: int) -> list[dict[str, Any]]:
    """What `hosts check --json` prints, if it exits with `status`."""
    done = subprocess.run(
        [sys.executable, "-m", "stackshift_cli", "hosts", "check", "--json"],
        cwd=project.root,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == status, (done.stdout, done.stderr)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found
