"""What a run makes of its process does not end the runs after it, nor the worker."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.project import Project, kinds
from helpers.project_factory import Make

JOBS = """
import asyncio, inspect
import builtins, gc, json, logging.config, os, signal, socket, sys, threading, time, warnings


def refuse(*args, **options):
    raise RuntimeError("not today")


def stop_the_clocks():
    stopped = {time.monotonic: lambda: 0.0, time.time_ns: lambda: 0, time.time: lambda: 0.0}
    for name, module in list(sys.modules.items()):
        for attribute, value in list(vars(module).items()) if name != "threading" else ():
            if callable(value) and value.__class__.__hash__ and value in stopped:
                setattr(module, attribute, stopped[value])


def patch_json():
    json.loads = json.dumps = refuse


def patch_asyncio():
    asyncio.get_running_loop = asyncio.current_task = asyncio.timeout = refuse


def patch_inspect():
    inspect.isawaitable = inspect.iscoroutine = inspect.iscoroutinefunction = refuse


def patch_open():
    builtins.open = refuse


def disable_loggers():
    logging.config.dictConfig({"version": 1})


@stackshift.job("changes", retry=ONCE)
def changes(ctx):
    ctx.step.run("change", globals()[ctx.payload])


def settings():
    umask = os.umask(0)
    os.umask(umask)
    return [
        umask,
        sys.getrecursionlimit(),
        sys.getswitchinterval(),
        gc.isenabled(),
        socket.getdefaulttimeout(),
        logging.getLogger().isEnabledFor(logging.INFO),
        sorted(os.environ),
        [repr(signal.getsignal(each)) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)],
        ("error", None, Warning, None, 0) in warnings.filters,
    ]


@stackshift.job("sets")
async def sets(ctx):
    async def change():
        os.umask(0o777)
        sys.setrecursionlimit(500)
        sys.setswitchinterval(10)
        gc.disable()
        socket.setdefaulttimeout(0.001)
        logging.disable(logging.CRITICAL)
        logging.getLogger().setLevel(logging.CRITICAL)
        os.environ.clear()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        warnings.simplefilter("error")
        return settings()

    return await ctx.step.run("change", change)


@stackshift.job("tells")
async def tells(ctx):
    return settings()


def work():
    time_to_be_noticed.wait(0.4)
    return {"done": True}


time_to_be_noticed = threading.Event()


@stackshift.job("works")
def works(ctx):
    ctx.log.info("by %s", ctx.payload)
    print("printed")
    ctx.step.sleep("nap", "300ms")
    return [ctx.step.run("work", work), ctx.step.map("each", str, [1, 2]), os.getpid()]


@stackshift.job("worksAsync")
async def works_async(ctx):
    ctx.log.info("by %s", ctx.payload)
    print("printed")
    await ctx.step.sleep("nap", "300ms")
    return [await ctx.step.run("work", work), await ctx.step.map("each", str, [1, 2]), os.getpid()]
"""


def worked(project: Project, job: str) -> int:
    """Run one of the jobs that work; the process that did. A step that takes a while is noticed by
    the thread that beats."""
    run = project.finish(project.begin(job, "name"))
    assert run["status"] == "completed", run["error"]
    done, mapped, pid = run["result"]
    assert (done, mapped) == ({"done": True}, ["1", "2"])
    assert "step.started" in kinds(run)
    lines = project.call("run.logs", run=run["id"])["lines"]
    assert [line["message"] for line in lines] == ["by name", "printed"]
    return int(pid)


@pytest.mark.parametrize(
    "patch",
    [
        "stop_the_clocks",
        "patch_asyncio",
        "patch_inspect",
        "patch_json",
        "patch_open",
        "disable_loggers",
    ],
)
def test_functions_that_a_run_replaces_are_not_the_workers(make_project: Make, patch: str) -> None:
    """It goes by those that it has found when it began, and later runs with it."""
    project = make_project(JOBS)
    project.start()
    before = worked(project, "works")
    project.finish(project.begin("changes", patch))
    assert [worked(project, job) for job in ("works", "worksAsync")] == [before] * 2


def test_settings_of_the_process_are_put_back_between_runs(make_project: Make) -> None:
    """As the modules have left them."""

    def told(job: str) -> Any:
        return project.finish(project.begin(job))["result"]

    project = make_project(JOBS)
    project.start()
    before = told("tells")
    changed = told("sets")
    assert all(a != b for a, b in zip(before, changed, strict=True))
    assert told("tells") == before


CONTEXTS = """
import contextvars, decimal

MADE = contextvars.ContextVar("made", default="nothing")
MADE.set("by the module")
decimal.getcontext().prec = 20


def look_and_change():
    found = [MADE.get(), decimal.getcontext().prec]
    MADE.set("by a run")
    decimal.getcontext().prec = 3
    return found


@stackshift.job("looks")
def looks(ctx):
    return look_and_change()


@stackshift.job("looksAsync")
async def looks_async(ctx):
    return look_and_change()
"""


def test_handler_begins_in_the_context_that_the_modules_have_left(make_project: Make) -> None:
    """On a thread or not, and whatever the run before has set."""
    project = make_project(CONTEXTS)
    project.start()
    for job in ("looks", "looksAsync") * 2:
        assert project.finish(project.begin(job))["result"] == ["by the module", 20]


MASKS = """
import os


def mask():
    return os.umask(0o777)


@stackshift.job("masks")
def masks(ctx):
    return mask()


@stackshift.job("masksInStep")
async def masks_in_step(ctx):
    return await ctx.step.run("mask", mask)
"""


def test_umask_that_a_thread_has_of_its_own_is_put_back(make_project: Make) -> None:
    """On Linux, those of handlers and steps have one; the threads are used again."""
    project = make_project(MASKS)
    project.start()
    results = [project.finish(project.begin(job))["result"] for job in ("masks", "masksInStep") * 2]
    assert results == [0o022] * 4
