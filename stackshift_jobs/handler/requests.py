"""`ctx.state` and `ctx.events`: what a client may ask too, on record with the fact that it was.

A write by the handler and the record that this call made it are one: it happens exactly once,
however often the handler is replayed. Within a step's function (where the identity of a call is
empty) it acts at once and is not recorded. The params and results are those of the protocol: see
`state_calls` and `event_calls`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Final

from stackshift_jobs.calls.state import Call
from stackshift_jobs.handler.locks import guard, inside
from stackshift_jobs.handler.ops import Ask, Steps
from stackshift_jobs.handler.outcomes import granted, read, recalled
from stackshift_jobs.handler.replay import Pass
from stackshift_jobs.handler.steps import Limits
from stackshift_jobs.values.strict_json import dumps

_VALUES: Final = ("value", "payload")
"""Params that hold a value of the user's."""


def ask(pass_: Pass, key: str, call: Call) -> Steps:
    """The result of `call`, as JSON gives it. Raises what it is refused with."""
    known = recalled(pass_, key) if key else None
    if known is not None:
        return read(known.body)
    method, params = call
    text = encode(params)
    if inside.get():
        yield from guard(pass_, key)
    return read(granted(key, (yield Ask(key, method, text))).body)


def given(made: Steps, give: Callable[[Any], Any]) -> Steps:
    """What `give` makes of the result of a call."""
    return give((yield from made))


def ask_all(pass_: Pass, key: str, calls: Generator[Call, Any, Any]) -> Steps:
    """What several calls come to: the pages of one list. Each is recorded by itself."""
    number, step = 0, key
    try:
        call = next(calls)
        while True:
            result = yield from ask(pass_, step, call)
            call = calls.send(result)
            number += 1
            step = pass_.identify_page(key, number)
    except StopIteration as done:
        return done.value


def encode(params: dict[str, Any]) -> bytes:
    """The params as JSON. Raises `PayloadRefused`, by its path in it, for a value that JSON cannot
    hold or that is over the limit."""
    for name in _VALUES:
        if name in params:
            value = dumps(params[name], Limits.value_bytes)
            rest = dumps({each: params[each] for each in params if each != name})
            comma = b"," if len(rest) > 2 else b""
            return b"%b%b%b:%b}" % (rest[:-1], comma, dumps(name), value)
    return dumps(params)
