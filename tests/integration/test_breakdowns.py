"""What a run leaves behind that raises in the worker's own code, or limits it."""

from __future__ import annotations

import pytest

from helpers.project import Json, Project
from helpers.project_factory import Make

JOBS = """
import builtins, ctypes, json, os, pathlib, resource, signal, sys, threading, time
import concurrent.futures


class Poison(Exception):
    pass


def refuse(*args, **options):
    raise Poison("not today")


def tracer():
    sys.settrace(refuse)


def profiler():
    sys.setprofile(refuse)


def no_isinstance():
    builtins.isinstance = refuse


def no_len():
    builtins.len = refuse


def no_getattr():
    builtins.getattr = refuse


def no_sorted():
    builtins.sorted = builtins.list = builtins.dict = builtins.type = builtins.next = refuse


def no_print():
    builtins.print = refuse


def no_import():
    builtins.__import__ = refuse


def small_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def no_files_ever():
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def no_descriptors():
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def no_memory():
    resource.setrlimit(resource.RLIMIT_AS, (1, resource.RLIM_INFINITY))


def alarm():
    signal.signal(signal.SIGALRM, refuse)
    signal.setitimer(signal.ITIMER_REAL, 0.05)


def alarms():
    signal.signal(signal.SIGALRM, refuse)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)


def default_alarm():
    signal.alarm(1)


def thrown_into_threads():
    for each in threading.enumerate():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(each.ident), ctypes.py_object(Poison)
        )


def thrown_into_all():
    for each in threading.enumerate():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(each.ident), ctypes.py_object(SystemExit)
        )


def closed_descriptors():
    os.closerange(3, 256)


def closed_streams():
    os.closerange(0, 3)


def no_modules():
    for name in list(sys.modules):
        if name.split(".")[0] in ("stackshiftd", "stackshift_jobs", "json", "asyncio"):
            del sys.modules[name]


def hooks():
    threading.excepthook = sys.excepthook = sys.unraisablehook = refuse


def exit_functions():
    os._exit = sys.exit = refuse


# For good


def no_encoder():
    json.JSONEncoder.encode = json.JSONEncoder.iterencode = refuse


def no_decoder():
    json.JSONDecoder.decode = json.JSONDecoder.raw_decode = refuse


def no_paths():
    pathlib.Path.open = pathlib.Path.exists = pathlib.Path.__truediv__ = refuse
    pathlib.Path.mkdir = pathlib.Path.stat = refuse


def no_threads():
    threading.Thread.start = threading.Thread.run = refuse


def no_locks():
    threading.Condition.wait = threading.Condition.notify = threading.Event.wait = refuse
    threading.Event.set = refuse


def no_futures():
    concurrent.futures.Future.set_result = concurrent.futures.Future.set_exception = refuse


def tracer_of_threads():
    threading.settrace(refuse)


def profiler_of_threads():
    threading.setprofile(refuse)


@stackshift.job("poisons", retry=ONCE)
def poisons(ctx):
    ctx.step.run("poison", globals()[ctx.payload])


@stackshift.job("poisonsHandler", retry=ONCE)
def poisons_handler(ctx):
    globals()[ctx.payload]()


@stackshift.job("poisonsAsync", retry=ONCE)
async def poisons_async(ctx):
    async def poison():
        await asyncio.sleep(0)
        globals()[ctx.payload]()

    await ctx.step.run("poison", poison)


@stackshift.job("poisonsThread", retry=ONCE)
async def poisons_thread(ctx):
    await ctx.step.run("poison", globals()[ctx.payload])


def double(n):
    return 2 * n


@stackshift.job("works", retry=ONCE)
def works(ctx):
    ctx.log.info("begins")
    ctx.step.sleep("nap", "200ms")
    return [ctx.step.run("double", double, ctx.payload), ctx.step.map("each", str, [1, 2])]


@stackshift.job("worksAsync", retry=ONCE)
async def works_async(ctx):
    ctx.log.info("begins")
    await ctx.step.sleep("nap", "200ms")
    doubled = await ctx.step.run("double", double, ctx.payload)
    return [doubled, await ctx.step.map("each", str, [1, 2])]
"""

LEAVING = ["poisons", "poisonsHandler", "poisonsAsync", "poisonsThread"]
"""Jobs that leave something behind: from a step or not, on a thread or on the loop."""
HARMLESS = [
    line.split("(")[0].removeprefix("def ")
    for line in JOBS.partition("\nclass Poison")[2].partition("\n# For good")[0].splitlines()
    if line.startswith("def ") and "()" in line
]
LASTING = [
    line.split("(")[0].removeprefix("def ")
    for line in JOBS.partition("\n# For good")[2].splitlines()
    if line.startswith("def ") and "()" in line
]


def later_runs(project: Project, poison: str) -> list[Json]:
    """Runs after each of the jobs that leave `poison` behind, as they have ended."""
    ended = []
    for job in LEAVING:
        project.finish(project.begin(job, poison))
        ended += [project.finish(project.begin(each, 4)) for each in ("works", "worksAsync")]
    return ended


@pytest.mark.parametrize("poison", HARMLESS)
def test_later_runs_complete(make_project: Make, poison: str) -> None:
    """What was left is put back, or the worker is replaced."""
    project = make_project(JOBS)
    project.start()
    for run in later_runs(project, poison):
        assert run["status"] == "completed", run["error"]
        assert run["result"] == [8, ["1", "2"]]
        lines = project.call("run.logs", run=run["id"])["lines"]
        assert [line["message"] for line in lines if line["stream"] == "log"] == ["begins"]


@pytest.mark.parametrize("poison", LASTING)
def test_later_runs_end(make_project: Make, poison: str) -> None:
    """Methods of the standard library's classes stay as a run has made them, as libraries do that
    set themselves up when they are first used; so later runs may fail, but none waits for ever."""
    project = make_project(JOBS)
    project.start()
    for run in later_runs(project, poison):
        assert run["status"] in ("completed", "failed")
