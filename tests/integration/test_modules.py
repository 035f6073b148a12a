"""Job modules that do not import are told with file and line, and keep nothing else from work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from helpers.deadline import wait_until
from helpers.inner_daemon import InsideDaemon
from helpers.project import REPOSITORY, Project, environment
from helpers.project_factory import Make
from stackshift_jobs.errors import BadConfiguration, Busy, NotFound
from stackshift_jobs.values.text import readable
from stackshiftd.shell.tuning import Tuning

GOOD = """
@stackshift.job("good")
def good(ctx):
    return "good"
"""
BROKEN = """

@stackshift.job("broken")
def broken(ctx):
    pass

raise RuntimeError("cannot start")
"""
TYPO = "def f(:\n"


@pytest.fixture
def project(make_project: Make) -> Project:
    """A good module, and two that do not import."""
    made = make_project(GOOD, broken=BROKEN, typo=TYPO)
    made.start()
    return made


def failed(told: dict[str, Any]) -> dict[str, tuple[int, str]]:
    """Module → line and type of what it raised."""
    return {each["module"]: (each["line"], each["type"]) for each in told["failed_modules"]}


def test_module_that_does_not_import_is_told_with_file_and_line(project: Project) -> None:
    """`job.list` and `daemon.status` name it; the jobs of other modules run."""
    due = {"jobs.broken": (9, "RuntimeError"), "jobs.typo": (3, "SyntaxError")}
    told = project.call("job.list")
    assert failed(told) == due
    assert failed(project.call("daemon.status")) == due
    [broken] = [each for each in told["failed_modules"] if each["module"] == "jobs.broken"]
    assert broken["file"] == str(project.root / "jobs" / "broken.py")
    assert broken["message"] == "cannot start"
    assert [job["name"] for job in told["jobs"]] == ["good"]
    assert project.finish(project.begin("good"))["result"] == "good"


def test_start_of_a_job_that_may_be_in_a_broken_module_says_so(project: Project) -> None:
    """Not merely unknown: `configuration`, with the module that failed."""
    with pytest.raises(BadConfiguration, match=r"broken\.py:9"):
        project.begin("broken")


def test_module_that_hangs_at_import_is_named(make_project: Make) -> None:
    """A start is refused for the time being (`busy`), and says which module it waits for, as does
    `daemon.status`. Once the module is through, all goes on."""
    project = make_project(GOOD, slow='gate("import")\n')
    daemon = InsideDaemon(project, Tuning(ready=0.1))
    try:
        wait_until(
            lambda: project.call("daemon.status")["workers"][0]["importing"] == "jobs.slow",
            "the module to be named",
        )
        with pytest.raises(Busy, match=r"jobs\.slow is being imported"):
            project.begin("good")
        project.open("import")
        wait_until(lambda: project.call("job.list")["jobs"], "the job modules to be loaded")
        assert project.finish(project.begin("good"))["status"] == "completed"
        [worker] = project.call("daemon.status")["workers"]
        assert (worker["importing"], worker["status"]) == (None, "serving")
    finally:
        assert daemon.close() is None


def test_start_of_an_unknown_job_names_near_ones(make_project: Make) -> None:
    """`not_found`, with what was probably meant."""
    project = make_project(GOOD)
    project.start()
    with pytest.raises(NotFound) as refused:
        project.begin("goood")
    assert refused.value.fields["near"] == ["good"]


def test_run_of_a_removed_job_waits_and_says_why(make_project: Make) -> None:
    """A run whose job is gone at a restart is held, and goes on when the job is back."""
    project = make_project(GOOD + "\n\n@stackshift.job('other')\ndef other(ctx):\n    return 1\n")
    project.start()
    run = project.begin("good", delay_ms=1000)
    project.stop()
    module = project.root / "jobs" / "story.py"
    text = module.read_text()
    module.write_text(text.replace('"good"', '"renamed"', 1))
    project.start()
    project.until_status(run, "waiting")
    assert project.call("run.why", run=run)["why_code"] == "job_missing"
    project.stop()
    module.write_text(text)
    project.start()
    assert project.finish(run)["result"] == "good"


def test_module_whose_error_has_no_readable_text_keeps_nothing_else_from_work(
    make_project: Make,
) -> None:
    """The worker could not say what failed, was started again and again, and nothing ran."""
    project = make_project(
        GOOD,
        odd='raise ValueError("no table \\udce9")\n',
        textless=(
            "class Broken(Exception):\n"
            "    def __str__(self):\n"
            "        return None\n"
            "raise Broken()\n"
        ),
    )
    project.start()
    told = project.call("job.list")
    assert {(each["module"], each["type"]) for each in told["failed_modules"]} == {
        ("jobs.odd", "ValueError"),
        ("jobs.textless", "Broken"),
    }
    [odd] = [each for each in told["failed_modules"] if each["module"] == "jobs.odd"]
    assert odd["message"] == "no table \\udce9"
    assert project.finish(project.begin("good"))["result"] == "good"


@pytest.mark.parametrize(
    ("text", "manner"),
    [
        ("import os\n\nos._exit(3)\n", "exit status 3"),
        ("import ctypes\n\nctypes.string_at(0)\n", "signal 11"),
    ],
    ids=["leaves", "crashes"],
)
def test_module_whose_import_ends_the_process_keeps_nothing_else_from_work(
    make_project: Make, text: str, manner: str
) -> None:
    """Nor does one that imports it. All workers died, again and again, and the check was an
    internal error. When the module is mended, it is loaded as any other."""
    project = make_project(GOOD, deadly=text, early="import jobs.deadly\n")
    due = dict.fromkeys(("jobs.deadly", "jobs.early"), (0, "WorkerDied"))
    shown = checked(project)
    assert failed({"failed_modules": [each | {"module": name} for name, each in shown]}) == due
    project.start()
    wait_until(lambda: project.call("job.list")["jobs"], "the job modules to be loaded")
    told = project.call("job.list")
    assert failed(told) == due
    assert {each["message"] for each in told["failed_modules"]} == {
        f"the process died while it imported this module ({manner})"
    }
    assert project.finish(project.begin("good"))["result"] == "good"
    (project.root / "jobs" / "deadly.py").write_text("")
    assert project.call("daemon.reload")["failed_modules"] == []


def checked(project: Project) -> list[tuple[str, dict[str, Any]]]:
    """The modules that `jobs check` reports as failed, with their errors."""
    command = [sys.executable, "-m", "stackshift_cli", "--json", "-C", str(project.root)]
    done = subprocess.run(
        [*command, "jobs", "check"],
        env=environment(),
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        check=False,
    )
    modules = json.loads(done.stdout)["modules"]
    return [(each["module"], each["error"]) for each in modules if each["error"]]


PROGRAMS = {
    "runs a loop": "import asyncio\n\n\nasync def ask():\n    return 1\n\n\nasyncio.run(ask())\n",
    "looks for a loop": (
        "import asyncio\n\n\ntry:\n    asyncio.get_running_loop()\nexcept RuntimeError:\n    pass\n"
        "else:\n    raise AssertionError('a loop runs')\n"
    ),
    "imports its neighbour": "from jobs import good\n",
    "replaces print": "import builtins\n\nbuiltins.print = lambda *args, **options: None\n",
    "reads its arguments": "import argparse\n\nargparse.ArgumentParser().parse_args()\n",
}


@pytest.mark.parametrize("text", PROGRAMS.values(), ids=PROGRAMS)
def test_worker_imports_what_the_check_accepts(make_project: Make, text: str) -> None:
    """A module is imported as any program is: outside of an event loop, so it may run one."""
    project = make_project("", good=GOOD, other=text)
    [checked] = [each for each in check(project)["modules"] if each["module"] == "jobs.other"]
    project.start()
    assert (checked["error"], failed(project.call("daemon.status"))) == (None, {})
    assert project.finish(project.begin("good"))["result"] == "good"


BREAKS_LATE = """
import jobs.story
import lib.tasks

