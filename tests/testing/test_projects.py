"""The plugin in a user's project: pytest finds it by itself, and it disturbs nothing."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pytest

from helpers.project import environment

pytest_plugins = ["pytester"]

ONBOARDING = """
import stackshift_jobs as stackshift
from jobs import _shop

@stackshift.job("userOnboarding")
def onboarding(ctx):
    user = ctx.step.run("create-user", lambda: _shop.create_user(ctx.payload["email"]))
    ctx.step.sleep("cooling-off", "3d")
    return ctx.step.run("unlock", _shop.unlock, user)
"""
SHOP = """
from pathlib import Path

def create_user(email):
    Path("users").mkdir(exist_ok=True)
    Path("users", email).touch()
    return email

def unlock(user):
    return {"unlocked": user}
"""


@pytest.fixture
def pytester(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Makes the sources under test the first on the import path."""
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    return pytester


def write(root: Path, files: dict[str, str]) -> None:
    """Write files below `root`."""
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def test_plugin_is_found_by_pytest() -> None:
    """Its name is that of its module: `-p stackshift_jobs.testing` does not load it twice."""
    [found] = [each for each in entry_points(group="pytest11") if "stackshift" in each.value]
    assert found.name == found.value == "stackshift_jobs.testing"


def test_project_is_found_and_its_modules_are_what_a_test_patches(
    pytester: pytest.Pytester,
) -> None:
    """The project is the one above the test's file, wherever pytest is called; a job's relative
    paths are relative to its project; what one test patches or defines, the next does not see."""
    write(
        pytester.path / "shop",
        {
            "stackshift.toml": "",
            "jobs/onboarding.py": ONBOARDING,
            "jobs/_shop.py": SHOP,
            "tests/test_onboarding.py": """
import stackshift_jobs
from pathlib import Path
from jobs import _shop, onboarding

def test_patched_by_name(stackshift, monkeypatch):
    monkeypatch.setattr("jobs._shop.create_user", lambda email: "patched")
    monkeypatch.setattr(_shop, "unlock", str.upper)
    run = stackshift.start("userOnboarding", {"email": "ada"})
    assert run.status == "waiting"
    stackshift.advance("3d")
    assert run.result == "PATCHED"
    assert not Path("users").exists()

def test_not_patched_any_more(stackshift):
    run = stackshift.start(onboarding.onboarding, {"email": "ada"})
    assert run.finish().result == {"unlocked": "ada"}
    assert Path(__file__).parents[1].joinpath("users", "ada").exists()

def test_defines_a_job(stackshift):
    @stackshift.job("extra")
    def extra(ctx):
        return 1
    assert stackshift.start("extra").result == 1
    assert sorted(each["name"] for each in stackshift.call("job.list")["jobs"]) == [
        "extra", "ownOfTheModule", "userOnboarding"]

def test_knows_nothing_of_it(stackshift):
    assert sorted(each["name"] for each in stackshift.call("job.list")["jobs"]) == [
        "ownOfTheModule", "userOnboarding"]

@stackshift_jobs.job("ownOfTheModule")
def own(ctx):
    return __name__

def test_job_of_the_module(stackshift):
    assert stackshift.start("ownOfTheModule").result == __name__
""",
            "tests/test_other.py": """
import stackshift_jobs as stackshift
from pathlib import Path

@stackshift.job("ownOfTheModule")
def own(ctx):
    return "another"

def test_job_of_the_module(stackshift):
    assert stackshift.start("ownOfTheModule").result == "another"
    assert Path.cwd().name == "shop"

def test_working_directory_is_put_back():
    assert Path.cwd().name != "shop"
""",
        },
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=7)
    assert not (pytester.path / "shop" / ".stackshift").exists()


