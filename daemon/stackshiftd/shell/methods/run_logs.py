"""The methods `run.logs`, what a run has printed, and `run.logs_here` and `run.printed_here`, what
of it is on this machine.

In a cluster the output is in files of the machine whose daemon led when it was printed. The one
that leads now asks the others for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Generator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from stackshift_jobs.errors import StackshiftError, Usage
from stackshift_jobs.values.durations import parse_time, rfc3339
from stackshift_jobs.values.names import RUN_ID
from stackshiftd.core.records import AttemptResumed, AttemptStarted
from stackshiftd.shell.params import MAX_LIST, Params, Reads, within
from stackshiftd.shell.tasks import Tasks
from stackshiftd.shell.views.log_lines import Page, log_page, printed_until
from stackshiftd.shell.views.lookup import Lookup
from stackshiftd.shell.views.run_output import (
    Execution,
    Executions,
    Printed,
    next_lines,
)
from stackshiftd.shell.work import Parked, Work

QUIET_SECONDS: Final = 2.0
"""A machine that had no more lines of a run that goes on is not asked for them so soon again."""
MAX_QUIET: Final = 1000
"""Of so many this is remembered."""


class RunLogs(Params):
    """At most `limit` lines of a run's log, of one step or attempt if given, from where a page
    ended: `after` is its `next`."""

    run: str
    step: str | None = None
    attempt: int | None = None
    after: int | dict[str, int] = 0
    limit: int = MAX_LIST


class RunLogsHere(Params):
    """The same of the file on this machine alone, without its first `after` lines."""

    run: str
    step: str | None = None
    attempt: int | None = None
    after: int = 0
    limit: int = MAX_LIST


class RunPrinted(Params):
    """What an attempt of a run had printed on this machine until then, of what each pass of its
    handler prints."""

    run: str
    attempt: int
    until: str


class _Found(msgspec.Struct):
    """What another machine answers."""

    lines: list[dict[str, Any]]
    next: int
    more: bool


class _FoundPrinted(msgspec.Struct):
    """The same."""

    printed: list[tuple[int, int]]


class Peers(Protocol):
    """The daemons of the project on other machines."""

    async def ask(self, host: str, method: str, params: msgspec.Struct, *, again: bool) -> Any:
        """What the daemon on `host` answers; None if it does not, which takes but a moment. One
        that has just not answered is only asked `again` if this is wished."""


class RunOutput:
    """Reads logs, below the directory `logs` and on other machines; changes nothing."""

    def __init__(
        self, lookup: Lookup, logs: Path, tasks: Tasks, machine: str, peers: Peers | None
    ) -> None:
        self._lookup = lookup
        self._logs = logs
        self._tasks = tasks
        self._machine = machine
        self._peers = peers
        self._quiet: dict[tuple[Any, ...], float] = {}
        """Until when a machine is not to be asked something again."""
        self.reads: Reads = {
            "run.logs": (RunLogs, self.logs),
            "run.logs_here": (RunLogsHere, self.logs_here),
            "run.printed_here": (RunPrinted, self.printed_here),
        }

    def logs(self, params: RunLogs) -> Work:
        """The work that leads to `{lines[], next, more, finished, elsewhere[]}`; `next` is the
        `after` of the next request, `elsewhere` are the machines that have output of the run, too,
        and do not answer."""
        within(params.limit, 1, MAX_LIST, "limit")
        return self._log(params, self._lookup.resolve(params.run))

    def logs_here(self, params: RunLogsHere) -> Work:
        """The work that leads to `{lines[], next, more}`, of the file on this machine. Whether
        there is such a run is not known here: this daemon may be behind."""
        within(params.limit, 1, MAX_LIST, "limit")
        return self._here(params, self._path(params.run))

    def _here(self, params: RunLogsHere, path: Path) -> Work:
        page = yield from _page(path, params, numbered=True)
        return {"lines": page.lines, "next": page.read, "more": page.more}

    def printed_here(self, params: RunPrinted) -> Work:
        """The work that leads to `{printed}`: a number of lines for each of the handler's
        positions, as pairs."""
        until_us = parse_time(params.until)
        return self._printed(printed_until(self._path(params.run), params.attempt, until_us))

    def _printed(self, work: Generator[None, None, list[tuple[int, int]]]) -> Work:
        return {"printed": (yield from work)}

    def _path(self, run_id: str) -> Path:
        if not RUN_ID.fullmatch(run_id):
            raise Usage(f"{run_id!r} is not the id of a run")
        return self._logs / f"{run_id}.jsonl"

    def _log(self, params: RunLogs, run_id: str) -> Work:
        # Looked at first: what is printed until the end is in the file when the run has ended.
        live = self._lookup.live(run_id)
        finished = live is None or live.finished
        here = self._machine
        after = params.after if isinstance(params.after, dict) else {here: params.after}

        def wanted(host: str, limit: int = params.limit) -> RunLogsHere:
            return RunLogsHere(run_id, params.step, params.attempt, after.get(host, 0), limit)

        executions = self._executions(run_id)
        path = self._path(run_id)
        is_alone = executions.hosts in ((), (here,))
        pages = {here: (yield from _page(path, wanted(here), numbered=not is_alone))}
        elsewhere: tuple[str, ...] = ()
        others = {host: wanted(host) for host in executions.hosts if host != here}
        if others:
            again = finished or not any(after.values())
            found = yield from self._awaited(lambda: self._asked(others, again=again))
            pages |= {host: page for host, page in found.items() if page is not None}
            elsewhere = tuple(host for host in others if host not in pages)
        chosen = next_lines(pages, executions) if others else None
        if chosen is not None:
            page = pages[chosen.host]
            if chosen.lines < len(page.lines):
                # Where its other lines begin is only known to who reads the file.
                cut = wanted(chosen.host, chosen.lines)
                page = yield from self._cut(chosen.host, cut)
            for host, read in pages.items():
                if read.lines:  # They come later.
                    pages[host] = Page([], after.get(host, 0), True)
            shown = yield from self._unrepeated(run_id, chosen.host, page.lines, executions)
            pages[chosen.host] = page._replace(lines=shown)
        lines = [line for page in pages.values() for line in page.lines]
        next_after = after | {host: page.read for host, page in pages.items()}
        return {
            "lines": lines,
            "next": next_after if here else next_after[here],
            "more": any(page.more for page in pages.values()),
            "finished": finished,
            "elsewhere": elsewhere,
        }

    def _cut(self, host: str, wanted: RunLogsHere) -> Generator[Parked | None, None, Page]:
        if host == self._machine:
            return (yield from _page(self._path(wanted.run), wanted, numbered=True))
        found = yield from self._awaited(lambda: self._asked({host: wanted}, again=True))
        # If it is gone by now, its lines are still the next ones when it is back.
        return found[host] or Page([], wanted.after, False)

    def _unrepeated(
        self, run_id: str, host: str, lines: list[dict[str, Any]], executions: Executions
    ) -> Generator[Parked | None, None, list[dict[str, Any]]]:
        """The lines without those that had been printed on another machine before."""
        counts: dict[Printed, dict[int, int]] = {}
        shown = []
        for line in lines:
            nth = line.pop("nth", None)
            pos = line.pop("pos", None)
            printed = executions.printed_before(host, line) if nth is not None else None
            if printed is not None and printed not in counts:
                counts[printed] = yield from self._counts(run_id, printed)
            if printed is None or nth >= counts[printed].get(pos, 0):
                shown.append(line)
        return shown

    def _counts(
        self, run_id: str, printed: Printed
    ) -> Generator[Parked | None, None, dict[int, int]]:
        """How many lines they have printed, by the handler's position; what those that do not
        answer have printed is not shown, so it does not count."""
        wanted = RunPrinted(run_id, printed.attempt, rfc3339(printed.until_us))
        counts: dict[int, int] = {}
        for host in sorted(printed.hosts):
            if host == self._machine:
                answer = yield from self.printed_here(wanted)
            else:
                answer = yield from self._awaited(partial(self._asked_printed, host, wanted))
            for pos, count in answer["printed"]:
                counts[pos] = max(count, counts.get(pos, 0))
        return counts

    async def _asked_printed(self, host: str, wanted: RunPrinted) -> dict[str, Any]:
        assert self._peers is not None
        answer = await self._peers.ask(host, "run.printed_here", wanted, again=False)
        try:
            return {"printed": msgspec.convert(answer, _FoundPrinted).printed}
        except msgspec.ValidationError:
            return {"printed": []}

    async def _asked(
        self, wanted: Mapping[str, RunLogsHere], *, again: bool
    ) -> dict[str, Page | None]:
        """What the other machines have; None of one that does not answer."""
        found = await asyncio.gather(
            *(self._asked_one(host, each, again=again) for host, each in wanted.items())
        )
        return dict(zip(wanted, found, strict=True))

    async def _asked_one(self, host: str, wanted: RunLogsHere, *, again: bool) -> Page | None:
        assert self._peers is not None
        if not again and self._quiet.get(_question(host, wanted), 0) > time.monotonic():
            return Page([], wanted.after, False)
        answer = await self._peers.ask(host, "run.logs_here", wanted, again=again)
        try:
            page = msgspec.convert(answer, _Found)
        except msgspec.ValidationError:
            return None
        if not page.lines and not page.more:
            question = _question(host, msgspec.structs.replace(wanted, after=page.next))
            self._quiet.pop(question, None)
            self._quiet[question] = time.monotonic() + QUIET_SECONDS
            if len(self._quiet) > MAX_QUIET:
                self._quiet.pop(next(iter(self._quiet)))
        return Page(page.lines, page.next, page.more)

    def _executions(self, run_id: str) -> Executions:
        """Those of a run, or none of one that cannot have printed anything elsewhere."""
        if self._peers is None or self._lookup.leaders_since(run_id) <= {self._machine}:
            return Executions(())
        return Executions(
            Execution(entry.record.attempt, self._lookup.leader_at(entry.seq), entry.at_us)
            for entry in self._lookup.entries(run_id)
            if isinstance(entry.record, AttemptStarted | AttemptResumed)
        )

    def _awaited(
        self, work: Callable[[], Coroutine[Any, Any, Any]]
    ) -> Generator[Parked | None, None, Any]:
        """What `work` returns, while others have their turns."""
        answers: list[Any] = []

        def begin(resume: Callable[[], None]) -> None:
            def answered(result: Any) -> None:
                answers.append(result)
                resume()

            self._tasks.begin(work(), answered)

        yield Parked(begin)
        if isinstance(answers[0], StackshiftError):
            raise answers[0]
        return answers[0]


def _page(path: Path, params: RunLogsHere, *, numbered: bool) -> Generator[None, None, Page]:
    return (
        yield from log_page(
            path, params.after, params.limit, params.step, params.attempt, numbered=numbered
        )
    )


def _question(host: str, wanted: RunLogsHere) -> tuple[Any, ...]:
    return host, *msgspec.structs.astuple(wanted)
