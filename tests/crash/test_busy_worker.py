"""A call that keeps the interpreter silences its worker, which is alive all the same."""

from __future__ import annotations

from helpers import scenery
from helpers.deadline import wait_until
from helpers.project import kinds
from helpers.project_factory import Make

JOBS = r"""
import ctypes
import re


def match(length):
    "Takes twice as long for each character more, and keeps the interpreter meanwhile."
    return re.match(r"(a+)+$", "a" * length + "b")


def crunch():
    note("crunches")
    length, began = 16, time.process_time()
    match(length)
    seconds = time.process_time() - began
    while seconds < 3:
        length, seconds = length + 1, 2 * seconds
    match(length)
    return "done"


@stackshift.job("crunches", retry=ONCE)
def crunches(ctx):
    return ctx.step.run("crunch", crunch)


def hang():
    note("hangs")
    if noted("hangs") == 1:
        ctypes.PyDLL(None).pause()  # Called with the interpreter kept.
    return "again"


@stackshift.job("hangs", retry=ONCE)
def hangs(ctx):
    return ctx.step.run("hang", hang)


@stackshift.job("endless", retry=ONCE, timeout="300ms")
def endless(ctx):
    ctx.step.run("match", match, 60)


@stackshift.job("quick")
def quick(ctx):
    return "quick"
"""
SHORT = scenery.CONFIG + 'heartbeat = "1s"\n'


def test_call_that_keeps_the_interpreter_past_the_heartbeat_completes(make_project: Make) -> None:
    """It is run once. Meanwhile others wait, and are told for what."""
    project = make_project(JOBS, SHORT)
    project.start()
    [before] = project.workers()
    run = project.begin("crunches")
    wait_until(
        lambda: project.call("daemon.status")["workers"][0]["status"] == "silent", "the silence"
    )
    other = project.begin("quick")
    why = project.call("run.why", run=other)
    assert why["why_code"] == "worker_silent"
    assert "a call keeps the interpreter of w1" in why["why"]
    assert "where a call keeps the interpreter" in project.call("run.why", run=run)["why"]
    seen = project.finish(run)
    assert (seen["result"], project.witness()) == ("done", ["crunches"])
    assert kinds(seen, "attempt.lost") == []
    assert project.finish(other)["result"] == "quick"
    assert project.workers() == [before]


def test_worker_that_keeps_the_interpreter_and_does_nothing_is_lost(make_project: Make) -> None:
    """A deadlock under the interpreter's lock ends after the heartbeat."""
    project = make_project(JOBS, SHORT)
    project.start()
    seen = project.finish(project.begin("hangs"))
    assert seen["result"] == "again"
    [lost] = [each["reason"] for each in seen["timeline"] if each["kind"] == "attempt.lost"]
    assert lost == "silent past its heartbeat"


def test_worker_that_is_to_be_replaced_is_lost_too(make_project: Make) -> None:
    """It waits for its last run to end, which a deadlock would never let happen."""
    project = make_project(JOBS, SHORT + "recycle_runs = 1\n")
    project.start()
    seen = project.finish(project.begin("hangs"))
    assert seen["result"] == "again"
    assert kinds(seen, "attempt.lost") == ["attempt.lost"]


def test_timeout_holds_while_the_interpreter_is_kept(make_project: Make) -> None:
    """The daemon replaces the worker after the grace, whatever its heartbeat."""
    project = make_project(JOBS)
    project.start()
    seen = project.finish(project.begin("endless"))
    assert seen["status"] == "failed"
    assert "ran longer" in seen["error"]["message"]
    assert project.finish(project.begin("quick"))["result"] == "quick"
