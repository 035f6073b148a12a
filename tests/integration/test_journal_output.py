"""`stackshiftd journal …` whose output cannot be written."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest

from helpers.deadline import SECONDS
from helpers.project import Project, environment
from helpers.project_factory import Make

JOBS = """
@stackshift.job("quick")
def quick(ctx):
    return "q" * 100_000
"""


@pytest.fixture
def project(make_project: Make) -> Project:
    """A project with a journal that is longer than a pipe holds, and no daemon."""
    made = make_project(JOBS)
    made.start()
    for _ in range(3):
        made.finish(made.begin("quick"))
    made.stop()
    return made


def journal(project: Project, script: str) -> tuple[int, str]:
    """Run a shell in which JOURNAL stands for the tool; the status and standard error. No file may
    grow."""
    tool = [sys.executable, "-P", "-m", "stackshiftd", "journal"]
    words = script.replace("JOURNAL", shlex.join(tool))
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"ulimit -f 0; {words}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=project.root,
        env=environment(),
        timeout=SECONDS,
        check=False,
    )
    return done.returncode, done.stderr


def test_reader_that_closes_the_pipe_ends_it_quietly(project: Project) -> None:
    """`cat | head -1` prints no traceback."""
    data = shlex.quote(str(project.data_dir))
    status, said = journal(project, f"JOURNAL cat --data-dir {data} | head -c 9")
    assert (status, said) == (0, "")


def test_error_on_full_standard_error_keeps_its_status(project: Project) -> None:
    """A directory without a journal is 78, wherever the message goes."""
    (project.root / "full").touch()
    status, _ = journal(project, "JOURNAL stats --data-dir /none 2> full")
    assert status == 78
    assert (project.root / "full").stat().st_size == 0
