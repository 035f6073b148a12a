"""What a record says, in words for people: the lines of `runs tail` and `event tail`.

    step.failed      TimeoutError: PUT timed out; tried again at 09:00:07
    wait.started     waits for event avatar.approved [img_123] until 10:00:00
    run.completed    run completed {"sizes":[64,256]}

Pure. Each kind of record has its words; one that only a newer daemon writes is shown as it is.
Names and values are not escaped here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from stackshift_cli.output.clock import Clock
from stackshift_cli.output.messages import compact
from stackshift_cli.timeline.describe import briefly, call, event
from stackshift_jobs.errors import error_text
from stackshift_jobs.values.durations import format_ms, from_rfc3339
from stackshift_jobs.values.identities import own_part

Record = Mapping[str, Any]
_VALUE_CHARACTERS: Final = 300
"""More than a line of any terminal shows, less than the 16 MiB that a value may have."""
_NAMED: Final = frozenset(("lock", "state", "event"))
"""The nouns of records whose words name the key or the event that a call is named after."""
_MAX_KNOWN: Final = 10_000
"""How many runs and beginnings are remembered."""


class Facts(NamedTuple):
    """What the lines about a run show of it."""

    job: str
    created_at: str


class Happening(NamedTuple):
    """A record in words. `mark` is the status whose glyph and colour it has; `took_ms` is how long
    what ended with it has taken, None if nothing ended or it is not known."""

    mark: str
    words: str
    took_ms: int | None = None


class Happenings:
    """Puts records into words, in their order, and remembers when things began. `look_up` finds
    the facts of a run that began before; None if they cannot be known at the moment."""

    def __init__(self, look_up: Callable[[str], Facts | None]) -> None:
        self._look_up = look_up
        self._facts: dict[str, Facts] = {}
        self._began: dict[tuple[str, str], str] = {}

    def facts(self, record: Record) -> Facts | None:
        """The facts of the record's run; None if it has none, or they are not known."""
        run = record.get("run")
        if not run:
            return Facts(str(record["job"]), "") if record.get("job") else None
        if record["kind"] == "run.created":
            self._keep(self._facts, run, Facts(str(record["job"]), str(record["at"])))
        elif run not in self._facts:
            found = self._look_up(run)
            if found is not None:
                self._keep(self._facts, run, found)
        return self._facts.get(run)

    def happening(self, record: Record, clock: Clock) -> Happening:
        """The record in words, as of `clock`."""
        kind = str(record["kind"])
        say = _WORDS.get(kind)
        mark, words = say(record, clock) if say is not None else ("", f"{kind} {_rest(record)}")
        return Happening(mark, briefly(words), self._took(record, kind))

    def _took(self, record: Record, kind: str) -> int | None:
        run, at = str(record.get("run") or ""), str(record["at"])
        what = (run, str(record.get("step") or ""))
        if kind == "wait.started":
            self._keep(self._began, what, at)
        elif kind in ("attempt.started", "attempt.resumed"):
            self._keep(self._began, (run, ""), at)
        elif kind in ("step.completed", "step.failed"):
            return int(record.get("duration_ms") or 0)
        elif kind in ("wait.ended", "lock.acquired", "call.withdrawn"):
            return _between(self._began.pop(what, ""), at)
        elif kind == "attempt.failed":
            return _between(self._began.pop((run, ""), ""), at)
        elif kind in ("run.completed", "run.failed", "run.cancelled"):
            facts = self.facts(record)
            return _between(facts.created_at if facts is not None else "", at)
        return None

    @staticmethod
    def _keep(kept: dict[Any, Any], key: Any, value: Any) -> None:
        if len(kept) >= _MAX_KNOWN:
            del kept[next(iter(kept))]
        kept[key] = value


