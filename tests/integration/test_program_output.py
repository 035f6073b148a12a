"""What programs, threads and unfinished lines print is in the log of their run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from helpers.deadline import wait_until
from helpers.project import Project
from helpers.project_factory import Make

JOBS = r"""
import asyncio
import ctypes
import gc
import multiprocessing
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

POOL = ThreadPoolExecutor(1)


def programs():
    print("first")
    subprocess.run(["echo", "out"])
    subprocess.run(["sh", "-c", "echo err >&2"], check=True)
    subprocess.run(["sh", "-c", "echo into stdout; echo both >&2"], stdout=sys.stdout,
                   stderr=subprocess.STDOUT)
    subprocess.run(["printf", r"caf\351 without end"])
    print("last")
    return subprocess.run(["echo", "kept"], capture_output=True, text=True).stdout


@stackshift.job("programs")
def programs_(ctx):
    return ctx.step.run("work", programs)


@stackshift.job("beside")
def beside(ctx):
    def work():
        subprocess.run(["echo", ctx.payload])
        note("printed", ctx.payload)
        gate("beside")
    ctx.step.run("work", work)


@stackshift.job("programsAsync")
async def programs_async(ctx):
    async def work():
        process = await asyncio.create_subprocess_exec("echo", "out")
        await process.wait()
        process = await asyncio.create_subprocess_shell("echo err >&2")
        await process.wait()
        print("last")
    await ctx.step.run("work", work)


@stackshift.job("descriptors")
def descriptors(ctx):
    def work():
        os.write(1, b"raw\n")
        os.system("echo by system")
        ctypes.CDLL(None).write(2, b"by c\n", 5)
    ctx.step.run("work", work)


@stackshift.job("threads")
def threads(ctx):
    def work():
        thread = threading.Thread(target=print, args=("by a thread",))
        thread.start()
        thread.join()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(print, "by a pool").result()
        POOL.submit(print, "by a shared pool").result()
        POOL.submit(subprocess.run, ["echo", "by a program of it"]).result()
    ctx.step.run("work", work)


@stackshift.job("raises")
def raises(ctx):
    def work():
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()
        thread = threading.Thread(target=sys.exit, args=(3,))
        thread.start()
        thread.join()
    ctx.step.run("work", work)


async def fails(error):
    raise error


