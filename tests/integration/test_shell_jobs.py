"""Shell jobs in a real project: found, checked, loaded again, and mistakes told with their line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from helpers.deadline import wait_until
from helpers.project import REPOSITORY, Json, Project, environment
from helpers.project_factory import Make

HELLO = """
@stackshift.job("hello")
def hello(ctx):
    return "hello"
"""


def script(project: Project, name: str, text: str, mode: int = 0o755) -> Path:
    """Write a script into the folder of jobs."""
    path = project.root / "jobs" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def checked(project: Project) -> dict[str, Json | None]:
    """What `jobs check` says: the error of each module, by name."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "stackshiftd.worker", "--check", str(project.root)],
        capture_output=True,
        cwd=REPOSITORY,
        env=environment(),
        check=False,
    )
    modules = json.loads(done.stdout.splitlines()[-1])["modules"]
    assert done.returncode == (78 if any(module["error"] for module in modules) else 0)
    return {module["module"]: module["error"] for module in modules}


def test_scripts_are_jobs_like_others(make_project: Make) -> None:
    """With options, schedule and documentation; helpers beside them are none."""
    project = make_project(HELLO)
    script(
        project,
        "backup.sh",
        "#!/bin/sh\n# Backs up.\n# stackshift: job backup queue disk retry 3 timeout 2h\n"
        "# stackshift: schedule 15 3 * * * timezone Europe/Berlin\n",
    )
    script(project, "tools/clean", "#!/usr/bin/env bash\n# stackshift: job clean\n")
    script(project, "helper.sh", "#!/bin/sh\necho helper\n")
    script(project, "_private.sh", "#!/bin/sh\n# stackshift: job private\n")
    project.start()
    jobs = {job["name"]: job for job in project.call("job.list")["jobs"]}
    assert sorted(jobs) == ["backup", "clean", "hello"]
    assert jobs["backup"]["module"] == "jobs/backup.sh"
    assert (jobs["backup"]["queue"], jobs["backup"]["timeout_ms"]) == ("disk", 7_200_000)
    assert (jobs["backup"]["max_attempts"], jobs["backup"]["cron"]) == (4, "15 3 * * *")
    assert len(jobs["clean"]["code"]) == 7
    assert project.call("job.get", job="backup")["doc"] == "Backs up."
    assert project.finish(project.begin("clean"))["status"] == "completed"


def test_mistakes_have_their_line_and_harm_no_other(make_project: Make) -> None:
    """In the header, in the shell's grammar, in the schedule; and what cannot be started."""
    project = make_project(HELLO)
    script(project, "header.sh", "#!/bin/sh\n# stackshift: job a\n# stackshift: retyr 3\n")
    script(project, "grammar.sh", "#!/bin/sh\n# stackshift: job b\nif true; then\n  echo\n")
    script(project, "bash.sh", "#!/bin/bash\n# stackshift: job c\necho )\n")
    script(project, "when.sh", "#!/bin/sh\n# stackshift: job d schedule 99 3 * * *\n")
    script(project, "mode.sh", "#!/bin/sh\n# stackshift: job e\n", 0o644)
    script(project, "first.sh", "# stackshift: job f\necho\n")
    script(project, "twice.sh", "#!/bin/sh\n# stackshift: job hello\n")
    script(project, "good.sh", "#!/bin/sh\n# stackshift: job good\n")
    errors = checked(project)
    assert errors["jobs/good.sh"] is None
    told = {name: (e["line"], e["message"]) for name, e in errors.items() if e is not None}
    assert told["jobs/header.sh"] == (3, "unknown option 'retyr'; did you mean retry?")
    assert told["jobs/grammar.sh"][0] >= 4
    assert "Syntax error" in told["jobs/grammar.sh"][1]
    assert told["jobs/bash.sh"][0] == 3
    assert told["jobs/when.sh"][0] == 2
    assert told["jobs/mode.sh"] == (1, "it is not executable: chmod +x mode.sh")
    assert told["jobs/first.sh"] == (1, "no interpreter is named: the first line is not #!/bin/sh")
    assert "two jobs are named 'hello'" in told["jobs/twice.sh"][1]
    project.start()
    assert [job["name"] for job in project.call("job.list")["jobs"]] == ["good"]


def test_changed_script_is_loaded_again_and_a_broken_one_is_not(make_project: Make) -> None:
    """As a module is; runs that begin afterwards get the new one."""
    project = make_project(HELLO)
    text = "#!/bin/sh\n# stackshift: job says\nstackshift step say -- echo {}\n"
    path = script(project, "says.sh", text.format("one"))
    project.start()

    def said() -> list[str]:
        run = project.begin("says")
        project.finish(run)
        return [line["message"] for line in project.call("run.logs", run=run)["lines"]]

    assert said() == ["one"]
    path.write_text(text.format("two"))
    reloaded = project.call("daemon.reload")
    assert (reloaded["changed"], reloaded["jobs"]["changed"]) == (["jobs/says.sh"], ["says"])
    assert said() == ["two"]
    path.write_text(text.format("(") + "if\n")
    reloaded = project.call("daemon.reload")
    assert (reloaded["loaded"], reloaded["failed_modules"][0]["module"]) == (False, "jobs/says.sh")
    assert [job["name"] for job in project.call("job.list")["jobs"]] == ["hello", "says"]


def test_folder_of_a_killed_execution_is_removed(make_project: Make) -> None:
    """With the payload in it: by the next execution of the run, or when a daemon starts."""
    project = make_project(HELLO)
    script(
        project,
        "waits.sh",
        f"#!/bin/sh\n# stackshift: job waits\nls {project.data_dir}/attempts | wc -l >> seen\n"
        "[ -e go ] || exec sleep 600\n",
    )
    project.start()
    run = project.begin("waits")
    seen = project.root / "seen"
    wait_until(lambda: seen.exists() and len(seen.read_text().split()) == 1, "the script to run")
    [worker] = project.workers()
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: len(seen.read_text().split()) == 2, "the script to run again")
    assert seen.read_text().split() == ["1", "1"]
    (project.root / "go").touch()
    project.kill()
    assert len(list((project.data_dir / "attempts").iterdir())) == 1
    project.start()
    assert project.finish(run)["status"] == "completed"
    assert list((project.data_dir / "attempts").glob("*")) == []
