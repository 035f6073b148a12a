"""Which jobs exist in a test: those of the project, of the test's module, and of the test itself.

Job modules are imported once and stay imported, so that a module is the same object for the test
that patches it and for the handler that calls it. Only the registry belongs to a single test: it is
restored when the test is over. A project's modules and jobs are set aside while a test of another
project runs, since both may have a module `jobs.media`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Final

import msgspec

from stackshift_jobs.callables import Written
from stackshift_jobs.project.locate import project_above
from stackshift_jobs.registry import Job, QueueLimits, TwoJobsOneName, queues, registry
from stackshiftd.worker.frames import FailedModule, Greeting
from stackshiftd.worker.loading import loader

_aside: Final[dict[Path, dict[str, ModuleType]]] = {}
"""Modules of all projects but the current one."""
_aside_jobs: Final[dict[Path, tuple[dict[str, Job], dict[str, QueueLimits]]]] = {}
_present: dict[Path, set[str]] = {}
"""At most one entry: the project whose modules are imported, and the top-level module names in its
root."""


class Jobs:
    """The jobs of one test. `entries` are the project's job files and folders, `own` is the test's
    module; `schedules` says whether the jobs' schedules are active."""

    def __init__(
        self, project: Path | None, entries: tuple[str, ...], own: str, schedules: bool
    ) -> None:
        self._project = project
        self._entries = list(entries)
        self._own = own
        self._schedules = schedules
        self._failed: list[FailedModule] = []
        self._greeted: list[int] = []

    @contextmanager
    def registered(self, own_jobs: Mapping[str, Job]) -> Iterator[None]:
        """Fill the registry with the jobs of the project and `own_jobs`; restore it at the end.

        Raises `TwoJobsOneName` if a job of the test has the name of one of the project's.
        """
        if self._project is not None:
            _bring_in(self._project, self._own)
        before, queues_before = dict(registry), dict(queues)
        try:
            if self._project is not None:
                _, self._failed = loader.load(self._project, self._entries)
                before, queues_before = dict(registry), dict(queues)
            self._leave_out_others()
            for name, job in own_jobs.items():
                if name in registry:
                    raise TwoJobsOneName(
                        f"two jobs are named {name!r}: one in {registry[name].module} and one in "
                        f"{self._own}",
                        hint="give the job in the test another name",
                        job=name,
                    )
                registry[name] = job
            yield
        finally:
            # What an import has registered must stay: the module will not be imported again.
            imported = {
                name: job
                for name, job in registry.items()
                if job.module != self._own and name not in before
            }
            registry.clear()
            registry.update(before | imported)
            queues.clear()
            queues.update(queues_before)

    def _leave_out_others(self) -> None:
        """Remove jobs that were registered by modules imported from another project."""
        for name, job in list(registry.items()):
            home = _project_of(_file_of(job))
            if home is not None and home != self._project and job.module != self._own:
                del registry[name]

    @property
    def changed(self) -> bool:
        """True if jobs or queues were defined or removed since the last `greeting`."""
        return self._greeted != _identities()

    def greeting(self) -> Greeting:
        """The greeting of a worker with these jobs."""
        failed = list(self._failed)
        facts = loader.described(failed)
        if not self._schedules:
            facts = [msgspec.structs.replace(job, schedules={}) for job in facts]
        self._greeted = _identities()
        return Greeting(os.getpid(), sys.executable, facts, failed, loader.queue_terms())


def _identities() -> list[int]:
    return [*map(id, registry.values()), *map(id, queues.values())]


def _bring_in(project: Path, own: str) -> None:
    """Make `project` the one whose modules are imported. The test's module `own` stays imported."""
    if project not in _present:
        for other in list(_present):
            _set_aside(other, _present.pop(other), own)
        _present[project] = {entry.name.removesuffix(".py") for entry in project.iterdir()}
        sys.modules.update(_aside.pop(project, {}))
        jobs, limits = _aside_jobs.pop(project, ({}, {}))
        registry.update(jobs)
        queues.update(limits)
    root = str(project)
    if sys.path[:1] != [root]:
        if root in sys.path:
            sys.path.remove(root)
        sys.path.insert(0, root)


def _set_aside(project: Path, tops: set[str], own: str) -> None:
    if str(project) in sys.path:
        sys.path.remove(str(project))
    modules = {
        name: module
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in tops
        and not f"{own}.".startswith(f"{name}.")
        and _is_under(module, project)
    }
    jobs = {name: job for name, job in registry.items() if job.module in modules}
    for name in modules:
        del sys.modules[name]
    for name in jobs:
        del registry[name]
    _aside[project] = modules
    _aside_jobs[project] = (jobs, dict(queues))
    queues.clear()


def _is_under(module: ModuleType, project: Path) -> bool:
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    return any(place and Path(place).resolve().is_relative_to(project) for place in places)


def _file_of(job: Job) -> str | None:
    """The file of the module, or of the script, that a job is defined by."""
    if isinstance(job.handler, Written):
        return job.handler.place.file
    return getattr(sys.modules.get(job.module), "__file__", None)


def _project_of(file: str | None) -> Path | None:
    """The project that contains a module's file; None if there is none."""
    found = project_above(str(Path(file).resolve().parent)) if file else None
    return Path(found) if found is not None else None