stackshift.queue("broken", concurrency=1)
stackshift.job("moved", lib.tasks.helper)
raise RuntimeError("after all that")
"""
TASKS = """
import stackshift_jobs as stackshift


def helper(ctx):
    pass


@stackshift.job("library")
def library(ctx):
    return "library"
"""


def test_failing_module_takes_along_nothing_of_what_it_has_imported(make_project: Make) -> None:
    """What it registers itself is gone, whoever's functions these are. The jobs and queues of the
    modules that it imports stay: Python does not import these again, so nobody else would register
    them."""
    project = make_project('stackshift.queue("kept", concurrency=3)\n' + GOOD, a_first=BREAKS_LATE)
    write(project, "lib/tasks.py", TASKS)
    modules = {each["module"]: each for each in check(project)["modules"]}
    assert modules["jobs.a_first"]["error"]["type"] == "RuntimeError"
    assert modules["jobs.story"]["jobs"] == ["good"]
    assert modules["lib.tasks"]["jobs"] == ["library"]
    project.start()
    assert [job["name"] for job in project.call("job.list")["jobs"]] == ["good", "library"]
    limits = {each["name"]: each["concurrency"] for each in project.call("queue.list")["queues"]}
    assert (limits["kept"], "broken" in limits) == (3, False)


@pytest.mark.parametrize("inside", ["jobs/shop/__init__.py", "jobs/__init__.py"])
def test_package_is_a_job_module(make_project: Make, inside: str) -> None:
    """Its `__init__.py` is loaded though its name begins with `_`, and is called like the
    package; a package whose name does so is left alone."""
    project = make_project(GOOD)
    write(project, inside, TASKS)
    write(project, "jobs/_aside/__init__.py", "raise RuntimeError('not to be loaded')\n")
    package = inside.removesuffix("/__init__.py").replace("/", ".")
    report = {each["module"]: each["jobs"] for each in check(project)["modules"]}
    assert report == {package: ["library"], "jobs.story": ["good"]}
    project.start()
    told = project.call("job.list")
    assert {job["name"]: job["module"] for job in told["jobs"]} == {
        "good": "jobs.story",
        "library": package,
    }
    assert project.finish(project.begin("library"))["result"] == "library"


def test_check_lists_the_jobs_of_every_module_that_has_some(make_project: Make) -> None:
    """Also of one that a job module imports, with its file: the daemon has these jobs as well."""
    project = make_project("import jobs._shared\nimport lib.tasks\n")
    write(project, "jobs/_shared.py", TASKS.replace("library", "shared"))
    write(project, "lib/tasks.py", TASKS)
    report = {each["module"]: each for each in check(project)["modules"]}
    assert {module: each["jobs"] for module, each in report.items()} == {
        "jobs.story": [],
        "jobs._shared": ["shared"],
        "lib.tasks": ["library"],
    }
    assert report["lib.tasks"]["file"] == str(project.root / "lib" / "tasks.py")


def write(project: Project, path: str, text: str) -> None:
    """Write a file of the project."""
    file = project.root / path
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)


def check(project: Project) -> dict[str, Any]:
    """The report of `jobs check`."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "stackshiftd.worker", "--check", str(project.root)],
        env=environment(),
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        check=False,
    )
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def test_check_does_not_wait_for_threads_of_modules(make_project: Make) -> None:
    """A thread that sends metrics, say, never ends, and neither did the check. Pools are shut down
    as ever."""
    project = make_project(GOOD)
    write(project, "jobs/threads.py", THREAD)
    write(project, "jobs/pools.py", POOL)
    modules = {each["module"]: each["error"] for each in check(project)["modules"]}
    assert modules.keys() >= {"jobs.threads", "jobs.pools"}
    assert not any(modules.values())


