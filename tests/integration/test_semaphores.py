"""Locks that several hold, with a real daemon, by runs, clients and commands (guarantee: locks)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from helpers.deadline import wait_until
from helpers.project import Project, environment
from helpers.project_factory import Make
from stackshift_jobs import Client
from stackshift_jobs.errors import LockHeld, Usage

JOBS = """
@stackshift.job("exports")
def exports(ctx):
    with ctx.state.lock("exports", holders=2) as lock:
        ctx.step.run("enter", note, "in", ctx.payload)
        ctx.step.run("export", gate, f"out-{ctx.payload}")
    return lock.token


@stackshift.job("aexports")
async def aexports(ctx):
    async with ctx.state.lock("exports", holders=2) as lock:
        await ctx.step.run("enter", note, "in", ctx.payload)
        await ctx.step.run("export", agate, f"out-{ctx.payload}")
    return lock.token
"""


@pytest.fixture
def project(make_project: Make) -> Project:
    """A project with these jobs, whose daemon runs."""
    made = make_project(JOBS)
    made.start()
    return made


def inside(project: Project) -> list[str]:
    """Who has entered, in order."""
    return [line.split()[1] for line in project.witness() if line.startswith("in ")]


def command(project: Project, *words: str) -> subprocess.CompletedProcess[str]:
    """A command in the project."""
    argv = [sys.executable, "-P", "-m", "stackshift_cli", "-C", str(project.root), *words]
    return subprocess.run(argv, env=environment(), capture_output=True, text=True, check=False)


@pytest.mark.parametrize("job", ["exports", "aexports"])
def test_two_are_inside_and_the_next_follows_in_order(project: Project, job: str) -> None:
    """Whatever is killed while they are: who holds it keeps it, who waits keeps the place."""
    runs = []
    for number in range(4):
        runs.append(project.begin(job, number))
        if number < 2:
            project.at(f"out-{number}")
        else:
            project.until_status(runs[number], "waiting")
    os.kill(project.workers()[0], signal.SIGKILL)
    for number in (0, 1):
        project.at(f"out-{number}", 2)
    project.kill()
    project.start()
    for number in (0, 1):
        project.at(f"out-{number}", 3)
    why = project.call("run.why", run=runs[2])["why"]
    assert "lock exports is held by" in why
    assert "and 1 other" in why
    assert inside(project) == ["0", "1"]
    project.open("out-1")
    project.at("out-2")
    [lock] = project.call("lock.list")["locks"]
    assert (lock["holders"], [each["run"] for each in lock["held_by"]]) == (2, [runs[0], runs[2]])
    assert lock["waiting"] == 1
    for number in range(4):
        project.open(f"out-{number}")
    tokens = [project.finish(run)["result"] for run in runs]
    assert len(set(tokens)) == 4
    assert inside(project) == ["0", "1", "2", "3"]
    assert project.call("lock.list")["locks"] == []
    project.verify()


def test_client_and_command_share_it(project: Project) -> None:
    """The client's place is free when its block is left; a number that is none is refused."""
    client = Client(project=project.address)
    with client.state.lock("k", ttl="1m", holders=2):
        told = command(project, "state", "lock", "k", "--holders", "2", "--ttl", "1m")
        assert told.returncode == 0, told.stderr
        with pytest.raises(LockHeld), client.state.lock("k", ttl="1m", holders=2):
            pass
        rows = command(project, "state", "locks").stdout.splitlines()
        assert [row.split("\t")[6] for row in rows] == ["2", "2"]
        refused = command(project, "state", "unlock", "k", "--force", "--yes")
        assert refused.returncode == 2
        assert "has 2 holders, with the tokens" in refused.stderr
        token = told.stdout.strip()
        taken = command(project, "state", "unlock", "k", "--force", "--yes", "--token", token)
        assert taken.returncode == 0, taken.stderr
        with client.state.lock("k", ttl="1m", holders=2):
            pass
    [] = json.loads(command(project, "state", "locks", "--json").stdout)
    for wrong in (0, 1001, True):
        with pytest.raises(Usage):
            client.state.lock("k", ttl="1m", holders=wrong)
    client.close()


def test_place_of_a_command_that_is_killed_is_free(project: Project) -> None:
    """The one who waits has it then."""
    argv = [sys.executable, "-P", "-m", "stackshift_cli", "-C", str(project.root), "state", "lock"]
    hold = [*argv, "k", "--holders", "2", "--ttl", "2s", "--wait", "1m", "--", "sleep", "600"]
    holders = [subprocess.Popen(hold, env=environment()) for _ in range(3)]

    def locked() -> tuple[int, int]:
        locks = project.call("lock.list")["locks"]
        return (len(locks[0]["held_by"]), locks[0]["waiting"]) if locks else (0, 0)

    wait_until(lambda: locked() == (2, 1), "two to hold it and one to wait")
    names = {each["holder"] for each in project.call("lock.list")["locks"][0]["held_by"]}
    for holder in holders:
        if any(f"pid {holder.pid}" in name for name in names):
            holder.kill()
            holder.wait()
            break
    wait_until(lambda: locked() == (2, 0), "the one who waits to hold it")
    for holder in holders:
        holder.terminate()
        holder.wait()
    wait_until(lambda: locked() == (0, 0), "nobody to hold it")