def names_its_step(record: Record, what: Happening) -> bool:
    """Do the words of the record name its step already?"""
    noun, step = str(record["kind"]).partition(".")[0], str(record.get("step") or "")
    if noun in _NAMED and own_part(step).startswith("["):
        return True
    return noun in _NAMED | {"wait", "child"} and call(step) in what.words


def _between(began: str, ended: str) -> int | None:
    return (from_rfc3339(ended) - from_rfc3339(began)) // 1000 if began else None


def _value(value: Any) -> str:
    return compact(value)[:_VALUE_CHARACTERS]


def _error(record: Record) -> str:
    error = record.get("error") or {}
    return error_text(error.get("type") or error.get("code"), error.get("message"))


def _expecting(record: Record) -> str:
    """Of what something is expected: a job, or a schedule of it."""
    schedule = record.get("schedule", "")
    return f"{record['job']} by {schedule}" if schedule else str(record["job"])


def _until(record: Record, clock: Clock, field: str = "until", word: str = "until") -> str:
    at = record.get(field)
    return f" {word} {clock.moment(at)}" if at else ""


def _event(record: Record) -> str:
    return event(record.get("name"), record.get("correlation_key"))


def _rest(record: Record) -> str:
    known = ("seq", "at", "kind", "run", "attempt", "step")
    return " ".join(f"{k}={_value(v)}" for k, v in record.items() if k not in known)


# --- The words of each kind ----------------------------------------------------------------

Said = tuple[str, str]
Say = Callable[[Record, Clock], Said]


def _plain(mark: str, words: str) -> Say:
    return lambda _record, _clock: (mark, words)


def _reason(mark: str, reasons: Mapping[str, str], otherwise: str) -> Say:
    return lambda record, _clock: (mark, reasons.get(str(record.get("reason")), otherwise))


def _created(record: Record, clock: Clock) -> Said:
    due = _until(record, clock, "scheduled_at", "due")
    forked = f" as a fork of {record['forked_from']}" if record.get("forked_from") else ""
    parent = f" by {record['parent']}" if record.get("parent") else ""
    limits = _until(record, clock, "expires_at", "expires") + _until(
        record, clock, "deadline_at", "deadline"
    )
    if record.get("continues"):
        parent = f"; it continues {record['continues']}"
    if record.get("after"):
        limits = f" after {', '.join(record['after'])}" + limits
    return ("scheduled" if due else "queued"), f"created in queue {record['queue']}" + (
        due + forked + parent + limits
    )


def _moved(record: Record, clock: Clock) -> Said:
    where = [
        _until(record, clock, "due_at", "to").strip(),
        f"to queue {record['queue']}" if record.get("queue") else "",
        f"to priority {record['priority']}" if record.get("priority") is not None else "",
    ]
    return "", f"moved by a person {', '.join(filter(None, where))}"


def _retried(record: Record, _clock: Clock) -> Said:
    steps = ", ".join(record.get("forgotten") or ())
    return "queued", "retried by a person" + (f"; again: {steps}" if steps else "")


def _attempt(verb: str) -> Say:
    def say(record: Record, _clock: Clock) -> Said:
        return "running", f"attempt {record['attempt']} {verb} in worker {record['worker']}"

    return say


def _attempt_failed(record: Record, clock: Clock) -> Said:
    ended = "failed" if record.get("counts", True) else "snoozed"
    words = f"attempt {record['attempt']} {ended}: {_error(record)}"
    retry = _until(record, clock, "retry_at", "next attempt at")
    return ("retrying" if retry else "failed"), f"{words};{retry}" if retry else words


def _run_completed(record: Record, _clock: Clock) -> Said:
    if record.get("continued_as"):
        return "completed", f"run completed; it continues as {record['continued_as']}"
    return "completed", f"run completed {_value(record.get('result'))}" + _follow_up(record)


def _run_failed(record: Record, _clock: Clock) -> Said:
    return "failed", f"run failed: {_error(record)}" + _follow_up(record)


def _follow_up(record: Record) -> str:
    return f"; it started {record['follow_up']}" if record.get("follow_up") else ""


