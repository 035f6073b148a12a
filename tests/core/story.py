"""Stories of the core, as verbs: `run = story.start("resize"); story.assign("w1")`.

A `Story` is the engine without a daemon: it decides, folds and keeps the entries, with a clock that
moves only when a test moves it. After each record the indexes of the state are compared with the
runs (`core.histories.audit`), so that every test with a story tests them too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from msgspec import Raw

from core.histories.audit import audit, audit_waits
from stackshift_jobs.values.durations import milliseconds
from stackshift_jobs.values.identities import undo_of
from stackshift_jobs.values.names import NOTIFY_JOB
from stackshift_jobs.values.strict_json import canonical, dumps
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.decide.decide import decide
from stackshiftd.core.effects import Acknowledge, Changed, Decision, Effect, Rerun, Started
from stackshiftd.core.fold.fold import fold
from stackshiftd.core.snapshot import dump, load
from stackshiftd.core.state.state import PENDING, Run, State, Status

START_US: Final = 1_795_000_000_000_000
"""2026-11-18T09:06:40Z; a whole second."""

ONCE: Final = r.RetryTerms(max_attempts=1)
STEADY: Final = r.RetryTerms(max_attempts=3, backoff_ms=1000, factor=2.0, jitter=0.0)
"""Three attempts, after 1 s and 2 s exactly."""

ENDS: Final = (r.RunCompleted, r.RunFailed, r.RunCancelled)


def error(message: str = "boom", type: str = "ValueError") -> r.Error:
    """A failure with this message and type."""
    return r.Error(type, message)


def _verdict(retryable: bool, after: str | None, others: dict[str, Any]) -> c.Verdict:
    after_ms = milliseconds(after) if after is not None else None
    return c.Verdict(retryable, after_ms, **others)


def raw(value: Any) -> Raw:
    """`value` as JSON."""
    return Raw(dumps(value))


class Story:
    """State, entries and clock of one engine. `decision` is that of the last command."""

    def __init__(self) -> None:
        self.state = State()
        self.entries: list[r.Entry] = []
        self.ends: list[int] = []
        """Sequence numbers at which an append ended: where a snapshot may stand."""
        self.wall_us = START_US
        self.decision = Decision()
        self.jobs: dict[str, str] = {}
        """What workers have: each job that was ever started, with the digest of its code."""
        self._made = 0
        self._claims = 0

    # --- The engine ------------------------------------------------------------------------

    @property
    def now_us(self) -> int:
        """Daemon time: the later of the wall clock and the newest record's time."""
        return max(self.wall_us, self.state.now_us)

    def do(self, command: c.Command) -> Decision:
        """Decide `command`, fold the records that follow, and audit the indexes."""
        self.decision = decide(self.state, command, self.now_us)  # type: ignore[arg-type]
        self._append(self.decision.records)
        return self.decision

    def _append(self, records: Iterable[r.AnyRecord]) -> None:
        for record in records:
            at_us = self.wall_us if isinstance(record, r.ClockSetBack) else self.now_us
            entry = r.Entry(self.state.seq + 1, at_us, record)
            # As the journal would hold it: what is folded live is what is read back.
            assert r.entry_json(r.entry_from_json(r.entry_json(entry))) == r.entry_json(entry)
            self.entries.append(entry)
            fold(self.state, entry)
            audit(self.state)
        audit_waits(self.state)
        if not self.ends or self.ends[-1] != self.state.seq:
            self.ends.append(self.state.seq)

    # --- A client --------------------------------------------------------------------------

    def start(
        self,
        job: str = "resize",
        payload: Any = None,
        *,
        queue: str = "media",
        delay: str | None = None,
        key: str | None = None,
        key_ttl: str = "30d",
        retry: r.RetryTerms = STEADY,
        limits: r.RunLimits = r.DEFAULT_LIMITS,
        timeout: str | None = None,
        priority: int = 0,
        concurrency_key: str = "",
        unique: str = "",
        on_duplicate: str = "refuse",
        ttl: str | None = None,
        deadline: str | None = None,
        after: Iterable[str] = (),
        even_if_failed: bool = False,
        on_failure: r.FollowUp | None = None,
        on_success: r.FollowUp | None = None,
        max_runtime: str | None = None,
        labels: dict[str, str] | None = None,
    ) -> str:
        """Start a run; returns its id, or that of the run that owns one of its keys."""
        self.jobs.setdefault(job, "code-1")
        value = {} if payload is None else payload
        self.do(
            c.StartRun(
                run=self.new_id(),
                job=job,
                queue=queue,
                payload=dumps(value),
                retry=retry,
                limits=limits,
                timeout_ms=milliseconds(timeout) if timeout is not None else 0,
                priority=priority,
                concurrency_key=concurrency_key,
                due_us=self.now_us + milliseconds(delay) * 1000 if delay is not None else 0,
                key=key,
                key_ttl_ms=milliseconds(key_ttl) if key is not None else 0,
                digest=canonical(value).decode() if key is not None else "",
                unique=unique,
                on_duplicate=on_duplicate,
                labels=labels or {},
                ttl_ms=milliseconds(ttl) if ttl is not None else 0,
                deadline_ms=milliseconds(deadline) if deadline is not None else 0,
                after=[self._predecessor(run) for run in after],
                even_if_failed=even_if_failed,
                on_failure=on_failure,
                on_success=on_success,
                max_runtime_ms=milliseconds(max_runtime) if max_runtime is not None else 0,
            )
        )
        reply = self.decision.reply
        assert isinstance(reply, Started)
        return reply.run

    def _predecessor(self, run: str) -> tuple[str, str]:
        """A run to begin after, as the shell looks it up."""
        found = self.state.latest(run)
        if found is not None and not found.finished:
            return found.chain or found.id, ""
        return run, self.status(run).value

    def new_id(self) -> str:
        """A new id; ids sort in order of creation."""
        self._made += 1
        return f"run_{self._made:04d}"

    def cancel(
        self, run: str, *, gently: bool = False, grace: str | None = None, children: bool = False
    ) -> bool:
        """Cancel a run; returns whether that changed anything."""
        grace_ms = milliseconds(grace) if grace is not None else None
        reply = self.do(c.CancelRun(run, gently, grace_ms, children)).reply
        assert isinstance(reply, Changed)
        return reply.changed

    def move(
        self,
        run: str,
        *,
        delay: str | None = None,
        priority: int | None = None,
        queue: str | None = None,
    ) -> bool:
        """Move a run; returns whether that changed anything."""
        due_us = self.now_us + milliseconds(delay) * 1000 if delay is not None else 0
        reply = self.do(c.MoveRun(run, due_us, priority, queue)).reply
        assert isinstance(reply, Changed)
        return reply.changed

    def retry(
        self, run: str, *, from_step: str | None = None, replaced: dict[str, Any] | None = None
    ) -> Rerun:
        """Retry a finished run as the shell does: with its records if it has left memory."""
        values = {name: dumps(value) for name, value in (replaced or {}).items()}
        restored = () if run in self.state.runs else self.lines(run)
        reply = self.do(c.RetryRun(run, from_step, values, restored)).reply
        assert isinstance(reply, Rerun)
        return reply

    def fork(self, source: str, *, from_step: str | None = None, payload: Any = None) -> Rerun:
        """Fork a run from its records."""
        text = dumps(payload) if payload is not None else None
        command = c.ForkRun(self.new_id(), source, self.lines(source), from_step, text)
        reply = self.do(command).reply
        assert isinstance(reply, Rerun)
        return reply

    def remove(self, run: str) -> None:
        """Remove a finished run."""
        self.do(c.RemoveRun(run))

    def discard(self, run: str) -> None:
        """Discard a run from the dead letter."""
        self.do(c.DiscardRun(run))

    def limit(self, queue: str = "media", *, reset: bool = False, **terms: Any) -> bool:
        """A person limits a queue; returns whether that changed anything."""
        reply = self.do(c.ChangeQueue(queue, r.QueueTerms(**terms), reset)).reply
        assert isinstance(reply, Changed)
        return reply.changed

    # --- The shell -------------------------------------------------------------------------

    def set_clock_back(self) -> bool:
        """Set daemon time back to the wall clock; returns whether it was ahead."""
        reply = self.do(c.SetClockBack(self.wall_us)).reply
        assert isinstance(reply, Changed)
        return reply.changed

    def declare(self, by: str, **queues: r.QueueTerms) -> None:
        """Set all terms that `stackshift.toml` (`file`) or the job modules (`code`) have for
        queues."""
        self.do(c.DefineQueues(by, queues))

    def notify(self, **targets: r.NotifyTerms) -> None:
        """Set whom `stackshift.toml` wants to be told of alerts."""
        self.jobs.setdefault(NOTIFY_JOB, "built-in")
        self.do(c.DefineNotify(targets))

    def expect(self, jobs: dict[str, str], succeeded: dict[str, int] | None = None) -> None:
        """Set what jobs expect, in UTC."""
        terms = {job: c.ExpectationTerms(expect) for job, expect in jobs.items()}
        self.do(c.DefineExpectations(terms, frozenset(jobs), True, succeeded or {}))

    def assign(
        self, worker: str = "w1", *, alone: bool = False, without: str = "", pool: str = ""
    ) -> str | None:
        """Dispatch to a free slot in `worker`, which belongs to `pool`; returns the run that it
        got, if any. `without` is a job that the worker does not have."""
        codes = {job: code for job, code in self.jobs.items() if job != without}
        for record in self.do(c.Assign(worker, codes, alone, pool)).records:
            if isinstance(record, r.AttemptStarted | r.AttemptResumed):
                return record.run
        return None

    def fill(self, pool: str = "") -> list[str]:
        """Dispatch all runs that may start now, as if there were slots enough; returns them in
        order."""
        found: list[str] = []
        while self.state.next_ready(self.now_us, pool) is not None:
            run = self.assign(pool=pool)
            assert run is not None, "a run was reported as ready"
            found.append(run)
        return found

    def lose(self, run: str, *, ours: bool = False) -> None:
        """Lose the worker that executes `run`; `ours`: the daemon ended it."""
        self.do(c.LoseExecution(run, self.token(run), "exit status 9", ours))

    def define(self, *jobs: str) -> None:
        """Workers have these jobs, with new code."""
        self.do(c.DefineJobs(dict.fromkeys(jobs, "code-2")))

    def claim(self) -> None:
        """The daemon is gone, and another one claims the journal."""
        self._claims += 1
        self._append([r.JournalOpened(self.state.seq + 1, self._claims, "0.1.0")])
        self.do(c.Claimed())

    def tick(self, *, to: str | float = 0) -> int:
        """Move the clock by `to` and fire everything that is due by then; returns how many timers
        fired.

        The clock is at each timer's time when it fires, as in a daemon that is awake.
        """
        end_us = self.wall_us + milliseconds(to) * 1000
        fired = 0
        while (due_us := self.state.next_due_us()) is not None and due_us <= end_us:
            self.wall_us = max(self.wall_us, due_us)
            before = self.state.seq
            self.do(c.Tick())
            assert self.state.seq > before, "a timer that is due and does nothing fires for ever"
            fired += 1
        self.wall_us = end_us
        return fired

    # --- A worker --------------------------------------------------------------------------

    def step_done(self, run: str, step: str, value: Any = None, *, undo: bool = False) -> Decision:
        """The next try of a step returns `value`; with `undo` the code says how it is undone."""
        tried = self._tried(run, step)
        done = c.CompleteStep(run, self.token(run), 7, step, raw(value), 5, tried, undo=undo)
        return self.do(done)

    def undoes(self, run: str) -> str:
        """The next step of a run is undone; returns which."""
        step = self.run(run).still_done[0]
        self.step_done(run, undo_of(step))
        return step

    def ends_undone(self, run: str) -> Decision:
        """All that a run has done is undone."""
        return self.do(c.FinishUndo(run, self.token(run)))

    def step_fails(
        self,
        run: str,
        step: str,
        *,
        retry: r.RetryTerms | None = None,
        retryable: bool = True,
        after: str | None = None,
        undo: bool = False,
        **verdict: Any,
    ) -> Decision:
        """The next try of a step raises; `verdict` are other fields of the error's verdict. With
        `undo` its function was ended from outside, and can be undone."""
        return self.do(
            c.FailStep(
                run,
                self.token(run),
                7,
                step,
                error(),
                5,
                self._tried(run, step),
                _verdict(retryable, after, verdict),
                retry,
                undo=undo,
            )
        )

    def step_opens(self, run: str, step: str, *, undo: bool = False) -> Decision:
        """A step has been executing for a while; or with `undo`, begins and can be undone."""
        call = 7 if undo else 0
        tried = self._tried(run, step)
        return self.do(c.OpenStep(run, self.token(run), step, tried, None, undo, call))

    def checkpoints(self, run: str, step: str, value: Any) -> Decision:
        """The function of a step says how far it has come."""
        tried = self._tried(run, step)
        return self.do(c.CheckpointStep(run, self.token(run), 7, step, raw(value), tried))

    def labels(self, run: str, step: str, **labels: str) -> Decision:
        """The handler labels its run; in the function of a step if `step` is empty."""
        asking = {"run": run, "token": self.token(run), "call": 7, "step": step}
        return self.do(c.LabelRun(**asking, labels=labels))  # type: ignore[arg-type]

    def reads(self, run: str, step: str, value: Any) -> Decision:
        """A read of the handler gives `value`."""
        return self.do(c.RecordValue(run, self.token(run), 7, step, raw(value)))

    def sleeps(self, run: str, step: str, duration: str) -> Decision:
        """The handler begins a sleep."""
        delay_ms = milliseconds(duration)
        return self.do(c.BeginSleep(run, self.token(run), 7, step, delay_ms))

    def starts(
        self,
        run: str,
        step: str,
        job: str = "child",
        *,
        with_parent: bool = False,
        ends_with_parent: bool = False,
        unique: str = "",
        on_duplicate: str = "refuse",
    ) -> str:
        """The handler starts a run; returns its id, empty if that was refused."""
        return self._child(
            run,
            step,
            job,
            (unique, on_duplicate),
            wait=False,
            cancel_with_parent=with_parent,
            ends_with_parent=ends_with_parent,
        )

    def calls(
        self,
        run: str,
        step: str,
        job: str = "child",
        *,
        key: str | None = None,
        unique: str = "",
        on_duplicate: str = "refuse",
        timeout: str | None = None,
        on_timeout: str = "fail",
    ) -> str:
        """The handler starts a run and waits for it; returns its id, empty if that was refused."""
        terms = {"timeout_ms": milliseconds(timeout) if timeout else None, "on_timeout": on_timeout}
        return self._child(run, step, job, (unique, on_duplicate), wait=True, key=key, **terms)

    def _child(
        self,
        run: str,
        step: str,
        job: str,
        unique: tuple[str, str],
        *,
        wait: bool,
        key: str | None = None,
        **terms: Any,
    ) -> str:
        self.jobs.setdefault(job, "code-1")
        child = c.StartRun(
            run=self.new_id(),
            job=job,
            queue="media",
            payload=b"{}",
            retry=ONCE,
            key=key,
            key_ttl_ms=milliseconds("1h") if key is not None else 0,
            digest="{}" if key is not None else "",
            unique=unique[0],
            on_duplicate=unique[1],
        )
        self.do(c.StartChild(run, self.token(run), 7, step, child, wait, **terms))
        return self.state.runs[run].calls[step].child or ""

    def awaits(
        self,
        run: str,
        step: str,
        other: str,
        *,
        timeout: str | None = None,
        on_timeout: str = "fail",
    ) -> Decision:
        """The handler waits for a run; if that has left memory, its end is looked up as the shell
        does."""
        timeout_ms = milliseconds(timeout) if timeout else None
        command = c.AwaitRun(
            run, self.token(run), 7, step, other, timeout_ms=timeout_ms, on_timeout=on_timeout
        )
        if other not in self.state.runs:
            last = [e.record for e in self.entries_of(other) if isinstance(e.record, ENDS)]
            if last and isinstance(last[-1], r.RunCompleted):
                command = c.AwaitRun(
                    run, self.token(run), 7, step, other, "completed", last[-1].result
                )
            elif last:
                command = c.AwaitRun(run, self.token(run), 7, step, other, "cancelled")
        return self.do(command)

    def told(self, run: str, step: str = "") -> bool:
        """The handler is at rest, to be told that it is cancelled; returns whether it is."""
        self.do(c.RaiseCancel(run, self.token(run), 7, step))
        (answer,) = self.effects(Acknowledge)
        return answer.body is r.NULL

    def ends_told(self, run: str) -> Decision:
        """The handler has ended after it was told."""
        return self.do(c.FinishCancel(run, self.token(run)))

    def suspends(self, run: str, *pending: str) -> Decision:
        """The handler leaves memory; it waits for `pending`, or for everything that is pending."""
        steps = self.run(run).calls
        names = list(pending) or [name for name, s in steps.items() if s.phase in PENDING]
        return self.do(c.Suspend(run, self.token(run), names))

    def completes(self, run: str, result: Any = None) -> Decision:
        """The handler returns."""
        return self.do(c.CompleteRun(run, self.token(run), raw(result)))

    def fails(
        self,
        run: str,
        *,
        retryable: bool = True,
        after: str | None = None,
        step: str | None = None,
        **verdict: Any,
    ) -> Decision:
        """The handler raises; `verdict` are other fields of the error's verdict."""
        said = _verdict(retryable, after, verdict)
        return self.do(c.FailAttempt(run, self.token(run), error(), said, step))

    def continues(self, run: str, payload: Any = None) -> str:
        """The handler continues as a new run; returns its id."""
        old = self.run(run)
        start = c.StartRun(
            run=self.new_id(),
            job=old.job,
            queue=old.queue,
            payload=dumps(payload if payload is not None else {}),
            retry=old.retry,
            priority=old.priority,
            labels=old.labels,
        )
        self.do(c.ContinueRun(run, self.token(run), start))
        return start.run

    def stops(self, run: str) -> Decision:
        """The handler of a cancelled or timed-out attempt has stopped."""
        return self.do(c.ConfirmStop(run, self.token(run)))

    # --- Looking ---------------------------------------------------------------------------

    def run(self, run: str) -> Run:
        """A run that is in memory."""
        return self.state.runs[run]

    def status(self, run: str) -> Status:
        """The status of any run that ever existed."""
        if run in self.state.runs:
            return self.state.runs[run].status
        ended = {
            r.RunCompleted: Status.COMPLETED,
            r.RunFailed: Status.FAILED,
            r.RunCancelled: Status.CANCELLED,
        }
        ends = [ended[type(e.record)] for e in self.entries_of(run) if type(e.record) in ended]
        return ends[-1]

    def token(self, run: str) -> int:
        """The token of a run's execution; 0 if nothing executes."""
        found = self.state.runs.get(run)
        return found.token if found is not None else 0

    def _tried(self, run: str, step: str) -> int:
        found = self.state.runs.get(run)
        memo = found.calls.get(step) if found is not None else None
        return 1 + (memo.tried if memo is not None else 0)

    def steps(self, run: str) -> dict[str, Any]:
        """Step → its recorded result, or its phase if it has none."""
        return {
            name: json.loads(step.body) if isinstance(step.body, bytes) else step.phase.value
            for name, step in self.run(run).calls.items()
        }

    def entries_of(self, run: str) -> list[r.Entry]:
        """The entries of a run, in order."""
        return [entry for entry in self.entries if getattr(entry.record, "run", None) == run]

    def lines(self, run: str) -> tuple[bytes, ...]:
        """The records of a run as the shell passes them in to retry or fork it."""
        return tuple(r.entry_json(entry) for entry in self.entries_of(run))

    def kinds(self, run: str) -> list[str]:
        """The kinds of a run's records, in order."""
        return [kind(entry.record) for entry in self.entries_of(run)]

    def created(self, run: str) -> r.RunCreated:
        """The `run.created` of a run."""
        record = self.entries_of(run)[0].record
        assert isinstance(record, r.RunCreated)
        return record

    def recorded(self) -> list[str]:
        """The kinds of the records that the last command led to."""
        return [kind(record) for record in self.decision.records]

    def effects(self, of: type[Effect]) -> list[Any]:
        """The effects of this type that the last command led to."""
        return [effect for effect in self.decision.effects if isinstance(effect, of)]

    def finished(self) -> dict[str, str]:
        """The runs that the last command ended, with their status."""
        return {
            record.run: kind(record).removeprefix("run.")
            for record in self.decision.records
            if isinstance(record, ENDS)
        }

    # --- The same, replayed ------------------------------------------------------------------

    def replayed(self) -> State:
        """The state of a daemon that reads the whole journal."""
        state = State()
        for entry in self.entries:
            fold(state, entry)
        return state

    def via_snapshot(self, at: int) -> State:
        """The state of a daemon that reads a snapshot at `at`, the last record of an append, and
        what followed it."""
        state = load(self.snapshot(at)).state
        for entry in self.entries[at:]:
            fold(state, entry)
            audit(state)
        return state

    def snapshot(self, at: int) -> list[bytes]:
        """The lines that compaction writes at `at`: a run's entries are dropped when it leaves
        memory."""
        state = State()
        kept: dict[str, list[r.Entry]] = {}
        for entry in self.entries[:at]:
            fold(state, entry)
            run = getattr(entry.record, "run", None)
            if run in state.runs:
                kept.setdefault(run, []).append(entry)
            elif run is not None:
                kept.pop(run, None)
        entries = sorted((e for found in kept.values() for e in found), key=lambda e: e.seq)
        return list(dump(state, ((entry.seq, entry) for entry in entries)))


def kind(record: r.AnyRecord) -> str:
    """The kind of a record."""
    return str(record.__struct_config__.tag)
