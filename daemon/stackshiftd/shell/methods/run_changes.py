"""What a person does to a run: `run.cancel move retry fork remove`."""

from __future__ import annotations

from typing import Any, Final, Protocol

import msgspec
from msgspec import Raw

from stackshift_jobs.errors import Conflict, StackshiftError, Usage
from stackshift_jobs.values.durations import MAX_DURATION_MS, rfc3339
from stackshift_jobs.values.limits import MAX_PRIORITY
from stackshift_jobs.values.names import check_name
from stackshift_jobs.values.strict_json import dumps, loads
from stackshiftd.core import commands as c
from stackshiftd.core.decide.decide import decide
from stackshiftd.core.decide.rerun import Plan, fork_plan
from stackshiftd.core.effects import Changed, Rerun
from stackshiftd.core.fold.fold import rebuild
from stackshiftd.core.state.state import Status
from stackshiftd.shell.catalog import Catalog, due
from stackshiftd.shell.engine import Engine
from stackshiftd.shell.params import Answer, NameRun, Params, Table, within
from stackshiftd.shell.views.dry_run import planned_steps
from stackshiftd.shell.views.lookup import Lookup
from stackshiftd.shell.views.run import View, cancelling_object

ABSENT: Final = Raw(b"")


class CancelTerms(Protocol):
    """How to cancel runs; see `commands.CancelRun`."""

    @property
    def gently(self) -> bool:
        """Is the handler told first?"""

    @property
    def grace_ms(self) -> int | None:
        """How long it has to end then."""

    @property
    def children(self) -> bool:
        """Are all runs that it has started cancelled too?"""


class CancelParams(Params):
    """Cancel a run; see `commands.CancelRun`."""

    run: str
    gently: bool = False
    grace_ms: int | None = None
    children: bool = False


class MoveParams(Params):
    """Move a run to `now`, or by one of the params of a start to another time; and to a `priority`
    or a `queue`. At least one of them is given."""

    run: str
    now: bool = False
    delay_ms: int | None = None
    scheduled_at: str | None = None
    priority: int | None = None
    queue: str | None = None


class RetryParams(Params):
    """Retry from `from_step` on (None: from where the run failed), with the results in `set`, by
    step, in place of the recorded ones."""

    run: str
    from_step: str | None = None
    set: dict[str, Raw] = msgspec.field(default_factory=dict)
    dry_run: bool = False


class ForkParams(Params):
    """Fork from `from_step` on (None: reuse all that is recorded; with another `payload`,
    nothing), into the `queue` (None: that of the run)."""

    run: str
    from_step: str | None = None
    payload: Raw = ABSENT
    dry_run: bool = False
    queue: str | None = None


