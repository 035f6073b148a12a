"""Heartbeats: what outside watchers (healthchecks.io and the like) are told.

`[heartbeat] url` is called every `period` as long as the daemon leads and its loop turns, so that
silence tells the watcher that it is gone; `/fail` is called while it cannot write. A job's
`heartbeat` URL is called when one of its runs begins (`/start`), completes (the URL itself) and
fails for good (`/fail`, with the error and the end of the log); a schedule's, of the runs that it
has started. Invariants:

- Nothing waits for a heartbeat: requests are made on threads, each is over in `SECONDS`, and what
  waits is bounded. A URL that hangs delays its own heartbeats alone.
- Those of one URL arrive in order: a `/start` never overtakes or follows the success after it.
- At most once: nothing is recorded, so a kill may lose one. A watcher that misses a success raises
  an alarm, which is the safe side.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from stackshift_jobs.project.config import Config
from stackshift_jobs.project.environment import environment
from stackshift_jobs.values.secrets import ENV, Reference
from stackshiftd.core.records import AttemptStarted, Entry
from stackshiftd.core.state.schedules import IN_FILE, Schedule
from stackshiftd.core.state.state import Run, State
from stackshiftd.history.rows import RunRow
from stackshiftd.shell.catalog import Catalog
from stackshiftd.worker.secrets import SecretTerms, resolved

log = logging.getLogger("stackshiftd.heartbeats")

SECONDS: Final = 10.0
"""How long a watcher may take to answer."""
TRIES: Final = 3
PAUSE_SECONDS: Final = 1.0
"""Before the second try; twice as long before the third."""
MOST_WAITING: Final = 50
"""Heartbeats of one URL that wait; of more, the oldest are dropped."""
MOST_LOG: Final = 10_000
"""Bytes of the end of a log, which is what healthchecks.io keeps at least."""
CLOSE_SECONDS: Final = 2.0
START: Final = "/start"
FAIL: Final = "/fail"


class _Beat(NamedTuple):
    """A call of a URL, with `ending` added to its path. The body is made when it is sent."""

    ending: str
    body: Callable[[], bytes]


def _nothing() -> bytes:
    return b""


class Heartbeats:
    """Calls the URLs. `trouble` returns why the daemon cannot write, empty if it can."""

    def __init__(
        self, config: Config, catalog: Catalog, logs: Path, trouble: Callable[[], str]
    ) -> None:
        self._config = config
        self.in_file = config.schedules
        """The schedules that `stackshift.toml` declares now. Their URLs are in no record."""
        self._catalog = catalog
        self._logs = logs
        self._trouble = trouble
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, deque[_Beat]] = {}
        """URL → what waits; a URL is in here while a task calls it."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._alarm: asyncio.TimerHandle | None = None
        self._failing: set[str] = set()
        """URLs whose last call failed, so that each failure is logged once."""
        self._is_closing = False

    # --- The daemon's own ------------------------------------------------------------------

    def begin(self) -> None:
        """From now on, show that the daemon is alive."""
        if self._config.heartbeat.url is not None and not self._is_closing:
            url = self._resolved(self._config.heartbeat.url, "[heartbeat] url")
            if url and url not in self._waiting:  # A call that hangs is followed by none.
                trouble = self._trouble()
                self._enter(url, _Beat(FAIL if trouble else "", trouble.encode))
            self._alarm = self._loop.call_later(self._config.heartbeat.period_ms / 1000, self.begin)

    def reread(self, config: Config) -> None:
        """From now on, call the URLs that `config` has."""
        self.in_file = config.schedules
        if config.heartbeat == self._config.heartbeat:
            return
        self._config = replace(self._config, heartbeat=config.heartbeat)
        if self._alarm is not None:
            self._alarm.cancel()
        self.begin()

    def _resolved(self, url: str | Reference | None, what: str) -> str:
        """The URL that the setting `what` has, whose reference is resolved each time: a secret may
        be replaced."""
        if not isinstance(url, Reference):
            return url or ""
        try:
            if url.kind == ENV:
                return environment(self._config)[url.name]
            terms = SecretTerms(
                str(self._config.root),
                str(self._config.data_dir),
                self._config.secrets.env,
                self._config.secrets.files,
            )
            return resolved(url, terms).reveal()
        except Exception as bad:  # Whatever it is, the next look may find it.
            self._note(what, f"{url} cannot be read: {bad}")
            return ""

    # --- Those of jobs and schedules -------------------------------------------------------

    def published(self, entries: Iterable[Entry], state: State) -> None:
        """Tell of the runs that have begun by these entries, which are durable."""
        for entry in entries:
            record = entry.record
            if type(record) is AttemptStarted and record.attempt == 1:
                run = state.runs.get(record.run)
                for url in self._urls_of(run, state) if run is not None else ():
                    self._enter(url, _Beat(START, _nothing))

    def ended(self, run: Run, row: RunRow, error: str, state: State) -> None:
        """Tell that a run has completed, or failed for good with `error`."""
        for url in self._urls_of(run, state):
            if row.status == "completed":
                self._enter(url, _Beat("", _nothing))
            elif row.status == "failed":
                path = self._logs / f"{row.id}.jsonl"
                self._enter(url, _Beat(FAIL, partial(_told, row.id, error, path)))

    def has(self, schedule: Schedule) -> bool:
        """Does anything hear of the runs of the schedule?"""
        return self._setting(schedule) is not None

    def _urls_of(self, run: Run, state: State) -> Iterator[str]:
        facts = self._catalog.jobs.get(run.job)
        if facts is not None and facts.heartbeat:
            yield facts.heartbeat
        schedule = state.schedules.get(run.schedule) if run.schedule else None
        if schedule is not None and (url := self._setting(schedule)) is not None:
            what = f"[schedules.{schedule.name}] heartbeat"
            if found := self._resolved(url, what):
                yield found

    def _setting(self, schedule: Schedule) -> str | Reference | None:
        if schedule.source != IN_FILE:
            return schedule.heartbeat or None
        section = self.in_file.get(schedule.name)
        return section.heartbeat if section is not None else None

    # --- Calling ---------------------------------------------------------------------------

    def _enter(self, url: str, beat: _Beat) -> None:
        if self._is_closing:
            return
        waiting = self._waiting.get(url)
        if waiting is not None:
            waiting.append(beat)
            return
        self._waiting[url] = deque((beat,), MOST_WAITING)
        task = self._loop.create_task(self._call_all(url))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _call_all(self, url: str) -> None:
        waiting = self._waiting[url]
        try:
            while waiting:
                await self._call(url, waiting.popleft())
        finally:
            del self._waiting[url]

    async def _call(self, url: str, beat: _Beat) -> None:
        from stackshiftd.worker.notices.http import post_awaited  # It loads ssl.

        body = await asyncio.to_thread(beat.body) if beat.ending == FAIL else beat.body()
        headers = {"Content-Type": "text/plain; charset=utf-8", "User-Agent": "stackshift"}
        why = ""
        for number in range(TRIES):
            if number:
                await asyncio.sleep(PAUSE_SECONDS * number)
            try:
                answer = await post_awaited(_with_ending(url, beat.ending), body, headers, SECONDS)
            except OSError as bad:
                why = str(bad) or type(bad).__name__
                continue
            if answer.status < 300:
                self._failing.discard(url)
                return
            why = f"it answered {answer.status}"
            if answer.status < 500 and answer.status not in (408, 429):
                break
        self._note(url, why)

    def _note(self, url: str, why: str) -> None:
        if url not in self._failing:
            self._failing.add(url)
            host = urlsplit(url).hostname or url  # The rest of it is for those who may write there.
            log.warning("the heartbeat at %s could not be sent: %s", host, why)

    # --- The end ---------------------------------------------------------------------------

    async def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Send what waits, for at most `seconds`; nothing is sent after that."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._is_closing = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        for task in self._tasks:
            task.cancel()


def _with_ending(url: str, ending: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + ending)) if ending else url


def _told(run: str, error: str, path: Path) -> bytes:
    """What a watcher is told of a failure: the error, and the end of the log."""
    lines = [f"{run}: {error}", *_tail(path)]
    return "\n".join(lines).encode("utf-8", "replace")[-MOST_LOG:]


def _tail(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - 2 * MOST_LOG))
            raw = file.read()
    except OSError:
        return []  # It has printed nothing.
    lines = []
    for line in raw.split(b"\n"):
        try:
            lines.append(str(json.loads(line)["message"]))
        except (ValueError, KeyError, TypeError):
            continue  # The first one may be half a line.
    return lines
