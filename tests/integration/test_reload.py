"""Changed job modules are loaded without an interruption, and until then whoever names a job is
told that they have changed."""

from __future__ import annotations

import os
import signal
from functools import partial
from typing import Any

import pytest

from helpers.deadline import wait_until
from helpers.inner_daemon import InsideDaemon
from helpers.project import Project
from helpers.project_factory import Make
from stackshift_jobs.errors import NotFound
from stackshiftd.shell.tuning import Tuning

ONE = """
@stackshift.job("say")
def say(ctx):
    return 1
"""
TWO = ONE.replace("return 1", "return 2")
LONG = """
@stackshift.job("long")
def long(ctx):
    ctx.step.run("gate", gate, ctx.payload["gate"])
    return 1
"""
WAITS = """
@stackshift.job("waits")
def waits(ctx):
    before = ctx.step.run("before", lambda: 1)
    ctx.step.wait_for_event("go")
    return [before, 1]
"""
HEAD = "from jobs._scenery import *\n\n"


def write(project: Project, name: str, text: str) -> None:
    project.write_module(name, HEAD + text)


def say(project: Project) -> Any:
    return project.finish(project.begin("say"))["result"]


def notes(project: Project) -> list[str]:
    """What a start of `say` says of the code."""
    reply: dict[str, Any] = project.call("run.start", job="say", payload={})
    return list(reply.get("notes", ()))


def test_reload_gives_new_runs_the_new_code_and_says_what_changed(make_project: Make) -> None:
    """(guarantee: one code) Before it, the old code goes on; after it, no run gets the old one."""
    project = make_project(ONE)
    project.start()
    write(project, "story", TWO + "\n\n@stackshift.job('new')\ndef new(ctx):\n    pass\n")
    assert say(project) == 1
    told = project.call("daemon.reload")
    assert told == {
        "loaded": True,
        "changed": ["jobs/story.py"],
        "gone": [],
        "jobs": {"added": ["new"], "changed": ["say"], "removed": []},
        "failed_modules": [],
        "in_flight": {"in_flight": 0, "go_on": 0, "unchecked": 0, "findings": []},
        "schedules": {"added": [], "changed": [], "removed": []},
        "sections": [],
    }
    assert say(project) == 2
    assert notes(project) == []


def test_reload_says_what_a_worker_had_imported_before_it(make_project: Make) -> None:
    """A worker that is started in place of one that has died imports the files as they are then.
    Whoever has changed them does not know that, and the next reload still says what is new."""
    project = make_project(ONE)
    project.start()
    write(project, "story", TWO + "\n\n@stackshift.job('new')\ndef new(ctx):\n    pass\n")
    os.kill(project.workers()[0], signal.SIGKILL)
    wait_until(lambda: notes(project) == [] and say(project) == 2, "the new worker's code")
    told = project.call("daemon.reload")
    assert told["changed"] == ["jobs/story.py"]
    assert told["jobs"] == {"added": ["new"], "changed": ["say"], "removed": []}
    again = project.call("daemon.reload")
    assert (again["changed"], again["jobs"]["added"]) == ([], [])


def test_run_in_flight_ends_on_its_code_and_keeps_nobody_waiting(make_project: Make) -> None:
    """What the old workers hold they finish; as many new workers as before take the new work."""
    project = make_project(ONE + LONG, config="[workers]\nprocesses = 2\nslots = 1\n")
    project.start()
    runs = [project.begin("long", {"gate": gate}) for gate in ("a", "b")]
    project.at("a")
    project.at("b")
    write(project, "story", TWO + LONG.replace("return 1", "return 2"))
    project.call("daemon.reload")
    wait_until(lambda: len(project.workers()) == 2, "new workers to serve")
    assert say(project) == 2
    project.open("a")
    project.open("b")
    assert [project.finish(run)["result"] for run in runs] == [1, 1]
    wait_until(
        lambda: len(project.call("daemon.status")["workers"]) == 2, "the old workers to be gone"
    )


def test_waiting_run_goes_on_with_the_new_code_and_its_record(make_project: Make) -> None:
    """The step that is on record is not run again."""
    project = make_project(WAITS)
    project.start()
    run = project.begin("waits")
    project.until_status(run, "waiting")
    write(project, "story", WAITS.replace("lambda: 1", "lambda: 2").replace(", 1]", ", 2]"))
    assert project.call("daemon.reload")["loaded"]
    project.call("event.send", name="go")
    assert project.finish(run)["result"] == [1, 2]