def _run_cancelled(record: Record, _clock: Clock) -> Said:
    if record.get("reason") == "handler":
        reason = record.get("message")
        return "cancelled", "run cancelled by its handler" + (f": {reason}" if reason else "")
    how = {
        "parent": " with its parent",
        "parent_ended": ": its parent has ended",
        "given_up": ": its parent waits for it no more",
        "timeout": ": its wait timed out",
        "replaced": ": replaced by a start with its unique key",
        "overlap": ": the next tick of its schedule came",
        "expired": ": it had not begun within its ttl",
        "gently": ": its handler ended within the grace",
        "grace": ": its handler did not end within the grace",
    }
    return "cancelled", "run cancelled" + how.get(str(record.get("reason")), "")


def _cancel_requested(record: Record, clock: Clock) -> Said:
    who = " with its parent" if record.get("reason") == "parent" else ""
    first = record.get("first") or []
    after = f"; {len(first)} of its runs first" if first else ""
    return "cancelled", f"cancelling{who}, grace ends at {clock.moment(record['grace_at'])}{after}"


def _undo_started(record: Record, _clock: Clock) -> Said:
    error = f": {_error(record)}" if record.get("error") else ""
    status = str(record.get("status"))
    return status, f"{status}{error}; what was done is undone first"


def _step_failed(record: Record, clock: Clock) -> Said:
    retry = _until(record, clock, "retry_at", "tried again at")
    if retry:
        snoozed = "" if record.get("counts", True) else "snoozed: "
        return "retrying", f"{snoozed}{_error(record)};{retry}"
    return "failed", f"failed: {_error(record)}"


def _step_completed(record: Record, _clock: Clock) -> Said:
    tried = record.get("tried") or 1
    return "completed", "completed" if tried == 1 else f"completed at try {tried}"


def _wait_started(record: Record, clock: Clock) -> Said:
    until, wait = _until(record, clock), record.get("wait")
    if wait == "event":
        events = " or ".join(event(*pair) for pair in record["events"])
        return "waiting", f"waits for {events}{until}"
    if wait == "lock":
        return "waiting", f"waits for lock {record.get('lock')}{until}"
    if wait == "child":
        job = f"{record['job']} " if record.get("job") else ""
        return "waiting", f"waits for {job}{record.get('child')}{until}"
    return "waiting", f"sleeps{until}"


def _wait_ended(record: Record, _clock: Clock) -> Said:
    status = record.get("status")
    if status == "timed_out":
        return "cancelled", "timed out"
    if record.get("name"):
        return "completed", f"got {_event(record)} {_value(record.get('result'))}"
    if record.get("error"):
        return "failed", f"the run it waited for {status or 'failed'}: {_error(record)}"
    if status:
        return "completed" if status == "completed" else "failed", f"the run it waited for {status}"
    return "completed", "the wait is over"


def _progress(record: Record, _clock: Clock) -> Said:
    done, total = record.get("done") or 0, record.get("total")
    of = f"/{total:g}" if total else ""
    return "running", f"progress {done:g}{of} {record.get('message') or ''}".rstrip()


def _state_set(record: Record, clock: Clock) -> Said:
    verb = "incremented to" if record.get("op") == "increment" else "set to"
    expires = _until(record, clock, "expires_at", "until")
    return "completed", f"state {record['key']} {verb} {_value(record.get('value'))}{expires}"


def _of_key(mark: str, noun: str, verb: str) -> Say:
    return lambda record, _clock: (mark, f"{noun} {record['key']} {verb}")


def _lock_acquired(record: Record, clock: Clock) -> Said:
    holder = f" by {record['holder']}" if record.get("holder") else ""
    return "running", f"lock {record['key']} acquired{holder}" + _until(record, clock, "expires_at")


