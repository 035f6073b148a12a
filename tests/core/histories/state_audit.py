"""The laws of state entries, locks and events: what their counts, indexes and lines must be."""

from __future__ import annotations

from stackshiftd.core.state.events import Kept, address_of
from stackshiftd.core.state.expiry import EVENT, EXPECTATION, GROUP, LOCK, STATE, Expiry
from stackshiftd.core.state.locks import (
    Holding,
    Lock,
    Waiting,
    has_room,
    place_of,
    token_json,
)
from stackshiftd.core.state.state import CallKind, Phase, Run, State


def audit_stored(state: State) -> None:
    """Everything that is counted or indexed is so rightly. Holds after every record."""
    _audit_values(state)
    _audit_locks(state)
    _audit_events(state)
    ends = _ends(state)
    assert ends <= set(state.expiries), "something that ends is not in the heap"
    assert not state.expiries or state.expiries[0] in ends, "the first to end must be live"


def audit_lines(state: State) -> None:
    """Nobody waits for a lock that is free. Holds after every append."""
    for key, lock in state.locks.items():
        first = lock.waiting(state.now_us)
        everybody: list[Holding | Waiting] = [*lock.holdings, *lock.line.values()]
        # Where all ask for it among as many; else room may be left until the next release.
        if first is not None and len({each.holders for each in everybody}) == 1:
            assert not has_room(first[1].holders, lock.holdings), f"{first[1]} waits for {key}"
        assert first is None or lock.holdings, f"{first} waits for {key}"
        for at, holding in enumerate(lock.holdings):
            others = [*lock.holdings[:at], *lock.holdings[at + 1 :]]
            assert has_room(holding.holders, others), f"{key} has too many holders"


def _ends(state: State) -> set[Expiry]:
    """All that ends by itself."""
    found = {
        Expiry(value.expires_us, STATE, key)
        for key, value in state.values.by_key.items()
        if value.lives and value.expires_us
    }
    for key, lock in state.locks.items():
        found |= {Expiry(h.expires_us, LOCK, key) for h in lock.holdings if h.expires_us}
    alerts = state.alerts
    found |= {Expiry(group.until_us, GROUP, key) for key, group in alerts.groups.items()}
    expected = alerts.expectations.items()
    found |= {Expiry(each.due_us, EXPECTATION, job) for job, each in expected if each.due_us}
    return found | {Expiry(e.expires_us, EVENT, e.id) for e in state.events.kept.values()}


def _audit_values(state: State) -> None:
    values = state.values
    living = {key: value for key, value in values.by_key.items() if value.lives}
    assert list(values.keys.ascending("")) == sorted(living)
    assert values.bytes == sum(len(key) + len(value.body) for key, value in living.items())
    assert all(value.version > 0 for value in values.by_key.values())
    to_forget = {(value.expires_us, key) for key, value in values.by_key.items() if not value.lives}
    assert to_forget <= set(values._forgotten), "a version is remembered for ever"


# --- Locks ---------------------------------------------------------------------------------


def _audit_locks(state: State) -> None:
    for key, lock in state.locks.items():
        assert lock.holdings or lock.line, f"nobody knows of lock {key}"
        for holding in lock.holdings:
            _audit_holding(state, key, holding)
        _audit_line(state, key, lock)
    for run in state.runs.values():
        holds = {
            key: holding
            for key, lock in state.locks.items()
            for holding in lock.holdings
            if holding.run == run.id
        }
        assert sorted(run.locks) == sorted(holds), f"{run.id} holds {run.locks}"
        _audit_lock_steps(state, run, holds)


def _audit_holding(state: State, key: str, holding: Holding) -> None:
    assert 0 < holding.token <= state.seq
    assert bool(holding.run) != bool(holding.asker)
    if not holding.run:
        assert holding.expires_us, f"a client holds {key} for ever"
        return
    run = state.runs[holding.run]
    assert not run.finished or run.token, f"{run.id} has ended and holds {key}"
    step = run.calls.get(holding.step)
    # Sent on while its handler still executes, a run forgets by which call it holds.
    assert step is not None or run.token, f"{run.id} does not know that it holds {key}"
    if step is not None:
        assert (step.kind, step.phase) == (CallKind.LOCK, Phase.COMPLETED)
        assert step.body == token_json(key, holding.token, holding.expires_us)
        assert step.due_us == holding.expires_us


def _audit_line(state: State, key: str, lock: Lock) -> None:
    seqs = [waiting.seq for waiting in lock.line.values()]
    assert seqs == sorted(seqs), f"the line of {key} is out of order"
    for place, waiting in lock.line.items():
        if not waiting.run:
            assert place == waiting.asker
            assert waiting.ttl_ms > 0
            continue
        assert place == place_of(waiting.run)
        run = state.runs[waiting.run]
        step = run.calls[waiting.step]
        assert not run.finished, f"{run.id} has ended and waits for {key}"
        assert (step.kind, step.phase) == (CallKind.LOCK, Phase.WAITING)
        assert step.wait is not None
        assert (step.wait.lock, step.wait.ttl_ms) == (key, waiting.ttl_ms)
        assert step.wait.holders == waiting.holders
        assert step.due_us == waiting.until_us


def _audit_lock_steps(state: State, run: Run, holds: dict[str, Holding]) -> None:
    """A call that says it holds a lock does; a call that waits for one is in its line."""
    by_step = {holding.step for holding in holds.values()}
    for name, step in run.calls.items():
        if step.kind is not CallKind.LOCK:
            continue
        if step.phase is Phase.COMPLETED:
            assert name in by_step, f"{run.id} takes {name} for held"
        elif step.phase is Phase.WAITING and not run.finished:
            assert step.wait is not None
            assert state.locks[step.wait.lock].line[place_of(run.id)].step == name


# --- Events --------------------------------------------------------------------------------


def _audit_events(state: State) -> None:
    events = state.events
    listening: dict[str, set[tuple[str, str]]] = {}
    for run in state.runs.values():
        for name, step in run.calls.items():
            if step.kind is CallKind.EVENT and step.phase is Phase.WAITING and not run.finished:
                assert step.wait is not None
                for address in step.wait.addresses:
                    listening.setdefault(address, set()).add((run.id, name))
    assert {address: set(waits) for address, waits in events.listening.items()} == listening
    kept = list(events.kept.values())
    assert [event.id for event in kept] == list(events.kept)
    assert [event.seq for event in kept] == sorted(event.seq for event in kept)
    assert all(address_of(e.name, e.correlation_key) == e.address for e in kept)
    assert events.bytes == sum(len(event.payload) + len(event.address) for event in kept)
    at: dict[str, list[Kept]] = {}
    for event in kept:
        at.setdefault(event.address, []).insert(0, event)
    assert set(events._at) == set(at)
    assert {address: list(events.at(address)) for address in at} == at
    expiry = {(sent.expires_us, key) for key, sent in events.keys.items()}
    assert expiry <= set(events._key_expiry), "an event's key is kept for ever"