@stackshift.job("forgets")
async def forgets(ctx):
    async def work():
        asyncio.create_task(fails(ValueError("of the step")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gc.collect()
    asyncio.create_task(fails(ValueError("of the handler")))
    seen = asyncio.create_task(fails(ValueError("seen")))
    await asyncio.gather(seen, return_exceptions=True)
    await ctx.step.run("work", work)
    await ctx.step.sleep("rest", "10ms")


@stackshift.job("many")
def many(ctx):
    def work(number):
        for line in range(100):
            print("thread", number, "line", line)
    def works():
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
    ctx.step.run("work", works)


@stackshift.job("threadsAsync")
async def threads_async(ctx):
    async def work():
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, print, "by the executor")
        await asyncio.to_thread(print, "to a thread")
    await ctx.step.run("work", work)


def child(number):
    print("by child", number)


@stackshift.job("children")
def children(ctx):
    def work():
        context = multiprocessing.get_context("fork")
        process = context.Process(target=child, args=(1,))
        process.start()
        process.join()
    ctx.step.run("work", work)


@stackshift.job("unfinished")
def unfinished(ctx):
    def work():
        print("50 %", end="", flush=True)
        gate("unfinished")
        print(", 100 %")
        print("held back", end="")
    ctx.step.run("work", work)


@stackshift.job("lastWords")
def last_words(ctx):
    def work():
        if noted("crashed"):
            return "survived"
        note("crashed")
        print("last words", end="", flush=True)
        os.write(2, b"Fatal error: by the interpreter\n")
        os._exit(9)
    return ctx.step.run("work", work)


@stackshift.job("replays")
def replays(ctx):
    print("begins ", end="", flush=True)
    ctx.step.run("one", note, "one")
    print("goes on", flush=True)
    ctx.step.sleep("nap", "300ms")
    print("ends", end="", flush=True)
    return True


@stackshift.job("streams")
def streams(ctx):
    def work():
        out = sys.stdout
        out.buffer.write(b"bytes, caf\xc3\xa9, caf\xe9\n")
        out.buffer.flush()
        out.reconfigure(encoding="latin-1", errors="replace", line_buffering=True)
        out.writelines(["many ", "lines\n"])
        print("café")
        with out:
            print("closed by a job")
        print("and open", file=sys.stderr)
        return [out.name, out.errors, sys.stderr.encoding, out.isatty(), out.fileno(), out.closed]
    return ctx.step.run("work", work)


@stackshift.job("wrapped")
def wrapped(ctx):
    import io
    out = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8", line_buffering=True)
    print("café", file=out)
    return True
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """One daemon for all of these."""
    made = Project(tmp_path_factory.mktemp("programs") / "p", {"story": JOBS})
    made.start()
    yield made
    made.close()


def lines(project: Project, run: str) -> list[dict[str, Any]]:
    """The lines of the run's log so far."""
    found: list[dict[str, Any]] = project.call("run.logs", run=run)["lines"]
    return found


def printed(project: Project, job: str, payload: Any = None) -> list[tuple[str | None, str, str]]:
    """`(step, stream, message)` of each line of a run of `job`, which completes."""
    run = project.finish(project.begin(job, payload))
    assert run["status"] == "completed", run["error"]
    return [(x["step"], x["stream"], x["message"]) for x in lines(project, run["id"])]


def test_programs_of_a_step_print_into_its_log(project: Project) -> None:
    """In the order of the step's own lines, each with its stream; bytes that are not UTF-8 are
    escaped, and what the step reads itself is not in the log."""
    assert printed(project, "programs") == [
        ("work", "stdout", "first"),
        ("work", "stdout", "out"),
        ("work", "stderr", "err"),
        ("work", "stdout", "into stdout"),
        ("work", "stdout", "both"),
        ("work", "stdout", "caf\\xe9 without end"),
        ("work", "stdout", "last"),
    ]


def test_programs_of_two_runs_are_told_apart(project: Project) -> None:
    """Also while both execute in one worker."""
    runs = {name: project.begin("beside", name) for name in ("a", "b")}
    for name in runs:
        wait_until(lambda name=name: f"printed {name}" in project.witness(), "both to print")  # type: ignore[misc]
    project.open("beside")
    for name, run in runs.items():
        project.finish(run)
        assert [line["message"] for line in lines(project, run)] == [name]


def test_programs_of_an_async_step_print_into_its_log(project: Project) -> None:
    """With the loop's own way of starting programs."""
    assert printed(project, "programsAsync") == [
        ("work", "stdout", "out"),
        ("work", "stderr", "err"),
        ("work", "stdout", "last"),
    ]


def test_descriptors_are_those_of_the_only_run_that_executes(project: Project) -> None:
    """What is written past Python's streams belongs to the run that alone can have written it."""
    assert sorted(printed(project, "descriptors")) == [
        ("work", "stderr", "by c"),
        ("work", "stdout", "by system"),
        ("work", "stdout", "raw"),
    ]


def test_threads_of_a_step_print_into_its_log(project: Project) -> None:
    """Threads, pools, and pools that outlive the run they were first used in."""
    expected = ["by a thread", "by a pool", "by a shared pool", "by a program of it"]
    for _ in range(2):
        assert printed(project, "threads") == [("work", "stdout", text) for text in expected]


def test_error_that_ends_a_thread_is_in_the_log_of_its_step(project: Project) -> None:
    """Nobody else hears of it; it was in the daemon's log alone. An exit is not reported, as
    anywhere."""
    lines = printed(project, "raises")
    assert {(step, stream) for step, stream, _ in lines} == {("work", "stderr")}
    assert lines[0][2].startswith("Exception in thread Thread-")
    assert lines[-1][2] == "ZeroDivisionError: division by zero"


def test_error_of_a_task_that_nobody_awaits_is_in_the_log(project: Project) -> None:
    """Of a task of the handler, once, however often it is replayed; and with its step of a task
    that is freed in a step. The one was nowhere, the other in the daemon's log."""
    lines = printed(project, "forgets")
    assert {stream for _, stream, _ in lines} == {"log"}
    said = "the task fails failed, and nobody awaited it: ValueError: of the handler"
    assert [text for step, _, text in lines if not step and "Error:" in text] == [said]
    [of_step] = [text for step, _, text in lines if step == "work"]
    assert "Task exception was never retrieved" in of_step
    assert "ValueError: of the step" in of_step


def test_lines_of_threads_do_not_mix(project: Project) -> None:
    """`print` writes a line in pieces."""
    expected = [f"thread {number} line {line}" for number in range(8) for line in range(100)]
    assert sorted(text for _, _, text in printed(project, "many")) == sorted(expected)


def test_executors_of_an_async_step_print_into_its_log(project: Project) -> None:
    """`run_in_executor` carries no context by itself."""
    assert printed(project, "threadsAsync") == [
        ("work", "stdout", "by the executor"),
        ("work", "stdout", "to a thread"),
    ]


def test_forked_children_print_into_the_log(project: Project) -> None:
    """With the step that forked them."""
    assert printed(project, "children") == [("work", "stdout", "by child 1")]


def test_flushed_line_is_seen_before_it_ends(project: Project) -> None:
    """It is one line in the end; what is not flushed waits for its end."""
    run = project.begin("unfinished")
    project.at("unfinished")
    [line] = lines(project, run)
    assert (line["message"], line["unfinished"]) == ("50 %", True)
    project.open("unfinished")
    project.finish(run)
    seen = [(line["message"], line["unfinished"]) for line in lines(project, run)]
    assert seen == [("50 %, 100 %", False), ("held back", False)]


def test_last_words_survive_a_crash(project: Project) -> None:
    """What was flushed without a line end, and what the interpreter wrote to its descriptor."""
    run = project.finish(project.begin("lastWords"))
    assert run["result"] == "survived"
    seen = {(line["stream"], line["message"]) for line in lines(project, run["id"])}
    assert seen == {("stdout", "last words"), ("stderr", "Fatal error: by the interpreter")}


def test_flushed_line_of_a_replayed_handler_is_kept_once(project: Project) -> None:
    """Its parts are not stored again on a later pass."""
    assert printed(project, "replays") == [
        (None, "stdout", "begins goes on"),
        (None, "stdout", "ends"),
    ]


def test_streams_of_a_job_are_whole(project: Project) -> None:
    """They have bytes below them, can be reconfigured, and no job can close them."""
    run = project.finish(project.begin("streams"))
    assert run["result"] == ["<stdout>", "replace", "utf-8", False, 1, False]
    assert [(line["stream"], line["message"]) for line in lines(project, run["id"])] == [
        ("stdout", "bytes, café, caf\\xe9"),
        ("stdout", "many lines"),
        ("stdout", "café"),
        ("stdout", "closed by a job"),
        ("stderr", "and open"),
    ]
    assert printed(project, "wrapped") == [(None, "stdout", "café")]


def test_streams_are_whole_at_import(make_project: Make) -> None:
    """What is printed there is the worker's, and stands under its name in the daemon's log."""
    project = make_project(
        'import sys\nsys.stdout.reconfigure(encoding="utf-8")\n'
        'sys.stdout.buffer.write(b"loud\\n")\n'
        '@stackshift.job("quiet")\ndef quiet(ctx):\n    return True\n',
        other='import subprocess\nsubprocess.run(["echo", "by a program"])\n',
    )
    project.start()
    assert printed(project, "quiet") == []
    wait_until(lambda: "w1: by a program\n" in project.log(), "the program's output")
    assert "w1: loud\n" in project.log()


REPLACING = """
import io
import sys

sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding="latin-1")


@stackshift.job("printing")
def printing(ctx):
    print("by", ctx.payload)
    return type(sys.stdout).__name__


@stackshift.job("leaving")
async def leaving(ctx):
    def leave():
        sys.stdout = io.StringIO()
        sys.stderr = None

    await ctx.step.run("leave", leave)
"""


def test_stream_that_a_module_puts_over_ours_holds_nothing_back(make_project: Make) -> None:
    """What it prints would else be in the log of the run that fills its buffer."""
    project = make_project(REPLACING)
    project.start()
    for name in ("one", "two"):
        run = project.finish(project.begin("printing", name))
        assert run["result"] == "TextIOWrapper"
        assert [line["message"] for line in lines(project, run["id"])] == [f"by {name}"]


def test_stream_that_a_run_leaves_replaced_is_put_back(make_project: Make) -> None:
    """As the working directory is: the next run prints into its own log."""
    project = make_project(REPLACING)
    project.start()
    project.finish(project.begin("leaving"))
    run = project.finish(project.begin("printing", "the next"))
    assert [line["message"] for line in lines(project, run["id"])] == ["by the next"]


PATCHING = """
import pathlib


def refuse(*args, **kwargs):
    raise ValueError("no files today")


@stackshift.job("patching")
def patching(ctx):
    pathlib.Path.mkdir = refuse
    print("never stored")


@stackshift.job("patchingAsync")
async def patching_async(ctx):
    patching(ctx)
"""


@pytest.mark.parametrize("job", ["patching", "patchingAsync"])
def test_run_whose_output_cannot_be_stored_ends(make_project: Make, job: str) -> None:
    """Whatever a job has made of the functions that store it."""
    project = make_project(PATCHING)
    project.start()
    run = project.finish(project.begin(job, max_attempts=1))
    assert (run["status"], run["error"]["message"]) == ("failed", "no files today")
