"""What the engine says and holds, compared with what the naive model says."""

from __future__ import annotations

import json
from typing import Any, Final

from core.histories.naive_model import Event, Held, Naive, Refused, Value
from core.histories.scripts import Ask
from stackshift_jobs.values.durations import rfc3339
from stackshiftd.core import commands as c
from stackshiftd.core.state.state import CallKind, Phase, State

ANSWERS: Final = (CallKind.VALUE, CallKind.REFUSED)
Tokens = dict[str, dict[int, int]]
"""Key of a lock → fence in the model → token, of all that have held it."""


# --- The state -----------------------------------------------------------------------------


def compare(state: State, naive: Naive, tokens: Tokens) -> None:
    """The state and the model say the same."""
    now_us = state.now_us
    assert {
        key: Value(json.loads(v.body), v.version, v.expires_us, v.updated_by)
        for key, v in state.values.by_key.items()
        if v.lives
    } == {key: v._replace(by=v.by or "client") for key, v in naive.values.items()}
    for key, (version, until_us) in naive.versions.items():
        if until_us > now_us and key not in naive.values:
            assert state.values.version(key, now_us) == version
    _compare_locks(state, naive, tokens)
    assert [
        Event(e.id, (e.name, e.correlation_key), json.loads(e.payload), e.expires_us)
        for e in state.events.kept.values()
    ] == naive.kept
    assert {who for waits in state.events.listening.values() for who in waits} == set(naive.waits)
    _compare_keys(state, naive, now_us)
    _compare_answers(state, naive)


def _compare_locks(state: State, naive: Naive, tokens: Tokens) -> None:
    held = {key: lock.holdings for key, lock in state.locks.items() if lock.holdings}
    assert {
        key: [(h.run or h.asker, h.step, h.expires_us) for h in holdings]
        for key, holdings in held.items()
    } == {key: [(*h.who, h.expires_us) for h in holders] for key, holders in naive.holders.items()}
    for key, holdings in held.items():
        known = tokens.get(key, {})
        newest = max(known.values(), default=0)
        now = {h.fence: each.token for h, each in zip(naive.holders[key], holdings, strict=True)}
        for fence, token in now.items():
            assert token == known[fence] if fence in known else token > newest, (
                f"a token of {key} goes from {newest} to {token}"
            )
        assert len(set(now.values())) == len(holdings), f"two holders of {key} have one token"
        tokens[key] = known | now
    lines = {
        key: [((w.run or w.asker), w.step, w.ttl_ms * 1000, w.until_us) for w in k.line.values()]
        for key, k in state.locks.items()
        if k.line
    }
    assert lines == {
        key: [(*waiter.who, waiter.ttl_us, waiter.until_us) for waiter in line]
        for key, line in naive.lines.items()
        if line
    }


def _compare_keys(state: State, naive: Naive, now_us: int) -> None:
    for key, start in naive.starts.items():
        lives = start.until_us > now_us or start.run in naive.unfinished
        owner = state.key_owner(key, now_us)
        assert (owner.run if owner is not None else None) == (start.run if lives else None)
    for key, sent in naive.sent.items():
        known = state.events.owner(key, now_us)
        present = (known.event, tuple(known.resumed)) if known is not None else None
        assert present == ((sent.event, sent.resumed) if sent.until_us > now_us else None)


def _compare_answers(state: State, naive: Naive) -> None:
    """Runs remember the answers to their calls, and nothing else."""
    for run in state.runs.values():
        known = {
            name: answer_from(json.loads(step.body))
            for name, step in run.calls.items()
            if isinstance(step.body, bytes)
            and (
                step.kind in ANSWERS
                or (step.kind is CallKind.EVENT and step.phase is Phase.COMPLETED)
            )
        }
        assert known == naive.answers.get(run.id, {}), run.id


# --- Answers -------------------------------------------------------------------------------


def agree(ask: Ask, body: Any, error: Any, expected: Any) -> None:
    """The answer is what the model says."""
    if isinstance(expected, Refused) or error is not None:
        code = error["code"] if error is not None else f"answered {body}"
        assert isinstance(expected, Refused), f"{ask.command.__name__} {code}, not {expected}"
        assert code == expected.code, f"{ask.command.__name__} {code}, not {expected.code}"
        return
    wanted = shown(ask.command, expected)
    if ask.command is c.AcquireLock and expected is not None:
        assert body["expires_at"] == wanted["expires_at"]
    elif wanted is not None and isinstance(body, dict):
        assert {name: wanted[name] for name in body if name in wanted} == {
            name: value for name, value in body.items() if name in wanted
        }, f"{ask.command.__name__}: {body}, not {wanted}"
    elif ask.command not in (c.CheckLock, c.AwaitEvent) and not isinstance(body, dict):
        assert body == wanted, f"{ask.command.__name__}: {body}, not {wanted}"


def shown(command: Any, expected: Any) -> Any:
    """What the model says, as an answer is written."""

    def until(expires_us: int) -> str | None:
        return rfc3339(expires_us) if expires_us else None

    if isinstance(expected, Value):
        return {
            "value": expected.value,
            "version": expected.version,
            "expires_at": until(expected.expires_us),
            "updated_by": expected.by or "client",
        }
    if isinstance(expected, Held):
        return {"expires_at": until(expected.expires_us)}
    if command is c.DeleteState:
        return {"deleted": expected is not None, "version": expected}
    if command is c.SendEvent:
        event, resumed, until_us = expected
        return {"id": event, "resumed": list(resumed), "kept_until": until(until_us)}
    if command is c.ReleaseLock and isinstance(expected, bool):
        return {"held": expected}
    return None if command is c.ReleaseLock else expected


def answer_from(body: Any) -> Any:
    """An answer as the model remembers it: what must be the same on every pass."""
    if not isinstance(body, dict):
        return body
    if "code" in body:
        return body["code"]
    if "timed_out" in body:
        address = (body["name"], body["correlation_key"] or "")
        return (body["id"], address, body["payload"], body["timed_out"])
    names = ("value", "version", "deleted", "id", "expires_at")
    return {name: body[name] for name in names if name in body}


REMEMBERED: Final = {
    c.SetState: ("version",),
    c.IncrementState: ("value", "version"),
    c.ReadState: ("value", "version", "expires_at"),
    c.DeleteState: ("deleted", "version"),
    c.SendEvent: ("id",),
    c.ExtendLock: ("expires_at",),
}


def remembered(command: Any, expected: Any) -> Any:
    """What a run remembers of an answer, by what the model says."""
    wanted = shown(command, expected)
    return {name: wanted[name] for name in REMEMBERED[command]} if wanted is not None else None