@pytest.mark.parametrize("where", ["story", "_helper"])
def test_module_that_breaks_keeps_the_last_good_code(make_project: Make, where: str) -> None:
    """The reload says where, as do a start, the list of jobs and the status, until it is mended;
    also if it is a file that the modules import."""
    project = make_project("from jobs._helper import *\n" + ONE, _helper="VALUE = 1\n")
    project.start()
    good = (project.root / "jobs" / f"{where}.py").read_text()
    project.write_module(where, good + "def broken(:\n")
    line = good.count("\n") + 1
    told = project.call("daemon.reload")
    assert not told["loaded"]
    [failed] = told["failed_modules"]
    assert (failed["file"], failed["line"], failed["type"]) == (
        str(project.root / "jobs" / f"{where}.py"),
        line,
        "SyntaxError",
    )
    status = project.call("daemon.status")
    assert (status["failed_modules"], status["kept_modules"]) == ([failed], ["jobs.story"])
    assert project.call("job.list")["failed_modules"] == [failed]
    assert say(project) == 1
    [note] = notes(project)
    assert note.startswith(f"{failed['file']}:{line}: SyntaxError: ")
    assert note.endswith("the code from before goes on")
    project.write_module(where, good)
    changed = f"jobs/{where}.py changed since it was loaded: stackshift daemon reload"
    wait_until(lambda: notes(project) == [changed], "the note")
    assert project.call("daemon.reload")["loaded"]
    assert notes(project) == []
    status = project.call("daemon.status")
    assert (status["failed_modules"], status["kept_modules"]) == ([], [])


@pytest.mark.parametrize(
    ("ending", "type"), [("import os\nos._exit(3)\n", "WorkerDied"), ("gate('x')", "TimeoutError")]
)
def test_module_that_ends_or_holds_its_worker_is_named(
    make_project: Make, ending: str, type: str
) -> None:
    """A worker that does not get through the import is none that takes over."""
    project = make_project(ONE)
    daemon = InsideDaemon(project, Tuning(ready=2.0))
    try:
        wait_until(lambda: project.call("job.list")["jobs"], "the job modules to be loaded")
        write(project, "zz", ending)
        told = project.call("daemon.reload")
        assert not told["loaded"]
        assert [(each["module"], each["type"]) for each in told["failed_modules"]] == [
            ("jobs.zz", type)
        ]
        assert say(project) == 1
        (project.root / "jobs" / "zz.py").unlink()
        assert project.call("daemon.reload")["loaded"]
        [worker] = project.call("daemon.status")["workers"]
        assert worker["status"] == "serving"
    finally:
        assert daemon.close() is None


def test_worker_that_took_over_imports_nothing_any_more(make_project: Make) -> None:
    """`daemon status` said for ever that it was still importing its last module."""
    project = make_project(ONE)
    project.start()
    write(project, "story", TWO)
    project.call("daemon.reload")
    workers = [w for w in project.call("daemon.status")["workers"] if w["status"] == "serving"]
    assert workers
    assert [worker["importing"] for worker in workers] == [None] * len(workers)


def test_whoever_names_a_job_is_told_that_the_code_has_changed(make_project: Make) -> None:
    """A new file, one that another module imports, and the settings count; one that was only
    touched does not."""
    project = make_project(ONE, _helper="VALUE = 1\n")
    write(project, "story", "from jobs._helper import VALUE\n" + ONE)
    project.start()
    os.utime(project.root / "jobs" / "story.py", (1, 1))
    assert notes(project) == []
    project.write_module("_helper", "VALUE = 2\n")
    write(project, "other", ONE.replace("say", "other"))
    changed = (
        "jobs/_helper.py, jobs/other.py changed since they were loaded: stackshift daemon reload"
    )
    wait_until(lambda: notes(project) == [changed], "the note")
    assert project.call("job.list")["notes"] == [changed]
    assert project.call("job.get", job="say")["notes"] == [changed]
    with pytest.raises(NotFound) as refused:
        project.begin("other")
    assert refused.value.hint == changed
    (project.root / "stackshift.toml").write_text("[workers]\nslots = 3\n")
    settings = "stackshift.toml changed since the daemon started: stackshift daemon restart"
    wait_until(lambda: notes(project) == [changed, settings], "the note on the settings")


