"""The protocol's methods about runs and jobs. Each takes its params as a struct that refuses
unknown fields, and answers now or when what it did is durable."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Raw

from stackshift_jobs.durations import parse_time, rfc3339
from stackshift_jobs.errors import Conflict, StackshiftError, Usage
from stackshift_jobs.strict import difference, dumps, loads
from stackshiftd.core import commands as c
from stackshiftd.core.decide import decide
from stackshiftd.core.effects import Cancelled, Sent
from stackshiftd.core.fold import rebuild
from stackshiftd.core.send_on import plan
from stackshiftd.core.state import Status
from stackshiftd.core.why import shown_status
from stackshiftd.history.index import History
from stackshiftd.shell.catalog import Catalog, StartParams
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.ids import new_run_id
from stackshiftd.shell.lookup import Lookup
from stackshiftd.shell.view import View
from stackshiftd.shell.waiters import Waiters

ABSENT: Final = Raw(b"")
Answer = Callable[[Any], None]
MAX_LIST: Final = 1000
MAX_BATCH: Final = 1000
STATUSES: Final = frozenset(status.value for status in Status)


class Params(msgspec.Struct, forbid_unknown_fields=True):
    """Base of all params."""


class StartMany(Params):
    runs: list[Raw]


class GetRun(Params):
    run: str
    detail: bool = False


class ListRuns(Params):
    job: str | None = None
    status: str | None = None
    queue: str | None = None
    labels: dict[str, str] | None = None
    since: str | None = None
    limit: int = 50
    cursor: str | None = None
    dead: bool = False


class NameRun(Params):
    run: str


class WaitRun(Params):
    run: str
    timeout_ms: int | None = None


class RetryParams(Params):
    run: str
    from_step: str | None = None
    set: dict[str, Raw] = {}
    dry_run: bool = False


class ForkParams(Params):
    run: str
    from_step: str | None = None
    payload: Raw = ABSENT
    dry_run: bool = False


class RunLogs(Params):
    run: str
    step: str | None = None
    attempt: int | None = None
    after: int = 0
    limit: int = 1000


class NoParams(Params):
    pass


class NameJob(Params):
    job: str


class RunMethods:
    """`run.*` and `job.*`."""

    def __init__(
        self,
        engine: Engine,
        catalog: Catalog,
        lookup: Lookup,
        view: View,
        history: History,
        logs: Path,
        waiters: Waiters,
        payload_bytes: int,
    ) -> None:
        self._engine = engine
        self._catalog = catalog
        self._lookup = lookup
        self._view = view
        self._history = history
        self._logs = logs
        self._waiters = waiters
        self._payload_bytes = payload_bytes
        self.table: dict[str, tuple[type[msgspec.Struct], Callable[[Any, Answer], None]]] = {
            "run.start": (StartParams, self.start),
            "run.start_many": (StartMany, self.start_many),
            "run.get": (GetRun, self.get),
            "run.list": (ListRuns, self.list),
            "run.why": (NameRun, self.why),
            "run.wait": (WaitRun, self.wait),
            "run.cancel": (NameRun, self.cancel),
            "run.retry": (RetryParams, self.retry),
            "run.fork": (ForkParams, self.fork),
            "run.remove": (NameRun, self.remove),
            "run.logs": (RunLogs, self.logs),
            "job.list": (NoParams, self.jobs),
            "job.get": (NameJob, self.job),
        }

    # --- Starting --------------------------------------------------------------------------

    def start(self, params: StartParams, answer: Answer) -> None:
        command = self._catalog.start_command(params, new_run_id(), self._engine.now_us())
        if params.dry_run:
            self._dry_start(command, answer)
            return

        owner = self._owner(command)
        seen: dict[str, Any] = {"status": self._status(owner)} if owner else {}
        if owner and params.full:
            seen["run"] = self._view.run(owner)

        def started(reply: Any) -> None:
            if isinstance(reply, StackshiftError):
                answer(self._explained(command, reply))
            else:
                answer({"id": reply.run, "reused": reply.reused} | seen)

        self._engine.submit(command, started)
        if not owner and command.run in self._engine.state.runs:
            seen["status"] = first_status(command, self._engine.now_us())
            if params.full:
                seen["run"] = self._view.run(command.run)

    def _owner(self, command: c.StartRun) -> str | None:
        """The run that the command's key belongs to already."""
        if command.key is None:
            return None
        owner = self._engine.state.key_owner(command.key, self._engine.now_us())
        return owner.run if owner is not None else None

    def _dry_start(self, command: c.StartRun, answer: Answer) -> None:
        """What a start would do; nothing is created."""
        key = command.key
        owner = self._engine.state.key_owner(key, self._engine.now_us()) if key else None
        if owner is not None and (owner.job != command.job or owner.digest != command.digest):
            error = Conflict(
                f"idempotency key {key!r} belongs to {owner.run}", hint="", owner=owner.run
            )
            self._engine.when_durable(answer, self._explained(command, error))
            return
        run = self._view.run(owner.run) if owner is not None else self._would_be(command)
        result = {
            "id": None, "reused": owner is not None, "status": run["status"], "run": run,
        }  # fmt: skip
        self._engine.when_durable(answer, result)

    def _would_be(self, command: c.StartRun) -> dict[str, Any]:
        fields = dict.fromkeys(RUN_FIELDS)
        return fields | {
            "job": command.job,
            "queue": command.queue,
            "status": first_status(command, self._engine.now_us()),
            "attempt": 0,
            "max_attempts": command.retry.max_attempts,
            "priority": command.priority,
            "payload": Raw(command.payload),
            "idempotency_key": command.key,
            "labels": command.labels,
            "scheduled_at": rfc3339(command.due_us) if command.due_us else None,
            "dead": False,
        }

    def _explained(self, command: c.StartRun, error: StackshiftError) -> StackshiftError:
        """A conflict with the difference of the payloads, where the owner's is known."""
        if isinstance(error, Conflict) and command.key is not None:
            owner = self._engine.state.keys.get(command.key)
            if owner is not None and owner.payload and owner.job == command.job:
                error.fields["difference"] = difference(
                    loads(owner.payload), loads(command.payload, self._payload_bytes)
                )
            elif owner is not None and owner.job != command.job:
                error.fields["difference"] = [f"job: {owner.job} → {command.job}"]
        return error

    def start_many(self, params: StartMany, answer: Answer) -> None:
        if len(params.runs) > MAX_BATCH:
            raise Usage(f"{len(params.runs)} runs in one request; the limit is {MAX_BATCH}")
        results: list[Any] = [None] * len(params.runs)
        for index, raw in enumerate(params.runs):
            try:
                each = msgspec.json.decode(raw, type=StartParams)
                if each.dry_run or each.full:
                    raise Usage("dry_run and full are of run.start alone")
                command = self._catalog.start_command(each, new_run_id(), self._engine.now_us())
            except msgspec.MsgspecError as bad:
                results[index] = {"error": Usage(str(bad)).as_json()}
            except StackshiftError as refused:
                results[index] = {"error": refused.as_json()}
            else:
                status = first_status(command, self._engine.now_us())
                if (owner := self._owner(command)) is not None:
                    status = self._status(owner)
                self._engine.submit(command, self._collect(results, index, command, status))
        self._engine.when_durable(answer, {"results": results})

    def _collect(self, results: list[Any], index: int, command: c.StartRun, status: str) -> Answer:
        def collect(reply: Any) -> None:
            if isinstance(reply, StackshiftError):
                results[index] = {"error": self._explained(command, reply).as_json()}
            else:
                results[index] = {"id": reply.run, "reused": reply.reused, "status": status}

        return collect

    # --- Looking ---------------------------------------------------------------------------

    def get(self, params: GetRun, answer: Answer) -> None:
        run = self._lookup.resolve(params.run)
        self._read(answer, self._view.run(run, with_detail=params.detail))

    def _read(self, answer: Answer, value: Any) -> None:
        """Answer with what was seen just now, once all of it is durable."""
        self._engine.when_durable(answer, value)

    def list(self, params: ListRuns, answer: Answer) -> None:
        if not 1 <= params.limit <= MAX_LIST:
            raise Usage(f"limit is {params.limit}", hint=f"1 to {MAX_LIST}")
        if params.status is not None and params.status not in STATUSES:
            raise Usage(f"{params.status!r} is no status", hint=", ".join(sorted(STATUSES)))
        since_us = parse_time(params.since) if params.since is not None else 0
        before = self._created_seq(params.cursor) if params.cursor is not None else None
        self._read(answer, self._listed(params, since_us, before))

    def _created_seq(self, cursor: str) -> int:
        run = self._lookup.resolve(cursor)
        live = self._lookup.live(run)
        if live is not None:
            return live.created_seq
        row = self._lookup.row(run)
        return row.created_seq if row is not None else 0

    def _listed(self, params: ListRuns, since_us: int, before: int | None) -> dict[str, Any]:
        found: list[tuple[int, Any]] = []
        dead_only = params.dead
        for run in reversed(self._engine.state.runs.values()):
            if len(found) >= params.limit or run.created_us < since_us:
                break
            if (
                (before is None or run.created_seq < before)
                and (params.job is None or run.job == params.job)
                and (params.queue is None or run.queue == params.queue)
                and (params.status is None or shown_status(run).value == params.status)
                and (not dead_only or run.status is Status.FAILED)
                and all(run.labels.get(k) == v for k, v in (params.labels or {}).items())
            ):
                found.append((run.created_seq, run))
        if not dead_only:
            rows = self._history.newest(
                job=params.job, status=params.status, queue=params.queue, labels=params.labels,
                since_us=since_us, before_seq=before, limit=params.limit,
            )  # fmt: skip
            live = self._engine.state.runs
            found.extend((row.created_seq, row) for row in rows if row.id not in live)
        found.sort(key=lambda pair: -pair[0])
        runs = [
            self._view.of_row(each) if hasattr(each, "places") else self._view.of_run(each)
            for _, each in found[: params.limit]
        ]
        more = len(runs) == params.limit
        return {"runs": runs, "cursor": runs[-1]["id"] if runs and more else None}

    def why(self, params: NameRun, answer: Answer) -> None:
        run_id = self._lookup.resolve(params.run)
        made = self._view.run(run_id)
        told = {name: made[name] for name in ("status", "why", "why_code", "waiting_for")}
        self._read(answer, {"run": run_id, **told})

    def wait(self, params: WaitRun, answer: Answer) -> None:
        run_id = self._lookup.resolve(params.run)
        live = self._lookup.live(run_id)
        if live is None or live.finished:
            self._read(answer, self._view.run(run_id))
        else:
            self._waiters.add(run_id, params.timeout_ms, answer)

    def logs(self, params: RunLogs, answer: Answer) -> None:
        run_id = self._lookup.resolve(params.run)
        self._read(answer, self._logged(params, run_id))

    def _logged(self, params: RunLogs, run_id: str) -> dict[str, Any]:
        lines: list[Any] = []
        number = 0
        live = self._lookup.live(run_id)
        path = self._logs / f"{run_id}.jsonl"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for number, raw in enumerate(text.split("\n")[:-1], 1):
            if number <= params.after:
                continue
            if len(lines) >= params.limit:
                number -= 1
                break
            try:
                line = json.loads(raw)
            except ValueError:
                continue  # half a line of a worker that was killed
            if params.step not in (None, line["step"]) or params.attempt not in (
                None,
                line["attempt"],
            ):
                continue
            del line["pos"]
            lines.append(line)
        return {"lines": lines, "next": number, "finished": live is None or live.finished}

    # --- Acting ----------------------------------------------------------------------------

    def cancel(self, params: NameRun, answer: Answer) -> None:
        run_id = self._lookup.resolve(params.run)

        before = self._status(run_id)

        def cancelled(reply: Any) -> None:
            if isinstance(reply, Cancelled):
                status = "cancelled" if reply.changed else before
                answer({"id": run_id, "status": status, "changed": reply.changed})
            else:
                answer(reply)

        self._engine.submit(c.CancelRun(run_id), cancelled)

    def retry(self, params: RetryParams, answer: Answer) -> None:
        run_id = self._lookup.resolve(params.run)
        live = self._lookup.live(run_id)
        restored = () if live is not None else self._lookup.lines(run_id)
        replaced = {
            name: dumps(loads(bytes(value), self._payload_bytes), self._payload_bytes)
            for name, value in params.set.items()
        }
        command = c.RetryRun(run_id, params.from_step, replaced, restored)
        if params.dry_run:
            decision = decide(self._engine.state, command, self._engine.now_us())
            self._engine.when_durable(lambda reply: answer(_sent(reply, True)), decision.reply)
            return
        if live is None:
            self._engine.places[run_id] = self._lookup.places(run_id)[:]
        self._engine.submit(command, lambda reply: answer(_sent(reply, False)))

    def fork(self, params: ForkParams, answer: Answer) -> None:
        source = self._lookup.resolve(params.run)
        payload = None
        if params.payload is not ABSENT:
            value = loads(bytes(params.payload), self._payload_bytes)
            payload = dumps(value, self._payload_bytes)
        lines = self._lookup.lines(source)
        if params.dry_run:
            run = rebuild([Raw(line) for line in lines])
            made = plan(self._engine.state, run, params.from_step, frozenset())
            self._engine.when_durable(answer, _plan(None, made.reused, made.repeated, True, source))
            return
        command = c.ForkRun(new_run_id(), source, lines, params.from_step, payload)

        def forked(reply: Any) -> None:
            if isinstance(reply, Sent):
                answer(_plan(reply.run, reply.reused, reply.repeated, False, source))
            else:
                answer(reply)

        self._engine.submit(command, forked)

    def remove(self, params: NameRun, answer: Answer) -> None:
        run_id = self._lookup.resolve(params.run)

        def removed(reply: Any) -> None:
            answer(reply if isinstance(reply, StackshiftError) else {"id": run_id})

        self._engine.submit(c.RemoveRun(run_id), removed)

    def _status(self, run_id: str) -> str:
        live = self._lookup.live(run_id)
        if live is not None:
            return shown_status(live).value
        row = self._lookup.row(run_id)
        return row.status if row is not None else "completed"

    # --- Jobs ------------------------------------------------------------------------------

    def jobs(self, params: NoParams, answer: Answer) -> None:
        answer(
            {
                "jobs": [self._job(name) for name in sorted(self._catalog.jobs)],
                "failed_modules": [msgspec.to_builtins(each) for each in self._catalog.failed],
            }
        )

    def job(self, params: NameJob, answer: Answer) -> None:
        job = self._catalog.find(params.job)
        answer(
            self._job(job.name)
            | {
                "doc": job.doc,
                "priority": job.priority,
                "retry": msgspec.to_builtins(self._catalog.terms(job)),
            }
        )

    def _job(self, name: str) -> dict[str, Any]:
        job = self._catalog.find(name)
        return {
            "name": job.name,
            "module": job.module,
            "queue": job.queue,
            "max_attempts": self._catalog.terms(job).max_attempts,
            "timeout_ms": job.timeout_ms,
            "code": job.code,
            "schema": job.schema,
        }


RUN_FIELDS: Final = (
    "id", "job", "queue", "status", "attempt", "max_attempts", "priority", "payload", "result",
    "error", "idempotency_key", "labels", "created_at", "scheduled_at", "started_at",
    "finished_at", "duration_ms", "waiting_for", "why", "why_code", "code", "parent", "dead",
)  # fmt: skip


def first_status(command: c.StartRun, now_us: int) -> str:
    """The status that a new run begins with."""
    return "scheduled" if command.due_us > now_us else "queued"


def _sent(reply: Any, dry_run: bool) -> Any:
    if not isinstance(reply, Sent):
        return reply
    return {
        "id": reply.run, "reused_steps": reply.reused, "repeated_steps": reply.repeated,
        "dry_run": dry_run,
    }  # fmt: skip


def _plan(
    run: str | None, reused: list[str], repeated: list[str], dry_run: bool, source: str
) -> dict[str, Any]:
    return {
        "id": run, "forked_from": source, "reused_steps": reused, "repeated_steps": repeated,
        "dry_run": dry_run,
    }  # fmt: skip