THREAD = """
import threading
threading.Thread(target=threading.Event().wait).start()
"""
POOL = """
from concurrent.futures import ProcessPoolExecutor
ONE = ProcessPoolExecutor(1)
ONE.submit(abs, -1).result()
"""


@pytest.mark.parametrize("name", ["caf\udce9.py", "d\udce9/tasks.py", "run\udce9.sh"])
def test_file_whose_name_is_not_utf8_keeps_nothing_else_from_work(
    make_project: Make, name: str
) -> None:
    """No worker could say what it had loaded. It is a failed module, whose name is escaped."""
    project = make_project(GOOD)
    write(project, f"jobs/{name}", "#!/bin/sh\n# stackshift: job odd\n" if "run" in name else TASKS)
    shown = readable(name)
    [checked] = [each for each in check(project)["modules"] if each["error"]]
    project.start()
    wait_until(lambda: project.call("job.list")["jobs"], "the job modules to be loaded")
    told = project.call("job.list")
    [failure] = told["failed_modules"]
    assert failure["file"] == checked["file"] == str(project.root / "jobs" / shown)
    assert failure["message"] == "its path is not UTF-8: rename it"
    assert checked["module"] == failure["module"]
    assert [job["name"] for job in told["jobs"]] == ["good"]
    assert project.finish(project.begin("good"))["result"] == "good"
    assert project.call("daemon.status")["changed_files"] == []