def _lock_released(record: Record, _clock: Clock) -> Said:
    lost = {"expired": "expired", "forced": "taken away by a person"}
    how = lost.get(str(record.get("reason")))
    return ("cancelled" if how else "completed"), f"lock {record['key']} {how or 'released'}"


def _event_known(verb: str) -> Say:
    def say(record: Record, clock: Clock) -> Said:
        runs = record.get("resumed") or []
        if runs:
            did = f"resumed {', '.join(runs)}"
        elif kept := _until(record, clock, "kept_until", "kept until"):
            did = kept.strip()
        else:
            did = "no run was waiting for it"
        return ("completed" if runs else "queued"), f"{_event(record)} {verb}; {did}"

    return say


def _queue_changed(record: Record, _clock: Clock) -> Said:
    terms = {k: v for k, v in (record.get("terms") or {}).items() if v is not None}
    shown = ", ".join(f"{name} {_value(value)}" for name, value in terms.items())
    return "", f"queue {record['queue']} changed: {shown or 'no limits'}"


def _alert(record: Record) -> str:
    count = int(record.get("count") or 1)
    what = f"{record.get('alert') or 'alerts'} {record.get('job') or ''}".strip()
    return what if count == 1 else f"{what}, {count} times"


def _fired(record: Record, clock: Clock) -> Said:
    tick = clock.moment(record["tick"])
    if record.get("started"):
        return "completed", f"tick {tick} started {record['started']}"
    why = {
        "overlap": "the last run is still going on",
        "waits": "it waits for the end of the last run",
        "missed": "it was missed",
        "unique": "another run has the unique key of its job",
    }.get(str(record.get("reason")), str(record.get("reason")))
    return "cancelled", f"tick {tick} started nothing: {why}"