def test_mistakes_fail_with_what_to_do(pytester: pytest.Pytester) -> None:
    """An unknown job, a module that cannot be imported, a handler that hangs, a crash that never
    happened, a name that is taken, an unknown option."""
    write(
        pytester.path,
        {
            "stackshift.toml": "",
            "jobs/onboarding.py": ONBOARDING,
            "jobs/_shop.py": SHOP,
            "jobs/broken.py": "import no_such_module\n",
            "tests/test_mistakes.py": """
import time
import asyncio
import pytest

def test_unknown(stackshift):
    stackshift.start("userOnboardin")

@pytest.mark.stackshift(patience="300ms")
@pytest.mark.parametrize("kind", ["def", "async def", "blocked loop"])
def test_hangs(stackshift, kind):
    def endless():
        until = time.monotonic() + 20
        while time.monotonic() < until:
            time.sleep(0.01)
    if kind == "def":
        @stackshift.job("hangs")
        def hangs(ctx):
            ctx.step.run("first", int)
            ctx.step.run("never-ends", endless)
    elif kind == "async def":
        @stackshift.job("hangs")
        async def hangs(ctx):
            await ctx.step.run("never-ends", asyncio.sleep, 3600)
    else:
        @stackshift.job("hangs")
        async def hangs(ctx):
            endless()
    stackshift.start("hangs")

def test_after_it(stackshift):
    assert stackshift.start("userOnboarding", {"email": "a"}).status == "waiting"

def test_no_crash(stackshift):
    with stackshift.crashing("nowhere"):
        pass

def test_taken(stackshift):
    @stackshift.job("userOnboarding")
    def other(ctx): ...

def test_shows_its_runs(stackshift):
    run = stackshift.start("userOnboarding", {"email": "ada"})
    assert run.status == "completed"

@pytest.mark.stackshift(patiense="1s")
def test_option(stackshift): ...

@pytest.mark.stackshift(project="../elsewhere")
def test_project(stackshift): ...
""",
        },
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", timeout=60)
    result.assert_outcomes(passed=1, failed=7, errors=2)
    result.stdout.fnmatch_lines_random(
        [
            "E*BadConfiguration: no job is named 'userOnboardin', and a module failed to import: "
            "*broken.py:1: ModuleNotFoundError: No module named 'no_such_module'*",
            "E*nothing happened for 0.3 s of real time:",
            "E*run_* (hangs) is executing step 'never-ends', at *test_mistakes.py:15 in endless",
            "E*run_* (hangs) is executing step 'never-ends', at *test_mistakes.py:24 in hangs",
            "E*run_* (hangs) is in its handler, outside of any step, at "
            "*test_mistakes.py:15 in endless",
            "E*the worker should have died 1 time(s) before_record of step 'nowhere', but died 0 "
            "time(s)",
            "E*TwoJobsOneName: two jobs are named 'userOnboarding': *",
            "E*pytest.mark.stackshift has no option 'patiense'; "
            "the options are project, now, schedules, patience",
            "*- runs of stackshift -*",
            "Run run_* userOnboarding waiting: sleeping until 2026-01-08T09:00:00Z*",
            "    2026-01-05T09:00:00Z step.completed step=create-user attempt=1 result=ada",
            "E*elsewhere is not a StackShift project: it has no stackshift.toml",
        ]
    )
    result.stdout.no_fnmatch_line("*daemon/stackshiftd/testing/*: TestFailure")


def test_tests_without_the_fixture_load_nothing_of_ours(pytester: pytest.Pytester) -> None:
    """The plugin only costs them the import of a few small modules."""
    write(
        pytester.path,
        {
            "test_plain.py": """
import sys
from pathlib import Path
def test_plain():
    loaded = {name for name in sys.modules if name.startswith("stackshift")}
    assert loaded <= {"stackshift_jobs", "stackshift_jobs.version", "stackshift_jobs.errors",
                      "stackshift_jobs.testing", "stackshift_jobs.project",
                      "stackshift_jobs.project.locate", "stackshift_jobs.project.toml",
                      "stackshift_jobs.project.trust"}
    assert "msgspec" not in sys.modules
"""
        },
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)


def test_settings_name_project_and_patience(pytester: pytest.Pytester) -> None:
    """Tests outside of their project can name it; two projects with modules and jobs of the same
    names do not interfere."""
    for name in ("one", "two"):
        write(
            pytester.path / name,
            {
                "stackshift.toml": "[retry]\nmax_attempts = 7\n",
                "jobs/_shop.py": f"def name():\n    return {name!r}\n",
                "jobs/greeting.py": """
import stackshift_jobs as stackshift
from jobs import _shop

@stackshift.job("greet")
def greet(ctx):
    return _shop.name()
""",
            },
        )
    write(
        pytester.path,
        {
            "pytest.ini": "[pytest]\nstackshift_project = one\nstackshift_patience = 200ms\n",
            "tests/test_both.py": """
import time
import pytest

@pytest.mark.parametrize("turn", [1, 2])
def test_one(stackshift, turn):
    run = stackshift.start("greet")
    assert (run.result, run.json["max_attempts"]) == ("one", 7)

    @stackshift.job("slow")
    def slow(ctx):
        time.sleep(5)
    if turn == 2:
        with pytest.raises(AssertionError, match="nothing happened for 0.2 s"):
            stackshift.start("slow")

@pytest.mark.stackshift(project="../two")
def test_two(stackshift, monkeypatch):
    assert stackshift.start("greet").result == "two"
    monkeypatch.setattr("jobs._shop.name", lambda: "patched")
    assert stackshift.start("greet").result == "patched"

def test_one_again(stackshift):
    assert stackshift.start("greet").result == "one"
""",
        },
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", timeout=60)
    result.assert_outcomes(passed=4)
