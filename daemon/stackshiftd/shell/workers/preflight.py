"""What would become of the runs in flight with other code: before that code gets any of them.

A worker on trial replays the record of each unfinished run on the code that it has imported,
without calling the function of a step (`worker.rehearsal`). What differs is found by comparing what
the handler asks for with what is on record. A step that is new is no difference: the run goes on.
What is behind it, the replay cannot show; there the names that the code contains decide.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from stackshift_jobs.errors import error_text
from stackshift_jobs.values.identities import step_name
from stackshiftd.core.state.state import PENDING, Phase, Run
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.views.bodies import Bodies
from stackshiftd.shell.workers import orders
from stackshiftd.shell.workers.link import WorkerLink
from stackshiftd.worker.frames import Rehearse, Rehearsed

SECONDS: Final = 10.0
"""For all runs; those that there was no time for are counted."""
SECONDS_EACH: Final = 2.0
AT_A_TIME: Final = 16
"""Runs that are sent to the worker and not answered."""
MAX_NAMED: Final = 10
"""Runs that a finding names."""

WAIT_GONE: Final = "wait_gone"
"""They wait for a call that the code no longer asks for."""
AGAIN: Final = "again"
"""They would run a recorded step again, under another identity."""
UNUSED: Final = "unused"
"""A recorded outcome is no longer asked for."""
FAILS: Final = "fails"
"""The handler raises."""
STOPPED: Final = "stopped"
"""The handler does not come to rest."""


class Finding(NamedTuple):
    """What would become of a run: one of the kinds above, with the call or the error that it is
    about."""

    kind: str
    about: str


class Preflight:
    """Compares the runs of a daemon with the code of a worker on trial."""

    def __init__(self, engine: Engine, bodies: Bodies) -> None:
        self._engine = engine
        self._bodies = bodies

    async def check(self, link: WorkerLink, runs: list[str] | None = None) -> dict[str, Any]:
        """Replay the record of `runs` (None: of all that are unfinished and have one) on the code
        of `link`. Returns `{in_flight, go_on, unchecked, findings: [{job, kind, about, count,
        runs}]}`."""
        chosen = self._chosen(runs)
        found: dict[tuple[str, Finding], list[str]] = {}
        checked = differ = 0
        deadline = time.monotonic() + SECONDS
        for at in range(0, len(chosen), AT_A_TIME):
            if time.monotonic() >= deadline or link.gone:
                break
            for run, rehearsed in await self._rehearse(link, chosen[at : at + AT_A_TIME], deadline):
                checked += 1
                findings = list(_findings(run, rehearsed))
                differ += bool(findings)
                for finding in findings:
                    found.setdefault((run.job, finding), []).append(run.id)
        return {
            "in_flight": len(chosen),
            "go_on": checked - differ,
            "unchecked": len(chosen) - checked,
            "findings": [
                {
                    "job": job,
                    "kind": finding.kind,
                    "about": finding.about,
                    "count": len(ids),
                    "runs": ids[:MAX_NAMED],
                }
                for (job, finding), ids in found.items()
            ],
        }

    def _chosen(self, runs: Iterable[str] | None) -> list[Run]:
        state = self._engine.state
        if runs is None:
            return [run for run in state.runs.values() if not run.finished and run.calls]
        return [state.runs[run] for run in runs if run in state.runs]

    async def _rehearse(
        self, link: WorkerLink, runs: list[Run], deadline: float
    ) -> list[tuple[Run, Rehearsed]]:
        loop = asyncio.get_running_loop()
        asked: list[tuple[Run, asyncio.Future[Rehearsed]]] = []
        for run in runs:
            read = self._bodies.reader(run)
            try:
                frames = [
                    *orders.recalls(run, read),
                    Rehearse(orders.execute(run, read), SECONDS_EACH),
                ]
            except LookupError:
                continue  # its record has been removed; that says nothing about the code
            answer: asyncio.Future[Rehearsed] = loop.create_future()
            link.rehearsals[run.id] = answer
            asked.append((run, answer))
            for frame in frames:
                link.post(frame)
        if not asked:
            return []
        await asyncio.wait([answer for _, answer in asked], timeout=deadline - time.monotonic())
        return [
            (run, answer.result())
            for run, answer in asked
            if answer.done() and not answer.cancelled()
        ]


def _findings(run: Run, did: Rehearsed) -> Iterator[Finding]:
    """What would become of a run whose handler `did` this."""
    if did.stopped:
        yield Finding(STOPPED, "")
        return
    if did.error is not None:
        yield Finding(FAILS, error_text(did.error.type, did.error.message))
        return
    asked = {step_name(step) for step in did.asked}
    for step in did.unasked:
        call = run.calls.get(step)
        if call is None or call.phase is Phase.WITHDRAWN:
            continue
        if call.phase in PENDING:
            yield Finding(WAIT_GONE, step)
        elif call.phase is not Phase.OPEN:
            yield Finding(AGAIN if step_name(step) in asked else UNUSED, step)
