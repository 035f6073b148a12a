"""The working directory of handlers is the project, and none moves the others out of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helpers.project import Project

MOVES = """
from pathlib import Path

(ROOT / "elsewhere").mkdir(exist_ok=True)
os.chdir(ROOT / "elsewhere")


def where():
    return os.path.relpath(os.getcwd(), ROOT)


def move(name=None):
    os.chdir(ROOT / "elsewhere")
    if name:
        gate(name)
    return where()


@stackshift.job("moves")
def moves(ctx):
    return [where(), ctx.step.run("move", move, ctx.payload), ctx.step.run("where", where), where()]


@stackshift.job("movesAsync")
async def moves_async(ctx):
    async def inner():
        return move()
    return [
        where(),
        await ctx.step.run("move", move),
        await ctx.step.run("inner", inner),
        await ctx.step.run("where", where),
        where(),
    ]


@stackshift.job("movesItself")
def moves_itself(ctx):
    os.chdir("elsewhere")
    here = [where(), ctx.step.run("where", where), ctx.step.run("back", os.chdir, ROOT), where()]
    ctx.step.sleep("nap", "200ms")
    return here


@stackshift.job("stays")
def stays(ctx):
    return [where(), ctx.step.run("where", where)]


@stackshift.job("staysAsync")
async def stays_async(ctx):
    async def inner():
        return where()
    return [where(), await ctx.step.run("where", where), await ctx.step.run("inner", inner)]


@stackshift.job("removes")
def removes(ctx):
    def remove():
        gone = ROOT / "gone"
        gone.mkdir()
        os.chdir(gone)
        gone.rmdir()
    ctx.step.run("remove", remove)
    return where()
"""
AFTER = """
HERE = os.path.relpath(os.getcwd(), ROOT)


@stackshift.job("imported")
def imported(ctx):
    return HERE
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """One daemon for all of these, with a module that leaves the project while it is imported."""
    made = Project(tmp_path_factory.mktemp("directory") / "p", {"moves": MOVES, "next": AFTER})
    made.start()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        ("imported", "."),
        ("moves", [".", "elsewhere", ".", "."]),
        ("movesAsync", [".", "elsewhere", "elsewhere", ".", "."]),
        ("movesItself", ["elsewhere", "elsewhere", None, "elsewhere"]),
        ("stays", [".", "."]),
        ("staysAsync", [".", ".", "."]),
        ("removes", "."),
    ],
)
def test_each_handler_and_step_begins_in_the_project(
    project: Project, job: str, expected: object
) -> None:
    """Whatever ran before in the worker; what a handler moves itself stays for its steps."""
    for before in ("moves", "movesAsync", "movesItself"):
        assert project.finish(project.begin(before))["status"] == "completed"
    assert project.finish(project.begin(job))["result"] == expected


def test_step_that_moves_does_not_move_others_meanwhile(project: Project) -> None:
    """A thread of its own has a directory of its own."""
    run = project.begin("moves", "moved")
    project.at("moved")
    assert project.finish(project.begin("stays"))["result"] == [".", "."]
    assert project.finish(project.begin("staysAsync"))["result"] == [".", ".", "."]
    project.open("moved")
    assert project.finish(run)["result"] == [".", "elsewhere", ".", "."]
