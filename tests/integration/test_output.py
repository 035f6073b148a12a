"""What handlers print and log is kept per run, attempt and step, once, and bounded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from helpers.project import Project
from helpers.project_factory import Make

JOBS = """
import logging
import sys

log = logging.getLogger("story")


@stackshift.job("talks", retry=FAST)
def talks(ctx):
    print("hello")
    ctx.step.run("inner", lambda: print("in step", file=sys.stderr))
    log.warning("logged %d", 7)
    ctx.log.info("by ctx")
    ctx.step.sleep("nap", "300ms")
    print("after nap")
    if ctx.attempt == 1:
        raise ConnectionError("again")
    print("no newline", end="")


@stackshift.job("talksAsync")
async def talks_async(ctx):
    async def inner():
        print("in step")
    print("hello")
    await ctx.step.run("inner", inner)
    await ctx.step.run("threaded", lambda: print("in thread"))
    await ctx.step.sleep("nap", "300ms")
    print("after nap")


@stackshift.job("logsWrongly")
def logs_wrongly(ctx):
    log.warning("%s and %s", "one")
    return "went on"


@stackshift.job("shouts")
def shouts(ctx):
    for i in range(5000):
        print(f"{i:05d} " + "x" * 1000)


@stackshift.job("long")
def long(ctx):
    print("a" * 16384)
    print("b" * 16384 + "äöü")
    ctx.log.info("ä" * 16394)


@stackshift.job("oneLine")
def one_line(ctx):
    print("y" * 3_000_000)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """One daemon for all of these."""
    made = Project(tmp_path_factory.mktemp("output") / "p", {"story": JOBS})
    made.start()
    yield made
    made.close()


def printed(project: Project, run: str, **params: Any) -> list[tuple[int, str | None, str, str]]:
    """`(attempt, step, stream, message)` of each line."""
    told = project.call("run.logs", run=run, **params)
    assert told["finished"] is True
    return [(x["attempt"], x["step"], x["stream"], x["message"]) for x in told["lines"]]


def test_output_is_kept_by_attempt_and_step_and_a_replay_adds_nothing(project: Project) -> None:
    """Each pass prints from the top; a line is kept once an attempt, with its step and stream."""
    run = project.finish(project.begin("talks"))["id"]
    first = [
        (1, None, "stdout", "hello"),
        (1, "inner", "stderr", "in step"),
        (1, None, "log", "logged 7"),
        (1, None, "log", "by ctx"),
        (1, None, "stdout", "after nap"),
    ]
    # The step and the sleep are on record by then: the second attempt does not run them again.
    second = [
        (2, None, "stdout", "hello"),
        (2, None, "log", "logged 7"),
        (2, None, "log", "by ctx"),
        (2, None, "stdout", "after nap"),
        (2, None, "stdout", "no newline"),
    ]
    assert printed(project, run) == first + second
    assert printed(project, run, step="inner") == [first[1]]
    assert printed(project, run, attempt=2) == second


def test_output_of_an_async_handler_knows_its_step(project: Project) -> None:
    """Prints of steps on the loop and on threads are told apart from the handler's."""
    run = project.finish(project.begin("talksAsync"))["id"]
    assert [(step, text) for _, step, _, text in printed(project, run)] == [
        (None, "hello"),
        ("inner", "in step"),
        ("threaded", "in thread"),
        (None, "after nap"),
    ]


@pytest.mark.parametrize("job", ["shouts", "oneLine"])
def test_output_of_an_attempt_is_bounded(project: Project, job: str) -> None:
    """Past 1 MiB the rest is dropped, and the last line says so; the run is none the worse."""
    run = project.finish(project.begin(job))
    assert run["status"] == "completed"
    size = (project.data_dir / "logs" / f"{run['id']}.jsonl").stat().st_size
    assert size < (1 << 20) + 100_000
    if job == "shouts":
        last: list[Any] = []
        while lines := project.call("run.logs", run=run["id"], after=len(last))["lines"]:
            last += lines
        assert "the rest is dropped" in last[-1]["message"]


def test_line_that_was_cut_says_so_and_by_how_much(project: Project) -> None:
    """A line over 16 KiB keeps its beginning and a mark; one of just that length is whole."""
    run = project.finish(project.begin("long"))["id"]
    short, long, logged = [text for _, _, _, text in printed(project, run)]
    assert short == "a" * 16384
    assert long == "b" * 16384 + "… (6 bytes more)"
    assert logged == "ä" * 16384 + "… (20 bytes more)"


def test_output_outside_of_handlers_goes_to_the_daemons_log(project: Project) -> None:
    """What a module prints at import is nobody's run."""
    project.write_module("loud", "print('imported loudly')\n")
    project.stop()
    project.start()
    assert "imported loudly" in project.log()


def test_text_that_is_not_utf8_is_shown_escaped(make_project: Make) -> None:
    """`runs logs` ended with an internal error for all lines of the run."""
    project = make_project(
        """
import os

NAME = os.fsdecode(b"caf\\xe9.csv")


@stackshift.job("reads")
def reads(ctx):
    print("before")
    print("reading", NAME)
    ctx.log.info("read %s", NAME)
    print("after")
"""
    )
    project.start()
    run = project.finish(project.begin("reads"))
    lines = project.call("run.logs", run=run["id"])["lines"]
    assert [line["message"] for line in lines] == [
        "before",
        "reading caf\\udce9.csv",
        "read caf\\udce9.csv",
        "after",
    ]


def test_log_call_that_cannot_be_formatted_fails_nothing(project: Project) -> None:
    """As anywhere else in Python: what is wrong with it is printed, with its place."""
    run = project.begin("logsWrongly")
    assert project.finish(run)["result"] == "went on"
    messages = [message for *_, message in printed(project, run)]
    assert "--- Logging error ---" in messages
    assert any("TypeError: not enough arguments" in message for message in messages)