class RunChanges:
    """Cancels, moves, retries, forks and removes runs."""

    def __init__(
        self, engine: Engine, catalog: Catalog, lookup: Lookup, view: View, payload_bytes: int
    ) -> None:
        self._engine = engine
        self._catalog = catalog
        self._lookup = lookup
        self._view = view
        self._payload_bytes = payload_bytes
        self.table: Table = {
            "run.cancel": (CancelParams, self.cancel),
            "run.move": (MoveParams, self.move),
            "run.retry": (RetryParams, self.retry),
            "run.fork": (ForkParams, self.fork),
            "run.remove": (NameRun, self.remove),
        }

    def cancel(self, params: CancelParams, answer: Answer) -> None:
        """Cancel a run; answer `{id, status, changed}`, `changed` false if it had finished, and
        `continued_as` if it then continued as another run; or `cancelling` if its handler is told
        first, as the run object has it."""
        command = cancel_command(params.run, params)
        run_id = self._lookup.resolve(params.run)
        before = self._view.status(run_id)

        def cancelled(reply: Any) -> None:
            live = self._engine.state.runs.get(run_id)
            cancelling = cancelling_object(live) if live is not None else None
            if isinstance(reply, Changed) and live is not None and cancelling is not None:
                shown = {"id": run_id, "status": live.shown_status.value}
                answer({**shown, "changed": reply.changed, "cancelling": cancelling})
            elif isinstance(reply, Changed):
                status = "cancelled" if reply.changed else before
                later = None if reply.changed else self._continued_as(run_id)
                ended = {"id": run_id, "status": status, "changed": reply.changed}
                answer(ended | ({"continued_as": later} if later else {}))
            else:
                answer(reply)

        self._engine.submit(msgspec.structs.replace(command, run=run_id), cancelled)

    def _continued_as(self, run_id: str) -> str | None:
        """The run as which a finished one continues now, or else the one as which it did."""
        latest = self._engine.state.latest(run_id)
        if latest is not None and latest.id != run_id:
            return latest.id
        ended = self._lookup.outcome(run_id)
        return ended.continued_as if ended is not None else None

    def move(self, params: MoveParams, answer: Answer) -> None:
        """Move a run that is not executing; answer `{id, changed, status, scheduled_at}`, where
        `scheduled_at` is when it is or was due, null if it is due by its start."""
        command = self._move_command(params)
        if (live := self._lookup.live(command.run)) is None or live.finished:
            status = self._view.status(command.run) or "no longer kept"
            raise Conflict(
                f"{command.run} is {status}; only a scheduled, queued or retrying run can be moved",
                hint=f"stackshift runs show {command.run}",
                owner=command.run,
            )
        seen: dict[str, Any] = {}

        def moved(reply: Any) -> None:
            failed = isinstance(reply, StackshiftError)
            answer(reply if failed else {"id": reply.subject, "changed": reply.changed} | seen)

        self._engine.submit(command, moved)
        run = self._engine.state.runs[command.run]
        due_us = run.retry_us if run.status is Status.RETRYING else run.scheduled_us
        seen |= {
            "status": run.shown_status.value,
            "scheduled_at": rfc3339(due_us) if due_us else None,
        }

    def _move_command(self, params: MoveParams) -> c.MoveRun:
        if sum((params.now, params.delay_ms is not None, params.scheduled_at is not None)) > 1:
            raise Usage("only one of now, delay_ms and scheduled_at can be given")
        now_us = self._engine.now_us()
        due_us = now_us if params.now else due(params.delay_ms, params.scheduled_at, now_us)
        if params.queue is not None:
            check_name(params.queue, "queue")
        if params.priority is not None:
            within(params.priority, -MAX_PRIORITY, MAX_PRIORITY, "priority")
        if not due_us and params.queue is None and params.priority is None:
            raise Usage("a time, a priority or a queue is missing: where to move the run")
        return c.MoveRun(self._lookup.resolve(params.run), due_us, params.priority, params.queue)

    def retry(self, params: RetryParams, answer: Answer) -> None:
        """Retry a run; answer `{id, reused_steps[], repeated_steps[], dry_run}`, and `steps[]` for
        a dry run, which changes nothing."""
        run_id = self._lookup.resolve(params.run)
        # A run that is not in memory is restored from its records, which the command carries.
        in_memory = run_id in self._engine.state.runs
        restored = self._lookup.restored(run_id, is_dry=params.dry_run)
        replaced = {
            name: self._checked(value, f"the result of step {name!r}")[0]
            for name, value in params.set.items()
        }
        command = c.RetryRun(run_id, params.from_step, replaced, restored)
        if params.dry_run:
            sent = decide(self._engine.state, command, self._engine.now_us()).reply
            assert isinstance(sent, Rerun)
            lines = [Raw(line) for line in restored]
            run = self._engine.state.runs[run_id] if in_memory else rebuild(lines)
            steps = planned_steps(run, Plan(sent.reused, sent.repeated), replaced)
            self._engine.when_durable(answer, _sent(sent, True) | {"steps": steps})
            return
        self._engine.submit(command, lambda reply: answer(_sent(reply, False)))

    def _checked(self, raw: Raw, what: str) -> tuple[bytes, Any]:
        """`raw` as strict JSON, and its value."""
        value = loads(bytes(raw), self._payload_bytes, what)
        return dumps(value, self._payload_bytes, what), value

    def fork(self, params: ForkParams, answer: Answer) -> None:
        """Fork a run; answer `{id, forked_from, reused_steps[], repeated_steps[], dry_run}`, and
        `steps[]` for a dry run, which changes nothing."""
        source = self._lookup.resolve(params.run)
        payload = value = None
        if params.queue is not None:
            check_name(params.queue, "queue")
        if params.payload is not ABSENT:
            payload, value = self._checked(params.payload, "the payload")
        lines = self._lookup.lines(source)
        if params.dry_run:
            run = rebuild([Raw(line) for line in lines])
            plan = fork_plan(self._engine.state, run, params.from_step, payload is not None)
            result = _forked(None, plan.reused, plan.repeated, True, source)
            self._engine.when_durable(answer, result | {"steps": planned_steps(run, plan)})
            return
        concurrency_key, unique = None, None
        if payload is not None:
            job = self._view.run(source)["job"]
            concurrency_key, unique = self._catalog.keys_of(job, value) or (None, None)
        command = c.ForkRun(
            self._engine.ids.run(),
            source,
            lines,
            params.from_step,
            payload,
            concurrency_key,
            unique,
            params.queue,
        )

        def forked(reply: Any) -> None:
            if isinstance(reply, Rerun):
                answer(_forked(reply.run, reply.reused, reply.repeated, False, source))
            else:
                answer(reply)

        self._engine.submit(command, forked)

    def remove(self, params: NameRun, answer: Answer) -> None:
        """Remove a finished run from the dead letter and from all lists; answer `{id}`."""
        run_id = self._lookup.resolve(params.run)

        def removed(reply: Any) -> None:
            answer(reply if isinstance(reply, StackshiftError) else {"id": run_id})

        self._engine.submit(c.RemoveRun(run_id), removed)


def cancel_command(run: str, params: CancelTerms) -> c.CancelRun:
    """The command that cancels `run`. Raises `Usage` for a grace without `gently`."""
    if params.grace_ms is not None:
        if not params.gently:
            raise Usage("grace_ms is for gently=true", hint="what is cancelled at once has none")
        within(params.grace_ms, 0, MAX_DURATION_MS, "grace_ms")
    return c.CancelRun(run, params.gently, params.grace_ms, params.children)


def _sent(reply: Any, dry_run: bool) -> Any:
    if not isinstance(reply, Rerun):
        return reply
    return {
        "id": reply.run,
        "reused_steps": reply.reused,
        "repeated_steps": reply.repeated,
        "dry_run": dry_run,
    }


def _forked(
    run: str | None, reused: list[str], repeated: list[str], dry_run: bool, source: str
) -> dict[str, Any]:
    return {
        "id": run,
        "forked_from": source,
        "reused_steps": reused,
        "repeated_steps": repeated,
        "dry_run": dry_run,
    }
