"""Tests of jobs, in milliseconds: the pytest fixture `stackshift`. See docs/testing.md.

```python
def test_onboarding_fails_without_the_event(stackshift):
    run = stackshift.start("userOnboarding", {"email": "ada@example.org"})
    assert run.status == "waiting" and run.waiting_for["kind"] == "event"
    stackshift.advance("24h")
    assert run.status == "failed"
    assert run.error["type"] == "TimeoutError"
```

The fixture is the daemon itself (its core, its shell and its worker's code) in the process of the
test, with a journal in memory and a clock that only the test moves. pytest finds it by itself where
StackShift is installed. This module is what pytest loads at its start, so it imports nothing but
pytest; the daemon's parts are imported when a test first asks for the fixture.

Which jobs there are: those of the project (the nearest directory with a `stackshift.toml` above the
test's file, else the ini option `stackshift_project`), those that the test's module decorates, and
those that the test itself decorates. A test may say otherwise:

```python
@pytest.mark.stackshift(now="2026-03-28T23:00:00Z", schedules=True)
```

- `project`: another project, as a path from the test's file
- `now`: the time at which the test begins (2026-01-05T09:00:00Z)
- `schedules`: let schedules start runs; they do not unless a test asks for it
- `patience`: for how long, in real time, a handler may do nothing before the test fails (10 s; the
  ini option `stackshift_patience` says so for all tests)
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from stackshift_jobs.project.locate import CONFIG_FILE, project_above

if TYPE_CHECKING:
    from stackshift_jobs.registry import Job
    from stackshiftd.testing.fixture import Stackshift
    from stackshiftd.testing.runs import Run, Step

__all__ = ["Run", "Stackshift", "Step", "stackshift"]

_HOME: Final = {
    "Run": "stackshiftd.testing.runs",
    "Stackshift": "stackshiftd.testing.fixture",
    "Step": "stackshiftd.testing.runs",
}
"""Names for annotations → where they are defined."""
_OPTIONS: Final = ("project", "now", "schedules", "patience")
_jobs_of: Final[dict[str, dict[str, Job]]] = {}
"""What each test module decorates, by the module's name: jobs of its own tests alone."""


def __getattr__(name: str) -> Any:
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        "stackshift_project",
        "the StackShift project of tests that lie in none, as a path from the rootdir",
        default="",
    )
    parser.addini(
        "stackshift_patience",
        "for how long, in real time, a handler of a test of jobs may do nothing",
        default="10s",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"stackshift({', '.join(_OPTIONS)}): how the fixture `stackshift` is made for a test",
    )


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Around the import of a test module: it can import the project's modules as a worker does, and
    keeps the jobs that it decorates to itself (another test module may have one of that name)."""
    if not isinstance(collector, pytest.Module):
        return (yield)
    project = _project_of(collector.config, collector.path)
    if project is not None and str(project) not in sys.path:
        sys.path.insert(0, str(project))
    report = yield
    jobs = sys.modules.get("stackshift_jobs.registry")
    if jobs is not None and report.passed:
        own = collector.obj.__name__
        found = {name: job for name, job in jobs.registry.items() if job.module == own}
        _jobs_of[own] = _jobs_of.get(own, {}) | found
        for name in found:
            del jobs.registry[name]
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails says what its runs have done."""
    report = yield
    made = getattr(item, "funcargs", {}).get("stackshift")
    fixture = sys.modules.get("stackshiftd.testing.fixture")
    if (
        report.when == "call"
        and report.failed
        and fixture is not None
        and isinstance(made, fixture.Stackshift)
        and (text := made.told())
    ):
        report.sections.append(("runs of stackshift", text))
    return report


def _project_of(config: pytest.Config, test: Path) -> Path | None:
    """The project whose jobs a test in the file `test` is about."""
    found = project_above(str(test.resolve().parent))
    if found is not None:
        return Path(found)
    named = config.getini("stackshift_project")
    return _named(config.rootpath / named) if named else None


def _named(project: Path) -> Path:
    if not (project / CONFIG_FILE).is_file():
        raise pytest.UsageError(f"{project} is no StackShift project: it has no {CONFIG_FILE}")
    return project.resolve()


@pytest.fixture
def stackshift(request: pytest.FixtureRequest) -> Iterator[Stackshift]:
    """A StackShift daemon in this test's process, with a clock that only the test moves; see
    `stackshift_jobs.testing`."""
    from stackshift_jobs.values.durations import milliseconds
    from stackshiftd.testing.fixture import START, opened

    marker = request.node.get_closest_marker("stackshift")
    asked = dict(marker.kwargs) if marker is not None else {}
    if unknown := [*asked.keys() - set(_OPTIONS), *(marker.args if marker is not None else ())]:
        raise pytest.UsageError(
            f"pytest.mark.stackshift has no {unknown[0]!r}; it has {', '.join(_OPTIONS)}"
        )
    project = (
        _named(request.path.parent / asked["project"])
        if "project" in asked
        else _project_of(request.config, request.path)
    )
    patience = asked.get("patience", request.config.getini("stackshift_patience"))
    own = request.module.__name__
    with opened(
        project,
        own_module=own,
        own_jobs=_jobs_of.get(own, {}),
        start=asked.get("now", START),
        patience=milliseconds(patience) / 1000,
        schedules=asked.get("schedules", False),
    ) as made:
        yield made