_WORDS: Final[dict[str, Say]] = {
    "run.created": _created,
    "run.preceded": lambda r, _: ("", f"{r['after']}, which it begins after, {r['status']}"),
    "run.attached": lambda r, _: ("", f"given to another start, with key {r['key']}"),
    "run.queued": _reason(
        "queued",
        {
            "due": "queued: it is due",
            "retry": "queued for its next attempt",
            "wait": "queued: its wait is over",
            "moved": "queued: it was moved to now",
            "after": "queued: the runs before it have ended",
            "job": "queued: its job is defined again",
            "cancel": "queued: its handler is to be told that it is cancelled",
        },
        "queued",
    ),
    "run.moved": _moved,
    "run.labelled": lambda r, _: (
        "",
        "labelled " + " ".join(f"{name}={text}" for name, text in r["labels"].items()),
    ),
    "run.held": _plain("waiting", "no worker has its job; it waits for one"),
    "run.completed": _run_completed,
    "run.failed": _run_failed,
    "run.cancelled": _run_cancelled,
    "cancel.requested": _cancel_requested,
    "undo.started": _undo_started,
    "cancel.raised": _plain("cancelled", "its handler is told that it is cancelled"),
    "run.retried": _retried,
    "run.late": lambda r, _: (
        "retrying",
        f"late: it has run for more than {format_ms(r['limit_ms'])}; it goes on",
    ),
    "run.removed": _plain("", "run removed from lists"),
    "run.discarded": _plain("", "run discarded from the dead letter"),
    "attempt.started": _attempt("started"),
    "attempt.resumed": _attempt("resumed"),
    "attempt.suspended": _plain("waiting", "suspended while it waits"),
    "attempt.failed": _attempt_failed,
    "attempt.lost": lambda r, _: ("retrying", f"attempt {r['attempt']} lost: {r.get('reason')}"),
    "attempt.stopped": _plain("cancelled", "its handler has stopped"),
    "step.started": _plain("running", "running"),
    "step.checkpointed": lambda r, _: ("running", f"checkpoint {_value(r.get('value'))}"),
    "step.completed": _step_completed,
    "step.failed": _step_failed,
    "value.recorded": lambda r, _: ("completed", f"read {_value(r.get('value'))}"),
    "child.started": lambda r, _: ("queued", f"started {r.get('job')} {r.get('child')}"),
    "wait.started": _wait_started,
    "wait.ended": _wait_ended,
    "call.refused": lambda r, _: ("failed", f"refused: {_error(r)}"),
    "call.withdrawn": _plain("cancelled", "withdrawn"),
    "progress.reported": _progress,
    "state.set": _state_set,
    "state.deleted": _of_key("completed", "state", "deleted"),
    "state.expired": _of_key("cancelled", "state", "expired"),
    "lock.requested": _of_key("waiting", "lock", "requested"),
    "lock.withdrawn": _of_key("cancelled", "lock", "not waited for any more"),
    "lock.acquired": _lock_acquired,
    "lock.extended": lambda r, c: (
        "running",
        f"lock {r['key']} extended" + _until(r, c, "expires_at"),
    ),
    "lock.released": _lock_released,
    "event.received": _event_known("received"),
    "event.returned": _event_known("given back"),
    "event.expired": lambda r, _: ("cancelled", f"{_event(r)} expired: no run took it"),
    "queue.changed": _queue_changed,
    "schedule.defined": lambda r, c: (
        "",
        f"schedule {r['schedule']} {r['timezone']}" + _until(r, c, "next_at", "next at"),
    ),
    "schedule.fired": _fired,
    "schedule.booted": _plain("", "schedule @reboot: the machine has started"),
    "schedule.removed": _plain("cancelled", "schedule removed"),
    "schedule.retired": _plain("cancelled", "schedule retired: the code no longer has it"),
    "schedule.paused": _plain("waiting", "schedule paused"),
    "schedule.resumed": lambda r, c: ("", "schedule resumed" + _until(r, c, "next_at", "next at")),
    "notify.defined": lambda r, _: ("", f"notify {r['notify']} is told of alerts"),
    "notify.retired": lambda r, _: ("cancelled", f"notify {r['notify']} is told no more"),
    "alert.told": lambda r, _: ("", f"notify {r['notify']} is told: {_alert(r)}"),
    "alert.held": lambda r, c: (
        "waiting",
        f"notify {r['notify']} is told later: {_alert(r)}" + _until(r, c, "until"),
    ),
    "alert.postponed": lambda r, c: (
        "waiting",
        f"notify {r['notify']} was told enough for now" + _until(r, c, "until"),
    ),
    "alert.closed": lambda r, _: ("", f"nothing more to tell notify {r['notify']}"),
    "expectation.defined": lambda r, c: (
        "",
        f"{_expecting(r)} is expected {r['expect']}" + _until(r, c, "due_at", "next at"),
    ),
    "expectation.retired": lambda r, _: ("cancelled", f"{_expecting(r)} is expected no more"),
    "expectation.met": lambda r, c: ("completed", f"as expected by {c.moment(r['due'])}"),
    "expectation.missed": lambda r, c: (
        "failed",
        f"{r['alert']}: a success was expected by {c.moment(r['due'])}",
    ),
    "job.recovered": lambda r, c: (
        "completed",
        f"{_expecting(r)} has recovered: {r['alert']} since {c.moment(r['since'])}",
    ),
    "journal.opened": lambda r, _: ("", f"daemon started, pid {r['pid']}, version {r['version']}"),
    "journal.recovered": lambda r, _: (
        "failed",
        f"a torn end of the journal, {r['dropped_bytes']} bytes, was moved to {r['quarantine']}",
    ),
    "clock.set_back": lambda r, c: ("", f"daemon time set back; it was {c.moment(r['before'])}"),
    "journal.watermark": _plain("", "journal watermark"),
    "journal.closed": _plain("", "daemon stopped"),
    "snapshot.taken": lambda r, _: ("", f"snapshot up to record {r['upto_seq']}"),
}
KINDS: Final = frozenset(_WORDS)
"""The kinds of records that have words."""
