"""Finding runs, in memory or in the history, by any name that a person may use for them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from stackshift_jobs.errors import NotFound, Usage
from stackshift_jobs.values.names import RUN_ID
from stackshiftd.core import records as r
from stackshiftd.core.commands import StartRun
from stackshiftd.core.records import Entry, entry_from_json, entry_json
from stackshiftd.core.snapshot import entries_of
from stackshiftd.core.state.state import Run, Status
from stackshiftd.history.index import History
from stackshiftd.history.rows import Ended, RunRow, ended
from stackshiftd.history.table import Filters
from stackshiftd.shell.engine import Engine

MIN_SUFFIX = 4
LOOK_BACK = 100
"""How many failed runs that were retried `@failed` skips at most."""


class Lookup:
    """Finds runs and their records; changes nothing."""

    def __init__(self, engine: Engine, history: History) -> None:
        self._engine = engine
        self._history = history

    def resolve(self, name: str) -> str:
        """The id that `name` (an id, a unique suffix, `@last`, `@failed`) stands for. Raises
        `NotFound` or `Usage`."""
        if name in ("@last", "@failed"):
            return self._newest(name)
        if name.startswith("@"):
            raise Usage(f"{name!r} is not a run", hint="use @last or @failed")
        if RUN_ID.fullmatch(name):
            if self.live(name) is not None or self._history.find(name) is not None:
                return name
            raise NotFound(f"there is no run {name}", hint="stackshift runs list")
        if len(name) < MIN_SUFFIX:
            raise Usage(f"{name!r} is too short for a run", hint="at least 4 characters of its end")
        matches = {run for run in self._engine.state.runs if run.endswith(name)}
        matches.update(self._history.ending_in(name, 5))
        if not matches:
            raise NotFound(f"no run ends in {name!r}", hint="stackshift runs list")
        if len(matches) > 1:
            raise Usage(
                f"{len(matches)} runs end in {name!r}", hint="one of " + ", ".join(sorted(matches))
            )
        return matches.pop()

    def _newest(self, name: str) -> str:
        failed = name == "@failed"
        status = "failed" if failed else None
        newest: tuple[int, str] = (0, "")
        for row in self._history.newest(Filters(status=status), LOOK_BACK):
            live = self.live(row.id)
            if not failed or live is None or live.status is Status.FAILED:
                newest = (row.created_seq, row.id)
                break
        for run in self.newest_first():
            if not failed or run.status is Status.FAILED:
                newest = max(newest, (run.created_seq, run.id))
                break
        if not newest[1]:
            raise NotFound("there is no failed run" if failed else "there is no run yet")
        return newest[1]

    def newest_first(self) -> Iterator[Run]:
        """The runs in memory, newest (by creation) first."""
        return reversed(self._engine.state.runs.values())

    def executing_newest_first(self) -> list[Run]:
        """The runs that workers are executing, newest (by creation) first: no more than there are
        slots."""
        state = self._engine.state
        executing = [state.runs[run] for runs in state.executions.values() for run in runs]
        return sorted(executing, key=lambda run: -run.created_seq)

    def entries(self, run: str) -> list[Entry]:
        """The records of a run that are still kept, in order, each once."""
        places = self.places(run)
        kept = self._engine.journal.fetch(places)
        if len(kept) < len(places):
            # Its first segments were trimmed. If the run is unfinished, the snapshot contains all
            # its entries.
            last = self._engine.journal.snapshot_lines()
            by_seq = {entry.seq: entry for entry in (*entries_of(last, run), *kept)}
            kept = [by_seq[seq] for seq in sorted(by_seq)]
        own = [*kept, *self._engine.pending(run)]
        earlier: list[Entry] = []
        for entry in own:
            if isinstance(entry.record, r.RunRetried):
                earlier.extend(entry_from_json(line) for line in entry.record.restored)
        if not earlier:
            return own
        by_seq = {entry.seq: entry for entry in (*earlier, *own)}
        return [by_seq[seq] for seq in sorted(by_seq)]

    def places(self, run: str) -> array[int]:
        """The places of a run's records in the journal; empty if the run is not known."""
        live = self._engine.departures.places.get(run)
        if live is not None:
            return live
        row = self._history.find(run)
        return row.places if row is not None else array("q")

    def lines(self, run: str) -> tuple[bytes, ...]:
        """The records of a run as JSON, to retry or fork it. Raises `NotFound` if they are not all
        kept."""
        entries = self.entries(run)
        if not entries or not isinstance(entries[0].record, r.RunCreated):
            raise NotFound(f"the records of {run} are not kept any more")
        return tuple(entry_json(entry) for entry in entries)

    def live(self, run: str) -> Run | None:
        """The run, if it is in memory."""
        return self._engine.state.runs.get(run) or self._engine.departures.finishing.get(run)

    def row(self, run: str) -> RunRow | None:
        """The history row of a finished run; None if it has none."""
        return self._history.find(run)

    def outcome(self, run: str) -> Ended | None:
        """How a finished run ended, from its last record; None for a run that is not finished or
        not known."""
        if run in self._engine.departures.finishing:
            end = ended_by(self._engine.pending(run))
            if end is not None:  # else it was discarded, and had ended before
                return end
        row = self._history.find(run)
        if row is None:
            return None
        return ended_by(self._engine.journal.fetch(row.places[row.end : row.end + 1]))

    def ended_owner(self, start: StartRun) -> str | None:
        """The finished run that owns the key of `start`, if any, and that it would reuse."""
        if start.key is None:
            return None
        owner = self._engine.state.key_owner(start.key, self._engine.now_us())
        if owner is None or owner.job != start.job or owner.digest != start.digest:
            return None
        live = self._engine.state.runs.get(owner.run)
        return owner.run if live is None or live.finished else None


def ended_by(entries: list[Entry]) -> Ended | None:
    """How a run ended, by the last end among its records; None if there is none."""
    ends = (ended(entry.record) for entry in reversed(entries))
    return next((end for end in ends if end is not None), None)
