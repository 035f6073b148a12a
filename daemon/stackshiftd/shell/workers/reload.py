"""Loads changed job modules, without an interruption.

A new worker, which is on trial, imports the modules as they are now. If they can be imported, it
and others like it take over: they get all new work, while the old ones finish what they hold. If a
module that has jobs cannot be imported any more, the worker on trial is dismissed, and the code
from before goes on.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any, Protocol

import msgspec

from stackshift_jobs.errors import BadConfiguration
from stackshiftd.shell.catalog import Catalog, shown
from stackshiftd.shell.tuning import Tuning
from stackshiftd.shell.workers.link import WorkerEnded, WorkerLink
from stackshiftd.shell.workers.pool import Pool
from stackshiftd.shell.workers.preflight import Preflight
from stackshiftd.worker.frames import FailedModule, Greeting

log = logging.getLogger("stackshiftd.reload")


class WorkGiver(Protocol):
    """Gives work to workers."""

    pool: Pool

    def take_over(self, link: WorkerLink, greeting: Greeting) -> None:
        """Let a worker that was on trial, and its code, take the place of all others."""


class Reloads:
    """Reloads the code of one daemon's workers, one reload at a time."""

    def __init__(
        self,
        work_giver: WorkGiver,
        catalog: Catalog,
        preflight: Preflight,
        tuning: Tuning,
        root: Path,
    ) -> None:
        self._work_giver = work_giver
        self._catalog = catalog
        self._preflight = preflight
        self._tuning = tuning
        self._root = root
        self._turn = asyncio.Lock()

    async def reload(self, *, strict: bool = False) -> dict[str, Any]:
        """Load the modules as they are now. Returns `{loaded, changed, gone, jobs: {added,
        changed, removed}, failed_modules, in_flight}`, compared with the start or the last reload;
        `gone` are those of the `changed` files that are no longer there, `loaded` is false if the
        code from before goes on, and `in_flight` is what `Preflight.check` has found, or null. With
        `strict` such findings are a reason not to load them. Raises `BadConfiguration` and
        `OSError` if no worker can be started at all."""
        async with self._turn:
            changed = self._catalog.code.untold()
            gone = [path for path in changed if not (self._root / path).exists()]
            before = self._catalog.told_codes
            link, greeting = await self._trial()
            broken = self._broken(greeting)
            in_flight = None
            if broken:
                self._work_giver.pool.dismiss(link, "a module could not be imported")
                self._catalog.refused(greeting)
                self._catalog.tell()
                for failed in broken:
                    log.error("not reloaded: %s", shown(failed))
            else:
                in_flight = await self._preflight.check(link)
                _warn(in_flight)
                if strict and in_flight["findings"]:
                    self._work_giver.pool.dismiss(link, "runs in flight would not go on")
                elif link.gone:
                    raise BadConfiguration("the worker that was to take over ended in a handler")
                else:
                    self._work_giver.take_over(link, greeting)
                    self._catalog.tell()
                    log.info("reloaded %s", _named(changed, gone))
            return {
                "loaded": link.trial is None,
                "changed": changed,
                "gone": gone,
                "jobs": _difference(before, self._catalog.codes),
                "failed_modules": [msgspec.to_builtins(module) for module in greeting.failed],
                "in_flight": in_flight,
            }

    async def learn(self) -> None:
        """Load the modules for the first time, where no worker of this machine does. Raises as
        `reload` does."""
        async with self._turn:
            link, greeting = await self._trial()
            if greeting.pid:
                self._work_giver.take_over(link, greeting)
            else:
                self._catalog.refused(greeting)

    async def preflight(self, runs: list[str] | None) -> dict[str, Any]:
        """What would become of `runs` (None: of all in flight) with the modules as they are now:
        `{failed_modules, in_flight}`. Nothing is loaded. Raises as `reload` does."""
        async with self._turn:
            link, greeting = await self._trial()
            in_flight = None
            try:
                if greeting.pid:
                    in_flight = await self._preflight.check(link, runs)
            finally:
                self._work_giver.pool.dismiss(link, "it was only to show what would happen")
            return {
                "failed_modules": [msgspec.to_builtins(module) for module in greeting.failed],
                "in_flight": in_flight,
            }

    async def _trial(self) -> tuple[WorkerLink, Greeting]:
        """A worker that has imported the modules as they are now, and what it says of them."""
        answer: asyncio.Future[Greeting] = asyncio.get_running_loop().create_future()
        link = await self._work_giver.pool.start_trial(answer)
        return link, await self._greeting(link, answer)

    async def _greeting(self, link: WorkerLink, answer: asyncio.Future[Greeting]) -> Greeting:
        """What the worker on trial says of the modules. If a module keeps it from saying anything,
        that module has failed; the greeting has no process then."""
        try:
            return await asyncio.wait_for(answer, self._tuning.ready)
        except TimeoutError:
            error = "TimeoutError", f"it is still being imported after {self._tuning.ready:.0f} s"
        except WorkerEnded as ended:
            error = "WorkerDied", str(ended)
        module = link.importing
        if not module:
            self._work_giver.pool.dismiss(link, "it did not begin to import anything")
            raise BadConfiguration(
                f"the worker that was to load the code: {error[1]}", hint="stackshift daemon logs"
            )
        file = str(self._root / f"{module.replace('.', '/')}.py")
        return Greeting(0, "", [], [FailedModule(module, file, 0, *error)])

    def _broken(self, greeting: Greeting) -> list[FailedModule]:
        """The modules that cannot be imported, if jobs would be lost with them."""
        if not greeting.pid:
            return greeting.failed
        now = {job.name for job in greeting.jobs}
        lost = {job.module for job in self._catalog.jobs.values() if job.name not in now}
        return [failed for failed in greeting.failed if failed.module in lost]


def _named(changed: list[str], gone: list[str]) -> str:
    names = [f"{path} (removed)" if path in gone else path for path in changed]
    return ", ".join(names) or "the job modules: nothing had changed"


def _warn(in_flight: dict[str, Any]) -> None:
    for each in in_flight["findings"]:
        told = each["count"], each["job"], each["kind"], each["about"]
        log.warning("%d runs of %s in flight: %s %s", *told)


def _difference(before: dict[str, str], after: dict[str, str]) -> dict[str, list[str]]:
    return {
        "added": sorted(after.keys() - before.keys()),
        "changed": sorted(job for job in after if before.get(job, after[job]) != after[job]),
        "removed": sorted(before.keys() - after.keys()),
    }