def test_module_that_no_import_can_find_is_told_with_what_to_do(make_project: Make) -> None:
    """For a dot in its name it was `No module named 'jobs.my'`; a link that leads nowhere was one
    that had changed since it was loaded, as well."""
    project = make_project(GOOD)
    write(project, "jobs/my.job.py", TASKS)
    write(project, "jobs/v1.2/tasks.py", TASKS)
    (project.root / "jobs/lost.py").symlink_to("../gone.py")
    said = {each["module"]: each["error"] for each in check(project)["modules"] if each["error"]}
    assert {module: error["message"] for module, error in said.items()} == {
        "jobs.my.job": "no import finds 'my.job', because of the dot: rename it to 'my_job'",
        "jobs.v1.2.tasks": "no import finds 'v1.2', because of the dot: rename it to 'v1_2'",
        "jobs.lost": "it is a link to ../gone.py, which does not exist",
    }
    project.start()
    assert project.finish(project.begin("good"))["result"] == "good"
    assert failed(project.call("job.list")).keys() == said.keys()
    assert project.call("daemon.status")["changed_files"] == []


def test_jobs_behind_a_link_to_a_folder_are_loaded(make_project: Make) -> None:
    """They were left out without a word, though modules could be imported through the link."""
    project = make_project(GOOD)
    write(project, "shared/linked.py", TASKS)
    write(project, "shared/_parts.py", "raise RuntimeError\n")
    (project.root / "jobs/more").symlink_to("../shared")
    (project.root / "shared/back").symlink_to("../jobs")
    project.start()
    assert project.finish(project.begin("library"))["status"] == "completed"
    assert failed(project.call("job.list")) == {}
    assert project.call("daemon.status")["changed_files"] == []
    write(project, "shared/new.py", TASKS.replace("library", "newer"))
    wait_until(
        lambda: project.call("daemon.status")["changed_files"] == ["jobs/more/new.py"],
        "the new module to be seen",
    )


def test_what_is_no_file_keeps_no_worker_from_its_start(make_project: Make) -> None:
    """A named pipe called like a module was read by every worker, which never ended; a folder was
    imported."""
    project = make_project(GOOD)
    os.mkfifo(project.root / "jobs" / "pipe.py")
    (project.root / "jobs" / "folder.py").mkdir()
    project.start()
    assert project.finish(project.begin("good"))["result"] == "good"
    assert failed(project.call("job.list")).keys() == {"jobs.pipe"}


PATCHES = {
    "gevent": ("monkey", "from gevent.monkey import patch_all; patch_all()", "patch_all"),
    "eventlet": ("patcher", "import eventlet; eventlet.monkey_patch()", "monkey_patch"),
}


@pytest.mark.parametrize("library", PATCHES)
def test_module_that_would_patch_the_whole_worker_fails_alone(
    make_project: Make, library: str
) -> None:
    """It would put its own threads and sockets in the place of those that the worker waits with,
    and all runs would hang. The stand-in for the library patches as it would."""
    part, asks, name = PATCHES[library]
    project = make_project(GOOD, patches=asks + BROKEN)
    package = project.root / library
    package.mkdir()
    (package / f"{part}.py").write_text(
        f"import socket, threading\ndef {name}(*a, **k): socket.socket = threading.Lock = None\n"
    )
    (package / "__init__.py").write_text(f"from {library}.{part} import {name}\n")
    project.start()
    [bad] = project.call("job.list")["failed_modules"]
    assert (bad["module"], bad["type"]) == ("jobs.patches", "Usage")
    assert f"{library}.{part}.{name}() would replace the threads and sockets" in bad["message"]
    assert project.finish(project.begin("good"))["result"] == "good"
