"""The pytest fixture `stackshift`, which tests jobs in milliseconds. See docs/testing.md.

```python
def test_onboarding_fails_without_the_event(stackshift):
    run = stackshift.start("userOnboarding", {"email": "ada@example.org"})
    assert run.status == "waiting" and run.waiting_for["kind"] == "event"
    stackshift.advance("24h")
    assert run.status == "failed"
    assert run.error["type"] == "TimeoutError"
```

The fixture is the daemon itself (its core, its shell and the worker's code) inside the test
process, with a journal in memory and a clock that only the test moves. pytest finds it by itself
where StackShift is installed. pytest loads this module at startup, so the module imports little but
pytest; the daemon is imported when a test first asks for the fixture.

A test sees the jobs of its project (the nearest directory above the test's file that contains a
`stackshift.toml`, else the ini option `stackshift_project`), those that its module decorates, and
those that the test itself decorates. A marker changes the defaults:

```python
@pytest.mark.stackshift(now="2026-03-28T23:00:00Z", schedules=True)
```

- `project`: another project, as a path relative to the test's file
- `now`: the time at which the test begins (default 2026-01-05T09:00:00Z)
- `schedules`: let schedules start runs; by default they do not
- `patience`: how long, in real time, a handler may do nothing before the test fails (default 10 s;
  the ini option `stackshift_patience` sets it for all tests)
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
"""Names for annotations → the modules that define them."""
_OPTIONS: Final = ("project", "now", "schedules", "patience")
_jobs_of: Final[dict[str, dict[str, Job]]] = {}
"""The jobs that each test module decorates, by the module's name: visible to its own tests only."""


def __getattr__(name: str) -> Any:
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the ini options `stackshift_project` and `stackshift_patience`."""
    parser.addini(
        "stackshift_project",
        "the StackShift project for tests outside of any, as a path relative to the rootdir",
        default="",
    )
    parser.addini(
        "stackshift_patience",
        "how long, in real time, a handler may do nothing before its test fails",
        default="10s",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker `stackshift`, so that `--strict-markers` accepts it."""
    config.addinivalue_line(
        "markers",
        f"stackshift({', '.join(_OPTIONS)}): options of the fixture `stackshift` for a test",
    )


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Let a test module import the project's modules as a worker does, and keep the jobs that it
    decorates to itself, since another test module may have a job of the same name."""
    if not isinstance(collector, pytest.Module):
        return (yield)
    project = _project_of(collector.config, collector.path)
    if project is not None:
        from stackshift_jobs.handler import asyncio_order

        asyncio_order.install()  # as a worker does, before a module imports from asyncio
        if str(project) not in sys.path:
            sys.path.insert(0, str(project))
    report = yield
    jobs = sys.modules.get("stackshift_jobs.registry")
    if jobs is not None and report.passed:
        own = collector.obj.__name__
        decorated = {name: job for name, job in jobs.registry.items() if job.module == own}
        _jobs_of[own] = _jobs_of.get(own, {}) | decorated
        for name in decorated:
            del jobs.registry[name]
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what the runs did to the report of a failed test."""
    report = yield
    used = getattr(item, "funcargs", {}).get("stackshift")
    fixture = sys.modules.get("stackshiftd.testing.fixture")
    if (
        report.when == "call"
        and report.failed
        and fixture is not None
        and isinstance(used, fixture.Stackshift)
        and (text := used.told())
    ):
        report.sections.append(("runs of stackshift", text))
    return report


def _project_of(config: pytest.Config, test: Path) -> Path | None:
    """The project whose jobs the tests in the file `test` see; None if there is none."""
    nearest = project_above(str(test.resolve().parent))
    if nearest is not None:
        return Path(nearest)
    configured = config.getini("stackshift_project")
    return _checked_project(config.rootpath / configured) if configured else None


def _checked_project(project: Path) -> Path:
    if not (project / CONFIG_FILE).is_file():
        raise pytest.UsageError(f"{project} is not a StackShift project: it has no {CONFIG_FILE}")
    return project.resolve()


@pytest.fixture
def stackshift(request: pytest.FixtureRequest) -> Iterator[Stackshift]:
    """A StackShift daemon in the test process, with a clock that only the test moves; see
    `stackshift_jobs.testing`."""
    from stackshift_jobs.values.durations import milliseconds
    from stackshiftd.testing.fixture import START, opened

    marker = request.node.get_closest_marker("stackshift")
    options = dict(marker.kwargs) if marker is not None else {}
    if unknown := [*options.keys() - set(_OPTIONS), *(marker.args if marker is not None else ())]:
        raise pytest.UsageError(
            f"pytest.mark.stackshift has no option {unknown[0]!r}; "
            f"the options are {', '.join(_OPTIONS)}"
        )
    project = (
        _checked_project(request.path.parent / options["project"])
        if "project" in options
        else _project_of(request.config, request.path)
    )
    patience = options.get("patience", request.config.getini("stackshift_patience"))
    own = request.module.__name__
    with opened(
        project,
        own_module=own,
        own_jobs=_jobs_of.get(own, {}),
        start=options.get("now", START),
        patience=milliseconds(patience) / 1000,
        schedules=options.get("schedules", False),
    ) as opened_fixture:
        yield opened_fixture