def noted(project: Project, end: str) -> bool:
    """Is there a note that ends so?"""
    return any(note.endswith(end) for note in notes(project))


def test_settings_that_changed_are_told_with_the_command_that_puts_them_in_force(
    make_project: Make,
) -> None:
    """A restart is named only where a reload is not enough; what is not valid is said to be so."""
    project = make_project(ONE)
    project.start()
    settings = project.root / "stackshift.toml"
    before = settings.read_text()
    target = '[notify.ops]\ncommand = "true"\n'
    beat = '[heartbeat]\nurl = "https://127.0.0.1:9/beat"\n'
    for text, note in (
        (
            beat,
            "changed since it was loaded: stackshift daemon reload",
        ),
        (target, "changed since it was loaded: stackshift daemon reload"),
        ('[schedules.x]\ncron = "@daily"\n', "is not valid: stackshift config show"),
        ("[journal]\nretention = '9d'\n", "stackshift daemon restart"),
    ):
        settings.write_text(before + text)
        wait_until(partial(noted, project, note), note)
    settings.write_text(before + target + beat)
    assert project.call("daemon.reload")["sections"] == ["notify", "heartbeat"]
    wait_until(lambda: notes(project) == [], "no note")
    assert project.call("daemon.reload")["sections"] == []


def test_first_module_of_a_project_is_one_to_be_reloaded(make_project: Make) -> None:
    """A project without any had loaded nothing, so nothing was ever said to have changed; nor was
    it, once its last module had been removed."""
    project = make_project("")
    for module in (project.root / "jobs").glob("*.py"):
        module.unlink()
    project.start()
    assert project.call("daemon.status")["changed_files"] == []
    module = project.write_module("first", "import stackshift_jobs\n")
    assert project.call("daemon.status")["changed_files"] == ["jobs/first.py"]
    assert project.call("daemon.reload")["loaded"]
    module.unlink()
    project.call("daemon.reload")
    assert project.call("daemon.status")["changed_files"] == []


def test_saved_module_is_loaded_by_itself_where_watching_is_on(make_project: Make) -> None:
    """Also one in a folder that is new, and again after a save that could not be loaded."""
    project = make_project(ONE, config="[project]\nwatch = true\n[workers]\nprocesses = 1\n")
    project.start()
    write(project, "story", TWO)
    wait_until(lambda: say(project) == 2, "the new code")
    write(project, "story", TWO + "def broken(:\n")
    wait_until(lambda: project.call("daemon.status")["failed_modules"], "the mistake to be told")
    (project.root / "jobs" / "more").mkdir()
    (project.root / "jobs" / "more" / "late.py").write_text(HEAD + ONE.replace("say", "late"))
    write(project, "story", TWO.replace("return 2", "return 3"))
    wait_until(lambda: say(project) == 3, "the mended code")
    wait_until(
        lambda: "late" in [job["name"] for job in project.call("job.list")["jobs"]], "the new job"
    )


@pytest.mark.not_via("follower", why="the daemon that gets the signal has no workers")
def test_signal_reloads(make_project: Make) -> None:
    """SIGHUP is how a service is asked to."""
    project = make_project(ONE)
    project.start()
    write(project, "story", TWO)
    assert project.daemon is not None
    project.daemon.send_signal(signal.SIGHUP)
    wait_until(lambda: say(project) == 2, "the new code")


def test_many_reloads_at_once_leave_the_workers_there_were(make_project: Make) -> None:
    """One after the other; each loads what is there when its turn comes."""
    project = make_project(ONE, config="[workers]\nprocesses = 2\n")
    project.start()
    write(project, "story", TWO)
    with project.connect() as connection:
        for _ in range(5):
            connection.send("daemon.reload")
        assert all(connection.receive(60).value()["loaded"] for _ in range(5))
    assert say(project) == 2
    wait_until(lambda: len(project.workers()) == 2, "two workers to serve")
    wait_until(lambda: len(project.call("daemon.status")["workers"]) == 2, "no others")
