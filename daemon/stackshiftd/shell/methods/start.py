"""`run.start` and `run.start_many`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec
from msgspec import Raw

from stackshift_jobs.errors import Conflict, StackshiftError, Usage
from stackshift_jobs.values.durations import rfc3339
from stackshiftd.core import commands as c
from stackshiftd.core.decide.decide import decide
from stackshiftd.core.effects import Started
from stackshiftd.core.state.state import KeyEntry, Status
from stackshiftd.history.index import Rebuilding
from stackshiftd.shell.catalog import Catalog, StartParams
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.params import Answer, Params, Table, misfit, within
from stackshiftd.shell.views.lookup import Lookup
from stackshiftd.shell.views.run import RUN_FIELDS, View
from stackshiftd.shell.work import Later, Parked, Work

MAX_BATCH: Final = 1000
MAX_AFTER: Final = 100
"""Runs that another may begin after."""
SLICE: Final = 32
"""Runs of a batch that are started in one part of the work."""
_decode_start: Final = msgspec.json.Decoder(StartParams).decode


class StartMany(Params):
    """Up to `MAX_BATCH` starts, each with the params of `run.start`; each is checked by itself."""

    runs: list[Raw]


class Starts:
    """Creates runs, or finds the runs that own an idempotency key."""

    def __init__(
        self,
        engine: Engine,
        catalog: Catalog,
        lookup: Lookup,
        view: View,
        near_queues: Callable[[str], list[str]],
    ) -> None:
        self._engine = engine
        self._near_queues = near_queues
        self._catalog = catalog
        self._lookup = lookup
        self._view = view
        self.table: Table = {
            "run.start": (StartParams, self.start),
            "run.start_many": (StartMany, self.start_many),
        }

    def start(self, params: StartParams, answer: Answer) -> None:
        """Start a run; answer `{id, reused, status}`, `run` if `full`, `attached` (true) if it was
        given the run that has its unique key, `retried` (true) if it has retried the failed run
        that has its idempotency key, `replaced` (ids) if it has cancelled any, `notes` if
        a person should know something of the job's code, and `near_queues` if the start names a
        queue that does not exist yet and looks like a misspelling of those.

        Raises what the catalog raises; answers a `Conflict` if a key belongs to another start.
        """
        now_us = self._engine.now_us()
        command = self._command(params, now_us)
        if params.dry_run:
            self._dry_start(command, self._note_queue(params), params.retry_failed, answer)
            return

        owner = self._owner(command, now_us)
        if params.retry_failed and owner is not None and self._has_failed(command, owner):
            self._retry(owner, params.full, answer)
            return
        seen: dict[str, Any] = self._note_queue(params) if owner is None else {}
        if notes := self._catalog.notes(command.job):
            seen["notes"] = notes
        seen["status"] = self._status(command, owner, now_us)
        if owner is not None and command.due_us:
            seen |= self._kept_time(owner.run, command.due_us)

        def started(reply: Any) -> None:
            if isinstance(reply, StackshiftError):
                answer(self._explained(command, reply))
            elif owner is not None and params.full:
                answer(Later(partial(self._reused, command.key or "", owner, seen)))
            elif reply.attached and params.full:
                answer(Later(partial(self._attached, reply, seen)))
            else:
                answer(started_reply(reply) | seen)

        self._engine.submit(command, started)
        if owner is None and params.full and command.run in self._engine.state.runs:
            seen["run"] = self._view.run(command.run)

    def _reused(self, key: str, owner: KeyEntry, seen: dict[str, Any]) -> dict[str, Any]:
        """The answer to a start that reuses the run which owns its key, with the run object."""
        run = self._view.owner(key, owner)
        shown = {"status": run["status"], "run": run}
        return {"id": owner.run, "reused": True} | seen | shown

    def _command(self, params: StartParams, now_us: int) -> c.StartRun:
        """The command of a start. Raises what the catalog raises, and `NotFound` for a run that it
        is to begin after."""
        command = self._catalog.start_command(params, self._engine.ids.run(), now_us)
        if params.even_if_failed and not params.after:
            raise Usage("even_if_failed is given without after")
        if not params.after:
            return command
        if command.due_us:
            raise Usage("after cannot be combined with delay_ms or scheduled_at")
        within(len(params.after), 1, MAX_AFTER, "the number of runs in after")
        after = self._lookup.predecessors(params.after)
        return msgspec.structs.replace(command, after=after)

    def _has_failed(self, command: c.StartRun, owner: KeyEntry) -> bool:
        """Has the run that the start would reuse failed, and is it still kept?"""
        is_same = owner.job == command.job and owner.digest == command.digest
        return is_same and self._view.status(owner.run) == Status.FAILED.value

    def _retry(self, owner: KeyEntry, full: bool, answer: Answer) -> None:
        """Retry the failed run that owns the key, in place of reusing it as it is."""
        seen: dict[str, Any] = {"id": owner.run, "reused": True, "retried": True}

        def retried(reply: Any) -> None:
            answer(reply if isinstance(reply, StackshiftError) else seen)

        command = c.RetryRun(owner.run, restored=self._lookup.restored(owner.run))
        self._engine.submit(command, retried)
        seen["status"] = self._view.status(owner.run)
        if full:
            seen["run"] = self._view.run(owner.run)

    def _attached(self, reply: Started, seen: dict[str, Any]) -> dict[str, Any]:
        """The answer to a start that was given the owner of its unique key, with the run object."""
        run = self._view.run(reply.run)
        return started_reply(reply) | seen | {"status": run["status"], "run": run}

    def _kept_time(self, run: str, asked_us: int) -> dict[str, Any]:
        """`{kept_scheduled_at}`, when the reused `run` is due, if it has not begun and the start
        asked for another time; else nothing."""
        live = self._engine.state.runs.get(run)
        if live is None or live.attempt or live.finished or live.scheduled_us == asked_us:
            return {}
        return {"kept_scheduled_at": rfc3339(live.place_us)}

    def _note_queue(self, params: StartParams) -> dict[str, Any]:
        near = self._near_queues(params.queue) if params.queue is not None else []
        return {"near_queues": near} if near else {}

    def _owner(self, command: c.StartRun, now_us: int) -> KeyEntry | None:
        """The entry of the command's idempotency key, if a run already owns it."""
        if command.key is None:
            return None
        return self._engine.state.key_owner(command.key, now_us)

    def _status(self, command: c.StartRun, owner: KeyEntry | None, now_us: int) -> str | None:
        """The status of the run that the start gives: that of the `owner` of its key, of the run
        that it is attached to, or of a new one. None if the owner is no longer kept."""
        if owner is not None:
            return self._view.status(owner.run)
        if command.unique and command.on_duplicate == "attach":
            for attached in self._engine.state.unique_owners(command.unique):
                return self._view.status(attached.id)
        return first_status(command, now_us)

    def _dry_start(
        self, command: c.StartRun, seen: dict[str, Any], retry_failed: bool, answer: Answer
    ) -> None:
        """Answer what a start would do; nothing is created."""
        now_us = self._engine.now_us()
        owner = self._owner(command, now_us)
        try:
            reply = decide(self._engine.state, command, now_us).reply
        except StackshiftError as refused:
            self._engine.when_durable(answer, self._explained(command, refused))
            return
        assert isinstance(reply, Started)
        if owner is not None:
            run = self._view.owner(command.key or "", owner)
            if retry_failed and self._has_failed(command, owner):
                seen["retried"] = True
        else:
            run = self._view.run(reply.run) if reply.attached else self._would_be(command)
        shown = {"id": None, "status": run["status"], "run": run}
        self._engine.when_durable(answer, started_reply(reply) | shown | seen)

    def _would_be(self, command: c.StartRun) -> dict[str, Any]:
        fields = dict.fromkeys(RUN_FIELDS)
        return fields | {
            "job": command.job,
            "queue": command.queue,
            "status": first_status(command, self._engine.now_us()),
            "attempt": 0,
            "max_attempts": command.retry.max_attempts,
            "priority": command.priority,
            "payload": self._view.redaction.payload(Raw(command.payload)),
            "idempotency_key": command.key,
            "labels": command.labels,
            "scheduled_at": rfc3339(command.due_us) if command.due_us else None,
            "dead": False,
        }

    def _explained(self, command: c.StartRun, error: StackshiftError) -> StackshiftError:
        """The error; if it is a conflict, with the difference of the payloads, if the owner's is
        known."""
        if isinstance(error, Conflict) and command.key is not None and "unique" not in error.fields:
            owner = self._engine.state.keys.get(command.key)
            if owner is not None and self._view.status(owner.run) is None:
                error.hint = "start with another key; that run is no longer kept"
            if owner is not None and owner.payload and owner.job == command.job:
                shown = self._view.redaction.difference(owner.payload, command.payload)
                error.fields["difference"] = shown
            elif owner is not None and owner.job != command.job:
                error.fields["difference"] = [f"job: {owner.job} → {command.job}"]
        return error

    def start_many(self, params: StartMany, answer: Answer) -> Work:
        """Start many runs; answer `{results[]}` in their order, each `{id, reused, status}` or
        `{error}`."""
        if len(params.runs) > MAX_BATCH:
            raise Usage(f"{len(params.runs)} runs in one request; the limit is {MAX_BATCH}")
        results: list[Any] = [None] * len(params.runs)
        for first in range(0, len(params.runs), SLICE):
            if first:
                yield None
            while True:
                try:
                    self._start_slice(params.runs[first : first + SLICE], first, results)
                    break
                except Rebuilding:  # Nothing of this slice is submitted; those before it are.
                    yield Parked(self._lookup.when_whole)
        self._engine.when_durable(answer, {"results": results})

    def _start_slice(self, runs: list[Raw], first: int, results: list[Any]) -> None:
        """Start `runs`; what each is answered will be in `results`, from `first` on, when it is
        durable. Raises `Rebuilding`, and starts none, if one is to begin after a run that cannot be
        looked up yet."""
        now_us = self._engine.now_us()
        places: list[int] = []
        commands: list[c.StartRun] = []
        for place, raw in enumerate(runs, first):
            try:
                start = _decode_start(raw)
                if start.dry_run or start.full or start.retry_failed:
                    raise Usage("dry_run, full and retry_failed are only for run.start")
                commands.append(self._command(start, now_us))
            except msgspec.MsgspecError as bad:
                results[place] = {"error": Usage(misfit(bad)).as_json()}
            except Rebuilding:
                raise
            except StackshiftError as refused:
                results[place] = {"error": refused.as_json()}
            else:
                places.append(place)

        def told(refused: Any) -> None:
            if isinstance(refused, StackshiftError):
                for place in places:
                    results[place] = {"error": refused.as_json()}

        replies = self._engine.submit_all(commands, told)
        for place, command, reply in zip(places, commands, replies, strict=False):
            if isinstance(reply, StackshiftError):
                results[place] = {"error": self._explained(command, reply).as_json()}
            else:
                shown = results[place] = started_reply(reply)
                shown["status"] = (
                    self._view.status(reply.run) if reply.reused else first_status(command, now_us)
                )


def started_reply(reply: Started) -> dict[str, Any]:
    """What a start is answered whatever else is known: `{id, reused}`, with `attached` if it was
    attached to the run that has its unique key, and `replaced` if it has cancelled any."""
    shown: dict[str, Any] = {"id": reply.run, "reused": reply.reused}
    if reply.attached:
        shown["attached"] = True
    if reply.replaced:
        shown["replaced"] = list(reply.replaced)
    return shown


def first_status(command: c.StartRun, now_us: int) -> str:
    """The status of the new run: `waiting` if it begins after others, `scheduled` if it is due
    later, else `queued`."""
    if command.after:
        return "waiting"
    return "scheduled" if command.due_us > now_us else "queued"
