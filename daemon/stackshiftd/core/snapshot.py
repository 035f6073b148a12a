"""The state as lines, for snapshots, and as a hash, for comparing states.

A snapshot is not a dump of memory. It contains the entries of every run that is in memory, as they
were written, and is loaded by folding them. Only what outlives its runs (idempotency keys, queues,
schedules, alerts, state entries, locks, kept events, counts) has lines of its own. So a snapshot
survives any change of the classes in `state`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from heapq import heapify
from typing import Any

import msgspec

from stackshift_jobs.errors import NewerFormat
from stackshiftd.core.fold.fold import fold
from stackshiftd.core.records import (
    NEWER_HINT,
    Entry,
    QueueTerms,
    StepCheckpointed,
    entry_from_json,
    entry_json,
)
from stackshiftd.core.state.alerts import Alerts
from stackshiftd.core.state.entries import Value, Values
from stackshiftd.core.state.events import Events, Kept, SentKey
from stackshiftd.core.state.expiry import EVENT, EXPECTATION, GROUP, LOCK, STATE
from stackshiftd.core.state.heap import Heap
from stackshiftd.core.state.leads import Leads
from stackshiftd.core.state.locks import Holding, Lock, Waiting, place_of
from stackshiftd.core.state.queues import Queue
from stackshiftd.core.state.schedules import Schedule
from stackshiftd.core.state.state import KeyEntry, State

_encode = msgspec.json.Encoder(order="sorted").encode


class _Line(msgspec.Struct, frozen=True, tag_field="line", forbid_unknown_fields=True):
    """Base of the lines. A change of any of them raises `journal.snapshots.FORMAT`."""


class Totals(_Line, frozen=True, tag="totals"):
    """The first line: the point in the journal that the snapshot covers, and totals."""

    seq: int
    now_us: int
    epoch: int
    finished: int
    leads: list[tuple[int, str]] = []


class KeyLine(_Line, frozen=True, tag="key"):
    """One idempotency key and its owner."""

    key: str
    run: str
    job: str
    digest: str
    payload: str
    expires_us: int


class QueueLine(_Line, frozen=True, tag="queue"):
    """A queue: its terms by layer, when it was paused, the record that last served it, and when its
    bucket is full again."""

    queue: str
    said: dict[str, QueueTerms]
    paused_us: int
    served: int
    full_at: int


class ScheduleLine(_Line, frozen=True, tag="schedule"):
    """One schedule. Times are µs since 1970, 0 for none."""

    job: str
    expression: str
    timezone: str
    catch_up: str
    overlap: str
    payload: str
    since_us: int
    next_us: int
    held_us: int
    last_us: int
    last_run: str
    counted_us: int
    paused_us: int
    retired_us: int
    name: str = ""
    source: str = ""
    due_us: int = 0
    jitter_ms: int = 0
    seed: str = ""
    catch_up_for_ms: int = 0
    start: str = "{}"
    note: str = ""
    boot: str = ""
    skipped: int = 0
    skipped_us: int = 0
    skipped_why: str = ""
    expect: str = ""
    max_runtime_ms: int = 0
    heartbeat: str = ""
    succeeded_us: int = 0


class ValueLine(_Line, frozen=True, tag="state"):
    """A state entry; or, with an empty value, the remembered version of a former one."""

    key: str
    value: str
    version: int
    expires_us: int
    updated_us: int
    updated_by: str


class LockLine(_Line, frozen=True, tag="lock"):
    """The holder of a lock and its line, in order; `others` hold it too."""

    key: str
    holding: Holding | None
    waiting: list[Waiting]
    others: list[Holding] = []


class KeptLine(_Line, frozen=True, tag="event"):
    """A kept event."""

    id: str
    seq: int
    address: str
    payload: str
    at_us: int
    expires_us: int
    key: str | None


class SentKeyLine(_Line, frozen=True, tag="event_key"):
    """The idempotency key of an event."""

    key: str
    event: str
    name: str
    correlation_key: str
    digest: str
    payload: str
    expires_us: int
    resumed: list[str]


class AlertsLine(_Line, frozen=True, tag="alerts"):
    """Whom to tell what, what was told lately, and what is expected of jobs."""

    alerts: Alerts


class EntryLine(_Line, frozen=True, tag="entry"):
    """One entry of a run that is still in memory."""

    place: int
    entry: msgspec.Raw


AnyLine = (
    Totals
    | KeyLine
    | QueueLine
    | ScheduleLine
    | ValueLine
    | LockLine
    | KeptLine
    | SentKeyLine
    | AlertsLine
    | EntryLine
)
_decoder = msgspec.json.Decoder(AnyLine)


def _decode(raw: bytes) -> AnyLine:
    """A line; raises `NewerFormat` for one of a kind, or with a field, that is not known."""
    try:
        line: AnyLine = _decoder.decode(raw)
        return line
    except msgspec.ValidationError as bad:
        raise NewerFormat(
            f"the snapshot was written by a newer stackshift ({bad})", hint=NEWER_HINT
        ) from bad


def state_hash(state: State) -> str:
    """SHA-256 (hex) of everything that affects how the state behaves. Indexes, and keys whose time
    has passed, are left out: they may differ between states that behave alike."""
    digest = hashlib.sha256()
    digest.update(_encode([state.seq, state.now_us, state.epoch, state.finished, state.dead]))
    if state.leads.changes:
        digest.update(_encode(state.leads.changes))
    for run_id in sorted(state.runs):
        digest.update(_encode(state.runs[run_id]))
    for name in sorted(state.queues):
        digest.update(_encode(_queue_line(name, state.queues[name])))
    for key in sorted(state.keys):
        entry = state.keys[key]
        if state.key_lives(entry, state.now_us):
            digest.update(_encode([key, _key_fields(entry)]))
    for name in sorted(state.schedules):
        digest.update(_encode(_schedule_line(state.schedules[name])))
    digest.update(_encode(state.alerts))
    for line in _stored(state, sort=True):
        digest.update(_encode(line))
    return digest.hexdigest()


def _key_fields(entry: KeyEntry) -> list[Any]:
    return [entry.run, entry.job, entry.digest, entry.payload, entry.expires_us]


def _queue_line(name: str, queue: Queue) -> QueueLine:
    return QueueLine(name, queue.said, queue.paused_us, queue.served, queue.full_at)


def _schedule_line(schedule: Schedule) -> ScheduleLine:
    fields = msgspec.structs.asdict(schedule)
    texts = {name: fields[name].decode("ascii") for name in ("payload", "start")}
    return ScheduleLine(**(fields | texts))


def _schedule(line: ScheduleLine) -> Schedule:
    fields = msgspec.structs.asdict(line)
    own = {
        "name": line.name or line.job,  # A line of before schedules had names.
        "due_us": line.due_us or line.next_us,
        "payload": line.payload.encode("ascii"),
        "start": line.start.encode("ascii"),
    }
    return Schedule(**(fields | own))


def _stored(state: State, *, sort: bool) -> Iterator[msgspec.Struct]:
    """The lines of state entries, locks, kept events and event keys, except versions and keys whose
    time has passed."""
    now_us = state.now_us
    in_order: Callable[[Iterable[Any]], Iterable[Any]] = sorted if sort else iter
    for key, value in in_order(state.values.remembered(now_us)):
        yield ValueLine(key, **_text(value, "body", "value"))
    for key, lock in in_order(state.locks.items()):
        yield LockLine(key, lock.holding, list(lock.line.values()), lock.holdings[1:])
    for kept in state.events.kept.values():
        yield KeptLine(**_text(kept, "payload", "payload"))
    for key, sent in in_order(state.events.keys.items()):
        if sent.expires_us > now_us:
            yield SentKeyLine(key, **_text(sent, "payload", "payload"))


def _text(held: msgspec.Struct, body: str, name: str) -> dict[str, Any]:
    """The fields of `held`, with the JSON in the field `body` as text under `name`."""
    fields = msgspec.structs.asdict(held)
    return fields | {name: fields.pop(body).decode("ascii")}


def dump(state: State, entries: Iterable[tuple[int, Entry]]) -> Iterator[bytes]:
    """The lines of a snapshot of `state`. `entries` are the entries of its runs with their places,
    in order of sequence number."""
    yield _encode(Totals(state.seq, state.now_us, state.epoch, state.finished, state.leads.changes))
    for key, entry in state.keys.items():
        if state.key_lives(entry, state.now_us):
            yield _encode(
                KeyLine(
                    key,
                    entry.run,
                    entry.job,
                    entry.digest,
                    entry.payload.decode("ascii"),
                    entry.expires_us,
                )
            )
    for name, queue in state.queues.items():
        yield _encode(_queue_line(name, queue))
    for schedule in state.schedules.values():
        yield _encode(_schedule_line(schedule))
    yield _encode(AlertsLine(state.alerts))
    for line in _stored(state, sort=False):
        yield _encode(line)
    for place, run_entry in entries:
        if _is_replaced(state, run_entry):
            continue
        yield _encode(EntryLine(place, msgspec.Raw(entry_json(run_entry))))


def _is_replaced(state: State, entry: Entry) -> bool:
    """Is it a checkpoint that later ones have replaced, or of a step that has completed? A long
    step has thousands, and nothing needs them."""
    record = entry.record
    if not isinstance(record, StepCheckpointed):
        return False
    run = state.runs.get(record.run)
    tries = run.tries.get(record.step) if run is not None else None
    return tries is None or tries.checkpoint is None or tries.checkpoint.seq != entry.seq


class Loaded(msgspec.Struct):
    """A state read from a snapshot, and the entries of its runs with their places."""

    state: State
    entries: list[tuple[int, Entry]]


def entries_of(lines: Iterable[bytes], run: str) -> list[Entry]:
    """The entries of one run in a snapshot, in order."""
    name = b'"%s"' % run.encode()
    entries: list[Entry] = []
    for raw in lines:
        if name in raw and isinstance(line := _decode(raw), EntryLine):
            entry = entry_from_json(line.entry)
            if getattr(entry.record, "run", None) == run:
                entries.append(entry)
    return entries


def snapshot_entries(lines: Iterable[bytes]) -> Iterator[tuple[int, Entry]]:
    """The entries of all runs in a snapshot, in order, with their places; nothing is folded."""
    for raw in lines:
        line = _decode(raw)
        if isinstance(line, EntryLine):
            yield line.place, entry_from_json(line.entry)


def load(lines: Iterable[bytes]) -> Loaded:
    """The state that `dump` wrote."""
    state = State()
    totals: Totals | None = None
    keys: dict[str, KeyEntry] = {}
    queues: list[QueueLine] = []
    schedules: dict[str, Schedule] = {}
    alerts = Alerts()
    entries: list[tuple[int, Entry]] = []
    stored: list[ValueLine | LockLine | KeptLine | SentKeyLine] = []
    for raw in lines:
        line = _decode(raw)
        if isinstance(line, Totals):
            totals = line
        elif isinstance(line, KeyLine):
            keys[line.key] = KeyEntry(
                line.run, line.job, line.digest, line.payload.encode("ascii"), line.expires_us
            )
        elif isinstance(line, QueueLine):
            queues.append(line)
        elif isinstance(line, ScheduleLine):
            schedules[line.name or line.job] = _schedule(line)
        elif isinstance(line, AlertsLine):
            alerts = line.alerts
        elif not isinstance(line, EntryLine):
            stored.append(line)
        else:
            entry = entry_from_json(line.entry)
            entries.append((line.place, entry))
            # The gap is intended: a snapshot has no entries of runs that have left memory.
            state.seq = entry.seq - 1
            # Nor has it the record by which time was set back.
            state.now_us = min(state.now_us, entry.at_us)
            fold(state, entry)
    assert totals is not None, "a snapshot begins with its totals"
    state.seq, state.now_us = totals.seq, totals.now_us
    state.epoch, state.finished = totals.epoch, totals.finished
    state.leads = Leads(totals.leads)
    state.keys = keys
    for saved in queues:
        state.restore_queue(saved.queue, saved.said, saved.paused_us, saved.served, saved.full_at)
    state.schedules, state.schedules_seq = schedules, totals.seq
    state.key_expiry = [(entry.expires_us, key) for key, entry in keys.items()]
    heapify(state.key_expiry)
    _restore(state, stored)
    _restore_alerts(state, alerts)
    return Loaded(state, entries)


def _restore(state: State, lines: list[ValueLine | LockLine | KeptLine | SentKeyLine]) -> None:
    """Replace state entries, locks and events by those in `lines`. Folding the entries of runs has
    produced some of them, as they were when those entries were written."""
    state.values, state.locks, state.expiries = Values(), {}, Heap()
    listening = state.events.listening
    state.events = Events()
    state.events.listening = listening
    keys: dict[str, SentKey] = {}
    for line in lines:
        if isinstance(line, ValueLine):
            _restore_value(state, line)
        elif isinstance(line, LockLine):
            in_line = {w.asker or place_of(w.run): w for w in line.waiting}
            holdings = [] if line.holding is None else [line.holding, *line.others]
            state.locks[line.key] = Lock(holdings, in_line)
            for holding in holdings:
                if holding.expires_us:
                    state.set_expiry(holding.expires_us, LOCK, line.key)
        elif isinstance(line, KeptLine):
            payload = line.payload.encode("ascii")
            kept = Kept(
                line.id, line.seq, line.address, payload, line.at_us, line.expires_us, line.key
            )
            state.events.keep(kept)
            state.set_expiry(line.expires_us, EVENT, line.id)
        else:
            keys[line.key] = SentKey(
                line.event,
                line.name,
                line.correlation_key,
                line.digest,
                line.payload.encode("ascii"),
                line.expires_us,
                line.resumed,
            )
    state.events.restore_keys(keys)


def _restore_alerts(state: State, alerts: Alerts) -> None:
    """Replace what the entries of runs have said of alerts by what was so."""
    state.alerts = alerts
    for key, group in alerts.groups.items():
        state.set_expiry(group.until_us, GROUP, key)
    for job, expectation in alerts.expectations.items():
        if expectation.due_us:
            state.set_expiry(expectation.due_us, EXPECTATION, job)


def _restore_value(state: State, line: ValueLine) -> None:
    body = line.value.encode("ascii")
    value = Value(body, line.version, line.expires_us, line.updated_us, line.updated_by)
    state.values.put(line.key, value, 0)
    if value.lives and value.expires_us:
        state.set_expiry(value.expires_us, STATE, line.key)
